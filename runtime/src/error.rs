//! Errors as people read them.

use std::error::Error;

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // A cause that a transparent error has already spoken for is not repeated.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the door")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_reads_as_a_sentence() {
        assert_eq!(chain(&Outer(std::io::Error::other("no key"))), "open the door: no key");
    }
}
