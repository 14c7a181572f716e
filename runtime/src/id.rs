//! The names of things that davit makes: 64 lower-case hex digits, random.
//!
//! Owns the two newtypes, so that a container's id is never taken for a sandbox's. Ids that come from outside are not parsed
//! into these: they are looked up ([`crate::Runtime`]), as an unambiguous prefix is as good as the whole.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is no id.
#[derive(Debug, thiserror::Error)]
#[error("id {0:?} is not 64 lower-case hex digits")]
pub struct InvalidId(String);

/// Where randomness comes from has run dry: the kernel refused `getrandom(2)`.
#[derive(Debug, thiserror::Error)]
#[error("draw a random id")]
pub struct NoRandomness(#[source] getrandom::Error);

fn parse(text: String) -> Result<String, InvalidId> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(hex) { Ok(text) } else { Err(InvalidId(text)) }
}

fn random() -> Result<String, NoRandomness> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(hex::encode(bytes))
}

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = concat!("The id of ", $what, ".")]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new one, from 256 random bits.
            ///
            /// # Errors
            /// [`NoRandomness`] if the kernel has none to give.
            pub fn random() -> Result<Self, NoRandomness> {
                random().map(Self)
            }

            /// Its 64 hex digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(SandboxId, "a pod sandbox");
id!(ContainerId, "a container");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_parses_and_differs_from_the_next() {
        let (one, two) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(SandboxId::try_from(one.to_string()).unwrap(), one);
    }

    #[test]
    fn what_is_not_64_hex_digits_is_no_id() {
        let hex = "a".repeat(64);
        for text in [
            "",
            "..",
            "../etc",
            &hex[1..],
            &format!("{hex}a"),
            &hex.to_uppercase(),
            &hex.replace('a', "/"),
        ] {
            assert!(ContainerId::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
