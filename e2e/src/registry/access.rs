//! Who may pull.
//!
//! Owns the two ways in which registries ask for credentials (RFC 7617, and the token handshake of the distribution interface).
//! Compares them; keeps no sessions: there is one token, and it never expires.

use std::net::SocketAddr;

/// The token that a successful handshake hands out.
const TOKEN: &str = "davit-test-token";

/// What a client has to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Basic` with every request.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A bearer token, which `/token` gives for these credentials by basic authentication.
    Token {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A bearer token, which `/token` gives to anybody.
    AnonymousToken,
}

impl Auth {
    /// Whether a request with this `Authorization` header may be answered; otherwise what `WWW-Authenticate` says.
    pub(super) fn check(&self, header: Option<&str>, address: SocketAddr) -> Result<(), String> {
        let realm = || {
            format!(
                "Bearer realm=\"http://{address}/token\",service=\"davit-test\",scope=\"repository:any:pull\""
            )
        };
        match self {
            Self::None => Ok(()),
            Self::Basic { user, password } if header == Some(&basic(user, password)) => Ok(()),
            Self::Basic { .. } => Err("Basic realm=\"davit-test\"".to_owned()),
            Self::Token { .. } | Self::AnonymousToken => {
                let ours = header == Some(&format!("Bearer {TOKEN}"));
                ours.then_some(()).ok_or_else(realm)
            }
        }
    }

    /// The token for whoever shows this `Authorization` header at `/token`.
    pub(super) fn token(&self, header: Option<&str>) -> Option<&'static str> {
        match self {
            Self::Token { user, password } => {
                (header == Some(&basic(user, password))).then_some(TOKEN)
            }
            Self::AnonymousToken => Some(TOKEN),
            Self::None | Self::Basic { .. } => None,
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// RFC 4648, section 4. A dependency for these lines would be the larger evil.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            let shift = 18_u32.saturating_sub(6 * u32::try_from(place).unwrap_or(0));
            let index = usize::try_from(word >> shift & 63).unwrap_or(0);
            let digit = ALPHABET.get(index).copied().unwrap_or(b'=');
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
