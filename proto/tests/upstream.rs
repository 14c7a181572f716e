//! cri.proto says what Kubernetes' own file says: every name, every number, every type.
//!
//! Upstream's file comes with the Go module `k8s.io/cri-api`, fetched (or found in its cache) by the Go tool. Both files are
//! compiled and broken into facts: one line of text for each thing that the interface consists of, under a key that says
//! what it is. Comparing the facts finds whatever is missing, extra or different. The order of things and the comments are
//! no part of the interface and make no fact.

#![expect(
    clippy::tests_outside_test_module,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "an integration test is a test module of its own"
)]

use protox::prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    ServiceDescriptor,
};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose interface ours is, and the checksum under which the Go checksum database knows it.
const MODULE: &str = "k8s.io/cri-api@v0.36.1";
const CHECKSUM: &str = "h1:g4vRySdoN5G+FMXC1jfGdUyynsHy2qaHZKZhCXZuEmg=";

/// How many calls the two services have.
const CALLS: usize = 41;

/// What an interface consists of: what it is, and all that there is to say about it.
type Facts = BTreeMap<String, String>;

fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/cri.proto")
}

fn compile(path: &Path) -> Result<FileDescriptor, protox::Error> {
    let folder = path.parent().expect("a file lies in a folder");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a file's name is text");
    let mut compiler = protox::Compiler::new([folder])?;
    let pool = compiler.open_file(name)?.descriptor_pool();
    Ok(pool.get_file_by_name(name).expect("the pool has the file that was opened"))
}

/// The options that are set, `deprecated` and `debug_redact` among them. prost's own types know only some of them.
fn options(of: &DynamicMessage) -> String {
    let mut set: Vec<String> =
        of.fields().map(|(field, value)| format!("{}={value:?}", field.name())).collect();
    set.extend(of.extensions().map(|(field, value)| format!("({})={value:?}", field.full_name())));
    set.extend(of.unknown_fields().map(|field| format!("unknown {field:?}")));
    set.sort();
    format!("options [{}]", set.join(", "))
}

fn add_field(field: &FieldDescriptor, facts: &mut Facts) {
    let raw = field.field_descriptor_proto();
    let oneof = field.containing_oneof().map(|oneof| oneof.name().to_owned());
    let fact = format!(
        "number {}, {:?} {:?} {}, oneof {oneof:?}, optional {}, json {:?}, default {:?}, packed {}, map {}, {}",
        field.number(),
        raw.label(),
        raw.r#type(),
        raw.type_name(),
        raw.proto3_optional(),
        raw.json_name(),
        raw.default_value,
        field.is_packed(),
        field.is_map(),
        options(&field.options()),
    );
    facts.insert(format!("field {}", field.full_name()), fact);
}

fn add_enum(item: &EnumDescriptor, facts: &mut Facts) {
    let raw = item.enum_descriptor_proto();
    let fact = format!(
        "reserved {:?} {:?}, {}",
        raw.reserved_range,
        raw.reserved_name,
        options(&item.options())
    );
    facts.insert(format!("enum {}", item.full_name()), fact);
    for value in item.values() {
        let fact = format!("number {}, {}", value.number(), options(&value.options()));
        facts.insert(format!("value {}.{}", item.full_name(), value.name()), fact);
    }
}

fn add_message(message: &MessageDescriptor, facts: &mut Facts) {
    let raw = message.descriptor_proto();
    let fact = format!(
        "map entry {}, reserved {:?} {:?}, extensions {:?} {:?}, {}",
        message.is_map_entry(),
        raw.reserved_range,
        raw.reserved_name,
        raw.extension_range,
        raw.extension,
        options(&message.options())
    );
    facts.insert(format!("message {}", message.full_name()), fact);
    for oneof in message.oneofs() {
        facts.insert(format!("oneof {}", oneof.full_name()), options(&oneof.options()));
    }
    message.fields().for_each(|field| add_field(&field, facts));
    message.child_enums().for_each(|item| add_enum(&item, facts));
    message.child_messages().for_each(|item| add_message(&item, facts));
}

fn add_service(service: &ServiceDescriptor, facts: &mut Facts) {
    facts.insert(format!("service {}", service.full_name()), options(&service.options()));
    for call in service.methods() {
        let fact = format!(
            "takes {} (stream {}), gives {} (stream {}), {}",
            call.input().full_name(),
            call.is_client_streaming(),
            call.output().full_name(),
            call.is_server_streaming(),
            options(&call.options())
        );
        facts.insert(format!("call {}", call.full_name()), fact);
    }
}

