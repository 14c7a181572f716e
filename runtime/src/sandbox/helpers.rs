//! What becomes of a pod when its helpers, the shim and the init of a shared PID namespace, end or fall silent.
//!
//! Owns what that means for the pod and its containers, now and when a daemon takes the pod up. A shim that has ended takes all of the pod along; one that
//! is silent is waited for, since its containers run on and are well: only when the pod is to end is it killed.

use super::Trouble;
use super::error::StopSandboxError;
use super::job::{Ended, Outcome};
use super::shim::{Found, Line};
use super::slot::Slot;
use super::task::{Next, Pod};
use super::watch_shim::{self, Hearing};
use crate::clock;
use crate::container::{ContainerEvent, LostEnd};
use crate::id::{ContainerId, SandboxId};
use crate::shim::{ProcessHandle, ShimError, SpawnError, last_words};
use crate::shortage::{self, is_shortage, patiently};
use crate::store::{SandboxPhase, ShimRecord, StoreError, read_json};
use davit_proto::disk::{EXIT_RECORD, ExitRecord};
use davit_proto::shim::Exit;
use std::io;
use std::sync::Arc;

/// Whether a silent shim was killed and is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killing {
    No,
    Waits,
}

impl Pod {
    /// Why the pod is not ready, if nobody has stopped it.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let silent = || Trouble::ShimSilent { after: self.shared.config.deadlines.shim };
        let is_silent = self.hearing == Hearing::Silent;
        self.record.trouble.clone().or_else(|| is_silent.then(silent))
    }

    /// Finds the shim of a pod that its records tell of.
    pub(super) async fn reconnect(&mut self) {
        let Some(shim) = self.record.shim else {
            // A daemon may have been killed between noting the shim's end and dealing with it.
            return self.end_orphans().await;
        };
        // What can't be looked at or called for want of descriptors is no less well for that: nothing is said of it meanwhile, and calls wait.
        let line = patiently(|| Line::open(&self.shared, &self.record.id, Some(shim))).await;
        let found = match line {
            Ok(line) => loop {
                match line.ask().await {
                    Err(error) if is_shortage(&error) => tokio::time::sleep(shortage::PAUSE).await,
                    found => break found,
                }
            },
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => self.take_up(found).await,
            Err(error @ (SpawnError::Silent { .. } | SpawnError::Watch { .. })) => {
                self.shim_is_silent(shim, &error);
            }
            Err(error) => self.shim_not_found(shim, &error).await,
        }
    }

    fn shim_is_silent(&mut self, shim: ShimRecord, error: &(dyn std::error::Error + 'static)) {
        let id = self.record.id.clone();
        tracing::warn!(sandbox = %id, error, "the pod's shim does not answer");
        watch_shim::find(Arc::clone(&self.shared), id, shim, self.outbox.clone());
        self.hearing = Hearing::Silent;
        self.publish();
    }

    async fn shim_not_found(&mut self, shim: ShimRecord, error: &SpawnError) {
        if self.record.phase == SandboxPhase::Ready {
            let error: &dyn std::error::Error = error;
            tracing::warn!(sandbox = %self.record.id, error, "the pod's shim is gone");
        }
        match kill(&self.record.id, shim).await {
            Ok(_) => drop(self.shim_ended().await),
            // A stop of the pod tries once more.
            Err(error) => self.shim_is_silent(shim, &error),
        }
    }

    async fn take_up(&mut self, found: Found) {
        self.adopt(found.shim);
        self.reconcile(found.containers).await;
        if let Some(exit) = found.init_exit {
            self.init_ended(&exit);
        }
    }

    /// Kills a silent shim for whoever wants the pod to end. Its end is told, and goes on from there; that it does not end is an outcome.
    pub(super) fn end_silent_shim(&mut self) {
        if self.killing == Killing::Waits {
            return;
        }
        self.killing = Killing::Waits;
        let (id, shim) = (self.record.id.clone(), self.record.shim);
        let limit = self.shared.config.deadlines.shim;
        self.job(async move {
            let Some(shim) = shim else { return Outcome::ShimKilled(Ended::Yes) };
            let process = match tokio::time::timeout(limit, kill(&id, shim)).await {
                Ok(Ok(Some(process))) => process,
                Ok(Ok(None)) => return Outcome::ShimKilled(Ended::Yes),
                Ok(Err(error)) => return Outcome::ShimKilled(Ended::NotKilled(error.to_string())),
                Err(_) => {
                    let why = "there were no descriptors to look for it".to_owned();
                    return Outcome::ShimKilled(Ended::NotKilled(why));
                }
            };
            Outcome::ShimKilled(match tokio::time::timeout(limit, process.ended()).await {
                Ok(()) => Ended::Yes,
                Err(_) => Ended::No,
            })
        });
    }

    /// A process that hangs in the kernel does not end before that lets go of it. Whoever waits is told so, and may ask again.
    pub(super) fn shim_killed(&mut self, ended: Ended) -> Next {
        self.killing = Killing::No;
        let message = match ended {
            Ended::Yes => return Next::Go,
            Ended::No => "it was killed and has not ended: it hangs in the kernel".to_owned(),
            Ended::NotKilled(why) => format!("it does not answer and could not be killed: {why}"),
        };
        if self.hearing == Hearing::Silent {
            while !self.endings.is_empty() {
                let source = ShimError::Deadline { message: message.clone() };
                let id = self.record.id.clone();
                self.answer_ending(Err(StopSandboxError::Shim { id, source }.into()));
            }
        }
        Next::Go
    }

    /// The shim did not answer when this daemon took up the pod. It does now.
    pub(super) async fn shim_found(&mut self, found: Found) -> Next {
        // First, as a start that it tells of goes on in a pod that is ready only.
        self.hearing = Hearing::Answers;
        self.take_up(found).await;
        self.shim_heard(Hearing::Answers)
    }

    /// The shim has fallen silent, or answers again.
    pub(super) fn shim_heard(&mut self, heard: Hearing) -> Next {
        self.hearing = heard;
        let after_ms = self.shared.config.deadlines.shim.as_millis();
        match heard {
            Hearing::Silent => {
                tracing::warn!(sandbox = %self.record.id, after_ms, "the pod's shim does not answer, however often it is asked")
            }
            Hearing::Answers => {
                tracing::info!(sandbox = %self.record.id, "the pod's shim answers again")
            }
        }
        self.publish();
        self.end_if_due();
        Next::Go
    }

    /// The init of the pod's shared PID namespace has ended, and with it all in there, whose ends are told as any others. Nothing can begin in there
    /// any more.
    pub(super) fn init_ended(&mut self, exit: &Exit) {
        if self.record.phase != SandboxPhase::Ready || self.record.trouble.is_some() {
            return;
        }
        let trouble = Trouble::InitGone { code: exit.code, at: exit.finished_at };
        tracing::warn!(sandbox = %self.record.id, "{trouble}");
        self.record.trouble = Some(trouble);
        self.save_now_or_later();
        self.publish();
    }

    /// The shim has ended: by our wish, or not. Then its containers end here as its records tell, and nothing of them is left to run.
    pub(super) async fn shim_ended(&mut self) -> Next {
        self.hearing = Hearing::Answers;
        if self.record.phase == SandboxPhase::Ready {
            let said = last_words(&self.shared.layout.pod(&self.record.id));
            tracing::warn!(sandbox = %self.record.id, said, "the pod's shim has ended");
            // What came first is the reason.
            self.record.trouble.get_or_insert(Trouble::ShimGone { said });
        }
        if self.ending {
            // By the job's wish; the job's outcome is what is written down, if there is still a record to write.
            self.shim = None;
        } else {
            self.shim_is_gone();
        }
        self.end_orphans().await;
        self.end_if_due();
        Next::Go
    }

    /// What a shim that died has left running ends, and is told. Of one that had ended before, nothing but what outlived its init may be there.
    async fn end_orphans(&mut self) {
        let ids: Vec<ContainerId> = self.slots.keys().cloned().collect();
        for id in ids {
            let end = self.kill_orphan(&id).await;
            let alive = self.slots.get(&id).is_some_and(Slot::alive);
            if alive {
                let event = self.last_word(&id, end).await;
                self.apply(&id, event);
            }
        }
    }

    /// Kills all of a container; answers what its init has come to. The container's cgroup, not the pod's: that one may be shared.
    async fn kill_orphan(&self, id: &ContainerId) -> LostEnd {
        let Some(slot) = self.slots.get(id) else { return LostEnd::Unknown };
        let group = self.shared.pod_group(&self.record.id, &self.spec);
        let Ok(group) = group.and_then(|pod| pod.container(id)) else {
            return LostEnd::Unknown;
        };
        let init = slot.record.state.pid();
        let ran = match init {
            Some(pid) => patiently(|| crate::cgroup::runs_in(pid, &group)).await.unwrap_or(false),
            None => false,
        };
        if let Err(error) = patiently(|| self.shared.host.cgroups.kill(&group)).await {
            tracing::error!(container = %id, error = &error as &dyn std::error::Error, "what a lost shim has left running could not be killed");
        }
        if ran { LostEnd::Killed } else { LostEnd::Unknown }
    }

    pub(super) fn shim_is_gone(&mut self) {
        self.shim = None;
        if self.record.shim.take().is_some() {
            self.save_now_or_later();
            self.publish();
        }
    }

    /// What the shim had written down of a container's end, if it had; else whether it was killed for want of a shim.
    pub(super) async fn last_word(&self, id: &ContainerId, end: LostEnd) -> ContainerEvent {
        let written = patiently(|| self.written_end(id)).await;
        written.unwrap_or_else(|_| ContainerEvent::Lost { at: clock::now(), end })
    }

    /// What the shim has written down of a container's end.
    pub(super) fn written_end(&self, id: &ContainerId) -> Result<ContainerEvent, StoreError> {
        let path = self.shared.layout.bundle(&self.record.id, id).join(EXIT_RECORD);
        let exit: ExitRecord = read_json(&path)?;
        Ok(ContainerEvent::Exited {
            at: exit.finished_at,
            code: exit.code,
            oom_killed: exit.oom_killed,
        })
    }
}

/// A shim that lives and can't be talked to is of no use, and nobody would end it later. The record proves that the process is the shim; it is
/// answered if it was there.
async fn kill(id: &SandboxId, shim: ShimRecord) -> io::Result<Option<ProcessHandle>> {
    let process = patiently(|| ProcessHandle::open(shim)).await;
    let killed = process.and_then(|process| {
        process.as_ref().map_or(Ok(()), ProcessHandle::kill)?;
        Ok(process)
    });
    killed.inspect_err(|error| {
        tracing::error!(sandbox = %id, error = error as &dyn std::error::Error, "a shim that does not answer could not be killed");
    })
}
