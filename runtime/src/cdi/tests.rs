//! Promises about CDI: which file counts, what a device changes, and what is refused.

use super::spec::{Format, parse};
use super::*;
use crate::oci::testing::Given;
use oci_spec::runtime::LinuxDeviceType;
use proptest::prelude::*;
use std::io::Write as _;

struct Directories(tempfile::TempDir, Cdi);

impl Directories {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = ["first", "second", "missing"].map(|name| root.path().join(name));
        paths[..2].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        Self(root, Cdi::new(paths.to_vec()))
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = std::fs::File::create(self.0.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn inject(&self, names: &[&str]) -> Result<Built, CdiError> {
        let given = Given::new();
        let mut built = given.build().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.1.inject(&names, &mut built, &given.handler)?;
        Ok(built)
    }

    fn env(&self, name: &str) -> Result<Vec<String>, CdiError> {
        let built = self.inject(&[name])?;
        let env = built.spec.process().as_ref().unwrap().env().clone().unwrap();
        Ok(env.into_iter().filter(|line| line.starts_with("FROM=")).collect())
    }
}

fn from(text: &str) -> String {
    format!(
        r#"{{"cdiVersion":"0.6.0","kind":"v.com/gpu","devices":[{{"name":"0","containerEdits":{{"env":["FROM={text}"]}}}}]}}"#
    )
}

const EVERYTHING: &str = r#"
cdiVersion: "1.1.0"
kind: vendor.com/gpu
annotations: {vendor.com/x: "y"}
containerEdits:
  env: ["GENERAL=1", "PATH=/vendor"]
  hooks:
    - {hookName: createContainer, path: /bin/ldconfig, args: [ldconfig, -n], env: [A=b], timeout: 5}
    - {hookName: poststop, path: /bin/true}
devices:
  - name: gpu0
    annotations: {a.b/c: d}
    containerEdits:
      env: ["ONE=0"]
      deviceNodes:
        - {path: /dev/vendor/null, hostPath: /dev/null, permissions: rw}
        - {path: /dev/made, type: c, major: 240, minor: 3, fileMode: 384, uid: 5, gid: 6}
      mounts:
        - {hostPath: /usr/lib, containerPath: /vendor/lib/, options: [ro, nosuid]}
        - {hostPath: tmpfs, containerPath: /vendor, type: tmpfs, options: [size=1m]}
        - {hostPath: /etc, containerPath: /dev/shm, options: [rbind, ro]}
      intelRdt: {closID: fast, l3CacheSchema: "L3:0=f", enableMonitoring: true}
      additionalGids: [0, 44, 44]
  - name: "1:2"
    containerEdits:
      env: ["TWO=1"]
"#;

#[test]
fn a_device_changes_all_that_it_says() {
    let directories = Directories::new();
    directories.write("first/vendor.yaml", EVERYTHING);
    let before = Given::new().build().unwrap();
    let built = directories.inject(&["vendor.com/gpu=gpu0", "vendor.com/gpu=1:2"]).unwrap();
    let process = built.spec.process().as_ref().unwrap();
    let env = process.env().as_ref().unwrap();
    let values = |name: &str| env.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(["GENERAL=1", "ONE=0", "TWO=1", "PATH="].map(values), [1; 4], "{env:?}");
    assert!(env.contains(&"PATH=/vendor".to_owned()));
    let groups = process.user().additional_gids().clone().unwrap();
    assert_eq!(groups.iter().filter(|gid| **gid == 44).count(), 1);
    assert!(!groups[before.user.groups.len()..].contains(&0) && built.user.groups.contains(&44));

    let linux = built.spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    let node = |path: &str| devices.iter().find(|node| node.path() == Path::new(path)).unwrap();
    let null = node("/dev/vendor/null");
    assert_eq!((null.typ(), null.major(), null.minor()), (LinuxDeviceType::C, 1, 3));
    let made = node("/dev/made");
    assert_eq!((made.major(), made.minor(), made.file_mode()), (240, 3, Some(0o600)));
    assert_eq!((made.uid(), made.gid()), (Some(5), Some(6)));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules[rules.len() - 2..], ["c 1:3 rw", "c 240:3 rwm"]);
    let rdt = linux.intel_rdt().as_ref().unwrap();
    assert_eq!(rdt.clos_id().as_deref(), Some("fast"));
    assert_eq!(rdt.l3_cache_schema().as_deref(), Some("L3:0=f"));

    let mounts = built.spec.mounts().as_ref().unwrap();
    let at = |path: &str| {
        let mut found =
            mounts.iter().enumerate().filter(|(_, m)| m.destination() == Path::new(path));
        let one = found.next().unwrap();
        assert!(found.next().is_none(), "{path} is there twice");
        one
    };
    assert!(at("/vendor").0 < at("/vendor/lib").0 && at("/dev").0 < at("/dev/shm").0);
    assert_eq!(at("/vendor").1.typ().as_deref(), Some("tmpfs"));
    assert_eq!(at("/vendor/lib").1.options().as_ref().unwrap(), &["ro", "nosuid", "rbind"]);
    assert_eq!(at("/dev/shm").1.source().as_deref(), Some(Path::new("/etc")));
    assert_eq!(mounts.len(), before.spec.mounts().as_ref().unwrap().len() + 2);

