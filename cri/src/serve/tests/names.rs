//! Whose certificate of the authority will do: `tls.client_names`.

use super::*;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// What a client with this certificate is answered.
async fn answered(port: u16, ca: &str, (cert, key): (String, String)) -> tonic::Status {
    let tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(cert, key));
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    DavitClient::new(channel).info(InfoRequest::default()).await.unwrap_err()
}

#[tokio::test]
async fn a_client_whose_name_is_not_listed_is_refused_with_its_names() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (cert, key) = authority.sign();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "listen = ['tcp://127.0.0.1:{port}']\n[tls]\ncert = '{}'\nkey = '{}'\nclient_ca = '{}'\n\
         client_names = ['kubelet', 'ops.example']",
        write("cert.pem", &cert),
        write("key.pem", &key),
        write("ca.pem", &authority.pem),
    );
    let go_on = Arc::new(Notify::new());
    let _daemon = daemon_with(&config, &opened(&go_on), go_on);
    for (common, dns, welcome) in [
        ("kubelet", "else.example", true),
        ("somebody", "OPS.example", true),
        ("Kubelet", "else.example", false),
        ("somebody", "kubelet.example", false),
    ] {
        let status = answered(port, &authority.pem, authority.sign_for(common, dns)).await;
        if welcome {
            assert_eq!(status.code(), Code::Unimplemented, "{common} {dns}: {status:?}");
        } else {
            assert_eq!(status.code(), Code::PermissionDenied, "{common} {dns}: {status:?}");
            let told = format!("({common}, {dns}) is in tls.client_names");
            assert!(status.message().contains(&told), "{status:?}");
        }
    }
}
