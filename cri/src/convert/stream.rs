//! The requests for streams.

use super::error::{InvalidField, refuse};
use super::text;
use crate::streaming::grant::{Exec, ExecAs, Forward, Wanted};
use davit_proto::admin;
use davit_proto::cri::{AttachRequest, ExecRequest, PortForwardRequest};

/// Ports that one request may name.
const PORTS: usize = 128;

/// A command to run.
pub(crate) fn exec(request: ExecRequest) -> Result<Exec, InvalidField> {
    let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let container = id("container_id", container_id)?;
    if cmd.is_empty() {
        return Err(refuse("cmd", &cmd, "is empty: there is nothing to run"));
    }
    let numbered = cmd.into_iter().enumerate();
    let command = numbered
        .map(|(at, part)| text::argument(&format!("cmd[{at}]"), part))
        .collect::<Result<_, _>>()?;
    let wanted = wanted(Wanted { stdin, stdout, stderr, terminal: tty })?;
    Ok(Exec { container, command, wanted, whom: ExecAs::default() })
}

/// A command to run as somebody, somewhere, with more in its environment: what CRI has no word for.
pub(crate) fn exec_as(request: admin::ExecRequest) -> Result<Exec, InvalidField> {
    let admin::ExecRequest { container_id, cmd, tty, stdin, user, cwd, env } = request;
    let plain = ExecRequest { container_id, cmd, tty, stdin, stdout: true, stderr: !tty };
    let numbered = env.into_iter().enumerate();
    let env = numbered.map(|(at, line)| text::argument(&format!("env[{at}]"), line));
    let env = env.collect::<Result<_, _>>()?;
    Ok(Exec { whom: ExecAs { user, cwd, env }, ..exec(plain)? })
}

/// A container to attach to, and to which of its streams.
pub(crate) fn attach(request: AttachRequest) -> Result<(String, Wanted), InvalidField> {
    let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let container = id("container_id", container_id)?;
    Ok((container, wanted(Wanted { stdin, stdout, stderr, terminal: tty })?))
}

/// A pod whose ports are to be reached.
pub(crate) fn port_forward(request: PortForwardRequest) -> Result<Forward, InvalidField> {
    let PortForwardRequest { pod_sandbox_id, port } = request;
    let pod = id("pod_sandbox_id", pod_sandbox_id)?;
    if port.len() > PORTS {
        return Err(refuse("port", &port.len(), "ports are more than 128"));
    }
    let checked = |(at, port): (usize, i32)| {
        let number = u16::try_from(port).ok().filter(|number| *number > 0);
        number.ok_or_else(|| refuse(format!("port[{at}]"), &port, "is not between 1 and 65535"))
    };
    let ports = port.into_iter().enumerate().map(checked).collect::<Result<_, _>>()?;
    Ok(Forward { pod, ports })
}

fn id(field: &str, id: String) -> Result<String, InvalidField> {
    if id.is_empty() { Err(refuse(field, &id, "is required")) } else { Ok(id) }
}

/// A terminal has one stream of output, and who wants none at all wants nothing.
fn wanted(wanted: Wanted) -> Result<Wanted, InvalidField> {
    let Wanted { stdin, stdout, stderr, terminal } = wanted;
    if terminal && stderr {
        return Err(refuse(
            "tty",
            &terminal,
            "and stderr true exclude each other: what a terminal shows is stdout",
        ));
    }
    if !(stdin || stdout || stderr) {
        return Err(refuse("stdin", &stdin, "and stdout and stderr false too: nothing is wanted"));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ExecRequest {
        ExecRequest {
            container_id: "c".to_owned(),
            cmd: vec!["sh".to_owned()],
            tty: false,
            stdin: true,
            stdout: true,
            stderr: true,
        }
    }

    #[test]
    fn a_command_has_an_id_words_and_streams() {
        let whole = exec(request()).unwrap();
        assert_eq!(
            (whole.container.as_str(), whole.command.as_slice()),
            ("c", &["sh".to_owned()][..])
        );
        let none = ExecRequest { stdin: false, stdout: false, stderr: false, ..request() };
        let cases = [
            (
                ExecRequest { container_id: String::new(), ..request() },
                "container_id \"\" is required",
            ),
            (ExecRequest { cmd: Vec::new(), ..request() }, "cmd [] is empty"),
            (ExecRequest { cmd: vec!["a".to_owned(), "b\0".to_owned()], ..request() }, "cmd[1]"),
            (ExecRequest { tty: true, ..request() }, "tty true and stderr true"),
            (none, "stdin false and stdout and stderr false"),
        ];
        for (request, part) in cases {
            let error = exec(request).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} is missing from {error:?}");
        }
    }

    #[test]
    fn attaching_takes_the_same_streams() {
        let request = |tty, stderr| AttachRequest {
            container_id: "c".to_owned(),
            stdin: false,
            tty,
            stdout: false,
            stderr,
        };
        assert!(attach(request(false, true)).unwrap().1.stderr);
        assert!(attach(request(true, true)).unwrap_err().to_string().contains("stderr"));
        assert!(attach(request(true, false)).is_err());
    }

    #[test]
    fn a_port_is_between_1_and_65535() {
        let request = |port: &[i32]| PortForwardRequest {
            pod_sandbox_id: "p".to_owned(),
            port: port.to_vec(),
        };
        assert_eq!(port_forward(request(&[])).unwrap().ports, [0_u16; 0]);
        assert_eq!(port_forward(request(&[1, 65535])).unwrap().ports, [1, 65535]);
        for wrong in [0, -1, 65536, i32::MIN] {
            let error = port_forward(request(&[80, wrong])).unwrap_err().to_string();
            assert!(error.contains("port[1]") && error.contains(&wrong.to_string()), "{error}");
        }
        assert!(port_forward(request(&[80; 129])).is_err());
    }
}
