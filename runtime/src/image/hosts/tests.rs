use super::*;

fn write(path: &Path, text: &str) {
    use std::io::Write;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn parsed(registry: &str, text: &str) -> Result<Vec<EndpointPlan>, HostsError> {
    file::parse(Path::new("/certs/host/hosts.toml"), text, registry)
}

fn urls(plans: &[EndpointPlan]) -> Vec<&str> {
    plans.iter().map(|plan| plan.url.as_str()).collect()
}

#[test]
fn without_a_file_the_registry_itself_is_asked() {
    for (registry, url) in [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("quay.io", "https://quay.io/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("localhost:443", "https://localhost:443/v2"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
        ("localhost.evil.example", "https://localhost.evil.example/v2"),
    ] {
        assert_eq!(urls(&endpoints(&[], registry).unwrap()), [url]);
    }
}

#[test]
fn hosts_are_tried_in_the_order_of_the_file_and_the_server_last() {
    let plans = parsed(
        "docker.io",
        r#"
        server = "https://upstream.example"
        ca = "root.pem"
        [host."https://z.example"]
        capabilities = ["pull", "resolve", "push"]
        dial_timeout = "3s"
        [host."http://a.example:5000/prefix"]
        capabilities = ["pull"]
        skip_verify = true
        [host."m.example/exact"]
        override_path = true
        client = [["c.pem", "c.key"], ["both.pem", ""]]
        ca = ["one.pem", "/two.pem"]
        [host."m.example/exact".header]
        x-one = "1"
        x-many = ["2", "3"]
        "#,
    )
    .unwrap();
    assert_eq!(
        urls(&plans),
        [
            "https://z.example/v2",
            "http://a.example:5000/prefix/v2",
            "https://m.example/exact",
            "https://upstream.example/v2"
        ]
    );
    assert_eq!(plans[0].dial_timeout, Duration::from_secs(3));
    assert_eq!(plans[0].namespace.as_deref(), Some("docker.io"));
    assert!(plans[1].capabilities == [Capability::Pull] && plans[1].skip_verify);
    let at = |name: &str| Path::new("/certs/host").join(name);
    assert_eq!(plans[2].client, [(at("c.pem"), at("c.key")), (at("both.pem"), at("both.pem"))]);
    assert_eq!(plans[2].ca, [at("one.pem"), PathBuf::from("/two.pem")]);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        plans[2].headers,
        [header("x-one", "1"), header("x-many", "2"), header("x-many", "3")]
    );
    assert_eq!(plans[3].ca, [at("root.pem")]);
}

#[test]
fn a_file_without_server_still_ends_at_the_registry() {
    let plans = parsed("docker.io", "[host.\"https://m.example\"]\n").unwrap();
    assert_eq!(urls(&plans), ["https://m.example/v2", "https://registry-1.docker.io/v2"]);
    assert_eq!(plans[1].namespace, None);
}

#[test]
fn what_is_not_understood_is_named_with_its_file_and_key() {
    for (text, key, value) in [
        ("sever = \"x\"", "sever", "x"),
        ("server = \"ftp://x\"", "server", "ftp://x"),
        ("server = \"https://u:p@x\"", "server", "u:p@x"),
        ("dial_timeout = \"soon\"", "dial_timeout", "soon"),
        (
            "[host.\"https://m\"]\ncapabilities = [\"fly\"]",
            "host.\"https://m\".capabilities",
            "fly",
        ),
        ("[host.\"https://m\"]\nmirror = true", "mirror", "mirror"),
        ("[host.\"https://m\".header]\n\"a b\" = \"x\"", "header.a b", "a b"),
        ("[host.\"https://m\".header]\nx = 1", "header.x", "integer"),
        ("[host.\"https://m\"]\nclient = [[\"a\",\"b\",\"c\"]]", "client", "a, b, c"),
        ("[host.\"https://m?x=y\"]", "host.", "https://m?x=y"),
    ] {
        let error = parsed("docker.io", text).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("/certs/host/hosts.toml: "), "{message}");
        assert!(message.contains(key) && message.contains(value), "{message}");
    }
    assert!(matches!(parsed("docker.io", "server ="), Err(HostsError::Parse { .. })));
}

#[test]
fn a_header_that_is_a_secret_is_not_quoted() {
    let error =
        parsed("a", "[host.\"https://m\".header]\nAuthorization = \"hush\\u0001\"").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"));
}

#[test]
fn the_most_exact_directory_of_the_first_root_decides() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    let roots = [one.clone(), two.clone()];
    let ask = |registry: &str| endpoints(&roots, registry).map(|plans| plans[0].url.clone());
    write(&two.join("r.example:5000/hosts.toml"), "[host.\"https://second\"]");
    assert_eq!(ask("r.example:5000").unwrap(), "https://second/v2");
    write(&one.join("_default/hosts.toml"), "[host.\"https://default\"]");
    assert_eq!(ask("r.example:5000").unwrap(), "https://default/v2");
    write(&one.join("r.example_5000_/hosts.toml"), "[host.\"https://exact\"]");
    assert_eq!(ask("r.example:5000").unwrap(), "https://exact/v2");
    assert_eq!(ask("other.example").unwrap(), "https://default/v2");
    std::fs::remove_file(one.join("r.example_5000_/hosts.toml")).unwrap();
    write(&one.join("r.example_5000_/ca.crt"), "");
    write(&one.join("r.example_5000_/me.cert"), "");
    let plan = endpoints(&roots, "r.example:5000").unwrap().remove(0);
    assert_eq!(plan.url, "https://r.example:5000/v2");
    assert_eq!((plan.ca.len(), plan.client.len()), (1, 1));
}
