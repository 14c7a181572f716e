//! A content digest, fit to be a file name.
//!
//! Only `sha256:` with 64 lower-case hex digits: what every registry uses, and no text that passes can name another path.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `sha256:` and 64 hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, thiserror::Error)]
#[error("digest {0:?} is not `sha256:` and 64 lower-case hex digits")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest with these 32 bytes.
    #[must_use]
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(bytes)))
    }

    /// The whole, `sha256:` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits: a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.bytes().all(hex) => {
                Ok(Self(text.to_owned()))
            }
            Some(_) | None => Err(InvalidDigest(text.chars().take(200).collect())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sha256_in_lower_case_is_a_digest() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(format!("sha256:{hex}").parse::<Digest>().unwrap().hex(), hex);
        for text in [
            "".to_owned(),
            "sha256:".to_owned(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
