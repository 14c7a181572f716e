//! Starting programs, in a process with one thread: the test harness has several, so this one has its own `main`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test without the harness")]

use davit_sys::process::{Command, NOT_STARTED, SpawnError, Spawned};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitOptions, waitpid};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;

fn main() {
    says_nothing_when_the_program_runs();
    names_the_step_that_failed();
    names_the_program_that_is_not_there();
    passes_no_other_descriptor_and_no_blocked_signal();
    runs_a_file_that_has_no_path();
    a_child_that_only_works_tells_how_it_went();
    the_first_process_of_a_namespace_is_the_subreapers_child();
    the_first_process_of_a_namespace_outlives_the_one_in_between();
    refuses_to_fork_beside_other_threads();
    println!("ok");
}

fn null() -> OwnedFd {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn command(path: &str, stdout: OwnedFd) -> Command {
    Command::new(OsStr::new(path), [null(), stdout, null()]).unwrap()
}

fn finish(spawned: Spawned) -> (String, i32) {
    let mut text = String::new();
    std::fs::File::from(spawned.failure).read_to_string(&mut text).unwrap();
    let (_, status) = waitpid(Some(spawned.pid), WaitOptions::empty()).unwrap().unwrap();
    (text, status.exit_status().unwrap())
}

fn ok() -> Result<(), String> {
    Ok(())
}

fn says_nothing_when_the_program_runs() {
    assert_eq!(finish(command("/bin/true", null()).spawn(ok).unwrap()), (String::new(), 0));
}

fn names_the_step_that_failed() {
    let spawned = command("/bin/true", null()).spawn(|| Err("mount the thing: no")).unwrap();
    assert_eq!(finish(spawned), ("mount the thing: no".to_owned(), NOT_STARTED));
}

fn names_the_program_that_is_not_there() {
    let (text, code) = finish(command("/nonexistent/program", null()).spawn(ok).unwrap());
    assert_eq!(text, "exec /nonexistent/program: No such file or directory (os error 2)");
    assert_eq!(code, NOT_STARTED);
}

fn passes_no_other_descriptor_and_no_blocked_signal() {
    let _signals = davit_sys::signal::Signals::new(davit_sys::signal::Wait::No).unwrap();
    let leaky = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut shell = command("/bin/sh", writer);
    shell
        .arg("-c")
        .unwrap()
        .arg("ls /proc/$$/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; echo $A")
        .unwrap();
    shell.env("A", "b").unwrap().env("PATH", "/usr/bin:/bin").unwrap();
    let spawned = shell.spawn(ok).unwrap();
    let mut output = String::new();
    std::fs::File::from(reader).read_to_string(&mut output).unwrap();
    assert_eq!(finish(spawned), (String::new(), 0));
    // The C library keeps 32 and 33 to itself: who had them ignored before us decides about them.
    let output = output.replace("SigIgn:\t0000000180000000", "SigIgn:\t0000000000000000");
    assert_eq!(output, "0\n1\n2\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nb\n");
    drop(leaky);
}

fn output(reader: OwnedFd) -> String {
    std::io::read_to_string(std::fs::File::from(reader)).unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

fn open(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn runs_a_file_that_has_no_path() {
    let (reader, writer) = pipe();
    let stdio = [null(), writer, null()];
    let mut shell = Command::of_file(open("/bin/sh"), OsStr::new("a-name"), stdio).unwrap();
    shell.arg("-c").unwrap().arg("echo $0; cat /proc/$$/cmdline").unwrap();
    shell.env("PATH", "/usr/bin:/bin").unwrap();
    assert_eq!(finish(shell.spawn(ok).unwrap()), (String::new(), 0));
    assert!(output(reader).starts_with("a-name\na-name\0-c\0"));
    let none = Command::of_file(open("/etc/passwd"), OsStr::new("it"), [null(), null(), null()]);
    let (text, code) = finish(none.unwrap().spawn(ok).unwrap());
    assert_eq!((text.as_str(), code), ("exec it: Permission denied (os error 13)", NOT_STARTED));
    let other =
        Command::of_file(open("/etc/passwd"), OsStr::new("/bin/true"), [null(), null(), null()]);
    assert_eq!(finish(other.unwrap().spawn(ok).unwrap()), (String::new(), 0));
}

fn a_child_that_only_works_tells_how_it_went() {
    let (reader, writer) = pipe();
    let work = || rustix::io::write(&writer, b"done").map(drop);
    assert_eq!(finish(davit_sys::process::fork(work).unwrap()), (String::new(), 0));
    drop(writer);
    assert_eq!(output(reader), "done");
    let failing = davit_sys::process::fork(|| Err("no")).unwrap();
    assert_eq!(finish(failing), ("no".to_owned(), NOT_STARTED));
}

fn the_first_process_of_a_namespace_is_the_subreapers_child() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let (reader, writer) = pipe();
    let mut shell = command("/bin/sh", writer);
    shell.arg("-c").unwrap().arg("echo $$ $PPID").unwrap();
    let spawned = shell.spawn_first(ok).unwrap();
    assert_eq!(finish(spawned), (String::new(), 0));
    assert_eq!(output(reader), "1 0\n");
    let spawned = command("/bin/true", null()).spawn_first(|| Err("not so")).unwrap();
    assert_eq!(output(spawned.failure), "not so");
    let spawned = command("/nonexistent", null()).spawn_first(ok).unwrap();
    let (text, code) = finish(spawned);
    assert!(text.starts_with("exec /nonexistent") && code == NOT_STARTED, "{text}");
}

/// It wants to die with its parent, and says so at once. The one in between takes a while to go: it gives back a mount namespace.
fn the_first_process_of_a_namespace_outlives_the_one_in_between() {
    for _ in 0..200 {
        let mut program = command("/usr/bin/setpriv", null());
        for argument in ["--pdeathsig", "KILL", "/bin/true"] {
            program.arg(argument).unwrap();
        }
        let prepare = || {
            davit_sys::namespace::unshare(davit_sys::namespace::Namespace::Mount).unwrap();
            ok()
        };
        let spawned = program.spawn_first(prepare).unwrap();
        let (_, status) = waitpid(Some(spawned.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
    }
}

fn refuses_to_fork_beside_other_threads() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let refused = command("/bin/true", null()).spawn(ok);
    drop(stop);
    thread.join().unwrap().unwrap_err();
    assert!(matches!(refused, Err(SpawnError::Threads(2))), "{refused:?}");
}
