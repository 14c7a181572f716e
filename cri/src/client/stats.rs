//! `davit stats`: what containers use, once or on and on.
//!
//! On a terminal it is `davit top`; elsewhere, or in another form than a table, one list after the other.

use super::connect::Daemon;
use super::error::ClientError;
use super::format::{Format, show};
use super::usage::{Field, Use, Watch, sort};
use super::{find, top};
use crate::cli::StatsArgs;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

/// From the first look to the second, whose rates are the first that can be told.
const FIRST: Duration = Duration::from_millis(500);

/// `davit stats`.
pub(crate) async fn stats(mut daemon: Daemon, args: &StatsArgs) -> Result<(), ClientError> {
    let StatsArgs { no_stream, interval, written, ids } = args;
    let mut wanted = BTreeSet::new();
    for id in ids {
        wanted.insert(find::container(&mut daemon, id).await?.id);
    }
    let interval = Duration::from_secs(*interval);
    let for_people = written.format == Format::Table && !written.quiet;
    if !no_stream && for_people && std::io::stdout().is_terminal() {
        let view = top::View { interval, sort: Field::Cpu, of: top::Of::Containers, wanted };
        return top::live(daemon, view).await;
    }
    let mut watch = Watch::new(daemon);
    watch.look().await?;
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let mut found: Vec<Use> = watch.look().await?;
        found.retain(|one| wanted.is_empty() || wanted.contains(&one.id));
        sort(&mut found, Field::Name);
        show(&found, written)?;
        if *no_stream {
            return Ok(());
        }
        pause = interval;
    }
}
