//! Streams over TLS: who is let in, and certificates that are renewed while davit runs.

use crate::stream::{Crictl, TRANSPORTS, stage};
use davit_e2e::prelude::*;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), pem })
    }

    /// Signs a certificate for localhost and writes it and its key where davit looks for them.
    pub(crate) fn renew(&self, dir: &Path) -> Result<()> {
        write(&dir.join("ca.pem"), &self.pem)?;
        self.sign(&dir.join("cert.pem"), &dir.join("key.pem"))
    }

    fn sign(&self, cert: &Path, key: &Path) -> Result<()> {
        self.sign_for("nobody", cert, key)
    }

    /// The same with this common name.
    pub(crate) fn sign_for(&self, name: &str, cert: &Path, key: &Path) -> Result<()> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pair = rcgen::KeyPair::generate()?;
        write(cert, &params.signed_by(&pair, &self.issuer)?.pem())?;
        write(key, &pair.serialize_pem())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(text.as_bytes())?)
}

/// A daemon whose streams want TLS, with a certificate of an authority that is forgotten: the test makes its own.
fn with_tls(settings: &mut Settings) -> Result<()> {
    Authority::new()?.renew(&settings.dir)?;
    let file = |name: &str| settings.dir.join(name);
    settings.tables =
        format!("[streaming_tls]\ncert = {:?}\nkey = {:?}\n", file("cert.pem"), file("key.pem"));
    Ok(())
}

/// As [`with_tls`], and clients have to show a certificate of `clients.pem`.
fn with_clients(settings: &mut Settings) -> Result<()> {
    let (clients, dir) = (Authority::new()?, settings.dir.clone());
    write(&dir.join("clients.pem"), &clients.pem)?;
    clients.sign(&dir.join("client.pem"), &dir.join("client.key"))?;
    with_tls(settings)?;
    writeln!(settings.tables, "client_ca = {:?}", dir.join("clients.pem"))?;
    Ok(())
}

/// Where streams are served.
fn address(t: &Test, id: &str) -> Result<(String, String)> {
    let url = stage(t).exec(id, &["true"])?;
    let rest = url.strip_prefix("https://").with_context(|| format!("{url} is not https"))?;
    let (address, path) = rest.split_once('/').context("the URL has a path")?;
    Ok((address.to_owned(), format!("/{path}")))
}

/// A connection with TLS, by who trusts the authority of `ca.pem`.
pub(crate) fn secured(
    t: &Test,
    address: &str,
) -> Result<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(t.dir.join("ca.pem"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tls =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let mut stream = connect(address)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(rustls::StreamOwned::new(tls, stream))
}

/// The certificate that a new connection is shown.
fn shown(t: &Test, address: &str) -> Result<Vec<u8>> {
    let stream = secured(t, address)?;
    let certificates = stream.conn.peer_certificates().context("a certificate")?;
    Ok(certificates.first().context("a certificate")?.to_vec())
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// All that comes until the other side closes; a connection that it resets has ended too.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// What the file holds.
fn written(t: &Test) -> Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_file(t.dir.join("cert.pem"))?.to_vec())
}

/// A command by crictl, which knows this authority and shows the certificate of this name; it wants one even where nobody asks.
fn exec(t: &Test, transport: &str, id: &str, files: [&str; 2]) -> Result<std::process::Output> {
    let path = |name: &str| t.dir.join(name).to_string_lossy().into_owned();
    let [ca, client] = files;
    let (ca, cert, key) =
        (path(ca), path(&format!("{client}.pem")), path(&format!("{client}.key")));
    let tls = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let words = [&["exec", "--transport", transport], &tls[..], &[id, "echo", "said"]].concat();
    Ok(Crictl::new(t)?.command(&words).output()?)
}

fn works(t: &Test, transport: &str, id: &str, files: [&str; 2]) -> Result<()> {
    let said = exec(t, transport, id, files)?;
    ensure!(said.status.success() && said.stdout == b"said\n", "{transport}: {said:?}");
    Ok(())
}

