//! A node that fills up, until it has as many pods as it can have.
//!
//! Owns what is asked on the way: what one pod more costs with none, a fifth, half and all of them there; and the lists of all.

use super::figures::Metric;
use super::lane::Subject;
use super::measure::{Bench, in_flight};
use super::pods::{self, Network};
use crate::host::pause;
use anyhow::{Context, Result};
use std::time::Duration;

/// Of twenty parts: how full the node is when one pod more is measured.
const FULL: u32 = 20;
const STEPS: [(u32, Metric); 4] = [
    (0, Metric::GrowthEmpty),
    (4, Metric::GrowthFifth),
    (10, Metric::GrowthHalf),
    (FULL, Metric::GrowthFull),
];

impl Bench {
    /// Each pod has a network of its own, so that bridge, addresses and rules grow too.
    pub(super) fn full(&mut self, subject: &Subject) -> Result<()> {
        let (mut running, mut medians, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        // The first pod makes bridge, table and parent cgroups.
        pods::remove(subject, &pods::run(subject, Network::Own)?)?;
        for (parts, metric) in STEPS {
            let count = self.options.full * usize::try_from(parts)? / usize::try_from(FULL)?;
            let more = count.saturating_sub(running.len());
            running.extend(in_flight(more, |_| pods::run(subject, Network::Own))?);
            pause(self.options.settle);
            self.begin()?;
            let several = (self.options.block * 3, Duration::ZERO);
            medians.push(self.starts(subject, metric, several)?);
            match parts {
                0 => alone.push(self.alone(subject, Metric::GrowthAloneEmpty)?),
                FULL => alone.push(self.alone(subject, Metric::GrowthAloneFull)?),
                _ => {}
            }
        }
        if let [empty, full] = alone.as_slice() {
            self.add(subject, Metric::GrowthAlone, 100.0 * full / empty);
        }
        if let [empty, .., full] = medians.as_slice() {
            self.add(subject, Metric::Growth, 100.0 * full / empty);
        }
        let metrics = [Metric::FullContainers, Metric::FullPods, Metric::FullStats];
        self.begin()?;
        self.list(subject, running.len(), metrics)?;
        in_flight(running.len(), |index| {
            pods::remove(subject, running.get(index).context("a pod that was not started")?)
        })?;
        Ok(())
    }
}