    let hooks = built.spec.hooks().as_ref().unwrap();
    let created = &hooks.create_container().as_ref().unwrap()[..];
    assert_eq!(created.len(), 1, "once, however many devices of the file there are");
    assert_eq!(
        (created[0].path().as_path(), created[0].timeout()),
        (Path::new("/bin/ldconfig"), Some(5))
    );
    assert_eq!(hooks.poststop().as_ref().unwrap().len(), 1);
}

#[test]
fn the_later_directory_wins_and_what_is_written_counts_at_once() {
    let directories = Directories::new();
    let device = "v.com/gpu=0";
    assert!(matches!(directories.env(device).unwrap_err(), CdiError::Unknown { index: 0, .. }));
    directories.write("first/a.json", &from("first"));
    assert_eq!(directories.env(device).unwrap(), ["FROM=first"]);
    directories.write("second/z.json", &from("second"));
    assert_eq!(directories.env(device).unwrap(), ["FROM=second"]);
    directories.write("second/z.json", &from("changed"));
    assert_eq!(directories.env(device).unwrap(), ["FROM=changed"]);
    directories.write("second/other.txt", &from("no specification"));
    assert_eq!(directories.env(device).unwrap(), ["FROM=changed"]);
    std::fs::remove_file(directories.0.path().join("second/z.json")).unwrap();
    assert_eq!(directories.env(device).unwrap(), ["FROM=first"]);
}

#[test]
fn two_files_of_one_directory_with_one_device_give_it_to_nobody() {
    let directories = Directories::new();
    for name in ["second/a.json", "second/b.json", "second/c.json"] {
        directories.write(name, &from("x"));
    }
    // What has less precedence does not decide between them.
    directories.write("first/a.json", &from("first"));
    let error = directories.env("v.com/gpu=0").unwrap_err().to_string();
    assert!(error.starts_with("config.CDI_devices[0] \"v.com/gpu=0\" is in both "), "{error}");
    assert!(error.contains("second/a.json") && error.contains("second/c.json"), "{error}");
}

