//! Every field of every request is read, refused by name, or known to be without effect: found by walking the interface's own descriptors, so that a
//! field that a new version adds fails here until somebody has decided about it.
//!
//! Of the messages that conversion takes apart, each field is set in turn, and what comes out must differ or be an error
//! that names the field. Of all other requests, which are taken apart where they are served, the fields are a list.

use super::error::InvalidField;
use super::{container_spec, sandbox_spec, update_of_container, update_of_sandbox};
use davit_proto::cri;
use prost::Message;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use std::collections::BTreeSet;
use std::path::Path;

/// Neither the spec nor an answer changes with these; docs/rpcs.md says so of each, and why.
const WITHOUT_EFFECT: [&str; 3] = [
    "CreateContainerRequest.sandbox_config",
    "PodSandboxConfig.linux.security_context.supplemental_groups_policy",
    "UpdateContainerResourcesRequest.annotations",
];

/// Requests whose fields this walk sets one by one, as paths from the message that conversion is given.
const CONVERTED: [(&str, &str); 4] = [
    ("RunPodSandboxRequest.config", "PodSandboxConfig"),
    ("CreateContainerRequest.config", "ContainerConfig"),
    ("UpdateContainerResourcesRequest", "UpdateContainerResourcesRequest"),
    ("UpdatePodSandboxResourcesRequest", "UpdatePodSandboxResourcesRequest"),
];

/// The fields of all requests that are taken apart where they are served: `cri/src/service`.
const SERVED: &str = "
    AttachRequest: container_id stdin tty stdout stderr
    CheckpointContainerRequest: container_id location timeout
    ContainerStatsRequest: container_id
    ContainerStatusRequest: container_id verbose
    CreateContainerRequest: pod_sandbox_id config sandbox_config
    ExecRequest: container_id cmd tty stdin stdout stderr
    ExecSyncRequest: container_id cmd timeout
    GetEventsRequest:
    ImageFsInfoRequest:
    ImageStatusRequest: image verbose
    ListContainerStatsRequest: filter
    ListContainersRequest: filter
    ListImagesRequest: filter
    ListMetricDescriptorsRequest:
    ListPodSandboxMetricsRequest:
    ListPodSandboxRequest: filter
    ListPodSandboxStatsRequest: filter
    PodSandboxStatsRequest: pod_sandbox_id
    PodSandboxStatusRequest: pod_sandbox_id verbose
    PortForwardRequest: pod_sandbox_id port
    PullImageRequest: image auth sandbox_config
    RemoveContainerRequest: container_id
    RemoveImageRequest: image
    RemovePodSandboxRequest: pod_sandbox_id
    ReopenContainerLogRequest: container_id
    RunPodSandboxRequest: config runtime_handler
    RuntimeConfigRequest:
    StartContainerRequest: container_id
    StatusRequest: verbose
    StopContainerRequest: container_id timeout
    StopPodSandboxRequest: pod_sandbox_id
    StreamContainerStatsRequest: filter
    StreamContainersRequest: filter
    StreamImagesRequest: filter
    StreamPodSandboxMetricsRequest:
    StreamPodSandboxStatsRequest: filter
    StreamPodSandboxesRequest: filter
    UpdateContainerResourcesRequest: container_id linux windows annotations
    UpdatePodSandboxResourcesRequest: pod_sandbox_id overhead resources
    UpdateRuntimeConfigRequest: runtime_config
    VersionRequest: version
";

fn pool() -> DescriptorPool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let files = protox::compile(["cri.proto"], [folder]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

/// What conversion makes of a message: all of it as text, or the refusal.
type Outcome = Result<String, InvalidField>;
type Converter = fn(&[u8]) -> Outcome;

fn decoded<T: Message + Default>(bytes: &[u8]) -> T {
    T::decode(bytes).unwrap()
}

fn convert_pod(bytes: &[u8]) -> Outcome {
    sandbox_spec(decoded(bytes), String::new()).map(|spec| format!("{spec:?}"))
}

fn convert_container(bytes: &[u8]) -> Outcome {
    let pod = sandbox_spec(super::tests::pod_config(), String::new())?;
    container_spec(decoded(bytes), &pod).map(|spec| format!("{spec:?}"))
}

fn convert_update(bytes: &[u8]) -> Outcome {
    let request: cri::UpdateContainerResourcesRequest = decoded(bytes);
    // The id is looked up where the call is served.
    let id = request.container_id.clone();
    update_of_container(request.linux, request.windows).map(|spec| format!("{id} {spec:?}"))
}

fn convert_pod_update(bytes: &[u8]) -> Outcome {
    let request: cri::UpdatePodSandboxResourcesRequest = decoded(bytes);
    let id = request.pod_sandbox_id.clone();
    update_of_sandbox(request.overhead, request.resources).map(|spec| format!("{id} {spec:?}"))
}

fn limits() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        hugepage_limits: vec![cri::HugepageLimit { page_size: "1GB".into(), limit: 7 }],
        ..Default::default()
    }
}

