//! From a request over HTTP to what is spoken instead.
//!
//! Owns the negotiation: which protocols there are for which kind of request, and what a client is told whose wishes can't be met, in
//! the form in which Kubernetes' clients expect it. Of what a client offers, the first that is served is taken.
//!
//! The header `Origin` is not looked at. It guards against web pages that use their visitor's rights, and here there are none to use: who
//! comes is known by the secret in the URL. A kubelet, on the other hand, passes on that of the web console whose request it proxies.

use super::command::spdy::Version;
use super::command::websocket::{self, Coding, Flavour};
use super::forward;
use super::grant::Kind;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// remotecommand over SPDY.
    CommandSpdy(Version),
    /// remotecommand over WebSocket.
    CommandWebSocket(Flavour),
    /// Ports over SPDY.
    ForwardSpdy,
    /// Ports over WebSocket, each a pair of channels.
    ForwardWebSocket(Coding),
    /// Ports over SPDY over WebSocket.
    ForwardTunnel,
}

type Named = (&'static str, Protocol);

const fn flavour(version: websocket::Version, coding: Coding) -> Protocol {
    Protocol::CommandWebSocket(Flavour { version, coding })
}

const COMMAND_SPDY: &[Named] = &[
    ("v4.channel.k8s.io", Protocol::CommandSpdy(Version::V4)),
    ("v3.channel.k8s.io", Protocol::CommandSpdy(Version::V3)),
    ("v2.channel.k8s.io", Protocol::CommandSpdy(Version::V2)),
    ("channel.k8s.io", Protocol::CommandSpdy(Version::V1)),
];
/// The name "" is that of a client that offers none.
const COMMAND_WEBSOCKET: &[Named] = &[
    ("v5.channel.k8s.io", flavour(websocket::Version::V5, Coding::Binary)),
    ("v4.channel.k8s.io", flavour(websocket::Version::V4, Coding::Binary)),
    ("v4.base64.channel.k8s.io", flavour(websocket::Version::V4, Coding::Text)),
    ("channel.k8s.io", flavour(websocket::Version::V1, Coding::Binary)),
    ("base64.channel.k8s.io", flavour(websocket::Version::V1, Coding::Text)),
    ("", flavour(websocket::Version::V1, Coding::Binary)),
];
const FORWARD_SPDY: &[Named] = &[(forward::PROTOCOL, Protocol::ForwardSpdy)];
const FORWARD_WEBSOCKET: &[Named] = &[
    (forward::TUNNEL_PROTOCOL, Protocol::ForwardTunnel),
    (forward::CHANNEL_PROTOCOL, Protocol::ForwardWebSocket(Coding::Binary)),
    (forward::BASE64_CHANNEL_PROTOCOL, Protocol::ForwardWebSocket(Coding::Text)),
    ("", Protocol::ForwardWebSocket(Coding::Binary)),
];

/// A client whose wishes can't be met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Why, in a number.
    pub(crate) status: StatusCode,
    /// Why, in words.
    pub(crate) problem: String,
    /// What would have been met.
    pub(crate) headers: HeaderMap,
}

fn refuse(status: StatusCode, problem: impl Into<String>) -> Refusal {
    Refusal { status, problem: problem.into(), headers: HeaderMap::new() }
}

/// What is to be spoken, and the headers of the answer that agrees to it.
pub(crate) fn negotiate(
    kind: Kind,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Protocol, HeaderMap), Refusal> {
    let upgrade = listed(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let asks = |name: &str| listed(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(name));
    match (upgrade, asks(WEBSOCKET), asks(SPDY)) {
        (true, true, _) if method != Method::GET => {
            Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET"))
        }
        (true, true, _) => websocket(kind, headers),
        (true, false, true) => spdy(kind, headers),
        (true, false, false) | (false, _, _) => Err(refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: the request asks neither for SPDY/3.1 nor for websocket",
        )),
    }
}

fn spdy(kind: Kind, headers: &HeaderMap) -> Result<(Protocol, HeaderMap), Refusal> {
    let offered: Vec<&str> = listed(headers, &VERSION).collect();
    if offered.is_empty() {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: the header X-Stream-Protocol-Version is missing or empty",
        ));
    }
    let served = match kind {
        Kind::Exec | Kind::Attach => COMMAND_SPDY,
        Kind::Forward => FORWARD_SPDY,
    };
    let (name, protocol) = choose(&offered, served)?;
    let mut answer = agreed(SPDY);
    answer.insert(VERSION, HeaderValue::from_static(name));
    Ok((protocol, answer))
}

fn websocket(kind: Kind, headers: &HeaderMap) -> Result<(Protocol, HeaderMap), Refusal> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal = refuse(StatusCode::BAD_REQUEST, "the WebSocket's version is not 13");
        refusal.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(refusal);
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "the header Sec-WebSocket-Key is missing"));
    };
    let mut offered: Vec<&str> = listed(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        offered.push("");
    }
    let served = match kind {
        Kind::Exec | Kind::Attach => COMMAND_WEBSOCKET,
        Kind::Forward => FORWARD_WEBSOCKET,
    };
    let (name, protocol) = choose(&offered, served)?;
    let mut answer = agreed(WEBSOCKET);
    if let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !name.is_empty() {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((protocol, answer))
}

