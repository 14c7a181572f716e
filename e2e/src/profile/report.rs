//! A profile as tables in Markdown.

use super::{Calls, Profile, Role};
use std::fmt;

/// How many of a role's system calls are named.
const NAMED: usize = 8;
/// How many of those in which it spent the most time.
const LONGEST: usize = 3;
/// Calls that wait for a disk.
pub const SYNCS: [&str; 6] = ["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync"];

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [run, create, start, end] = self.whole.map(|time| time.as_secs_f64() * 1000.0);
        writeln!(f, "| call, as its caller sees it, p50 | ms |\n|---|---|")?;
        writeln!(f, "| RunPodSandbox | {run:.2} |\n| CreateContainer | {create:.2} |")?;
        writeln!(
            f,
            "| StartContainer | {start:.2} |\n| all three | {:.2} |",
            run + create + start
        )?;
        writeln!(f, "| StopPodSandbox and RemovePodSandbox | {end:.2} |")?;
        writeln!(f, "\n| step, mean | ms |\n|---|---|")?;
        for (name, seconds) in &self.steps {
            writeln!(f, "| {name} | {:.2} |", seconds * 1000.0)?;
        }
        writeln!(f, "\nOne pod's start:\n")?;
        table(f, &self.start)?;
        writeln!(f, "\nIts stop and removal, of davit and what that starts:\n")?;
        table(f, &self.end)
    }
}

fn table(f: &mut fmt::Formatter<'_>, calls: &Calls) -> fmt::Result {
    writeln!(
        f,
        "| process | system calls | waits | forks | programs | syncs | most of them | the most time, ms |"
    )?;
    writeln!(f, "|---|---|---|---|---|---|---|---|")?;
    for (name, role) in calls.roles.iter().filter(|(name, _)| !name.starts_with("container: ")) {
        let Role { forks, started, .. } = role;
        let (total, waits, syncs) = (role.total(), role.waits(), role.of(&SYNCS));
        let started = if started.is_empty() { "–".to_owned() } else { started.join(", ") };
        let (most, longest) = (most(role), longest(role));
        writeln!(
            f,
            "| {name} | {total} | {waits} | {forks} | {started} | {syncs} | {most} | {longest} |"
        )?;
    }
    Ok(())
}

/// Of all its threads together, what each of them waits for in vain included; strace makes each call slower.
fn longest(role: &Role) -> String {
    let mut calls: Vec<_> = role.waited.iter().collect();
    calls.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
    let named = calls.iter().take(LONGEST);
    let named = named.map(|(name, micros)| {
        format!("{name} {:.1}", std::time::Duration::from_micros(**micros).as_secs_f64() * 1000.0)
    });
    named.collect::<Vec<_>>().join(", ")
}

fn most(role: &Role) -> String {
    let mut calls: Vec<_> = role.calls.iter().collect();
    calls.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
    let named = calls.iter().take(NAMED).map(|(name, count)| format!("{name} {count}"));
    named.collect::<Vec<_>>().join(", ")
}