/// With these, a mapping by itself makes no sense.
fn hosts_users() -> Option<cri::UserNamespace> {
    Some(cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() })
}

fn pod_base() -> Vec<u8> {
    let mut config = super::tests::pod_config();
    config.port_mappings = vec![cri::PortMapping { container_port: 80, ..Default::default() }];
    let linux = config.linux.as_mut().unwrap();
    (linux.overhead, linux.resources) = (Some(limits()), Some(limits()));
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().userns_options = hosts_users();
    config.encode_to_vec()
}

/// One with a mount of the host, one with that mapped, one with an image: some fields make sense with one of them only.
fn container_bases() -> Vec<Vec<u8>> {
    let host =
        cri::Mount { container_path: "/c".into(), host_path: "/h".into(), ..Default::default() };
    let range = cri::IdMapping { host_id: 100_000, container_id: 0, length: 10 };
    let mapped =
        cri::Mount { uid_mappings: vec![range], gid_mappings: vec![range], ..host.clone() };
    let spec = cri::ImageSpec { image: "model:1".into(), ..Default::default() };
    let image = cri::Mount {
        container_path: "/c".into(),
        readonly: true,
        image: Some(spec),
        ..Default::default()
    };
    let with = |mount: cri::Mount| {
        let mut config = super::tests::container_config();
        config.mounts = vec![mount];
        config.devices = vec![cri::Device {
            container_path: "/dev/a".into(),
            host_path: "/dev/b".into(),
            permissions: "r".into(),
        }];
        config.envs = vec![cri::KeyValue { key: "A".into(), value: "b".into() }];
        config.cdi_devices = vec![cri::CdiDevice { name: "v/c=other".into() }];
        let linux = config.linux.as_mut().unwrap();
        linux.resources = Some(limits());
        linux.security_context.as_mut().unwrap().namespace_options = Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            userns_options: hosts_users(),
            ..Default::default()
        });
        config.encode_to_vec()
    };
    vec![with(host), with(mapped), with(image)]
}

/// Values that some field takes, none of them what it has if nothing is said.
fn candidates(kind: &Kind) -> Vec<Value> {
    let texts = ["/x/y", "x", "s0", "v/c=d", "10.0.0.1", "1", "rw", "2MB", "always"];
    let numbers = [1_i32, 5, 2000];
    match kind {
        Kind::String => texts.iter().map(|text| Value::String((*text).to_owned())).collect(),
        Kind::Bytes => vec![Value::Bytes(vec![1].into())],
        Kind::Bool => vec![Value::Bool(true)],
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => numbers.map(Value::I32).to_vec(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            numbers.map(|number| Value::I64(i64::from(number))).to_vec()
        }
        Kind::Uint32 | Kind::Fixed32 => numbers.map(|n| Value::U32(n.unsigned_abs())).to_vec(),
        Kind::Uint64 | Kind::Fixed64 => {
            numbers.map(|n| Value::U64(u64::from(n.unsigned_abs()))).to_vec()
        }
        Kind::Float => vec![Value::F32(1.5)],
        Kind::Double => vec![Value::F64(1.5)],
        Kind::Enum(values) => {
            values.values().map(|value| Value::EnumNumber(value.number())).collect()
        }
        Kind::Message(message) => vec![Value::Message(DynamicMessage::new(message.clone()))],
    }
}

fn values(field: &FieldDescriptor) -> Vec<Value> {
    if field.is_map() {
        let keys = ["memory.high", "net.ipv4.ip_forward", "x"];
        let map = |key: &str| {
            let value = Value::String("1".to_owned());
            Value::Map([(MapKey::String(key.to_owned()), value)].into())
        };
        return keys.map(map).to_vec();
    }
    let one = candidates(&field.kind());
    if field.is_list() {
        one.into_iter().map(|value| Value::List(vec![value])).collect()
    } else {
        one
    }
}

/// The fields of a message that hold no further message, each by the way to it.
#[expect(clippy::wildcard_enum_match_arm, reason = "all the other kinds hold one value")]
fn leaves(
    message: &MessageDescriptor,
    way: &[FieldDescriptor],
    out: &mut Vec<Vec<FieldDescriptor>>,
) {
    for field in message.fields() {
        let mut way = way.to_vec();
        way.push(field.clone());
        match field.kind() {
            Kind::Message(inner) if !field.is_map() && inner.fields().len() > 0 => {
                leaves(&inner, &way, out);
            }
            _ => out.push(way),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what holds no message is a mistake of this test"
)]
fn set(message: &mut DynamicMessage, way: &[FieldDescriptor], value: Value) {
    let Some((field, rest)) = way.split_first() else { return };
    if rest.is_empty() {
        message.set_field(field, value);
        return;
    }
    let inside = match message.get_field_mut(field) {
        Value::Message(inside) => inside,
        Value::List(list) => {
            if list.is_empty() {
                let Kind::Message(kind) = field.kind() else { panic!("{field:?} holds none") };
                list.push(Value::Message(DynamicMessage::new(kind)));
            }
            let Some(Value::Message(inside)) = list.first_mut() else { panic!("{field:?}") };
            inside
        }
        other => panic!("{field:?} holds {other:?}"),
    };
    set(inside, rest, value);
}

/// Without the indexes: `mounts[0].image` is `mounts.image`.
fn plain(field: &str) -> String {
    let mut depth = 0_usize;
    let keep = |letter: &char| {
        depth += usize::from(*letter == '[');
        let kept = depth == 0;
        depth -= usize::from(*letter == ']');
        kept
    };
    field.chars().filter(keep).collect()
}

/// A refusal of the field, of what it is in, or of what stands beside it in the same message.
fn names(refused: &str, path: &str) -> bool {
    let refused = plain(refused);
    let below = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}."));
    let parent = |text: &str| text.rsplit_once('.').map(|(parent, _)| parent.to_owned());
    below(&refused, path)
        || below(path, &refused)
        || (parent(path).is_some() && parent(path) == parent(&refused))
}

