//! Who may call: a group over the socket, names in certificates over TCP; and a configuration that is wrong changes nothing.

use crate::stream_tls::Authority;
use davit_e2e::prelude::*;
use davit_e2e::tools;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::VersionRequest;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output};
use std::sync::Arc;
use tonic::transport::Endpoint;

/// A group that nobody is in.
const GROUP: u32 = 54_321;
const NOBODY: u32 = 65_534;
const SOON: Duration = Duration::from_secs(20);

fn with_group(settings: &mut Settings) -> Result<()> {
    settings.keys = format!("socket_group = \"{GROUP}\"\n");
    Ok(())
}

/// `davit version` as nobody, in this group. The program is passed as a descriptor: nobody need be able to come to where it is.
fn as_nobody(t: &Test, group: u32) -> Result<Output> {
    let davit = t.daemon().davit();
    let script = "exec 3<\"$0\"; exec setpriv --reuid \"$1\" --regid \"$2\" --clear-groups /proc/self/fd/3 version";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(davit.get_program());
    command.args([NOBODY.to_string(), group.to_string()]);
    command.envs(davit.get_envs().filter_map(|(key, value)| Some((key, value?))));
    Ok(command.output()?)
}

on_one!(a_groups_members_may_call_and_nobody_else, setup: with_group, |t| {
    // It takes connections a moment before it is given to the group, and answers afterwards.
    t.davit_ok(&["version"])?;
    let socket = std::fs::metadata(t.settings().socket())?;
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o7777), (0, GROUP, 0o660));
    let member = as_nobody(t, GROUP)?;
    ensure!(member.status.success(), "{}", tools::describe(&member));
    assert!(String::from_utf8_lossy(&member.stdout).contains("Server:"));
    let stranger = as_nobody(t, GROUP + 1)?;
    assert!(!stranger.status.success());
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(said.contains("Permission denied"), "{said}");
    Ok(())
});

/// What a daemon with these flags, apart from the test's own, says when it is to start and can't.
fn refused_start(t: &Test, flags: &[&str]) -> Result<String> {
    let other = t.dir.join("other");
    let path = |name: &str| other.join(name).to_string_lossy().into_owned();
    // A file of its own, so that the machine's is not read.
    std::fs::create_dir_all(&other)?;
    std::fs::File::create(other.join("config.toml"))?;
    let mut davit = t.daemon().davit();
    davit.args(["serve", "--config", &path("config.toml")]).args(flags);
    davit.args(["--root", &path("root"), "--state", &path("state")]);
    let output = davit.output()?;
    ensure!(!output.status.success(), "it started: {}", tools::describe(&output));
    assert!(!other.join("state/davit.sock").exists(), "a socket is left");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

on_one!(who_could_let_in_the_wrong_ones_is_not_started, |t| {
    let said = refused_start(t, &["--socket-group", "no-such-group"])?;
    assert!(said.contains("socket_group \"no-such-group\": there is no such group"), "{said}");
    // Nobody but root passes there.
    let shut = t.dir.join("shut");
    std::fs::create_dir(&shut)?;
    std::fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let listen = format!("unix://{}/davit.sock", shut.display());
    let said = refused_start(t, &["--socket-group", "54321", "--listen", &listen])?;
    assert!(said.contains(&format!("can't pass through {}:", shut.display())), "{said}");
    assert!(!shut.join("davit.sock").exists());
    let address = format!("tcp://0.0.0.0:{}", free_port()?);
    let said = refused_start(t, &["--listen", &address])?;
    assert!(said.contains("is not loopback and so demands mutual TLS"), "{said}");
    let said = refused_start(t, &["--tls-client-names", "kubelet"])?;
    assert!(said.contains("cert, key and client_ca go together"), "{said}");
    Ok(())
});

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(text.as_bytes())?)
}

/// A daemon that takes calls over TCP from who is called `kubelet`, and certificates for several who are called otherwise.
fn with_names(settings: &mut Settings) -> Result<()> {
    let authority = Authority::new()?;
    authority.renew(&settings.dir)?;
    let file = |name: &str| settings.dir.join(name);
    for name in ["kubelet", "stranger"] {
        let files = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        authority.sign_for(name, &files.0, &files.1)?;
    }
    let port = free_port()?;
    settings.tables = format!(
        "[tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\nclient_names = [\"kubelet\"]\n",
        file("cert.pem"),
        file("key.pem"),
        file("ca.pem"),
    );
    settings.listen = vec![format!("tcp://127.0.0.1:{port}")];
    Ok(())
}

