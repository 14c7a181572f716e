//! The status counters in the log, for a node that nobody scrapes: `metrics_interval`.

use crate::metrics::CountersSource;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Writes them each time that `every` is over, until `stop`. They are those of that moment: what `/metrics` and the verbose Status show.
pub(super) fn spawn(every: Duration, counters: CountersSource, stop: CancellationToken) {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let counters = counters().to_json();
            tracing::info!(%counters, "counters");
        }
    });
}
