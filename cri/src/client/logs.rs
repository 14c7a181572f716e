//! `davit logs`: what a container has written, and goes on to write.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::find;
use super::moment::{Instant, exact};
use crate::cli::LogsArgs;
use crate::output;
use davit_proto::admin;
use std::str::FromStr;

/// How many of the last lines; `None`: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail(Option<u64>);

/// A text that says no count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a count of lines nor \"all\"")]
pub(crate) struct NoCount(String);

impl FromStr for Tail {
    type Err = NoCount;

    fn from_str(text: &str) -> Result<Self, NoCount> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self(None)),
            (_, Ok(count)) => Ok(Self(Some(count))),
            (_, Err(_)) => Err(NoCount(text.chars().take(100).collect())),
        }
    }
}

/// `davit logs`.
pub(crate) async fn logs(mut daemon: Daemon, args: &LogsArgs) -> Result<(), ClientError> {
    let LogsArgs { follow, tail, since, until, timestamps, id } = args;
    let container_id = find::container(&mut daemon, id).await?.id;
    let time = |instant: &Option<Instant>| instant.map_or(0, |instant| instant.0);
    let request = admin::LogsRequest {
        container_id,
        follow: *follow,
        tail: tail.0,
        since: time(since),
        until: time(until),
    };
    let failed = || doing(format!("read the log of container {id}"));
    let mut entries = daemon.davit.logs(request).await.map_err(failed())?.into_inner();
    // What continues a line has no time of its own.
    let mut in_line = [false; 2];
    while let Some(entry) = entries.message().await.map_err(failed())? {
        let admin::LogEntry { stream, mut content, time } = entry;
        let begun = in_line.get_mut(usize::from(stream == 2));
        let goes_on =
            begun.is_some_and(|begun| std::mem::replace(begun, !content.ends_with(b"\n")));
        if *timestamps && !goes_on {
            content.splice(..0, format!("{} ", exact(time)).into_bytes());
        }
        if stream == 2 {
            output::print_error_bytes(&content)?;
        } else {
            output::print_bytes(&content)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_a_count_or_all() {
        assert_eq!("all".parse(), Ok(Tail(None)));
        assert_eq!("10".parse(), Ok(Tail(Some(10))));
        assert_eq!("0".parse(), Ok(Tail(Some(0))));
        for text in ["", "-1", "ten", "1.5"] {
            assert!(text.parse::<Tail>().is_err(), "{text}");
        }
    }
}
