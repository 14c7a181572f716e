//! What processes ask of the kernel, as strace tells it.
//!
//! Owns attaching to processes and reading what strace wrote. Threads are told as their process; a process is known by the last program that it became, and
//! what it forks without becoming another program counts as its parent's. What a container's own program does is not looked at.
//!
//! ```text
//! 4711 execve("/usr/bin/crun", ["/usr/bin/crun", …, "create", …], …) = 0 <0.000301>   a line: thread, call, result, seconds
//! 4711 read(5, <unfinished ...>                                                          and one in two parts
//! 4711 <... read resumed>"x", 1) = 1 <0.002114>
//! ```

use crate::host::eventually;
use crate::tools;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Calls that only wait, wake, or set up who does.
const WAITS: [&str; 9] = [
    "futex",
    "epoll_wait",
    "epoll_pwait",
    "restart_syscall",
    "sched_yield",
    "clock_nanosleep",
    "clock_gettime",
    "sched_getaffinity",
    "gettid",
];

/// How long strace may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A strace that is attached to processes and follows what they start.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    /// By number, whose they were when strace was attached.
    threads: BTreeMap<u32, String>,
    file: PathBuf,
}

/// What was asked of the kernel while a trace was on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// By role: `davit`, `davit-shim`, `crun create` and so on.
    pub roles: BTreeMap<String, Role>,
}

/// What all processes of a role asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// System calls by name.
    pub calls: BTreeMap<String, u64>,
    /// Processes that were forked; threads are none.
    pub forks: u64,
    /// Programs that one of its forks became.
    pub started: Vec<String>,
    /// Microseconds from call to answer, by name, under strace: what waits stands out, whatever it waits for.
    pub waited: BTreeMap<String, u64>,
}

impl Role {
    /// All system calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Those that are work: how often a thread waits, wakes another or looks at the clock depends on what else the machine does.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.total() - self.waits()
    }

    /// Those that only wait, wake, or look at the clock.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.of(&WAITS)
    }

    /// Those of these names.
    #[must_use]
    pub fn of(&self, names: &[&str]) -> u64 {
        names.iter().filter_map(|name| self.calls.get(*name)).sum()
    }
}

