//! The values that say who may call: a group of this node, and names in clients' certificates.
//!
//! Owns text ↔ value, as [`super::value`] does. Whether there is such a group is found out when the socket is made.

use super::value::{InvalidValue, as_text, invalid};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

as_text!(Group, ClientName);

/// A group, by name or number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Group(String);

/// What shadow's tools take at most.
const GROUP_MAX: usize = 32;

impl Group {
    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its number, if that is what was given.
    pub(crate) fn number(&self) -> Option<u32> {
        self.0.parse().ok()
    }
}

impl FromStr for Group {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte);
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty()
            || text.len() > GROUP_MAX
            || text.starts_with('-')
            || !text.bytes().all(fits)
        {
            return Err(invalid(text, "is no group's name or number"));
        }
        // The last number stands for "no change" in chown(2).
        if digits && text.parse().unwrap_or(u32::MAX) == u32::MAX {
            return Err(invalid(text, "is larger than a group's number can be"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that a client's certificate may have: the subject's common name, or a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ClientName(String);

/// The longest DNS name; common names are shorter.
const CLIENT_NAME_MAX: usize = 253;

impl ClientName {
    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.len() > CLIENT_NAME_MAX || text.chars().any(char::is_control) {
            return Err(invalid(text, "is no name that a certificate could have"));
        }
        if text.contains('*') {
            return Err(invalid(text, "has a `*` in it: names are compared whole"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!("davit".parse::<Group>().unwrap().number(), None);
        assert_eq!("1042".parse::<Group>().unwrap().number(), Some(1042));
        for text in ["", "a b", "-x", "a/b", "4294967295", "99999999999", &"x".repeat(33)] {
            assert!(text.parse::<Group>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_clients_name_is_compared_whole() {
        for text in ["kubelet", "system:node:a", "ops.example", "Jürgen Müller"] {
            assert_eq!(text.parse::<ClientName>().unwrap().as_str(), text);
        }
        for text in ["", "*", "*.example", "a\nb", &"x".repeat(254)] {
            assert!(text.parse::<ClientName>().is_err(), "{text:?}");
        }
    }
}
