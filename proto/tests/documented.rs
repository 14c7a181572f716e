//! Every service, call, message and enum of the `.proto` files says what it is, and docs/rpcs.md says of every call of CRI
//! whether it is served.

#![expect(
    clippy::tests_outside_test_module,
    clippy::expect_used,
    reason = "an integration test is a test module of its own"
)]

use protox::prost_reflect::{EnumDescriptor, FileDescriptor, MessageDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The paths (as descriptor.proto numbers them) of what has a comment in front of it.
fn commented(file: &FileDescriptor) -> BTreeSet<Vec<i32>> {
    let info = file.file_descriptor_proto().source_code_info.clone().expect("comments are kept");
    info.location
        .into_iter()
        .filter(|place| !place.leading_comments().trim().is_empty())
        .map(|place| place.path)
        .collect()
}

fn enums<'a>(found: impl Iterator<Item = EnumDescriptor> + 'a) -> Vec<(String, Vec<i32>)> {
    found.map(|item| (item.full_name().to_owned(), item.path().to_vec())).collect()
}

fn with_children(message: MessageDescriptor) -> Vec<(String, Vec<i32>)> {
    if message.is_map_entry() {
        return Vec::new();
    }
    let mut items = vec![(message.full_name().to_owned(), message.path().to_vec())];
    items.extend(enums(message.child_enums()));
    items.extend(message.child_messages().flat_map(with_children));
    items
}

fn items(file: &FileDescriptor) -> Vec<(String, Vec<i32>)> {
    let mut items = enums(file.enums());
    items.extend(file.messages().flat_map(with_children));
    for service in file.services() {
        items.push((service.full_name().to_owned(), service.path().to_vec()));
        items
            .extend(service.methods().map(|rpc| (rpc.full_name().to_owned(), rpc.path().to_vec())));
    }
    items
}

fn compiled(name: &str) -> FileDescriptor {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([folder]).expect("the .proto files' folder");
    compiler.include_source_info(true).open_file(name).expect("a .proto file that compiles");
    compiler.descriptor_pool().get_file_by_name(name).expect("the file compiled")
}

#[test]
fn every_service_call_message_and_enum_has_a_comment() {
    let mut silent = Vec::new();
    let mut seen = 0;
    for name in ["cri.proto", "shim.proto", "davit.proto"] {
        let file = compiled(name);
        let commented = commented(&file);
        let items = items(&file);
        seen += items.len();
        silent.extend(
            items.into_iter().filter(|(_, path)| !commented.contains(path)).map(|(name, _)| name),
        );
    }
    assert!(seen > 200, "only {seen} items were found");
    assert!(silent.is_empty(), "without a comment: {}", silent.join(", "));
}

/// The table's rows that begin with a name in code: the name and the status.
fn calls_told(page: &str) -> Vec<(&str, &str)> {
    let (_, from) = page.split_once("## Calls").expect("a section for the calls");
    let (table, _) = from.split_once("\n## ").expect("a section after it");
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.rsplit(" | ").next().expect("a last cell")))
        .collect()
}

#[test]
fn every_call_of_cri_is_told_once_with_its_status() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rpcs.md");
    let page = std::fs::read_to_string(page).expect("docs/rpcs.md");
    let told = calls_told(&page);
    let status: BTreeMap<&str, &str> = told.iter().copied().collect();
    assert_eq!(status.len(), told.len(), "a call is told twice");
    let calls: BTreeSet<String> = compiled("cri.proto")
        .services()
        .flat_map(|service| {
            service.methods().map(|call| call.name().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(status.keys().copied().collect::<Vec<_>>(), calls.iter().collect::<Vec<_>>());
    for (call, status) in status {
        assert!(status == "done", "{call} is {status:?}");
    }
}