/// Whether some value of this field makes a difference, or is refused by name.
fn counts(
    message: &MessageDescriptor,
    base: &[u8],
    way: &[FieldDescriptor],
    convert: Converter,
) -> bool {
    let unchanged = convert(base).unwrap();
    let path: Vec<_> = way.iter().map(|field| field.name().to_owned()).collect();
    let path = path.join(".");
    let last = way.last().unwrap();
    values(last).into_iter().any(|value| {
        let mut changed = DynamicMessage::decode(message.clone(), base).unwrap();
        set(&mut changed, way, value);
        match convert(&changed.encode_to_vec()) {
            Ok(text) => text != unchanged,
            Err(refused) => names(&refused.field, &path),
        }
    })
}

fn silent(pool: &DescriptorPool) -> BTreeSet<String> {
    let converters: [(&str, Vec<Vec<u8>>, Converter); 4] = [
        ("PodSandboxConfig", vec![pod_base()], convert_pod),
        ("ContainerConfig", container_bases(), convert_container),
        ("UpdateContainerResourcesRequest", vec![Vec::new()], convert_update),
        ("UpdatePodSandboxResourcesRequest", vec![Vec::new()], convert_pod_update),
    ];
    assert_eq!(converters.each_ref().map(|(name, _, _)| *name), CONVERTED.map(|(_, name)| name));
    let mut out = BTreeSet::new();
    let mut seen = 0;
    for (name, bases, convert) in converters {
        let message = pool.get_message_by_name(&format!("runtime.v1.{name}")).unwrap();
        let mut ways = Vec::new();
        leaves(&message, &[], &mut ways);
        seen += ways.len();
        for way in ways {
            if !bases.iter().any(|base| counts(&message, base, &way, convert)) {
                let path: Vec<_> = way.iter().map(|field| field.name().to_owned()).collect();
                out.insert(format!("{name}.{}", path.join(".")));
            }
        }
    }
    assert!(seen > 150, "only {seen} fields were found");
    out
}

#[test]
fn every_field_that_is_converted_counts_or_is_refused_or_known_to_be_without_effect() {
    let mut known: BTreeSet<String> = WITHOUT_EFFECT.map(str::to_owned).into();
    // The pod is the one that davit knows: nothing of this copy is even looked at.
    assert!(known.remove("CreateContainerRequest.sandbox_config"));
    assert_eq!(silent(&pool()), known, "fields that neither count nor are refused");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rpcs.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, section) = docs.split_once("## Fields without effect").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    for path in WITHOUT_EFFECT {
        let name = path.rsplit('.').next().unwrap();
        assert!(section.contains(&format!("`{name}`")), "docs/rpcs.md does not tell of {name}");
    }
}

#[test]
fn the_requests_have_the_fields_that_are_served_and_no_others() {
    let mut found = BTreeSet::new();
    for service in pool().services() {
        for call in service.methods() {
            let input = call.input();
            let fields: Vec<_> = input.fields().map(|field| field.name().to_owned()).collect();
            found.insert(format!("{}: {}", input.name(), fields.join(" ")).trim_end().to_owned());
        }
    }
    let known: BTreeSet<String> =
        SERVED.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    assert_eq!(found, known);
}

#[test]
fn a_field_that_is_passed_over_is_found() {
    let pool = pool();
    let message = pool.get_message_by_name("runtime.v1.ContainerConfig").unwrap();
    let mut ways = Vec::new();
    leaves(&message, &[], &mut ways);
    // A conversion that forgets the working directory.
    let forgetful: Converter = |bytes| {
        let config = cri::ContainerConfig { working_dir: String::new(), ..decoded(bytes) };
        convert_container(&config.encode_to_vec())
    };
    let base = container_bases().remove(0);
    let passed: Vec<_> = ways
        .iter()
        .filter(|way| way.len() == 1 && !counts(&message, &base, way, forgetful))
        .map(|way| way.first().unwrap().name().to_owned())
        .collect();
    assert_eq!(passed, ["working_dir"]);
}
