//! The lives of pods: one worker's, one after the other, each made of steps between which the auditor may look.

use super::containers::{self, Fate, Made, Work, ended};
use super::dice::Dice;
use super::tally::{Did, Loss};
use super::world::{KnownContainer, World};
use super::{audit, world};
use crate::cri::Cri;
use crate::host::{eventually, pause};
use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1::{
    ContainerState, ContainerStatus, CreateContainerRequest, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    RunPodSandboxRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// How long a container that ends by itself may take to be told as ended.
const END: Duration = Duration::from_secs(40);
/// How many names a worker has.
const NAMES: u64 = 2;

/// Lives lives until the run is over.
pub(super) fn work(world: &World<'_>, number: u32) {
    let mut dice = Dice::of(world.options.seed, number);
    let mut count = 0;
    while !world.over.load(Ordering::SeqCst) {
        let name = format!("w{number}-{}", count % NAMES);
        count += 1;
        let mut life = Life {
            world,
            dice: dice.clone(),
            id: String::new(),
            made: Vec::new(),
            config: PodSandboxConfig::default(),
        };
        if let Err(error) = life.live(&name) {
            // What went wrong has been counted where it did, but for what nobody foresaw.
            world.tally.lose(Loss::Refused, format!("{name}: {error:#}"));
            life.give_up();
        }
        dice.below(1000);
        dice = Dice::of(dice.below(u64::MAX), number);
    }
}

pub(super) struct Life<'a> {
    pub(super) world: &'a World<'a>,
    dice: Dice,
    pub(super) id: String,
    config: PodSandboxConfig,
    pub(super) made: Vec<Made>,
}

