//! The registry as a client sees it: raw HTTP, so that no client's kindness hides a fault.

use super::*;
use crate::images::ImageBuilder;
use std::io::{Read, Write};
use std::net::TcpStream;

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}: ");
        let line = self.headers.lines().find(|line| line.to_lowercase().starts_with(&prefix))?;
        Some(line[prefix.len()..].to_owned())
    }
}

fn ask(registry: &Registry, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    let mut bytes = Vec::new();
    // A connection that is cut on purpose ends in an error; what came before it counts.
    drop(stream.read_to_end(&mut bytes));
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let headers = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers, body: bytes[end + 4..].to_vec() }
}

/// A registry with one image, `team/app:1`, and the digest of its only layer.
fn registry() -> (tempfile::TempDir, Registry, crate::images::Built) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = ImageBuilder::new()
        .layer(|layer| {
            layer.file("hello", vec![b'x'; 10_000]);
        })
        .unwrap();
    let built = image.push(&store, "team/app", &["1"]).unwrap();
    (dir, Registry::start(store).unwrap(), built)
}

#[test]
fn a_manifest_comes_by_tag_and_by_digest_with_the_same_bytes() {
    let (_dir, registry, built) = registry();
    let by_tag = ask(&registry, "GET", "/v2/team/app/manifests/1", "");
    let by_digest =
        ask(&registry, "GET", &format!("/v2/team/app/manifests/{}", built.manifest), "");
    assert_eq!((by_tag.status, &by_tag.body), (200, &by_digest.body));
    assert_eq!(Digest::of(&by_tag.body), built.manifest);
    assert_eq!(by_tag.header("docker-content-digest").as_deref(), Some(built.manifest.as_str()));
    assert_eq!(
        by_tag.header("content-type").as_deref(),
        Some("application/vnd.oci.image.manifest.v1+json")
    );
    let head = ask(&registry, "HEAD", "/v2/team/app/manifests/1", "");
    assert_eq!(head.header("content-length"), by_tag.header("content-length"));
    assert!(head.body.is_empty());
}

#[test]
fn what_is_not_there_is_404() {
    let (_dir, registry, built) = registry();
    let zeros = "0".repeat(64);
    for path in [
        "/v2/team/app/manifests/2",
        "/v2/team/other/manifests/1",
        &format!("/v2/team/other/manifests/{}", built.manifest),
        &format!("/v2/team/app/blobs/sha256:{zeros}"),
        "/v2/../../etc/passwd/manifests/1",
        "/",
    ] {
        assert_eq!(ask(&registry, "GET", path, "").status, 404, "{path}");
    }
}

#[test]
fn ranges_are_those_of_rfc_9110() {
    let (_dir, registry, built) = registry();
    let path = format!("/v2/team/app/blobs/{}", built.layers[0]);
    let whole = ask(&registry, "GET", &path, "").body;
    let length = whole.len();
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, length),
        ("bytes=-7", length - 7, length),
        ("bytes=0-99999999", 0, length),
    ] {
        let answer = ask(&registry, "GET", &path, &format!("Range: {range}\r\n"));
        assert_eq!((answer.status, answer.body.as_slice()), (206, &whole[from..to]), "{range}");
    }
    let beyond = ask(&registry, "GET", &path, &format!("Range: bytes={length}-\r\n"));
    assert_eq!(beyond.status, 416);
    registry.fault("team/app", Fault::NoRanges(built.layers[0].clone()));
    assert!(ask(&registry, "GET", &path, "").body.len() < whole.len());
    let answer = ask(&registry, "GET", &path, "Range: bytes=5-\r\n");
    assert_eq!((answer.status, answer.body), (200, whole));
    assert_eq!(registry.downloads(&built.layers[0]), 7);
}

#[test]
fn each_fault_is_what_it_says() {
    let (_dir, registry, built) = registry();
    let path = format!("/v2/team/app/blobs/{}", built.layers[0]);
    let whole = ask(&registry, "GET", &path, "").body;
    registry.fault("team/app", Fault::Corrupt);
    let corrupt = ask(&registry, "GET", &path, "").body;
    assert_eq!(corrupt.len(), whole.len());
    assert_ne!(corrupt, whole);
    registry.fault("team/app", Fault::Longer(3));
    assert_eq!(ask(&registry, "GET", &path, "").body.len(), whole.len() + 3);
    registry.fault("team/app", Fault::Truncated);
    let cut = ask(&registry, "GET", &path, "");
    assert!(cut.body.len() < whole.len());
    assert_eq!(cut.header("content-length"), Some(whole.len().to_string()));
    registry.fault("team/app", Fault::Refuse { status: 503, times: 2 });
    let statuses: Vec<u16> = (0..3).map(|_| ask(&registry, "GET", &path, "").status).collect();
    assert_eq!(statuses, [503, 503, 200]);
    registry.fault("team/app", Fault::HugeManifest(1 << 20));
    assert_eq!(ask(&registry, "GET", "/v2/team/app/manifests/1", "").body.len(), 1 << 20);
    registry.fault("team/app", Fault::WrongManifest);
    let wrong = ask(&registry, "GET", "/v2/team/app/manifests/1", "").body;
    assert_ne!(Digest::of(&wrong), built.manifest);
    serde_json::from_slice::<serde_json::Value>(&wrong).unwrap();
    registry.fault("team/app", Fault::Redirect("http://elsewhere".to_owned()));
    let redirect = ask(&registry, "GET", &path, "");
    assert_eq!(redirect.header("location"), Some(format!("http://elsewhere{path}")));
    registry.heal("team/app");
    assert_eq!(ask(&registry, "GET", &path, "").body, whole);
}

#[test]
fn credentials_are_asked_for_and_checked() {
    let (_dir, registry, _) = registry();
    let (user, password) = ("davit".to_owned(), "secret".to_owned());
    let credentials = "Authorization: Basic ZGF2aXQ6c2VjcmV0\r\n";
    registry.require(Auth::Basic { user: user.clone(), password: password.clone() });
    assert_eq!(ask(&registry, "GET", "/v2/", "").status, 401);
    assert_eq!(ask(&registry, "GET", "/v2/", credentials).status, 200);
    registry.require(Auth::Token { user, password });
    let challenge = ask(&registry, "GET", "/v2/team/app/manifests/1", credentials);
    assert_eq!(challenge.status, 401);
    assert!(challenge.header("www-authenticate").unwrap().contains("/token"));
    assert_eq!(ask(&registry, "GET", "/token?service=x", "").status, 401);
    let token = ask(&registry, "GET", "/token?service=x", credentials);
    let json: serde_json::Value = serde_json::from_slice(&token.body).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", json["token"].as_str().unwrap());
    assert_eq!(ask(&registry, "GET", "/v2/team/app/manifests/1", &bearer).status, 200);
}