fn facts(file: &FileDescriptor) -> Facts {
    let imports: Vec<String> = file.dependencies().map(|file| file.name().to_owned()).collect();
    let extensions = &file.file_descriptor_proto().extension;
    let fact = format!(
        "package {}, {:?}, imports {imports:?}, extensions {extensions:?}, {}",
        file.package_name(),
        file.syntax(),
        options(&file.options())
    );
    let mut facts = Facts::from([("file".to_owned(), fact)]);
    file.services().for_each(|service| add_service(&service, &mut facts));
    file.messages().for_each(|message| add_message(&message, &mut facts));
    file.enums().for_each(|item| add_enum(&item, &mut facts));
    facts
}

/// Every difference, one line each.
fn differences(ours: &Facts, theirs: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    for (what, fact) in theirs {
        match ours.get(what) {
            None => found.push(format!("missing: {what}: {fact}")),
            Some(other) if other != fact => {
                found.push(format!("different: {what}\n    ours:   {other}\n    theirs: {fact}"));
            }
            Some(_) => {}
        }
    }
    found.extend(
        ours.iter()
            .filter(|(what, _)| !theirs.contains_key(*what))
            .map(|(what, fact)| format!("extra: {what}: {fact}")),
    );
    found
}

fn calls(facts: &Facts) -> usize {
    facts.keys().filter(|what| what.starts_with("call ")).count()
}

/// The module's minor version is Kubernetes' own.
#[test]
fn the_kubernetes_that_is_told_is_the_one_that_is_compared_with() {
    let (_, minor) = davit_proto::KUBERNETES.split_once('.').expect("major and minor");
    assert!(MODULE.contains(&format!("@v0.{minor}.")), "{MODULE}");
}

/// Where the Go tool has put upstream's module.
fn upstream() -> PathBuf {
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let go = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .env("GOFLAGS", "-mod=mod")
        .current_dir(elsewhere.path())
        .output();
    let output = match go {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "this test needs the Go tool to fetch {MODULE}: install Go 1.21 or newer (Debian: golang-go, or \
             https://go.dev/doc/install) and put `go` into PATH"
        ),
        other => other.expect("run `go mod download`"),
    };
    let told = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fetch {MODULE} with `go mod download`: {told}{complaint}");
    let module: serde_json::Value = serde_json::from_str(&told).expect("the Go tool speaks JSON");
    assert_eq!(module["Sum"], CHECKSUM, "the checksum of {MODULE}");
    PathBuf::from(module["Dir"].as_str().expect("the Go tool says where the module is"))
}

#[test]
fn every_name_and_number_is_kubernetes_own() {
    let theirs = upstream().join("pkg/apis/runtime/v1/api.proto");
    let theirs = facts(&compile(&theirs).expect("upstream's file compiles"));
    let ours = facts(&compile(&ours()).expect("our file compiles"));
    let found = differences(&ours, &theirs);
    assert!(found.is_empty(), "{} differences to {MODULE}:\n{}", found.len(), found.join("\n"));
    assert_eq!((calls(&ours), calls(&theirs)), (CALLS, CALLS));
}

/// A change to cri.proto, and what a comparison must say of it: one of these words about each of these things, no more.
struct Mutation {
    from: &'static str,
    to: &'static str,
    found: &'static [&'static str],
}

/// Short for a [`Mutation`].
const fn change(from: &'static str, to: &'static str, found: &'static [&'static str]) -> Mutation {
    Mutation { from, to, found }
}