impl Life<'_> {
    fn live(&mut self, name: &str) -> Result<()> {
        self.begin(name)?;
        for number in 0..=self.dice.below(3) {
            self.make(&format!("c{number}"), 0)?;
        }
        let lose_shim = self.dice.percent(self.world.options.shim_kills);
        for _ in 0..self.dice.below(6) {
            self.something()?;
        }
        if lose_shim {
            self.kill_shim()?;
        }
        self.finish()
    }

    fn begin(&mut self, name: &str) -> Result<()> {
        self.config = self.pod_config(name);
        std::fs::create_dir_all(&self.config.log_directory).context("make the log directory")?;
        let _step = self.world.step();
        let request = RunPodSandboxRequest {
            config: Some(self.config.clone()),
            runtime_handler: String::new(),
        };
        self.impatiently(|mut cri| {
            let request = request.clone();
            async move { drop(cri.run_pod_sandbox(request).await) }
        });
        let config = self.config.clone();
        self.id = self.world.call("RunPodSandbox", |cri| cri.run_pod(&config, ""))?;
        self.world.test.watch(&self.id);
        self.world.tally.did(Did::Pod);
        let status = self.world.call("PodSandboxStatus", |cri| cri.pod_status(&self.id))?;
        let ip = status.network.map(|network| network.ip).unwrap_or_default();
        let key = audit::key(self.config.metadata.as_ref());
        self.world.note(&self.id, |known| {
            *known = world::Known { key, ip, ready: true, ..world::Known::default() }
        });
        Ok(())
    }

    fn pod_config(&mut self, name: &str) -> PodSandboxConfig {
        let host = self.dice.one_in(8);
        let shared_pid = self.dice.one_in(4);
        let namespaces = NamespaceOption {
            network: if host { 2 } else { 0 },
            pid: i32::from(!shared_pid),
            ..NamespaceOption::default()
        };
        let log =
            self.world.settings.dir.join("logs").join(format!("{name}-{}", self.world.number()));
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "chaos".to_owned(),
                attempt: 0,
            }),
            log_directory: log.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    /// Now and then a call is sent first by somebody who does not wait for its answer.
    fn impatiently<F: Future<Output = ()>>(
        &mut self,
        call: impl Fn(
            k8s_cri::v1::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>,
        ) -> F,
    ) {
        if self.dice.one_in(6) {
            let limit = Duration::from_millis(self.dice.below(60));
            let cri = self.world.cri();
            let runtime = cri.runtime();
            cri.block_on(async { drop(tokio::time::timeout(limit, call(runtime)).await) });
        }
    }

    /// Creates and starts a container.
    fn make(&mut self, name: &str, attempt: u32) -> Result<()> {
        let _step = self.world.step();
        let work = Work::any(&mut self.dice);
        let mut config = containers::config(self.world, name, attempt, work);
        let shared = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let pid = shared.and_then(|s| s.namespace_options.as_ref()).map_or(1, |n| n.pid);
        if let Some(options) = config
            .linux
            .as_mut()
            .and_then(|linux| linux.security_context.as_mut())
            .and_then(|security| security.namespace_options.as_mut())
        {
            options.pid = pid;
        }
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.config.clone()),
        };
        self.impatiently(|mut cri| {
            let request = request.clone();
            async move { drop(cri.create_container(request).await) }
        });
        let id = self
            .world
            .call("CreateContainer", |cri| cri.create(&self.id, &config, &self.config))?;
        self.world.test.watch(&id);
        self.world.tally.did(Did::Container);
        let known = KnownContainer { name: format!("{name}/{attempt}"), pid: None };
        self.world.note(&self.id, |pod| drop(pod.containers.insert(id.clone(), known)));
        self.made.push(Made { id, config, work, fate: Fate::Own, started_at: 0, seen: false });
        self.start(self.made.len() - 1)
    }

    /// Starts it; if the answer was cut off, looks whether it was started before it tries again, as the kubelet would find out.
    fn start(&mut self, index: usize) -> Result<()> {
        let made = self.made.get_mut(index).context("a container that was made")?;
        let mut cut = false;
        loop {
            let before = self.world.epoch();
            self.world.tally.did(Did::Call);
            let Err(status) = self.world.cri().start(&made.id) else { break };
            let excused = self.world.excused(before);
            self.world.wait_until_up();
            let seen = self.world.call("ContainerStatus", |cri| cri.status(&made.id))?;
            // The first start may have come to its end since the look.
            if (excused || cut) && seen.state() != ContainerState::ContainerCreated {
                break;
            }
            if !excused {
                self.world
                    .tally
                    .lose(Loss::Refused, format!("StartContainer {}: {status}", made.id));
                bail!("StartContainer: {status}");
            }
            self.world.tally.did(Did::Cut);
            cut = true;
        }
        let status = self.world.call("ContainerStatus", |cri| cri.status(&made.id))?;
        made.started_at = status.started_at;
        if status.state() == ContainerState::ContainerCreated || made.started_at == 0 {
            self.world
                .tally
                .lose(Loss::Running, format!("{}: started, and told as {status:?}", made.id));
        }
        if made.work == Work::Runs {
            watch(self.world, &self.id, made, &status)?;
        }
        Ok(())
    }

    fn something(&mut self) -> Result<()> {
        let index = usize::try_from(self.dice.below(self.made.len().try_into()?))?;
        match self.dice.below(6) {
            0 | 1 => self.exec(index),
            2 => {
                pause(Duration::from_millis(self.dice.below(200)));
                Ok(())
            }
            3 => self.end_from_outside(index),
            _ => {
                // As the kubelet restarts one: it ends, it is removed, and the next attempt or the same name comes.
                self.end(index)?;
                let made = self.remove(index)?;
                let metadata = made.config.metadata.unwrap_or_default();
                let attempt = metadata.attempt + u32::from(self.dice.one_in(2));
                self.make(&metadata.name, attempt)
            }
        }
    }

    fn exec(&self, index: usize) -> Result<()> {
        let _step = self.world.step();
        let made = self.made.get(index).context("a container that was made")?;
        if made.work != Work::Runs || made.fate != Fate::Own {
            return Ok(());
        }
        let answer = self
            .world
            .call("ExecSync", |cri| cri.exec(&made.id, &["sh", "-c", "echo here; exit 3"], 20))?;
        self.world.tally.did(Did::Exec);
        if (answer.exit_code, answer.stdout.as_slice()) != (3, b"here\n".as_slice()) {
            self.world.tally.lose(Loss::Exit, format!("an exec in {}: {answer:?}", made.id));
        }
        Ok(())
    }

    /// Somebody kills the container's first process.
    fn end_from_outside(&mut self, index: usize) -> Result<()> {
        let _step = self.world.step();
        let made = self.made.get_mut(index).context("a container that was made")?;
        let mut pid = None;
        self.world.note(&self.id, |pod| {
            pid = pod.containers.get_mut(&made.id).and_then(|known| known.pid.take());
        });
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            made.fate = Fate::Killed;
            kill_process(pid, Signal::KILL).context("kill a container's process")?;
        }
        Ok(())
    }

    /// Waits for its own end, or stops it; then compares.
    fn end(&mut self, index: usize) -> Result<()> {
        let made = self.made.get_mut(index).context("a container that was made")?;
        let patient = made.work.ends_itself() && self.dice.below(4) > 0;
        if made.fate == Fate::Own && !patient {
            let _step = self.world.step();
            let grace = if self.dice.one_in(3) { 0 } else { 30 };
            made.fate = if grace == 0 { Fate::Killed } else { Fate::Asked };
            self.world.note(&self.id, |pod| {
                if let Some(known) = pod.containers.get_mut(&made.id) {
                    known.pid = None;
                }
            });
            self.world.call("StopContainer", |cri| cri.stop(&made.id, grace))?;
        }
        let status = wait_for_end(self.world, &made.id)?;
        made.check_end(self.world, &status)
    }

    fn remove(&mut self, index: usize) -> Result<Made> {
        let _step = self.world.step();
        let made = self.made.remove(index);
        self.world.call("RemoveContainer", |cri| cri.remove(&made.id))?;
        self.world.note(&self.id, |pod| drop(pod.containers.remove(&made.id)));
        self.is_gone(&made.id, |cri| cri.status(&made.id).err())?;
        Ok(made)
    }

    fn finish(&mut self) -> Result<()> {
        for index in (0..self.made.len()).rev() {
            match self.dice.below(3) {
                0 => self.end(index)?,
                1 => {
                    self.end(index)?;
                    self.remove(index)?;
                }
                // The pod's stop is to end it.
                _ => {}
            }
        }
        let orderly = self.dice.below(4) > 0;
        if orderly {
            self.stop_pod()?;
        }
        let _step = self.world.step();
        if !orderly {
            self.world.pods().remove(&self.id);
        }
        let id = self.id.clone();
        self.impatiently(|mut cri| {
            let pod_sandbox_id = id.clone();
            async move {
                drop(
                    cri.remove_pod_sandbox(k8s_cri::v1::RemovePodSandboxRequest { pod_sandbox_id })
                        .await,
                );
            }
        });
        self.world.call("RemovePodSandbox", |cri| cri.remove_pod(&self.id))?;
        self.world.pods().remove(&self.id);
        self.is_gone(&id, |cri| cri.pod_status(&id).err())
    }

    fn stop_pod(&mut self) -> Result<()> {
        {
            let _step = self.world.step();
            self.world.note(&self.id, |pod| {
                pod.ready = false;
                pod.ip.clear();
                pod.containers.values_mut().for_each(|known| known.pid = None);
            });
            self.world.call("StopPodSandbox", |cri| cri.stop_pod(&self.id))?;
        }
        for made in &mut self.made {
            if made.fate == Fate::Own {
                made.fate = Fate::Killed;
            }
            let status = wait_for_end(self.world, &made.id)?;
            made.check_end(self.world, &status)?;
        }
        Ok(())
    }

    /// What was removed is not known any more.
    fn is_gone(&self, id: &str, look: impl Fn(&Cri) -> Option<Status>) -> Result<()> {
        let found = self.world.call("look for what was removed", |cri| match look(cri) {
            None => Ok(true),
            Some(status) if status.code() == Code::NotFound => Ok(false),
            Some(status) => Err(status),
        })?;
        if found {
            self.world.tally.lose(Loss::Name, format!("{id}: removed, and there still"));
        }
        Ok(())
    }

    /// After something went wrong: the name is needed again.
    fn give_up(&self) {
        if !self.id.is_empty() {
            let _step = self.world.step();
            self.world.pods().remove(&self.id);
            drop(self.world.call("RemovePodSandbox", |cri| cri.remove_pod(&self.id)));
        }
    }
}

/// Notes the process of one that is to run on, once its command does: before, a signal would end the OCI runtime's init in its place.
fn watch(world: &World<'_>, pod: &str, made: &Made, status: &ContainerStatus) -> Result<()> {
    let log = Path::new(&status.log_path);
    let begun = || Ok(std::fs::metadata(log).is_ok_and(|log| log.len() > 0).then_some(()));
    eventually(END, "its command runs", begun).with_context(|| made.id.clone())?;
    let pid = world.call("ContainerStatus", |cri| audit::pid(cri, &made.id))?;
    if pid.is_none() {
        world.tally.lose(Loss::Running, format!("{}: runs, and has no pid", made.id));
    }
    world.note(pod, |pod| {
        if let Some(known) = pod.containers.get_mut(&made.id) {
            known.pid = pid;
        }
    });
    Ok(())
}

fn wait_for_end(world: &World<'_>, id: &str) -> Result<ContainerStatus> {
    let end = Instant::now() + END;
    loop {
        let status = world.call("ContainerStatus", |cri| cri.status(id))?;
        if ended(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "{id} is not told as ended: {status:?}");
        pause(Duration::from_millis(20));
    }
}
