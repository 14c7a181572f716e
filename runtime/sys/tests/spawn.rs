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
        .arg("ls /proc/$$/fd; grep -E 'Sig(Blk|Ign)' /proc/$$/status; echo $A")
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

fn refuses_to_fork_beside_other_threads() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let refused = command("/bin/true", null()).spawn(ok);
    drop(stop);
    thread.join().unwrap().unwrap_err();
    assert!(matches!(refused, Err(SpawnError::Threads(2))), "{refused:?}");
}
