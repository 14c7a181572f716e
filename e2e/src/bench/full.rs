//! A node with as many pods as it can have.
//!
//! Owns what is asked then. The pods are in the host's network: what they are connected by is measured with fewer, and a test's
//! subnet has no room for so many.

use super::figures::Metric;
use super::lane::Subject;
use super::measure::{Bench, SETTLE, in_flight, millis};
use super::pods::{self, Network};
use crate::host::pause;
use anyhow::{Context, Result};
use std::time::Instant;

impl Bench {
    /// Starts them, lists them, starts and removes one more several times, and removes them.
    pub(super) fn full(&mut self, subject: &Subject) -> Result<()> {
        let count = self.options.full;
        let running = in_flight(count, |_| pods::run(subject, Network::Host))?;
        pause(SETTLE);
        self.begin()?;
        let metrics = [Metric::FullContainers, Metric::FullPods, Metric::FullStats];
        self.list(subject, count, metrics)?;
        for _ in 0..self.options.block {
            let begun = Instant::now();
            let one = pods::run(subject, Network::Host)?;
            self.add(subject, Metric::FullStart, millis(begun));
            pods::remove(subject, &one)?;
        }
        in_flight(count, |index| {
            pods::remove(subject, running.get(index).context("a pod that was not started")?)
        })?;
        Ok(())
    }
}
