//! The end of a pod's shim, and what must be true soon after it.

use super::audit;
use super::containers::{Fate, ended};
use super::life::Life;
use super::tally::{Did, Loss};
use crate::host::pause;
use anyhow::{Context, Result};
use k8s_cri::v1::PodSandboxState;
use rustix::process::{Signal, kill_process};
use std::time::{Duration, Instant};

impl Life<'_> {
    /// The pod's shim dies: pod and containers are told as what they are now, and nothing of them runs.
    pub(super) fn kill_shim(&mut self) -> Result<()> {
        let _step = self.world.step();
        let pids: Vec<u32> = self
            .world
            .pods()
            .get(&self.id)
            .map(|pod| pod.containers.values().filter_map(|known| known.pid).collect())
            .unwrap_or_default();
        let Some(shim) = audit::shim_pid(self.world, &self.id)? else { return Ok(()) };
        self.world.note(&self.id, |pod| {
            pod.ready = false;
            pod.containers.values_mut().for_each(|known| known.pid = None);
        });
        for made in &mut self.made {
            made.fate = match made.fate {
                Fate::Own => Fate::ShimLost,
                Fate::Killed if !made.seen => Fate::KilledAndLost,
                known @ (Fate::Asked | Fate::Killed | Fate::ShimLost | Fate::KilledAndLost) => {
                    known
                }
            };
        }
        self.world.tally.did(Did::ShimKill);
        kill_process(shim, Signal::KILL).context("kill a shim")?;
        let mut before = self.world.epoch();
        let limit = self.world.options.shim_end;
        let mut end = Instant::now() + limit;
        while let Some(problem) = self.aftermath(&pids)? {
            if Instant::now() < end {
                pause(Duration::from_millis(20));
            } else if self.world.excused(before) {
                // A daemon that was away has its time from when it is back.
                self.world.wait_until_up();
                before = self.world.epoch();
                end = Instant::now() + limit;
            } else {
                self.world.tally.lose(Loss::Shim, format!("{}: {problem}", self.id));
                return Ok(());
            }
        }
        Ok(())
    }

    /// What is not yet as it must be after the shim's end.
    fn aftermath(&self, pids: &[u32]) -> Result<Option<String>> {
        let status = self.world.call("PodSandboxStatus", |cri| cri.pod_status(&self.id))?;
        if status.state() != PodSandboxState::SandboxNotready {
            return Ok(Some("the pod is ready".to_owned()));
        }
        for made in &self.made {
            let status = self.world.call("ContainerStatus", |cri| cri.status(&made.id))?;
            if !ended(&status) {
                return Ok(Some(format!("container {} is {:?}", made.id, status.state())));
            }
        }
        let alive = pids.iter().find(|pid| audit::alive(**pid));
        Ok(alive.map(|pid| format!("process {pid} runs on")))
    }
}