impl Trace {
    /// Attaches to all threads of these processes, each with its role; `file` is for strace.
    ///
    /// # Errors
    /// If there is no strace, or it can't attach.
    pub fn attach(processes: &[(u32, &str)], file: &Path) -> Result<Self> {
        let mut command = Command::new(tools::installed("strace")?);
        command.args(["-f", "-qq", "-T", "-s", "200", "-o"]).arg(file);
        for (pid, _) in processes {
            command.args(["-p", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = command.spawn().context("start strace")?;
        let mut trace = Self { strace, threads: BTreeMap::new(), file: file.to_owned() };
        trace.threads = eventually(PATIENCE, "strace is attached to every thread", || {
            trace.attached_to(processes)
        })?;
        Ok(trace)
    }

    /// The processes' threads, if it is attached to all of them.
    fn attached_to(&self, processes: &[(u32, &str)]) -> Result<Option<BTreeMap<u32, String>>> {
        let tracer = format!("TracerPid:\t{}", self.strace.id());
        let mut threads = BTreeMap::new();
        for (pid, role) in processes {
            for task in crate::host::names_in(format!("/proc/{pid}/task").as_ref())? {
                let path = format!("/proc/{pid}/task/{task}/status");
                let Ok(status) = std::fs::read_to_string(path) else { continue };
                if !status.lines().any(|line| line == tracer) {
                    return Ok(None);
                }
                threads.insert(task.parse().context("a thread's number")?, (*role).to_owned());
            }
        }
        Ok(Some(threads))
    }

    /// Detaches, and tells what was asked for.
    ///
    /// # Errors
    /// If strace does not end, or wrote what makes no sense.
    pub fn end(mut self) -> Result<Calls> {
        let pid = Pid::from_raw(i32::try_from(self.strace.id())?).context("strace has a pid")?;
        kill_process(pid, Signal::INT).context("end strace")?;
        eventually(PATIENCE, "strace ends", || Ok(self.strace.try_wait()?))?;
        let text = std::fs::read(&self.file).context("read what strace wrote")?;
        read(&String::from_utf8_lossy(&text), std::mem::take(&mut self.threads))
    }
}

impl Drop for Trace {
    /// For one that was not ended: what it is attached to goes on all the same.
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

/// Reads what strace wrote, where these threads were there from the start.
///
/// # Errors
/// If a line makes no sense.
fn read(text: &str, threads: BTreeMap<u32, String>) -> Result<Calls> {
    let mut reader = Reader { roles: threads, ..Reader::default() };
    for line in text.lines() {
        reader.line(line).with_context(|| format!("strace wrote {line:?}"))?;
    }
    let calls = Calls { roles: reader.told };
    if calls.role("davit").total() == 0 {
        bail!("strace saw nothing of davit");
    }
    Ok(calls)
}

/// Threads by number: whose they are, and what each has begun.
#[derive(Debug, Default)]
struct Reader {
    roles: BTreeMap<u32, String>,
    /// Threads that strace told of before the fork that made them had returned.
    early: BTreeMap<u32, Vec<String>>,
    begun: BTreeMap<u32, String>,
    told: BTreeMap<String, Role>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        let (thread, rest) = line.trim_start().split_once(' ').context("no thread")?;
        let (thread, rest) = (thread.parse()?, rest.trim_start());
        if !self.roles.contains_key(&thread) {
            // Of the daemon, if it was there before; else a fork's that is still to be told.
            self.early.entry(thread).or_default().push(rest.to_owned());
            return Ok(());
        }
        self.of(thread, rest)
    }

    fn of(&mut self, thread: u32, rest: &str) -> Result<()> {
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(());
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").context("nothing is resumed")?;
            let begun = self.begun.remove(&thread).unwrap_or_default();
            return self.ended(thread, &format!("{begun}{end}"));
        }
        let name = rest.split('(').next().context("no call")?;
        let role = self.roles.get(&thread).cloned().context("a thread of nobody's")?;
        let told = self.told.entry(role).or_default();
        *told.calls.entry(name.to_owned()).or_default() += 1;
        match rest.strip_suffix(" <unfinished ...>") {
            Some(begun) => {
                self.begun.insert(thread, begun.to_owned());
                Ok(())
            }
            None => self.ended(thread, rest),
        }
    }

    fn ended(&mut self, thread: u32, call: &str) -> Result<()> {
        let result = call.rsplit_once(" = ").map(|(_, result)| result).unwrap_or_default();
        let result = result.split(' ').next().and_then(|word| word.parse::<i64>().ok());
        let name = call.split('(').next().unwrap_or_default();
        if let Some(micros) = micros(call) {
            let role = self.roles.get(&thread).cloned().context("a thread of nobody's")?;
            let waited = &mut self.told.entry(role).or_default().waited;
            *waited.entry(name.to_owned()).or_default() += micros;
        }
        match (name, result) {
            ("clone" | "clone3" | "fork" | "vfork", Some(child)) if child > 0 => {
                let role = self.roles.get(&thread).cloned().context("a parent of nobody's")?;
                if !call.contains("CLONE_THREAD") {
                    self.told.entry(role.clone()).or_default().forks += 1;
                }
                self.begun_by(u32::try_from(child)?, role)
            }
            ("execve" | "execveat", Some(0)) => {
                self.became(thread, call);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begun_by(&mut self, child: u32, role: String) -> Result<()> {
        self.roles.insert(child, role);
        for line in self.early.remove(&child).unwrap_or_default() {
            self.of(child, &line)?;
        }
        Ok(())
    }

    fn became(&mut self, thread: u32, call: &str) {
        let role = program(call);
        if let Some(old) = self.roles.insert(thread, role.clone()) {
            self.told.entry(old).or_default().started.push(role);
        }
    }
}

/// How long a call took: `… = 0 <0.000301>`.
fn micros(call: &str) -> Option<u64> {
    let (seconds, fraction) =
        call.strip_suffix('>')?.rsplit_once(" <").and_then(|(_, took)| took.split_once('.'))?;
    let fraction = fraction.get(..6).filter(|_| fraction.len() == 6)?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// The program of an exec, and what an OCI runtime is asked to do.
fn program(call: &str) -> String {
    // What is in quotes: of execve the path and the arguments, of execveat an empty path and the arguments.
    let mut words = call.split('"').skip(1).step_by(2).filter(|word| !word.is_empty());
    let path = words.next().unwrap_or("?");
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_runtime = call.contains("\"--log-format\"");
    let verbs = ["create", "start", "exec", "delete", "update", "pause", "resume"];
    let verb = is_runtime.then(|| words.find(|word| verbs.contains(word))).flatten();
    match verb {
        Some(verb) => format!("{name} {verb}"),
        None if name == "davit-shim" || name == "davit" => name.to_owned(),
        None => format!("container: {name}"),
    }
}

impl Calls {
    /// Those of this role; none where nobody had it.
    #[must_use]
    pub fn role(&self, name: &str) -> Role {
        self.roles.get(name).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_forks_and_programs_are_told_apart() -> Result<()> {
        let text = r#"7 read(5,  <unfinished ...>
8 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 20
7 <... read resumed>"x = 3", 4) = 4 <1.000250>
20 execve("/usr/bin/davit-shim", ["/usr/bin/davit-shim", "--pod-dir", "/d"], 0x5 /* 3 vars */) = 0
21 write(3, "0", 1) = 1 <0.000004>
20 clone(child_stack=NULL, flags=SIGCHLD) = 21
21 +++ exited with 0 +++
20 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 22
22 close(4) = 0
20 fork( <unfinished ...>
23 execveat(4, "", ["/usr/bin/crun", "--log-format", "json", "create", "--bundle"], 0x5, AT_EMPTY_PATH) = 0
20 <... fork resumed>) = 23
23 --- SIGCHLD {si_signo=SIGCHLD} ---
23 fsync(3) = 0
23 execve("/nowhere", ["x"], 0x5) = -1 ENOENT (No such file or directory)
23 execve("/bin/sleep", ["sleep", "1"], 0x5) = 0
"#;
        let calls = read(text, [(7, "davit".to_owned()), (8, "davit".to_owned())].into())?;
        let davit = calls.role("davit");
        assert_eq!((davit.total(), davit.forks), (3, 1));
        assert_eq!(davit.waited, [("read".to_owned(), 1_000_250)].into());
        assert_eq!(davit.started, ["davit-shim"]);
        let shim = calls.role("davit-shim");
        assert_eq!((shim.forks, shim.of(&["write", "close"])), (2, 2));
        assert_eq!(shim.started, ["crun create"]);
        let create = calls.role("crun create");
        assert_eq!((create.of(&["fsync"]), create.total()), (1, 3));
        assert_eq!(create.started, ["container: sleep"]);
        Ok(())
    }
}
