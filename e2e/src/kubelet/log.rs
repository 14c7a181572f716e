//! What a kubelet complains of.
//!
//! Owns the list of the errors that are no davit's: each with where it comes from.

/// An error that any kubelet of these tests may log, and why.
const KNOWN: &[(&str, &str)] = &[
    ("Failed to set rlimit on max file handles", "the test's process may not raise its limits"),
    ("Failed to ensure process in container with oom score", "the test's process may not lower it"),
    (
        "cpu and memory cgroup hierarchy not unified",
        "the test's process is in cgroups of two names",
    ),
    ("Failed to get system container stats", "a cgroup that it has not measured yet"),
    ("not found in metrics", "the same, told by who would evict pods"),
    ("pleg has yet to be successful", "its first round, before the first list of containers"),
    ("may not have completed yet", "its first round, before the first look at the runtime"),
    ("Image garbage collection failed once", "it has not measured its own disks yet"),
    ("kubelet_internal_checkpoint", "the first start: there is nothing to go on with"),
    ("no imagefs label for configured runtime", "it has labels for one runtime only, CRI-O"),
    ("failed to check if node is newer", "there is no API server, and so no node with a version"),
    ("Missing actuated pod level resource record", "of a pod none of whose containers ever ran"),
    ("code = Canceled desc = context canceled", "it ends, and gives up what it is about to ask"),
    ("code = NotFound desc = no container has the id", "it asks after what it has just removed"),
    ("use of closed network connection", "a client that has all it wanted has left"),
    ("Error on socket receive", "the same, told by the kubelet's own end of a client's WebSocket"),
    ("Error proxying data from", "the same, while bytes were on their way to it"),
    ("Partial failure issuing cadvisor.ContainerInfoV2", "a cgroup that it has not measured yet"),
    ("Housekeeping took longer than expected", "the machine is busy with other tests"),
    ("OOM events will not be reported", "it reads the kernel's log, which may run away from it"),
    ("Failed to get network devices", "a link of a neighbouring test has gone"),
    ("Failed to watch directory", "a cgroup of a neighbouring test has gone"),
    ("Failed to remove container log dead symlink", "a neighbouring test's, which took it itself"),
];

/// An error that one test expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    /// With this text.
    Text(String),
    /// A probe's or hook's command that found its container ended, or ending.
    Command(String),
}

impl Allowed {
    /// For this command.
    pub(super) fn command(words: &[&str]) -> Self {
        Self::Command(format!("cmd={}", serde_json::json!(words)))
    }

    fn is(&self, line: &str) -> bool {
        match self {
            Self::Text(text) => line.contains(text.as_str()),
            Self::Command(command) => {
                let ended = ["code = FailedPrecondition", "code = NotFound"];
                line.contains("ExecSync cmd from runtime service failed")
                    && line.contains(command.as_str())
                    && ended.iter().any(|code| line.contains(code))
            }
        }
    }
}

/// The lines that are errors or worse, and neither known nor `allowed`.
pub(super) fn unexpected(log: &str, allowed: &[Allowed]) -> Vec<String> {
    let known = |line: &str| {
        KNOWN.iter().any(|(text, _reason)| line.contains(text))
            || allowed.iter().any(|one| one.is(line))
    };
    log.lines().filter(|line| is_error(line) && !known(line)).map(str::to_owned).collect()
}

/// `E1121 15:04:05.000000   1234 file.go:56] …`, or what Go writes when a program dies.
fn is_error(line: &str) -> bool {
    let mut start = line.chars();
    let severity = matches!(start.next(), Some('E' | 'F'));
    let dated = start.by_ref().take(4).filter(char::is_ascii_digit).count() == 4;
    (severity && dated) || line.starts_with("panic: ") || line.starts_with("fatal error: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_the_rest_and_from_what_is_expected() {
        let log = "I1121 15:04:05.1 1 a.go:1] \"E1121\"\nE1121 15:04:05.1 1 a.go:1] \"bad\"\n\
            W1121 15:04:05.1 1 a.go:1] \"hm\"\npanic: oh\nEnd\nF1121 15:04:05.1 1 a.go:1] \"over\"\n";
        let found = unexpected(log, &[Allowed::Text("over".to_owned())]);
        assert_eq!(found, ["E1121 15:04:05.1 1 a.go:1] \"bad\"", "panic: oh"]);
    }

    #[test]
    fn a_command_may_meet_the_end_of_its_container_and_fail_in_no_other_way() {
        let line = |code: &str, command: &str| {
            format!(
                "E1121 15:04:05.1 1 log.go:32] \"ExecSync cmd from runtime service failed\" err=\"rpc error: code = {code} \
                 desc = no\" containerID=\"0a\" cmd={command}"
            )
        };
        let allowed = [Allowed::command(&["test", "-e", "/alive"])];
        let command = r#"["test","-e","/alive"]"#;
        for (line, expected) in [
            (line("FailedPrecondition", command), true),
            (line("NotFound", command), true),
            (line("Internal", command), false),
            (line("FailedPrecondition", r#"["true"]"#), false),
        ] {
            assert_eq!(unexpected(&line, &allowed).is_empty(), expected, "{line}");
        }
    }
}
