//! What is made is what was meant, byte for byte.

use super::*;
use crate::registry::{Digest, Store};
use std::collections::BTreeSet;

fn entries(archive: &[u8]) -> Vec<(String, tar::EntryType, Option<String>)> {
    let mut archive = tar::Archive::new(archive);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let link =
                entry.link_name_bytes().map(|link| String::from_utf8(link.into_owned()).unwrap());
            (path, entry.header().entry_type(), link)
        })
        .collect()
}

#[test]
fn a_layer_names_its_entries_as_told_however_bad() {
    let long = "a/".repeat(80) + "end";
    let mut layer = Layer::new();
    layer
        .file("../escape", "x")
        .file("/absolute", "x")
        .symlink("link", "/etc")
        .hard_link("hard", &long);
    layer.file(&long, "x").whiteout("dir/gone").opaque("dir");
    let paths: Vec<_> = entries(&layer.archive().unwrap());
    let expected = [
        "../escape",
        "/absolute",
        "link",
        "hard",
        long.as_str(),
        "dir/.wh.gone",
        "dir/.wh..wh..opq",
    ];
    assert_eq!(paths.iter().map(|(path, _, _)| path.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(paths[2].2.as_deref(), Some("/etc"));
    assert_eq!(paths[3].2.as_deref(), Some(long.as_str()));
}

#[test]
fn a_tree_names_each_path_once_with_parents_and_link_targets_first() {
    let mut tree = Tree::new();
    tree.hard_link("bin/ash", "bin/busybox").file("bin/busybox", "x", 0o755).file(
        "bin/busybox",
        "y",
        0o755,
    );
    tree.file("a/b/c", "", 0o600);
    let paths: Vec<String> =
        entries(&tree.layer().archive().unwrap()).into_iter().map(|(path, _, _)| path).collect();
    assert_eq!(paths, ["a/", "a/b/", "a/b/c", "bin/", "bin/busybox", "bin/ash"]);
}

#[test]
fn the_same_image_has_the_same_digests() {
    let dir = tempfile::tempdir().unwrap();
    let build = |name: &str, compression| {
        let store = Store::open(&dir.path().join(name)).unwrap();
        let image = ImageBuilder::new().compression(compression).layer(|layer| {
            layer.file("file", vec![7; 100_000]).directory("dir");
        });
        image.unwrap().push(&store, "repo", &["tag"]).unwrap()
    };
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        assert_eq!(build("one", compression), build("two", compression));
    }
    assert_ne!(build("one", Compression::Gzip).layers, build("two", Compression::Zstd).layers);
}

#[test]
fn lies_are_in_the_manifest_and_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (wrong, other) =
        (format!("sha256:{}", "1".repeat(64)), format!("sha256:{}", "2".repeat(64)));
    let image = ImageBuilder::new().archive(b"not an archive").unwrap();
    let image = image.lie_about_diff_id(&wrong).lie_about_size(5).lie_about_digest(&other);
    let built = image.build(&store, "repo").unwrap();
    let json = |digest: &Digest| -> serde_json::Value {
        serde_json::from_slice(&store.read(digest).unwrap()).unwrap()
    };
    let manifest = json(&built.manifest);
    assert_eq!(manifest["layers"][0]["size"], 5);
    assert_eq!(manifest["layers"][0]["digest"], other);
    assert_eq!(json(&built.config)["rootfs"]["diff_ids"][0], wrong);
}

#[test]
fn the_busybox_image_is_whole() {
    let dir = catalog::ensure(&catalog::cache()).unwrap();
    let base = std::fs::read(dir.join("base.tar")).unwrap();
    let entries = entries(&base);
    let paths: BTreeSet<&str> = entries.iter().map(|(path, _, _)| path.as_str()).collect();
    assert_eq!(paths.len(), entries.len(), "a path is named twice");
    for path in ["bin/sh", "bin/sleep", "bin/httpd", "bin/pgrep", "etc/passwd", "tmp/", "lib/"] {
        assert!(paths.contains(path), "{path}");
    }
    let applets = entries.iter().filter(|(_, kind, _)| *kind == tar::EntryType::Link).count();
    assert!(applets > 200, "{applets}");
    let names = Store::open(&dir).unwrap().names().unwrap();
    for name in [
        "library/busybox:latest",
        "davit-test/busybox:zstd",
        "pause:3.9",
        "e2e-test-images/nginx:1.14-2",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}
