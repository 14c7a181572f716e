//! This program's terminal: raw while a session lasts, and as it was afterwards.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal};

/// A terminal that passes every key on. Put back when dropped, and if the program panics.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes standard input's terminal raw.
    ///
    /// # Errors
    /// It is none, or refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        // A release build ends at a panic without dropping anything.
        let (kept, told) = (before.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &kept);
            told(panic);
        }));
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether standard input is a terminal.
pub(crate) fn is_one() -> bool {
    io::stdin().is_terminal()
}

/// Columns and rows; `None` without a terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
