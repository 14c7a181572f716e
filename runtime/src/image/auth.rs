//! Who asks a registry for an image.
//!
//! Owns the credentials' shape and the choice among them. Secrets are never shown: `Debug` says only which fields are set.

use base64::Engine;
use std::fmt;

/// Credentials as CRI carries them; the empty one is anonymous.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// With `password`: for Basic, or for a token server.
    pub username: String,
    /// With `username`.
    pub password: String,
    /// `username:password` in base64, instead of these two.
    pub auth: String,
    /// The registry that these are for, as a host or a URL; empty means the one in the image's name.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// Sent as it is, as a Bearer token.
    pub registry_token: String,
}

/// Why credentials cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} of the credentials {reason}")]
pub struct InvalidAuth {
    /// Its name.
    pub field: &'static str,
    /// What is wrong; never its value.
    pub reason: &'static str,
}

/// What an [`Auth`] comes to.
#[derive(Clone)]
pub(crate) enum Credential {
    Password { username: String, password: String },
    Refresh(String),
    Bearer(String),
}

impl Auth {
    /// The strongest of what is given; `None` if nothing is.
    pub(crate) fn credential(&self) -> Result<Option<Credential>, InvalidAuth> {
        let clean = |field, text: &str| {
            if text.bytes().any(|byte| byte.is_ascii_control()) {
                return Err(InvalidAuth { field, reason: "has a control character" });
            }
            Ok(text.to_owned())
        };
        if !self.registry_token.is_empty() {
            return clean("registry_token", &self.registry_token)
                .map(|token| Some(Credential::Bearer(token)));
        }
        if !self.identity_token.is_empty() {
            return clean("identity_token", &self.identity_token)
                .map(|token| Some(Credential::Refresh(token)));
        }
        if !self.username.is_empty() || !self.password.is_empty() {
            let username = clean("username", &self.username)?;
            if username.contains(':') {
                return Err(InvalidAuth { field: "username", reason: "has a colon" });
            }
            return Ok(Some(Credential::Password {
                username,
                password: clean("password", &self.password)?,
            }));
        }
        if self.auth.is_empty() { Ok(None) } else { decode(&self.auth).map(Some) }
    }

    /// The host that [`Self::server_address`] names.
    pub(crate) fn server(&self) -> Option<&str> {
        let text = self.server_address.trim();
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = text.split(['/', '?', '#']).next().unwrap_or(text);
        if host.is_empty() { None } else { Some(host) }
    }
}

fn decode(auth: &str) -> Result<Credential, InvalidAuth> {
    let wrong = |reason| InvalidAuth { field: "auth", reason };
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let bytes = engine.decode(auth.trim()).map_err(|_text| wrong("is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_bytes| wrong("is not UTF-8"))?;
    let (username, password) = text.split_once(':').ok_or_else(|| wrong("has no colon"))?;
    // Some tools pad the decoded text with zero bytes, as Docker's own does.
    let password = password.trim_end_matches('\0');
    if username.bytes().chain(password.bytes()).any(|byte| byte.is_ascii_control()) {
        return Err(wrong("has a control character"));
    }
    Ok(Credential::Password { username: username.to_owned(), password: password.to_owned() })
}

impl Credential {
    /// The texts that must never be shown.
    pub(crate) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Password { username, password } => {
                vec![password.clone(), basic(username, password)]
            }
            Self::Refresh(token) | Self::Bearer(token) => vec![token.clone()],
        }
    }
}

/// The value of a Basic `Authorization` header, without its scheme.
pub(crate) fn basic(username: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"))
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hide = |text: &str| if text.is_empty() { "" } else { "(set)" };
        f.debug_struct("Auth")
            .field("username", &hide(&self.username))
            .field("password", &hide(&self.password))
            .field("auth", &hide(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &hide(&self.identity_token))
            .field("registry_token", &hide(&self.registry_token))
            .finish()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::Refresh(_) => "Refresh(..)",
            Self::Bearer(_) => "Bearer(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_understood_or_named() {
        let password = |auth: &Auth| {
            let Some(Credential::Password { username, password }) = auth.credential().unwrap()
            else {
                panic!("{auth:?} should be a password")
            };
            (username, password)
        };
        assert!(Auth::default().credential().unwrap().is_none());
        let auth = Auth { username: "u".into(), password: "p:q".into(), ..Auth::default() };
        assert_eq!(password(&auth), ("u".to_owned(), "p:q".to_owned()));
        for text in ["dTpw", "dTpwAA==", "dTpwAA"] {
            let auth = Auth { auth: text.into(), ..Auth::default() };
            assert_eq!(password(&auth), ("u".to_owned(), "p".to_owned()), "{text}");
        }
        for (auth, field) in [
            (Auth { auth: "!".into(), ..Auth::default() }, "auth"),
            (Auth { auth: "dXA=".into(), ..Auth::default() }, "auth"),
            (Auth { username: "a\r\nb".into(), ..Auth::default() }, "username"),
            (Auth { username: "a:b".into(), ..Auth::default() }, "username"),
            (Auth { identity_token: "a\nb".into(), ..Auth::default() }, "identity_token"),
            (Auth { registry_token: "a\nb".into(), ..Auth::default() }, "registry_token"),
        ] {
            assert_eq!(auth.credential().unwrap_err().field, field);
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let auth = Auth {
            username: "hush".into(),
            password: "hush".into(),
            auth: "hush".into(),
            identity_token: "hush".into(),
            registry_token: "hush".into(),
            server_address: "host".into(),
        };
        assert!(!format!("{auth:?}{:?}", auth.credential().unwrap()).contains("hush"));
    }

    #[test]
    fn the_server_is_a_host_or_a_url() {
        for (text, host) in [
            ("", None),
            ("quay.io", Some("quay.io")),
            ("https://index.docker.io/v1/", Some("index.docker.io")),
            ("http://localhost:5000", Some("localhost:5000")),
        ] {
            assert_eq!(Auth { server_address: text.into(), ..Auth::default() }.server(), host);
        }
    }
}
