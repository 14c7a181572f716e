//! The stop signal: the interface's 65 names ↔ numbers.

use super::error::{InvalidField, refuse, variant};
use davit_proto::cri;
use davit_runtime::container::Signal;

/// The signal; `None` for `RUNTIME_DEFAULT`.
pub(crate) fn signal(field: &str, number: i32) -> Result<Option<Signal>, InvalidField> {
    let wire: cri::Signal = variant(field, number)?;
    if wire == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let unknown = |_error| refuse(field, &wire, "is no signal here");
    name(wire).parse().map(Some).map_err(unknown)
}

/// `SIGRTMINPLUS3` is what a protobuf can say for `SIGRTMIN+3`.
fn name(wire: cri::Signal) -> String {
    wire.as_str_name().replace("PLUS", "+").replace("MINUS", "-")
}

/// The interface's name for a signal: the first of those that mean its number. `RUNTIME_DEFAULT` for the few that it lacks.
pub(crate) fn signal_to_cri(signal: Signal) -> cri::Signal {
    let wanted = signal.to_string();
    let all = || (0..).map_while(|number| cri::Signal::try_from(number).ok());
    let by_name = all().find(|wire| name(*wire) == wanted);
    let by_number =
        || all().find(|wire| name(*wire).parse::<Signal>().is_ok_and(|known| known == signal));
    by_name.or_else(by_number).unwrap_or(cri::Signal::RuntimeDefault)
}
