//! A command in a running container: from the claim to its name to the process that runs.

use super::ExecError;
use super::kill::Target;
use crate::container::create::read_pid;
use crate::container::{Container, Init};
use crate::error::{Refusal, checked_name};
use crate::files;
use crate::oci::{Call, CallStdio, Verb};
use crate::pod::Pod;
use crate::reaper::Ended;
use crate::shortage::patiently;
use crate::stdio::console::Console;
use crate::userns::own_null;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long after the OCI runtime a container's own end may be seen that made the runtime fail: the kernel ends the init of a PID namespace
/// after all else in it.
const DYING: Duration = Duration::from_secs(10);

/// A command that is to run, and the claim to its name, which is given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Command {
    container: Arc<Container>,
    init: Arc<Init>,
    name: String,
    process: Vec<u8>,
}

/// What a command's standard streams are to be.
#[derive(Debug)]
pub(crate) enum Streams {
    /// These.
    Given([OwnedFd; 3]),
    /// A terminal, which the OCI runtime makes.
    Terminal,
}

/// A command that runs, or did.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) ended: oneshot::Receiver<Ended>,
    pub(crate) target: Target,
    /// The master side of its terminal, which does not block.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Command {
    /// Claims `name` for a command in a container that runs.
    pub(crate) fn claim(
        pod: &Pod,
        id: &str,
        name: String,
        process: Vec<u8>,
    ) -> Result<Self, ExecError> {
        checked_name("exec_id", &name)?;
        let container = pod.container(id)?;
        let init = container.running()?;
        if !container.begin_exec(&name) {
            return Err(Refusal::ExecExists { id: id.to_owned(), exec: name }.into());
        }
        Ok(Self { container, init, name, process })
    }

    /// Has the OCI runtime start the command; what it needs for that is gone when this answers.
    pub(crate) async fn begin(&self, pod: &Pod, streams: Streams) -> Result<Begun, ExecError> {
        let [process, pid_file, log] = ["json", "pid", "log"].map(|kind| self.file(kind));
        let result = self.call(pod, [&process, &pid_file, &log], streams).await;
        for file in [process, pid_file] {
            let _ = files::remove_if_there(&file);
        }
        result
    }

    async fn call(
        &self,
        pod: &Pod,
        [process, pid_file, log]: [&Path; 3],
        streams: Streams,
    ) -> Result<Begun, ExecError> {
        let step = |step| self.step(step);
        files::write_new(process, &self.process)
            .map_err(files::named(process))
            .map_err(step("write its process"))?;
        let (stdio, console) = match streams {
            Streams::Given(mut stdio) => {
                if let Some(userns) = &pod.userns {
                    let [stdin, stdout, stderr] = stdio;
                    let give = |stream| userns.give(stream).map_err(step("give its streams"));
                    stdio = [give(stdin)?, give(stdout)?, give(stderr)?];
                }
                (CallStdio::Theirs { stdio, errors: None }, None)
            }
            Streams::Terminal => {
                let name = format!("exec-{}.sock", self.name);
                let console = Console::listen(&self.container.bundle, &name);
                let console = console.map_err(step("listen for its terminal"))?;
                let quiet = match &pod.userns {
                    Some(_) => CallStdio::Reads(own_null().map_err(step("make a null device"))?),
                    None => CallStdio::Quiet,
                };
                (quiet, Some(console))
            }
        };
        let console_socket = console.as_ref().map(Console::path);
        let verb = Verb::Exec { process, pid_file, console_socket };
        let call = Call { verb, id: &self.container.id, log: log.to_owned(), stdio };
        let expecting = pod.reaper.expect_unknown();
        let adjusted = oom_score_adj_of(&self.init);
        // As the container's, and not the shim's, which the runtime would pass on. Best effort: raising is always allowed.
        let prepare = || {
            if let Some(value) = &adjusted {
                let _ = files::write_kernel(Path::new("/proc/self/oom_score_adj"), value);
            }
            Ok::<(), std::convert::Infallible>(())
        };
        if let Err(error) = self.container.oci.run(&pod.reaper, call, prepare).await {
            // Killed because it took too long, it may have started the command all the same.
            if let Ok(pid) = patiently(|| read_pid(pid_file)).await {
                Target::find(pid, Arc::clone(&self.init)).kill().await;
            }
            // Killed while the runtime was entering it: a container that has exited, and no runtime that failed.
            if is_dying(self.init.pid.as_raw_pid()) {
                self.container.outlives(DYING).await?;
            }
            return Err(error.into());
        }
        let pid = patiently(|| read_pid(pid_file)).await.map_err(step("read its pid"))?;
        let ended = expecting.adopt(pid);
        let target = Target::find(pid, Arc::clone(&self.init));
        let terminal = match console {
            None => None,
            Some(console) => match console.receive().await {
                Ok(terminal) => Some(terminal),
                Err(error) => {
                    target.kill().await;
                    return Err(step("receive its terminal")(error));
                }
            },
        };
        Ok(Begun { ended, target, terminal })
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.container.bundle.join(format!("exec-{}.{kind}", self.name))
    }

    /// Names what failed.
    pub(crate) fn step(&self, step: &'static str) -> impl FnOnce(io::Error) -> ExecError + use<> {
        let id = self.container.id.clone();
        move |source| ExecError::Step { id, step, source }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.container.end_exec(&self.name);
    }
}

/// Whether it has ended, ends (the kernel ends those in its PID namespace before it is gone), or has been killed.
fn is_dying(pid: i32) -> bool {
    let read = |file| files::read_small(Path::new(&format!("/proc/{pid}/{file}")), 4096).ok();
    let (Some(stat), Some(status)) = (read("stat"), read("status")) else { return true };
    is_dying_by(&stat, &status).unwrap_or(false)
}

/// By the fields 3 and 9 of the one, and the signals that wait in the other: proc_pid_stat(5), proc_pid_status(5).
fn is_dying_by(stat: &str, status: &str) -> Option<bool> {
    const EXITING: u32 = 4;
    const KILL: u64 = 1 << 8;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    let waiting = |line: &str| {
        let (name, mask) = line.split_once(':')?;
        matches!(name, "SigPnd" | "ShdPnd").then(|| u64::from_str_radix(mask.trim(), 16).ok())?
    };
    let killed = status.lines().filter_map(waiting).any(|mask| mask & KILL != 0);
    Some(matches!(state, "Z" | "X") || flags & EXITING != 0 || killed)
}

fn oom_score_adj_of(init: &Init) -> Option<String> {
    files::read_small(Path::new(&format!("/proc/{}/oom_score_adj", init.pid.as_raw_pid())), 32).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_is_told_from_who_lives() {
        let stat = |state, flags| format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 104 0");
        let status = |own, shared| format!("Name:\ta\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        let (none, kill) = ("0000000000000000", "0000000000000100");
        let quiet = status(none, none);
        assert_eq!(is_dying_by(&stat("S", 4_194_560), &quiet), Some(false));
        assert_eq!(is_dying_by(&stat("S", 4_194_564), &quiet), Some(true));
        assert_eq!(is_dying_by(&stat("Z", 4_194_560), &quiet), Some(true));
        assert_eq!(is_dying_by(&stat("S", 0), &status(kill, none)), Some(true));
        assert_eq!(is_dying_by(&stat("S", 0), &status(none, kill)), Some(true));
        assert_eq!(is_dying_by("7 (a", &quiet), None);
    }

    #[test]
    fn this_process_lives_and_a_zombie_does_not() {
        assert!(!is_dying(i32::try_from(std::process::id()).unwrap()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while !is_dying(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
