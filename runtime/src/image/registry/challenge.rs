//! What a registry wants to see before it answers: the `WWW-Authenticate` header, and whom it may send us to.

use super::endpoint::Endpoint;
use super::error::{FetchError, bare, is_passing};
use crate::image::auth::{Credential, basic};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use std::net::IpAddr;

/// A token server's answer is a few kilobytes.
const TOKEN_BYTES: u64 = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// The one that we can answer; Bearer if there are both.
    pub(super) fn find(headers: &HeaderMap) -> Option<Self> {
        let mut found = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for challenge in http_auth::parser::ChallengeParser::new(text).filter_map(Result::ok) {
                if challenge.scheme.eq_ignore_ascii_case("basic") && found.is_none() {
                    found = Some(Self::Basic);
                }
                let parameter = |name: &str| {
                    challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    return Some(Self::Bearer { realm, service: parameter("service") });
                }
            }
        }
        found
    }
}

/// How a token server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    WithCredentials,
    Anonymously,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Endpoint {
    /// The `Authorization` header that answers `challenge`; `None` if we have nothing to answer it with.
    pub(super) async fn answer(
        &self,
        challenge: Challenge,
        asked: &Url,
    ) -> Result<Option<HeaderValue>, FetchError> {
        match (challenge, &self.credential) {
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                Ok(secret_header(&format!("Basic {}", basic(username, password))))
            }
            (Challenge::Basic, None | Some(Credential::Refresh(_) | Credential::Bearer(_)))
            | (Challenge::Bearer { .. }, Some(Credential::Bearer(_))) => Ok(None),
            (Challenge::Bearer { realm, service }, _) => {
                self.token(&realm, service.as_deref(), asked).await.map(Some)
            }
        }
    }

    fn asking(&self) -> Asking {
        if self.credential.is_some() { Asking::WithCredentials } else { Asking::Anonymously }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        asked: &Url,
    ) -> Result<HeaderValue, FetchError> {
        let refused = |reason: &str| FetchError::Realm {
            url: bare(asked),
            realm: Url::parse(realm).map_or_else(|_| "(no URL)".to_owned(), |url| bare(&url)),
            reason: reason.to_owned(),
        };
        let mut url = Url::parse(realm).map_err(|_parse| refused("is no URL"))?;
        check_realm(&url, asked, self.asking(), &self.manners.token_hosts).map_err(refused)?;
        let scope = Some(self.scope.as_str()).filter(|scope| !scope.is_empty());
        let scope = scope.map(|scope| ("scope", scope));
        let client = self.clients.get(&self.plan, &url)?;
        let request = match &self.credential {
            Some(Credential::Refresh(token)) => {
                let mut form = Url::parse("form:").map_err(|_parse| refused("cannot be asked"))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("client_id", "davit")
                    .extend_pairs(scope)
                    .append_pair("refresh_token", token);
                client
                    .post(url.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            Some(Credential::Password { username, password }) => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .extend_pairs(scope);
                client.get(url.clone()).basic_auth(username, Some(password))
            }
            Some(Credential::Bearer(_)) | None => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .extend_pairs(scope);
                client.get(url.clone())
            }
        };
        let response = self.within(&url, request.send()).await?;
        let status = response.status().as_u16();
        if matches!(status, 400 | 401 | 403) {
            return Err(self.denied(&url, response).await);
        }
        if is_passing(status) {
            return Err(self.odd(&url, response).await);
        }
        if status != 200 {
            return Err(refused(&format!("answered {status}")));
        }
        let body = self.body(&url, response, TOKEN_BYTES).await?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|_json| refused("gave no token"))?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| refused("gave no token"))?;
        secret_header(&format!("Bearer {token}"))
            .ok_or_else(|| refused("gave a token that is no header"))
    }
}

pub(super) fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether the token server at `realm` may be asked on behalf of the registry that answered `asked`.
///
/// A registry is free to name any, and so could make us hand a password to a stranger, or fetch a token from an address that
/// only this machine can reach and hand it over in turn.
pub(super) fn check_realm(
    realm: &Url,
    asked: &Url,
    asking: Asking,
    trusted: &[String],
) -> Result<(), &'static str> {
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("has a user in its URL");
    }
    match realm.scheme() {
        "https" => {}
        "http" if asked.scheme() == "http" => {}
        _ => return Err("is not https"),
    }
    let (Some(host), Some(registry)) = (realm.host_str(), asked.host_str()) else {
        return Err("has no host");
    };
    if host == registry || trusted.iter().any(|trusted| trusted == host) {
        return Ok(());
    }
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || crate::image::hosts::is_loopback(host);
    if literal {
        return Err("is an address of another host");
    }
    if asking == Asking::WithCredentials && !same_domain(host, registry) {
        return Err(
            "is of another domain than the registry: name it in token_hosts if it may have the credentials",
        );
    }
    Ok(())
}

/// Whether `host` is below the domain that `registry` is in: `auth.docker.io` and `registry-1.docker.io`.
fn same_domain(host: &str, registry: &str) -> bool {
    let Some((_, domain)) = registry.split_once('.') else { return false };
    // Without the public suffix list, `co.uk` and its like are told by their shape. A true domain of that shape only costs
    // its owner one entry in the configuration.
    let public = match domain.rsplit_once('.') {
        Some((second, top)) => top.len() == 2 && second.len() <= 3,
        None => true,
    };
    let below =
        host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    below && !public && registry.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_token_servers_of_the_same_domain_only() {
        let trusted = ["login.partner.example".to_owned()];
        for (registry, realm, with_secret, anonymous) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true, true),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true, true),
            ("https://quay.io", "https://quay.io/v2/auth", true, true),
            ("https://quay.io:8443", "https://quay.io/v2/auth", true, true),
            ("https://quay.io", "https://login.partner.example/t", true, true),
            ("https://quay.io", "http://quay.io/v2/auth", false, false),
            ("https://quay.io", "https://evil.io/", false, true),
            ("https://quay.io", "https://quay.io.evil.example/", false, true),
            ("https://shop.co.uk", "https://evil.co.uk/", false, true),
            ("https://r.docker.io", "https://evildocker.io/", false, true),
            ("https://quay.io", "https://169.254.169.254/", false, false),
            ("https://quay.io", "https://localhost/", false, false),
            ("https://quay.io", "https://[::1]/", false, false),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/token", true, true),
            ("http://127.0.0.1:1", "http://127.0.0.2:2/token", false, false),
            ("https://quay.io", "https://u:p@quay.io/", false, false),
            ("https://quay.io", "ftp://quay.io/", false, false),
        ] {
            let (asked, url) = (Url::parse(registry).unwrap(), Url::parse(realm).unwrap());
            assert_eq!(
                check_realm(&url, &asked, Asking::WithCredentials, &trusted).is_ok(),
                with_secret,
                "{registry} {realm}"
            );
            assert_eq!(
                check_realm(&url, &asked, Asking::Anonymously, &trusted).is_ok(),
                anonymous,
                "{registry} {realm}"
            );
        }
    }

    #[test]
    fn bearer_is_preferred_and_nonsense_is_ignored() {
        let find = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
            }
            Challenge::find(&headers)
        };
        let bearer = Challenge::Bearer { realm: "https://a/t".into(), service: Some("s".into()) };
        assert_eq!(
            find(&["Basic realm=\"x\"", "Bearer realm=\"https://a/t\",service=\"s\""]),
            Some(bearer)
        );
        assert_eq!(find(&["basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(find(&["Bearer service=\"s\""]), None);
        assert_eq!(find(&["Negotiate", ",,,", "=\"\""]), None);
    }
}