const MUTATIONS: [Mutation; 22] = [
    change(
        "Signal stop_signal = 19;",
        "Signal stop_signal = 20;",
        &["different: field runtime.v1.ContainerStatus.stop_signal"],
    ),
    change(
        "Signal stop_signal = 19;",
        "Signal stop_with = 19;",
        &[
            "missing: field runtime.v1.ContainerStatus.stop_signal",
            "extra: field runtime.v1.ContainerStatus.stop_with",
        ],
    ),
    change(
        "    rpc Attach(AttachRequest) returns (AttachResponse) {}\n",
        "",
        &["missing: call runtime.v1.RuntimeService.Attach"],
    ),
    change(
        "service ImageService {",
        "service ImageService { rpc Push(Image) returns (Image) {}",
        &["extra: call runtime.v1.ImageService.Push"],
    ),
    change(
        "rpc Exec(ExecRequest)",
        "rpc Exec(stream ExecRequest)",
        &["different: call runtime.v1.RuntimeService.Exec"],
    ),
    change(
        "returns (stream ContainerEventResponse)",
        "returns (ContainerEventResponse)",
        &["different: call runtime.v1.RuntimeService.GetContainerEvents"],
    ),
    change(
        "rpc Exec(ExecRequest) returns (ExecResponse)",
        "rpc Exec(ExecRequest) returns (AttachResponse)",
        &["different: call runtime.v1.RuntimeService.Exec"],
    ),
    change(
        "double Avg300 = 4;",
        "float Avg300 = 4;",
        &["different: field runtime.v1.PsiData.Avg300"],
    ),
    change(
        "repeated int32 port = 2;",
        "int32 port = 2;",
        &["different: field runtime.v1.PortForwardRequest.port"],
    ),
    change(
        "repeated int32 port = 2;",
        "repeated int32 port = 2 [packed = false];",
        &["different: field runtime.v1.PortForwardRequest.port"],
    ),
    change(
        "CgroupDriver cgroup_driver = 1;",
        "MetricType cgroup_driver = 1;",
        &["different: field runtime.v1.LinuxRuntimeConfiguration.cgroup_driver"],
    ),
    change(
        "map<string, string> unified = 9;",
        "map<string, int64> unified = 9;",
        &["different: field runtime.v1.LinuxContainerResources.UnifiedEntry.value"],
    ),
    change(
        "bool pinned = 8;",
        "bool pinned = 8 [json_name = \"p\"];",
        &["different: field runtime.v1.Image.pinned"],
    ),
    change(
        "bool pinned = 8;",
        "optional bool pinned = 8;",
        &["different: field runtime.v1.Image.pinned", "extra: oneof runtime.v1.Image._pinned"],
    ),
    change(
        "bool pinned = 8;",
        "oneof why { bool pinned = 8; }",
        &["different: field runtime.v1.Image.pinned", "extra: oneof runtime.v1.Image.why"],
    ),
    change(
        "bool pinned = 8;",
        "bool pinned = 8; reserved 9;",
        &["different: message runtime.v1.Image"],
    ),
    change(
        "string apparmor_profile = 9 [deprecated = true];",
        "string apparmor_profile = 9;",
        &["different: field runtime.v1.LinuxContainerSecurityContext.apparmor_profile"],
    ),
    change(
        "string password = 2 [debug_redact = true];",
        "string password = 2;",
        &["different: field runtime.v1.AuthConfig.password"],
    ),
    change("SIGRTMAX = 65;", "SIGRTMAX = 66;", &["different: value runtime.v1.Signal.SIGRTMAX"]),
    change("    SIGRTMAX = 65;\n", "", &["missing: value runtime.v1.Signal.SIGRTMAX"]),
    change(
        "Localhost = 2;",
        "Localhost = 3;",
        &["different: value runtime.v1.SecurityProfile.ProfileType.Localhost"],
    ),
    change(
        "message RemoveImageResponse {}",
        "message RemoveImageResponse {} message More {}",
        &["extra: message runtime.v1.More"],
    ),
];

/// The file with the change made, compiled.
fn mutated(text: &str, mutation: &Mutation) -> Facts {
    assert_eq!(text.matches(mutation.from).count(), 1, "{:?} is there once", mutation.from);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("cri.proto");
    let text = text.replace(mutation.from, mutation.to);
    let mut file = std::fs::File::create(&path).expect("a file there");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("write it");
    facts(&compile(&path).expect("the changed file compiles"))
}

#[test]
fn each_kind_of_difference_is_told_and_nothing_else() {
    let text = std::fs::read_to_string(ours()).expect("our file");
    let original = facts(&compile(&ours()).expect("our file compiles"));
    assert!(differences(&original, &original).is_empty());
    for mutation in &MUTATIONS {
        let found = differences(&mutated(&text, mutation), &original);
        let told = |expected: &str| {
            found.iter().any(|line| {
                line.strip_prefix(expected).is_some_and(|rest| rest.starts_with([':', '\n']))
            })
        };
        assert!(
            found.len() == mutation.found.len() && mutation.found.iter().all(|line| told(line)),
            "{:?} → {:?} gave {found:#?}",
            mutation.from,
            mutation.to
        );
    }
}

#[test]
fn every_difference_is_told_at_once() {
    let original = facts(&compile(&ours()).expect("our file compiles"));
    let nothing = Facts::new();
    assert_eq!(differences(&nothing, &original).len(), original.len());
    assert_eq!(differences(&original, &nothing).len(), original.len());
    assert!(differences(&nothing, &original).iter().all(|line| line.starts_with("missing: ")));
    assert!(differences(&original, &nothing).iter().all(|line| line.starts_with("extra: ")));
}
