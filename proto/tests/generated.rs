//! The generated code is what the `.proto` files give. `DAVIT_BLESS=1 cargo test -p davit-proto` writes it.

#![expect(
    clippy::tests_outside_test_module,
    clippy::expect_used,
    reason = "an integration test is a test module of its own"
)]

use std::path::{Path, PathBuf};

/// Messages with a secret: their `Debug` is in src/redact.rs.
const SECRET: [&str; 4] = [
    "runtime.v1.AuthConfig",
    "davit.v1.PullRequest",
    "davit.v1.LoginRequest",
    "davit.v1.SearchRequest",
];

const PROTOS: [&str; 3] = ["cri.proto", "shim.proto", "davit.proto"];

fn generate(into: &Path) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(PROTOS, [&protos]).expect("the .proto files compile");
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .codec_path("crate::codec::Small")
        .skip_debug(SECRET)
        .out_dir(into)
        .compile_fds(files)
        .expect("code for the .proto files");
}

fn files(of: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(of)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    names
}

#[test]
fn messages_with_a_secret_are_those_with_a_debug_of_their_own() {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([protos]).expect("the .proto files' folder");
    let pool = compiler.open_files(PROTOS).expect("the .proto files compile").descriptor_pool();
    let secret: Vec<String> = pool
        .all_messages()
        .filter(|message| {
            message.fields().any(|field| field.options().has_field_by_name("debug_redact"))
        })
        .map(|message| message.full_name().to_owned())
        .collect();
    let mut expected = SECRET.to_vec();
    expected.sort_unstable();
    let mut secret: Vec<&str> = secret.iter().map(String::as_str).collect();
    secret.sort_unstable();
    assert_eq!(secret, expected);
}

#[test]
fn the_checked_in_code_is_what_the_proto_files_give() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("DAVIT_BLESS").is_some() {
        generate(&checked_in);
        return;
    }
    let fresh = tempfile::tempdir().expect("a temporary folder");
    generate(fresh.path());
    for file in files(fresh.path()) {
        let name = file.file_name().expect("a file's name");
        let ours = std::fs::read_to_string(checked_in.join(name)).unwrap_or_default();
        let theirs = std::fs::read_to_string(&file).expect("generated code");
        assert!(
            ours == theirs,
            "{} is stale: run with DAVIT_BLESS=1",
            checked_in.join(name).display()
        );
    }
    assert_eq!(
        files(fresh.path()).len(),
        files(&checked_in).len(),
        "files without a .proto in src/gen"
    );
}