/// The code that a call by the owner of this certificate ends with.
fn call(t: &Test, name: &str) -> Result<(Code, String)> {
    let settings = t.settings();
    let address = settings.listen.iter().find_map(|listen| listen.strip_prefix("tcp://"));
    let address: SocketAddr = address.context("an address")?.parse()?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(t.dir.join("ca.pem"))?)?;
    let certificate = CertificateDer::from_pem_file(t.dir.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(t.dir.join(format!("{name}.key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: tonic::transport::Uri| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        let endpoint = Endpoint::from_static("http://localhost").timeout(SOON);
        let channel = endpoint.connect_with_connector(connect).await?;
        let request = VersionRequest { version: String::new() };
        let answer = RuntimeServiceClient::new(channel).version(request).await;
        Ok(answer.map_or_else(
            |status| (status.code(), status.message().to_owned()),
            |answer| (Code::Ok, answer.into_inner().runtime_name),
        ))
    })
}

on_one!(over_tcp_only_whose_name_is_listed_may_call_and_a_reload_changes_the_list, setup: with_names, |t| {
    t.allow_log("a client was refused");
    // The socket that the harness waits for is bound first.
    eventually(SOON, "it listens", || Ok(call(t, "kubelet").ok()))?;
    assert_eq!(call(t, "kubelet")?, (Code::Ok, "davit".to_owned()));
    for _ in 0..3 {
        let (code, said) = call(t, "stranger")?;
        assert_eq!(code, Code::PermissionDenied, "{said}");
        assert!(said.contains("stranger") && said.contains("tls.client_names"), "{said}");
    }
    let told = t.daemon().log().matches("a client was refused").count();
    assert_eq!(told, 1, "{}", t.daemon().log_tail());
    let file = t.settings().config();
    let text = std::fs::read_to_string(&file)?;
    write(&file, &text.replace("[\"kubelet\"]", "[\"stranger\"]"))?;
    t.daemon().signal(Signal::HUP)?;
    eventually(SOON, "the new list counts", || Ok((call(t, "stranger")?.0 == Code::Ok).then_some(())))?;
    assert_eq!(call(t, "kubelet")?.0, Code::PermissionDenied);
    // The socket asks nobody's name.
    t.davit_ok(&["ps"])?;
    Ok(())
});

on_one!(a_broken_configuration_changes_nothing_and_is_told_to_the_letter, |t| {
    t.allow_log("reload: the configuration is wrong; the old one stays");
    let file = t.settings().config();
    let whole = std::fs::read_to_string(&file)?;
    // It serves, so it hears signals.
    t.davit_ok(&["ps"])?;
    for (broken, place, what) in [
        ("log_level = \"loud\"\n", ":1:13: `log_level = \"loud\"`", "`error`"),
        ("# words\nmax_log_line = = 7\n", ":2:16: `max_log_line = = 7`", ""),
        ("log_levle = \"debug\"\n", "", "key \"log_levle\" is unknown (is \"log_level\" meant?)"),
        ("max_log_line = 5\n", "", "max_log_line \"5\" is not between 1024 and 1048576"),
    ] {
        write(&file, &format!("{broken}{whole}"))?;
        t.daemon().signal(Signal::HUP)?;
        let place = format!("{}{place}", file.display());
        eventually(SOON, &format!("{place} is named, and {what}"), || {
            // The log quotes what it holds.
            let log = t.daemon().log().replace("\\\"", "\"");
            let told = |line: &str| line.contains("the old one stays") && line.contains(what);
            let told = log.lines().any(|line| told(line) && line.contains(&place));
            Ok(told.then_some(()))
        })
        .with_context(|| t.daemon().log_tail())?;
        t.davit_ok(&["ps"])?;
        assert!(!t.daemon().log().contains("the new configuration is in effect"));
    }
    write(&file, &whole)?;
    t.daemon().signal(Signal::HUP)?;
    eventually(SOON, "the mended one counts", || {
        Ok(t.daemon().log().contains("the new configuration is in effect").then_some(()))
    })
});
