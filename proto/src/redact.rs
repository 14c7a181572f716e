//! `Debug` of the messages that carry secrets.
//!
//! Owns the promise that a field marked `debug_redact` never shows in a log, however deep the message is printed. The
//! generated `Debug` would show it: prost does not know the option. `tests/generated.rs` finds every such message.

use crate::admin::{LoginRequest, PullRequest, SearchRequest};
use crate::cri::AuthConfig;
use std::fmt;

/// Stands for a secret: says whether there is one, not what or how long it is.
struct Redacted<'a>(&'a str);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "redacted" })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, password, auth, server_address, identity_token, registry_token } =
            self;
        f.debug_struct("AuthConfig")
            .field("username", username)
            .field("password", &Redacted(password))
            .field("auth", &Redacted(auth))
            .field("server_address", server_address)
            .field("identity_token", &Redacted(identity_token))
            .field("registry_token", &Redacted(registry_token))
            .finish()
    }
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, username, password } = self;
        f.debug_struct("PullRequest")
            .field("image", image)
            .field("username", username)
            .field("password", &Redacted(password))
            .finish()
    }
}

impl fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, username, password } = self;
        f.debug_struct("LoginRequest")
            .field("registry", registry)
            .field("username", username)
            .field("password", &Redacted(password))
            .finish()
    }
}

impl fmt::Debug for SearchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, term, username, password } = self;
        f.debug_struct("SearchRequest")
            .field("registry", registry)
            .field("term", term)
            .field("username", username)
            .field("password", &Redacted(password))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::PullImageRequest;

    #[test]
    fn no_secret_shows_however_deep_it_lies() {
        let auth = AuthConfig {
            username: "who".to_owned(),
            password: "hunter2".to_owned(),
            auth: "hunter3".to_owned(),
            server_address: "registry.example".to_owned(),
            identity_token: "hunter4".to_owned(),
            registry_token: "hunter5".to_owned(),
        };
        let pull = PullRequest {
            image: "busybox".to_owned(),
            username: "who".to_owned(),
            password: "hunter6".to_owned(),
        };
        let (username, password) = ("who".to_owned(), "hunter7".to_owned());
        let login = LoginRequest { username, password, ..LoginRequest::default() };
        let password = "hunter8".to_owned();
        let search = SearchRequest { password, ..SearchRequest::default() };
        let shown = format!(
            "{:?} {pull:#?} {login:?} {search:?}",
            PullImageRequest { auth: Some(auth), ..PullImageRequest::default() }
        );
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("who") && shown.contains("registry.example"), "{shown}");
    }

    #[test]
    fn an_absent_secret_is_told_from_one_that_is_there() {
        let shown = format!("{:?}", AuthConfig { auth: "x".to_owned(), ..AuthConfig::default() });
        assert!(shown.contains("password: none, auth: redacted"), "{shown}");
    }
}