on_both!(
    commands_go_over_tls_where_both_sides_know_each_others_authority,
    setup: with_clients,
    |t| {
        let (_, id) = t.sleeper(|_| ())?;
        let wrong = Authority::new()?;
        write(&t.dir.join("wrong-ca.pem"), &wrong.pem)?;
        wrong.sign(&t.dir.join("stranger.pem"), &t.dir.join("stranger.key"))?;
        for transport in TRANSPORTS {
            works(t, transport, &id, ["ca.pem", "client"])?;
            for files in [["wrong-ca.pem", "client"], ["ca.pem", "stranger"]] {
                let refused = exec(t, transport, &id, files)?;
                let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
                assert!(!refused.status.success() && refused.stdout.is_empty(), "{files:?}");
                let told = ["certificate", "tls: "].iter().any(|word| errors.contains(word));
                assert!(told, "{transport}: {errors}");
            }
        }
        Ok(())
    }
);

on_one!(
    what_is_not_encrypted_or_of_an_old_kind_gets_no_answer,
    setup: with_tls,
    |t| {
        let (_, id) = t.sleeper(|_| ())?;
        let (address, path) = address(t, &id)?;
        let mut plain = connect(&address)?;
        // All at once: it may hang up at the first byte.
        let request = format!("POST {path} HTTP/1.1\r\nHost: davit\r\n{}\r\n", crate::stream::SPDY);
        plain.write_all(request.as_bytes())?;
        let answer = rest(&mut plain);
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
        // A client's first words in TLS 1.0 and 1.1.
        for minor in [1, 2] {
            let mut hello = vec![3, minor];
            hello.extend([7; 32]);
            // No session; ECDHE_ECDSA and ECDHE_RSA with AES and SHA-1; no compression.
            hello.extend([0, 0, 4, 0xc0, 0x09, 0xc0, 0x13, 1, 0]);
            // Curves, their form, signatures.
            let extensions = [
                &[0, 10, 0, 4, 0, 2, 0, 23][..],
                &[0, 11, 0, 2, 1, 0],
                &[0, 13, 0, 6, 0, 4, 4, 3, 2, 3],
            ]
            .concat();
            hello.extend(u16::try_from(extensions.len())?.to_be_bytes());
            hello.extend(extensions);
            let length = u16::try_from(hello.len())?;
            let mut record = vec![22, 3, 1];
            record.extend((length + 4).to_be_bytes());
            record.extend([1, 0]);
            record.extend(length.to_be_bytes());
            record.extend(hello);
            let mut old = connect(&address)?;
            old.write_all(&record)?;
            let answer = rest(&mut old);
            // An alert, fatal: protocol_version.
            assert_eq!(answer.first(), Some(&21), "TLS 1.{}: {answer:?}", minor - 1);
            assert_eq!(answer.get(5..7), Some(&[2, 70][..]), "TLS 1.{}: {answer:?}", minor - 1);
        }
        // None of them has done harm, and TLS goes on.
        assert_eq!(shown(t, &address)?, written(t)?);
        Ok(())
    }
);

on_one!(
    a_renewed_certificate_is_shown_from_the_next_connection_on_and_a_broken_one_never,
    setup: with_tls,
    |t| {
        let (_, id) = t.sleeper(|_| ())?;
        let (address, _) = address(t, &id)?;
        let first = written(t)?;
        assert_eq!(shown(t, &address)?, first);
        Authority::new()?.renew(&t.dir)?;
        let second = written(t)?;
        assert_ne!(first, second);
        t.daemon().signal(Signal::HUP)?;
        eventually(Duration::from_secs(30), "the new certificate is shown", || {
            // The old one is of an authority that is not known any more.
            Ok(shown(t, &address).ok().filter(|shown| *shown == second).map(drop))
        })?;
        Authority::new()?.sign(&t.dir.join("client.pem"), &t.dir.join("client.key"))?;
        for transport in TRANSPORTS {
            works(t, transport, &id, ["ca.pem", "client"])?;
        }
        t.allow_log("reload: the certificates are wrong");
        for (name, text) in [
            ("cert.pem", "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"),
            ("key.pem", "nothing\n"),
        ] {
            let path = t.dir.join(name);
            let whole = std::fs::read_to_string(&path)?;
            write(&path, text)?;
            let said = |log: &str| {
                let told = |line: &&str| line.contains("reload: the certificates are wrong");
                let path = path.to_string_lossy().into_owned();
                log.lines().filter(told).any(|line| line.contains(&path))
            };
            assert!(!said(&t.daemon().log()));
            t.daemon().signal(Signal::HUP)?;
            eventually(Duration::from_secs(30), "the broken file is named", || {
                Ok(said(&t.daemon().log()).then_some(()))
            })?;
            assert_eq!(shown(t, &address)?, second, "{name}");
            write(&path, &whole)?;
        }
        Ok(())
    }
);