#[test]
fn a_broken_file_is_named_and_hinders_nobody_else() {
    let directories = Directories::new();
    directories.write("first/good.json", &from("good"));
    directories.write("first/bad.yaml", "cdiVersion: [");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(directories.0.path().join("first/fifo.json"))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(directories.env("v.com/gpu=0").unwrap(), ["FROM=good"]);
    let broken: Vec<_> = directories
        .1
        .broken()
        .into_iter()
        .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(broken, ["bad.yaml", "fifo.json"]);
    let error = directories.env("v.com/gpu=9").unwrap_err().to_string();
    for part in ["config.CDI_devices[0] \"v.com/gpu=9\"", "first", "missing", "bad.yaml is no CDI"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_is_no_specification_is_refused_with_the_reason() {
    let edits = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"v/c","devices":[{{"name":"d","containerEdits":{edits}}}]}}"#
        )
    };
    assert!(parse(&edits(r#"{"env":["A=b"]}"#), Format::Json).is_ok());
    let device = edits(r#"{"env":["A="]}"#);
    for (text, problem) in [
        (device.replace("0.6.0", "9.0.0"), "cdiVersion"),
        (device.replace("v/c", "v"), "kind"),
        (device.replace("v/c", "-v/c"), "kind"),
        (device.replace("\"d\"", "\"d/e\""), "no name"),
        (device.replace("\"kind\"", "\"kinds\""), "unknown field"),
        (r#"{"cdiVersion":"0.6.0","kind":"v/c","devices":[]}"#.to_owned(), "no devices"),
        (edits("{}"), "changes nothing"),
        (edits(r#"{"env":["A"]}"#), "environment"),
        (edits(r#"{"deviceNodes":[{"path":"dev"}]}"#), "device node"),
        (edits(r#"{"deviceNodes":[{"path":"/dev/x","type":"x"}]}"#), "device node"),
        (edits(r#"{"deviceNodes":[{"path":"/dev/x","permissions":"x"}]}"#), "permissions"),
        (edits(r#"{"hooks":[{"path":"/x"}]}"#), "hook"),
        (edits(r#"{"hooks":[{"hookName":"never","path":"/x"}]}"#), "unknown variant"),
        (edits(r#"{"mounts":[{"hostPath":"/x","containerPath":"y"}]}"#), "mount"),
        (edits(r#"{"netDevices":[{"hostInterfaceName":"eth0"}]}"#), "network device"),
    ] {
        for format in [Format::Json, Format::Yaml] {
            let found = parse(&text, format).expect_err(problem);
            assert!(found.contains(problem), "{problem}: {found}");
        }
    }
}

#[test]
fn a_file_names_a_version_that_has_all_that_it_uses() {
    let text = |version: &str, kind: &str, name: &str, more: &str| {
        format!(
            r#"{{"cdiVersion":"{version}","kind":"{kind}","devices":[{{"name":"{name}",{more}}}]}}"#
        )
    };
    let edits = |edits: &str| format!(r#""containerEdits":{{"env":["A=b"],{edits}}}"#);
    let plain = r#""containerEdits":{"env":["A=b"]}"#;
    let versions = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
    let mount = r#""mounts":[{"hostPath":"/x","containerPath":"/y","type":"bind"}]"#;
    let net = r#""netDevices":[{"hostInterfaceName":"eth0","name":"n"}]"#;
    for (least, kind, name, more, what) in [
        ("0.3.0", "v/c", "d", plain.to_owned(), ""),
        ("0.4.0", "v/c", "d", edits(mount), "mounts.type"),
        ("0.5.0", "v/c", "0", plain.to_owned(), "a device name that begins with a digit"),
        (
            "0.5.0",
            "v/c",
            "d",
            edits(r#""deviceNodes":[{"path":"/x","hostPath":"/y"}]"#),
            "deviceNodes.hostPath",
        ),
        ("0.6.0", "v/c.d", "d", plain.to_owned(), "a class with a dot in kind"),
        ("0.6.0", "v/c", "d", format!(r#""annotations":{{"a":"b"}},{plain}"#), "annotations"),
        ("0.7.0", "v/c", "d", edits(r#""additionalGids":[5]"#), "additionalGids"),
        ("0.7.0", "v/c", "d", edits(r#""intelRdt":{"closID":"x"}"#), "intelRdt"),
        ("1.1.0", "v/c", "d", edits(r#""intelRdt":{"schemata":["x"]}"#), "intelRdt.schemata"),
        (
            "1.1.0",
            "v/c",
            "d",
            edits(r#""intelRdt":{"enableMonitoring":true}"#),
            "intelRdt.enableMonitoring",
        ),
        ("1.1.0", "v/c", "d", edits(net), "netDevices"),
    ] {
        let least = versions.iter().position(|it| *it == least).unwrap();
        for (at, version) in versions.iter().enumerate() {
            let parsed = parse(&text(version, kind, name, &more), Format::Json);
            if at >= least {
                assert!(parsed.is_ok(), "{version} {what}: {parsed:?}");
            } else {
                let error = parsed.expect_err(what);
                let wanted = format!(
                    "has cdiVersion {version:?}, but uses {what}, for which it has to be at least {}",
                    versions[least]
                );
                assert_eq!(error, wanted);
            }
        }
    }
    // What the whole file says counts like what a device says.
    let general = format!(
        r#"{{"cdiVersion":"0.3.0","kind":"v/c","containerEdits":{{{net}}},"devices":[{{"name":"d",{plain}}}]}}"#
    );
    assert!(parse(&general, Format::Json).unwrap_err().contains("netDevices"));
}

#[test]
fn a_device_that_cannot_be_had_here_is_refused_by_name() {
    let directories = Directories::new();
    let write = |edits: &str| {
        let text = format!(
            r#"{{"cdiVersion":"1.1.0","kind":"v/c","devices":[{{"name":"d","containerEdits":{edits}}}]}}"#
        );
        directories.write("first/a.json", &text);
        let error = directories.inject(&["v/c=d"]).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {cause}")
    };
    for (edits, cause) in [
        (r#"{"deviceNodes":[{"path":"/dev/davit-none"}]}"#, "look at the device /dev/davit-none"),
        (
            r#"{"deviceNodes":[{"path":"/dev/null","type":"b"}]}"#,
            "/dev/null is no device of type \"b\"",
        ),
        (r#"{"deviceNodes":[{"path":"/dev/x","hostPath":"/etc"}]}"#, "/etc is no device"),
        (
            r#"{"netDevices":[{"hostInterfaceName":"eth7","name":"net0"}]}"#,
            "handler \"crun\" can't give a container the network device \"eth7\"",
        ),
    ] {
        let error = write(edits);
        assert!(error.starts_with("config.CDI_devices[0] \"v/c=d\" of "), "{error}");
        assert!(error.contains(cause), "{cause}: {error}");
    }
}

#[test]
fn a_network_device_is_given_where_the_handler_can() {
    let mut given = Given::new();
    given.handler.features.net_devices = true;
    let mut built = given.build().unwrap();
    let device = spec::NetDevice { host_interface_name: "eth7".into(), name: "net0".into() };
    let edits = Edits { net_devices: vec![device], ..Edits::default() };
    edits::apply(&edits, &mut built, &given.handler).unwrap();
    let linux = built.spec.linux().as_ref().unwrap();
    let moved = linux.net_devices().as_ref().unwrap();
    assert_eq!(moved["eth7"].name().as_deref(), Some("net0"));
}

proptest! {
    #[test]
    fn no_text_makes_parsing_fail(text in "\\PC{0,200}", at in 0..EVERYTHING.len()) {
        let _ = parse(&text, Format::Yaml);
        let _ = parse(&text, Format::Json);
        if let Some((head, tail)) = EVERYTHING.split_at_checked(at) {
            let _ = parse(&format!("{head}{text}{tail}"), Format::Yaml);
        }
        let _ = is_qualified(&text);
    }
}