fn agreed(to: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(to)),
    ])
}

fn choose(offered: &[&str], served: &'static [Named]) -> Result<Named, Refusal> {
    let served_as = |name: &&str| served.iter().find(|(served, _)| served == name).copied();
    offered.iter().find_map(served_as).ok_or_else(|| {
        let mut refusal = refuse(
            StatusCode::FORBIDDEN,
            format!("unable to upgrade: none of the protocols {offered:?} is served"),
        );
        for (name, _) in served.iter().filter(|(name, _)| !name.is_empty()) {
            refusal.headers.append(ACCEPTED, HeaderValue::from_static(name));
        }
        refusal
    })
}

/// What a header lists, in one line or several.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().fold(HeaderMap::new(), |mut map, one| {
            let (name, value) = pair(one);
            map.append(name, value);
            map
        })
    }

    fn spdy(kind: Kind, offered: &[&'static str]) -> Result<(Protocol, HeaderMap), Refusal> {
        let mut pairs = vec![("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];
        pairs.extend(offered.iter().map(|offered| ("x-stream-protocol-version", *offered)));
        negotiate(kind, &Method::POST, &headers(&pairs))
    }

    fn websocket(
        kind: Kind,
        offered: Option<&'static str>,
    ) -> Result<(Protocol, HeaderMap), Refusal> {
        let mut pairs = vec![
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        pairs.extend(offered.map(|offered| ("sec-websocket-protocol", offered)));
        negotiate(kind, &Method::GET, &headers(&pairs))
    }

    #[test]
    fn the_first_that_a_client_offers_and_that_is_served_is_spoken() {
        let (protocol, answer) =
            spdy(Kind::Exec, &["v9.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io"])
                .unwrap();
        assert_eq!(protocol, Protocol::CommandSpdy(Version::V3));
        assert_eq!(answer[VERSION], "v3.channel.k8s.io");
        assert_eq!(
            (&answer[UPGRADE], &answer[CONNECTION]),
            (&"SPDY/3.1".parse().unwrap(), &"Upgrade".parse().unwrap())
        );
        assert_eq!(spdy(Kind::Forward, &["portforward.k8s.io"]).unwrap().0, Protocol::ForwardSpdy);
        let (protocol, answer) =
            websocket(Kind::Attach, Some("v5.channel.k8s.io,v4.channel.k8s.io")).unwrap();
        assert_eq!(protocol, flavour(websocket::Version::V5, Coding::Binary));
        // The example of RFC 6455, 1.3.
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        let (protocol, answer) = websocket(Kind::Exec, None).unwrap();
        assert_eq!(protocol, flavour(websocket::Version::V1, Coding::Binary));
        assert!(!answer.contains_key(SEC_WEBSOCKET_PROTOCOL));
        let tunnel = websocket(Kind::Forward, Some("SPDY/3.1+portforward.k8s.io")).unwrap();
        assert_eq!(tunnel.0, Protocol::ForwardTunnel);
    }

    #[test]
    fn who_offers_nothing_that_is_served_hears_what_is() {
        let refusal = spdy(Kind::Exec, &["v5.channel.k8s.io"]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        let accepted: Vec<_> = refusal.headers.get_all(ACCEPTED).iter().collect();
        assert_eq!(
            accepted,
            ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]
        );
        for refusal in [
            spdy(Kind::Forward, &["v4.channel.k8s.io"]),
            websocket(Kind::Exec, Some("v2.channel.k8s.io")),
            websocket(Kind::Exec, Some("SPDY/3.1+portforward.k8s.io")),
            websocket(Kind::Forward, Some("v5.channel.k8s.io")),
        ] {
            assert_eq!(refusal.unwrap_err().status, StatusCode::FORBIDDEN);
        }
    }

    type Case<'a> = (&'a Method, &'a [(&'a str, &'a str)], StatusCode);

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let cases: [Case<'_>; 7] = [
            (&Method::GET, &[], StatusCode::BAD_REQUEST),
            (&Method::POST, &[("upgrade", "SPDY/3.1")], StatusCode::BAD_REQUEST),
            (
                &Method::POST,
                &[("connection", "upgrade"), ("upgrade", "h2c")],
                StatusCode::BAD_REQUEST,
            ),
            (
                &Method::POST,
                &[("connection", "upgrade"), ("upgrade", "SPDY/3.1")],
                StatusCode::BAD_REQUEST,
            ),
            (
                &Method::POST,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (
                &Method::GET,
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "8"),
                ],
                StatusCode::BAD_REQUEST,
            ),
            (
                &Method::GET,
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "13"),
                ],
                StatusCode::BAD_REQUEST,
            ),
        ];
        for (method, pairs, status) in cases {
            let map = pairs.iter().map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
            });
            let refused = negotiate(Kind::Exec, method, &map.collect()).unwrap_err();
            assert_eq!(refused.status, status, "{pairs:?}");
        }
    }
}
