//! Whole pulls, from a registry on loopback to layers on disk.

use super::testing::{Answer, INDEX, Layer, Tar, TestRegistry, digest};
use super::view::LayerView;
use super::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn request(image: impl Into<String>) -> PullRequest {
    PullRequest { image: image.into(), auth: Auth::default(), progress: None }
}

fn layer(name: &str, text: &str) -> Vec<u8> {
    Tar::default().directory("dir", 0o755).file(name, text.as_bytes()).end()
}

/// Random enough that no compression makes it small.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Everything below `layers/` and `images/` that is not a finished layer or image. What is deleted in the background gets time.
async fn leftovers(root: &Path) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut found = Vec::new();
        for directory in ["layers", "images"] {
            for entry in std::fs::read_dir(root.join("lib").join(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.len() != 64 {
                    found.push(format!("{directory}/{name}"));
                }
            }
        }
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn layer_count(root: &Path, expected: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let count = std::fs::read_dir(root.join("lib/layers")).unwrap().count();
        if count == expected || Instant::now() > deadline {
            return count;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_image_of_every_compression_is_pulled_named_and_read() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let tars = [layer("dir/a", "plain"), layer("dir/b", "gzip"), layer("dir/c", "zstd")];
    let layers = [Layer::plain(&tars[0]), Layer::gzip(&tars[1]), Layer::zstd(&tars[2])];
    let (manifest, config) = registry.image("team/app", "v1", &layers);
    let images = TestRegistry::images(root.path()).await;
    let (progress, mut events) = tokio::sync::mpsc::channel(100);
    let name = format!("{}/team/app:v1", registry.host());
    let image =
        images.pull(PullRequest { progress: Some(progress), ..request(&name) }).await.unwrap();

    assert_eq!((&image.id, &image.manifest), (&config, &manifest));
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    let by_digest = format!("{}/team/app@{manifest}", registry.host());
    assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(image.layers, layers.clone().map(|layer| layer.diff_id));
    assert_eq!(
        (image.config.user.as_str(), image.config.cmd.as_slice()),
        ("7", &["/bin/true".to_owned()][..])
    );
    let blobs: usize = layers.iter().map(|layer| layer.blob.len()).sum();
    assert!(image.size > blobs as u64 && image.raw_config.contains("rootfs"));
    for text in [
        &name,
        &by_digest,
        config.as_str(),
        config.hex(),
        &config.hex()[..7],
        &format!("{name}@{manifest}"),
    ] {
        assert_eq!(images.find(text).unwrap().as_ref(), Some(&image), "{text}");
    }
    assert_eq!(images.list(), std::slice::from_ref(&image));

    let hold = images.hold(&image.layers).unwrap();
    assert!(hold.lower().iter().all(|path| path.is_absolute() && path.is_dir()));
    let view = LayerView::new(hold.lower());
    for (path, text) in [("/dir/a", "plain"), ("dir/b", "gzip"), ("dir/c", "zstd")] {
        assert_eq!(view.read(path, 100).unwrap().unwrap(), text.as_bytes());
    }
    let usage = images.usage().await.unwrap();
    assert_eq!((usage.inodes, usage.bytes), (9, 3 * 3 * 4096));
    let mut plan = None;
    let mut done = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            PullEvent::Plan { layers, .. } => plan = Some(layers),
            PullEvent::Layer { done: true, .. } => done += 1,
            PullEvent::Layer { .. } => {}
        }
    }
    assert!(plan.unwrap().iter().all(|layer| !layer.present) && done == 3);
    assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_platform() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let (manifest, config) = registry.image("app", "unused", &[Layer::gzip(&layer("x", "amd64"))]);
    let platform = |architecture: &str, digest: &Digest| {
        serde_json::json!({ "mediaType": super::testing::MANIFEST, "digest": digest, "size": 1,
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let other = digest(b"not served");
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [platform("arm64", &other), platform("amd64", &manifest), { "mediaType": "application/x", "digest": other, "size": 1 }] });
    let index_digest = registry.manifest("app", "latest", &index);
    let nested = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{ "mediaType": INDEX, "digest": index_digest, "size": 1, "platform": { "os": "linux", "architecture": "amd64" } }] });
    registry.manifest("app", "nested", &nested);
    let images = TestRegistry::images(root.path()).await;
    let name = format!("{}/app", registry.host());
    let image = images.pull(request(&name)).await.unwrap();
    assert_eq!((&image.id, &image.manifest), (&config, &manifest));
    assert_eq!(image.repo_digests, [format!("{name}@{index_digest}")]);
    assert_eq!(images.pull(request(format!("{name}:nested"))).await.unwrap().id, config);

    let image = images.pull(request(format!("{name}:v9@{manifest}"))).await.unwrap();
    assert_eq!(
        image.repo_tags.len(),
        2,
        "a tag beside a digest names nothing: {:?}",
        image.repo_tags
    );
    assert!(image.repo_digests.contains(&format!("{name}@{manifest}")));

    let unsaid = |digest: &Digest| serde_json::json!({ "mediaType": super::testing::MANIFEST, "digest": digest, "size": 1 });
    let any = |tag: &str, entries: &[serde_json::Value]| {
        let any =
            serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        registry.manifest("app", tag, &any);
        images.pull(request(format!("{name}:{tag}")))
    };
    let image = any("said", &[unsaid(&other), platform("amd64", &manifest)]).await.unwrap();
    assert_eq!(image.manifest, manifest);
    let image = any("unsaid", &[platform("arm64", &other), unsaid(&manifest)]).await.unwrap();
    assert_eq!(image.manifest, manifest);

    let arm = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [platform("arm64", &other)] });
    registry.manifest("app", "arm", &arm);
    let error = images.pull(request(format!("{name}:arm"))).await.unwrap_err();
    assert!(
        matches!(error, PullError::Content { .. }) && error.to_string().contains("linux/arm64"),
        "{error}"
    );
}

#[tokio::test]
async fn what_a_registry_lies_about_is_refused_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let good = layer("x", "good");
    let blob = |layer: &Layer| format!("/v2/app/blobs/{}", digest(&layer.blob));
    let serve = |tag: &str, layer: Layer| {
        registry.image("app", tag, std::slice::from_ref(&layer));
        blob(&layer)
    };
    let body = |bytes: Vec<u8>| move |answer: &mut Answer| answer.body = bytes.into();

    let path = serve("digest", Layer::plain(&layer("x", "digest")));
    let mut damaged = layer("x", "digest");
    damaged[600] ^= 1;
    registry.change(&path, body(damaged));
    let path = serve("short", Layer::gzip(&layer("x", "short")));
    registry.change(&path, |answer| answer.body = answer.body.slice(..answer.body.len() - 1));
    let path = serve("long", Layer::gzip(&layer("x", "long")));
    registry
        .change(&path, |answer| answer.body = [&answer.body[..], &[0; 100_000]].concat().into());
    let path = serve("endless", Layer::gzip(&layer("x", "endless")));
    registry.change(&path, |answer| answer.endless = true);
    serve("diff", Layer { diff_id: digest(b"other"), ..Layer::gzip(&good) });
    serve("diff-plain", Layer { diff_id: digest(b"another"), ..Layer::plain(&good) });
    let mut cut = Layer::gzip(&layer("x", "cut"));
    cut.blob.truncate(cut.blob.len() / 2);
    serve("cut", cut);
    let mut cut = Layer::zstd(&layer("x", "cut2"));
    cut.blob.truncate(cut.blob.len() - 3);
    serve("cut-zstd", cut);
    serve("escape", Layer::gzip(&layer("../evil", "")));
    serve("no-archive", Layer::gzip(&noise(5000, 3)));
    serve(
        "type",
        Layer {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ..Layer::gzip(&good)
        },
    );
    for (tag, text) in [
        ("digest", "has digest"),
        ("short", "bytes, its descriptor says"),
        ("long", "bytes, its descriptor says"),
        ("endless", "bytes, its descriptor says"),
        ("diff", "the config says"),
        ("diff-plain", "the config says"),
        ("cut", "decompress"),
        ("cut-zstd", "decompress"),
        ("escape", "\"../evil\" climbs out"),
        ("no-archive", "archive is broken"),
        ("type", "encrypted"),
    ] {
        let error =
            images.pull(request(format!("{}/app:{tag}", registry.host()))).await.unwrap_err();
        assert!(matches!(error, PullError::Content { .. }), "{tag}: {error:?}");
        assert!(error.to_string().contains(text), "{tag}: {error}");
    }
    assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
    assert_eq!((layer_count(root.path(), 0).await, images.list().len()), (0, 0));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn documents_that_are_too_large_or_not_what_they_say_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let (manifest, _) = registry.image("app", "good", &[Layer::gzip(&layer("x", "y"))]);
    let set = |tag: &str, answer: Answer| registry.set(&format!("/v2/app/manifests/{tag}"), answer);
    set("endless", Answer { endless: true, ..Answer::ok("") });
    set("large", Answer::ok(vec![b' '; 100 << 20]));
    set(manifest.as_str(), Answer::ok("{}"));
    set("schema1", Answer::ok(r#"{"schemaVersion":1,"fsLayers":[]}"#));
    set("both", Answer::ok(r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#));
    set("neither", Answer::ok(r#"{"schemaVersion":2}"#));
    set("text", Answer::ok("hello"));
    set("mixed", Answer::ok(r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#)
        .header("content-type", "application/vnd.oci.image.manifest.v1+json"));
    let descriptor = |digest: &str, size: &str| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{digest}","size":{size}}},"layers":[]}}"#,
            super::testing::CONFIG
        )
    };
    let fine = digest(b"x");
    set("negative", Answer::ok(descriptor(fine.as_str(), "-1")));
    set("huge-config", Answer::ok(descriptor(fine.as_str(), "99999999999")));
    for (tag, text) in [
        ("path", "sha256:../../x"),
        ("empty", ""),
        ("upper", &fine.as_str().to_uppercase()),
        ("algorithm", "md5:00"),
    ] {
        set(tag, Answer::ok(descriptor(text, "1")));
    }
    let one = format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{fine}","size":1}}"#
    );
    let many = vec![one; 501].join(",");
    set("many", Answer::ok(descriptor(fine.as_str(), "1").replace("[]", &format!("[{many}]"))));
    let myself = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    let deepest = registry.manifest("app", "empty-index", &myself);
    let mut inner = deepest;
    for depth in 0..10 {
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests":
            [{ "mediaType": INDEX, "digest": inner, "size": 1, "platform": { "os": "linux", "architecture": "amd64" } }] });
        inner = registry.manifest("app", &format!("deep-{depth}"), &index);
    }
    let started = Instant::now();
    for (tag, text) in [
        ("endless", "larger than 4194304"),
        ("large", "larger than 4194304"),
        ("schema1", "schema version 1"),
        ("both", "both layers and manifests"),
        ("neither", "neither layers nor manifests"),
        ("text", "read the manifest"),
        ("mixed", "mediaType"),
        ("negative", "read the manifest"),
        ("huge-config", "size of the config"),
        ("path", "read the manifest"),
        ("empty", "read the manifest"),
        ("upper", "read the manifest"),
        ("algorithm", "read the manifest"),
        ("many", "number of layers is 501, above the limit of 500"),
        ("empty-index", "no image for platform"),
        ("deep-9", "inside too many"),
    ] {
        let error =
            images.pull(request(format!("{}/app:{tag}", registry.host()))).await.unwrap_err();
        assert!(
            matches!(error, PullError::Content { .. }) && error.to_string().contains(text),
            "{tag}: {error}"
        );
    }
    let error =
        images.pull(request(format!("{}/app@{manifest}", registry.host()))).await.unwrap_err();
    assert!(
        matches!(error, PullError::Content { .. }) && error.to_string().contains("expected"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let requests = registry.asked().len();
    assert!(requests < 40, "{requests} requests");
}

#[tokio::test]
async fn errors_say_whose_fault_it_is() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let host = registry.host();
    registry.set("/v2/app/manifests/broken", Answer::status(503));
    registry.set("/v2/app/manifests/busy", Answer::status(429));
    registry.set("/v2/app/manifests/odd", Answer::status(418));
    registry.set("/v2/app/manifests/locked", Answer::status(403));
    registry.set(
        "/v2/app/manifests/loop",
        Answer::status(302).header("location", "/v2/app/manifests/loop"),
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pull = |name: String| {
        let images = images.clone();
        async move { images.pull(request(name)).await.unwrap_err() }
    };
    assert!(matches!(pull(format!("{host}/app:none")).await, PullError::NotFound { .. }));
    assert!(matches!(pull(format!("{host}/app:locked")).await, PullError::Unauthorized { .. }));
    assert!(matches!(pull(format!("{host}/app:odd")).await, PullError::Refused { .. }));
    assert!(matches!(pull(format!("{host}/app:loop")).await, PullError::Refused { .. }));
    for name in [format!("{host}/app:broken"), format!("{host}/app:busy"), format!("{free}/app")] {
        let error = pull(name).await;
        assert!(matches!(error, PullError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    }
    assert!(matches!(pull("Bad Name".to_owned()).await, PullError::InvalidReference(_)));
    let bad = Auth { auth: "?".into(), ..Auth::default() };
    let error = images.pull(PullRequest { auth: bad, ..request("app") }).await.unwrap_err();
    assert!(matches!(error, PullError::InvalidAuth(_)));
}

#[tokio::test]
async fn a_registry_that_falls_silent_is_given_up_and_a_slow_one_is_not() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let config = ImagesConfig {
        pull_progress_timeout: Duration::from_secs(3),
        ..TestRegistry::config(root.path())
    };
    let images = Images::open(config, Arc::default()).await.unwrap();
    let slow = Layer::gzip(&layer("x", "slow"));
    registry.image("app", "slow", std::slice::from_ref(&slow));
    registry.change(&format!("/v2/app/blobs/{}", digest(&slow.blob)), |answer| {
        answer.pause = Some(Duration::from_secs(1))
    });
    images.pull(request(format!("{}/app:slow", registry.host()))).await.unwrap();
    let silent = Layer::gzip(&layer("x", "silent"));
    registry.image("app", "silent", std::slice::from_ref(&silent));
    registry.change(&format!("/v2/app/blobs/{}", digest(&silent.blob)), |answer| {
        answer.pause = Some(Duration::from_secs(60))
    });
    let error = images.pull(request(format!("{}/app:silent", registry.host()))).await.unwrap_err();
    assert!(matches!(error, PullError::Timeout { .. }), "{error}");
    assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let large = Layer::plain(&Tar::default().file("noise", &noise(3 << 20, 5)).end());
    registry.image("app", "v1", std::slice::from_ref(&large));
    let path = format!("/v2/app/blobs/{}", digest(&large.blob));
    registry.change(&path, |answer| {
        answer.breaks = Arc::new(std::sync::Mutex::new(vec![700_000, 1_000_000]))
    });
    images.pull(request(format!("{}/app:v1", registry.host()))).await.unwrap();
    let ranges: Vec<_> = registry
        .asked()
        .iter()
        .filter(|asked| asked.path == path)
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges[0].is_none() && ranges[1].is_some() && ranges[2].is_some());
}

#[tokio::test]
async fn a_registry_in_trouble_is_asked_again() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let (first, last) = (Layer::gzip(&layer("x", "first")), Layer::gzip(&layer("y", "last")));
    registry.image("app", "v1", &[first.clone(), last.clone()]);
    let path = |layer: &Layer| format!("/v2/app/blobs/{}", digest(&layer.blob));
    registry.change(&path(&last), |answer| {
        *answer = answer.clone().troubled(&[(503, ""), (429, "0"), (502, "soon")]);
    });
    registry.change("/v2/app/manifests/v1", |answer| {
        *answer = answer
            .clone()
            .troubled(&[(504, ""), (429, "1")])
            .guarded("Bearer right", &format!("Bearer realm=\"http://{}/token\"", registry.host()));
    });
    registry.set("/token", Answer::ok(r#"{"token":"right"}"#).troubled(&[(503, "")]));
    let began = Instant::now();
    images.pull(request(format!("{}/app:v1", registry.host()))).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "it asked for a second of peace");
    assert_eq!((registry.count(&path(&first)), registry.count(&path(&last))), (1, 4));
    assert_eq!(registry.count("/token"), 2);
}

#[tokio::test]
async fn a_registry_that_stays_in_trouble_is_given_up() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let large = Layer::plain(&Tar::default().file("noise", &noise(1 << 20, 3)).end());
    registry.image("app", "v1", std::slice::from_ref(&large));
    let path = format!("/v2/app/blobs/{}", digest(&large.blob));
    let pull = || images.pull(request(format!("{}/app:v1", registry.host())));
    let refused = async |status: &str| {
        let before = registry.count(&path);
        let error = pull().await.unwrap_err();
        assert!(matches!(error, PullError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(status), "{error}");
        assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
        registry.count(&path) - before
    };
    // Nothing comes at all; it wants to be left alone for long.
    registry.change(&path, |answer| *answer = answer.clone().troubled(&[(503, ""); 100]));
    assert_eq!(refused("503").await, 5);
    registry.change(&path, |answer| *answer = answer.clone().troubled(&[(429, "3600"); 100]));
    assert_eq!(refused("429").await, 1);
    // Half of it comes, then nothing.
    registry.change(&path, |answer| {
        *answer = answer.clone().troubled(&[]);
        answer.breaks = Arc::new(std::sync::Mutex::new(vec![1000; 100]));
    });
    assert_eq!(refused("blobs").await, 5);
    registry.change(&path, |answer| answer.breaks = Arc::default());
    pull().await.unwrap();
}

#[tokio::test]
async fn a_layer_that_nobody_waits_for_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let config = ImagesConfig {
        retry_pauses: [Duration::from_secs(30); 4],
        ..TestRegistry::config(root.path())
    };
    let images = Images::open(config, Arc::default()).await.unwrap();
    let (bad, waits) = (Layer::gzip(&layer("x", "bad")), Layer::gzip(&layer("y", "waits")));
    registry.image("app", "v1", &[bad.clone(), waits.clone()]);
    let path = |layer: &Layer| format!("/v2/app/blobs/{}", digest(&layer.blob));
    registry.change(&path(&waits), |answer| answer.status = 503);
    registry.change(&path(&bad), |answer| {
        answer.status = 404;
        answer.pause = Some(Duration::from_millis(200));
    });
    let name = format!("{}/app:v1", registry.host());
    let error = images.pull(request(name)).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
    assert_eq!(registry.count(&path(&waits)), 1);
}

#[tokio::test]
async fn a_registry_that_drips_does_not_stop_pulls_from_another() {
    let root = tempfile::tempdir().unwrap();
    let (drips, good) = (TestRegistry::start().await, TestRegistry::start().await);
    let images = TestRegistry::images(root.path()).await;
    for number in 0..9 {
        let layers = [0, 1, 2, 3].map(|at| Layer::gzip(&layer("x", &format!("{number} {at}"))));
        let repository = format!("app-{number}");
        drips.image(&repository, "latest", &layers);
        for layer in &layers {
            drips.change(&format!("/v2/{repository}/blobs/{}", digest(&layer.blob)), |answer| {
                answer.pause = Some(Duration::from_secs(60));
            });
        }
        let (images, name) = (images.clone(), format!("{}/{repository}", drips.host()));
        tokio::spawn(async move { images.pull(request(name)).await });
    }
    let blobs = || drips.asked().iter().filter(|asked| asked.path.contains("/blobs/")).count();
    let deadline = Instant::now() + Duration::from_secs(5);
    // All the configs, and as many layers as one host may give at once.
    while blobs() < 9 + 12 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    good.image("app", "latest", &[Layer::gzip(&layer("x", "good"))]);
    let pull = images.pull(request(format!("{}/app", good.host())));
    tokio::time::timeout(Duration::from_secs(5), pull).await.unwrap().unwrap();
    assert_eq!(blobs(), 9 + 12);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story of a token, told in order")]
async fn credentials_are_answered_to_challenges_and_go_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let stranger = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let one = Layer::gzip(&layer("x", "secret"));
    let (manifest, config) = registry.image("app", "v1", std::slice::from_ref(&one));
    let host = registry.host();
    let token_server = TestRegistry::start().await;
    token_server.set(
        "/token",
        Answer::ok(r#"{"access_token":"t0k3n"}"#).guarded("Basic dTpodXNo", "Basic"),
    );
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"ignored\"",
        token_server.host()
    );
    let blob = format!("/v2/app/blobs/{}", digest(&one.blob));
    let guard_all = |authorization: &str, challenge: &str| {
        for path in [
            "/v2/app/manifests/v1",
            &format!("/v2/app/manifests/{manifest}"),
            &blob,
            &format!("/v2/app/blobs/{config}"),
        ] {
            registry.change(path, |answer| {
                answer.guard = Some((authorization.to_owned(), challenge.to_owned()))
            });
        }
    };
    guard_all("Bearer t0k3n", &challenge);
    // The blob itself is elsewhere, as clouds do it: the token must not go there.
    let served = Answer::ok(one.blob.clone());
    stranger.set("/cloud", served);
    registry.change(&blob, |answer| {
        answer.status = 307;
        answer.headers = vec![(
            "location".to_owned(),
            format!("http://{}/cloud?signature=hush", stranger.host()),
        )];
    });
    let auth = Auth { username: "u".into(), password: "hush".into(), ..Auth::default() };
    let with =
        |auth: &Auth| PullRequest { auth: auth.clone(), ..request(format!("{host}/app:v1")) };

    let error = images.pull(with(&Auth::default())).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    let elsewhere = Auth { server_address: "https://other.example".into(), ..auth.clone() };
    let error = images.pull(with(&elsewhere)).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    assert!(
        registry
            .asked()
            .iter()
            .chain(&token_server.asked())
            .all(|asked| !asked.headers.contains_key("authorization"))
    );

    images.pull(with(&auth)).await.unwrap();
    let asked = token_server.asked();
    assert_eq!(asked.last().unwrap().query, "service=s&scope=repository%3Aapp%3Apull");
    assert_eq!(stranger.asked().len(), 1);
    assert!(stranger.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    stranger.set("/cloud", Answer::status(500));
    images.remove(config.as_str()).await.unwrap();
    let error = images.pull(with(&auth)).await.unwrap_err().to_string();
    assert!(
        !error.contains("hush") && !error.contains("t0k3n") && error.contains("/cloud"),
        "{error}"
    );
    stranger.set("/cloud", Answer::ok(one.blob.clone()));

    for (authorization, challenge, auth) in [
        ("Basic dTpodXNo", "Basic realm=\"x\"", auth.clone()),
        (
            "Basic dTpodXNo",
            "Basic realm=\"x\"",
            Auth { auth: "dTpodXNo".into(), ..Auth::default() },
        ),
        (
            "Bearer as-it-is",
            "Bearer realm=\"http://127.0.0.1:1/\"",
            Auth { registry_token: "as-it-is".into(), ..Auth::default() },
        ),
    ] {
        images.remove(config.as_str()).await.unwrap();
        guard_all(authorization, challenge);
        images.pull(with(&auth)).await.unwrap_or_else(|error| panic!("{authorization}: {error}"));
    }

    images.remove(config.as_str()).await.unwrap();
    token_server.set("/token", Answer::ok(r#"{"token":"t0k3n"}"#));
    guard_all("Bearer t0k3n", &challenge);
    images.pull(with(&Auth { identity_token: "refresh".into(), ..Auth::default() })).await.unwrap();
    let body = token_server.asked().last().unwrap().body.clone();
    assert!(
        body.contains("grant_type=refresh_token")
            && body.contains("refresh_token=refresh")
            && body.contains("scope=repository%3Aapp%3Apull")
    );
}

#[tokio::test]
async fn a_registry_cannot_send_credentials_to_a_stranger_or_put_them_into_errors() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let auth = Auth { username: "u".into(), password: "hush".into(), ..Auth::default() };
    for (realm, text) in [
        ("http://127.0.0.2:9/token?a=b", "address of another host"),
        ("http://evil.example/token", "another domain"),
        ("file:///etc/passwd", "not https"),
        ("nonsense", "no URL"),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        registry.set("/v2/app/manifests/latest", Answer::ok("").guarded("never", &challenge));
        let asked =
            PullRequest { auth: auth.clone(), ..request(format!("{}/app", registry.host())) };
        let error = images.pull(asked).await.unwrap_err();
        assert!(
            matches!(error, PullError::Unauthorized { .. }) && error.to_string().contains(text),
            "{error}"
        );
    }
    let echo = r#"{"errors":[{"code":"DENIED","message":"no hush for dTpodXNo\u001b[31m"}]}"#;
    registry.set("/v2/app/manifests/latest", Answer { status: 403, ..Answer::ok(echo) });
    let asked = PullRequest { auth, ..request(format!("{}/app", registry.host())) };
    let error = images.pull(asked).await.unwrap_err().to_string();
    assert!(error.contains("no (hidden) for (hidden)[31m") && !error.contains('\u{1b}'), "{error}");
    registry.set(
        "/v2/app/manifests/latest",
        Answer::ok("")
            .guarded("never", &format!("Bearer realm=\"http://{}/endless\"", registry.host())),
    );
    registry.set("/endless", Answer { endless: true, ..Answer::ok("") });
    let error = images.pull(request(format!("{}/app", registry.host()))).await.unwrap_err();
    assert!(error.to_string().contains("larger than 1048576"), "{error}");
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_the_registry_comes_last() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let (origin, mirror, dead) =
        (TestRegistry::start().await, TestRegistry::start().await, TestRegistry::start().await);
    let images = TestRegistry::images(root.path()).await;
    let layers =
        [Layer::gzip(&layer("x", "mirrored")), Layer::gzip(&layer("y", "only at the origin"))];
    origin.image("app", "v1", &layers);
    mirror.image("prefix/app", "v1", &layers);
    mirror.set(&format!("/v2/prefix/app/blobs/{}", digest(&layers[1].blob)), Answer::status(404));
    dead.set("/v2/app/manifests/v1", Answer::status(500));
    // A name under which nothing listens: all that answers is configured.
    let name = "registry.invalid:5000";
    let directory = root.path().join("certs.d/registry.invalid_5000_");
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"resolve\"]\n[host.\"http://{}/v2/prefix\"]\noverride_path = true\n\
         [host.\"http://{}/v2/prefix\".header]\nx-mirror = \"yes\"\n",
        origin.host(),
        dead.host(),
        mirror.host(),
        mirror.host()
    );
    std::fs::File::create(directory.join("hosts.toml"))
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let auth = Auth { username: "u".into(), password: "p".into(), ..Auth::default() };
    let image =
        images.pull(PullRequest { auth, ..request(format!("{name}/app:v1")) }).await.unwrap();
    assert_eq!(image.repo_tags, [format!("{name}/app:v1")]);
    assert_eq!((dead.asked().len(), origin.asked().len()), (1, 1), "{:?}", origin.asked());
    assert_eq!(origin.count(&format!("/v2/app/blobs/{}", digest(&layers[1].blob))), 1);
    assert!(
        mirror
            .asked()
            .iter()
            .all(|asked| asked.query == format!("ns={name}") && asked.headers["x-mirror"] == "yes")
    );
    assert!(origin.asked().iter().all(|asked| !asked.headers.contains_key("x-mirror")));
    let plans = images.explain(&format!("{name}/app")).unwrap();
    assert_eq!(plans.len(), 3);
    assert_eq!(plans[1].url, format!("http://{}/v2/prefix", mirror.host()));

    std::fs::File::create(directory.join("hosts.toml")).unwrap().write_all(b"mirror = 1").unwrap();
    let error = images.pull(request(format!("{name}/app:v1"))).await.unwrap_err();
    assert!(
        matches!(error, PullError::Hosts { .. })
            && error.to_string().contains("hosts.toml: mirror"),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_behind_tls_is_believed_if_its_certificate_is() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let (registry, certificate) = TestRegistry::start_tls().await;
    let images = TestRegistry::images(root.path()).await;
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "over TLS"))]);
    let host = registry.host();
    let directory = root.path().join("certs.d").join(&host);
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &str| {
        let mut file = std::fs::File::create(directory.join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let server = format!("server = \"https://{host}\"\n");
    write("hosts.toml", &server);
    let error = images.pull(request(format!("{host}/app"))).await.unwrap_err();
    assert!(matches!(error, PullError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    write("ca.pem", "nonsense");
    write("hosts.toml", &format!("{server}ca = \"ca.pem\"\n"));
    let error = images.pull(request(format!("{host}/app"))).await.unwrap_err();
    assert!(matches!(error, PullError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("ca.pem"), "{error}");
    write("ca.pem", &certificate);
    let image = images.pull(request(format!("{host}/app"))).await.unwrap();
    images.remove(image.id.as_str()).await.unwrap();
    write("hosts.toml", &format!("{server}skip_verify = true\n"));
    images.pull(request(format!("{host}/app"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_at_once_shares_one_download() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let shared = Layer::gzip(&Tar::default().file("noise", &noise(2 << 20, 7)).end());
    let (one, two) = (Layer::gzip(&layer("x", "one")), Layer::zstd(&layer("x", "two")));
    registry.image("one", "latest", &[shared.clone(), one.clone()]);
    registry.image("two", "latest", &[shared.clone(), two]);
    for repository in ["one", "two"] {
        registry.change(&format!("/v2/{repository}/blobs/{}", digest(&shared.blob)), |answer| {
            answer.pause = Some(Duration::from_millis(50))
        });
    }
    let pulls: Vec<_> = (0..10)
        .map(|number| {
            let (images, name) = (images.clone(), if number % 2 == 0 { "one" } else { "two" });
            let host = registry.host();
            tokio::spawn(async move { images.pull(request(format!("{host}/{name}"))).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    let blobs = |layer: &Layer| {
        let digest = digest(&layer.blob);
        registry.count(&format!("/v2/one/blobs/{digest}"))
            + registry.count(&format!("/v2/two/blobs/{digest}"))
    };
    assert_eq!((blobs(&shared), blobs(&one)), (1, 1));
    assert_eq!(registry.count("/v2/one/manifests/latest"), 1);
    assert_eq!((images.list().len(), layer_count(root.path(), 3).await), (2, 3));
}

#[tokio::test]
async fn a_pull_whose_caller_has_gone_ends_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let slow = Layer::gzip(&layer("x", "slow"));
    registry.image("app", "latest", std::slice::from_ref(&slow));
    registry.change(&format!("/v2/app/blobs/{}", digest(&slow.blob)), |answer| {
        answer.pause = Some(Duration::from_millis(100))
    });
    let name = format!("{}/app", registry.host());
    let gone = tokio::time::timeout(Duration::from_millis(150), images.pull(request(&name))).await;
    assert!(gone.is_err() && images.find(&name).unwrap().is_none());
    images.pull(request(&name)).await.unwrap();
    assert_eq!(registry.count("/v2/app/manifests/latest"), 1);
}

#[tokio::test]
async fn who_joins_a_download_that_fails_for_another_tries_for_itself() {
    let root = tempfile::tempdir().unwrap();
    let (bad, good) = (TestRegistry::start().await, TestRegistry::start().await);
    let images = TestRegistry::images(root.path()).await;
    let one = Layer::gzip(&layer("x", "wanted by two"));
    for registry in [&bad, &good] {
        registry.image("app", "latest", std::slice::from_ref(&one));
    }
    bad.change(&format!("/v2/app/blobs/{}", digest(&one.blob)), |answer| {
        answer.body = answer.body.slice(1..);
        answer.pause = Some(Duration::from_millis(150));
    });
    let (first, second) =
        (request(format!("{}/app", bad.host())), request(format!("{}/app", good.host())));
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        images.pull(second).await
    };
    let (failed, fine) = tokio::join!(images.pull(first), later);
    assert!(matches!(failed, Err(PullError::Content { .. })), "{failed:?}");
    fine.unwrap();
}

#[tokio::test]
async fn one_image_from_two_registries_is_one_image_with_both_names() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (TestRegistry::start().await, TestRegistry::start().await);
    let images = TestRegistry::images(root.path()).await;
    let layers = [Layer::gzip(&layer("x", "same"))];
    one.image("a", "1", &layers);
    two.image("b", "2", &layers);
    let first = images.pull(request(format!("{}/a:1", one.host()))).await.unwrap();
    let second = images.pull(request(format!("{}/b:2", two.host()))).await.unwrap();
    assert_eq!((&first.id, second.repo_tags.len(), second.repo_digests.len()), (&second.id, 2, 2));
    assert_eq!(
        two.count(&format!("/v2/b/blobs/{}", digest(&layers[0].blob))),
        0,
        "the layer is here"
    );
    assert_eq!(images.list().len(), 1);
    images.remove(&format!("{}/a:1", one.host())).await.unwrap();
    assert!(
        images.list().is_empty() && images.find(&format!("{}/b:2", two.host())).unwrap().is_none()
    );
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_its_digest() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let name = format!("{}/app:latest", registry.host());
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "old"))]);
    let old = images.pull(request(&name)).await.unwrap();
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "new"))]);
    let new = images.pull(request(&name)).await.unwrap();
    assert_eq!(images.find(&name).unwrap().unwrap().id, new.id);
    images.flush().await.unwrap();
    for images in [images, TestRegistry::images(root.path()).await] {
        let left = images.find(old.id.as_str()).unwrap().unwrap();
        assert!(left.repo_tags.is_empty() && left.repo_digests == old.repo_digests);
        assert_eq!(images.find(&old.repo_digests[0]).unwrap().unwrap().id, old.id);
        assert_eq!(images.find(&name).unwrap().unwrap().id, new.id);
    }
}

#[tokio::test]
async fn a_tag_that_cannot_be_taken_leaves_nothing_of_the_pull() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let name = |repository: &str| format!("{}/{repository}:latest", registry.host());
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "old"))]);
    let old = images.pull(request(name("app"))).await.unwrap();
    let (_, id) = registry.image("app", "latest", &[Layer::gzip(&layer("x", "new"))]);
    registry.image("other", "latest", &[Layer::gzip(&layer("x", "new"))]);
    let place = root.path().join("lib/images").join(old.id.hex());
    let elsewhere = root.path().join("elsewhere");
    // Its record can't be written where it is not.
    std::fs::rename(&place, &elsewhere).unwrap();
    for _ in 0..2 {
        let error = images.pull(request(name("app"))).await.unwrap_err();
        assert!(matches!(error, PullError::Local { .. }), "{error:?}");
        assert_eq!(images.list(), std::slice::from_ref(&old));
        assert!(!root.path().join("lib/images").join(id.hex()).exists());
        assert_eq!(leftovers(root.path()).await, Vec::<String>::new());
        assert_eq!(layer_count(root.path(), 1).await, 1);
    }
    // Nor is a further name kept that could not be taken, of an image that stays.
    let new = images.pull(request(name("other"))).await.unwrap();
    images.pull(request(name("app"))).await.unwrap_err();
    let record = root.path().join("lib/images").join(new.id.hex()).join("image.json");
    assert!(!std::fs::read_to_string(record).unwrap().contains("app:latest"));
    assert_eq!(images.find(new.id.as_str()).unwrap().unwrap(), new);
    std::fs::rename(&elsewhere, &place).unwrap();
    let new = images.pull(request(name("app"))).await.unwrap();
    assert_eq!(images.find(&name("app")).unwrap().unwrap(), new);
    assert!(images.find(old.id.as_str()).unwrap().unwrap().repo_tags.is_empty());
    images.remove(new.id.as_str()).await.unwrap();
    assert_eq!(layer_count(root.path(), 1).await, 1);
}

#[tokio::test]
async fn layers_stay_while_an_image_or_a_hold_names_them() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let base = Layer::gzip(&layer("x", "base"));
    registry.image("one", "latest", &[base.clone(), Layer::gzip(&layer("x", "one"))]);
    registry.image("two", "latest", &[base.clone(), Layer::gzip(&layer("x", "two"))]);
    let one = images.pull(request(format!("{}/one", registry.host()))).await.unwrap();
    let two = images.pull(request(format!("{}/two", registry.host()))).await.unwrap();
    let hold = images.hold(&one.layers).unwrap();
    let removals: Vec<_> = (0..5).map(|_| images.remove(one.id.as_str())).collect();
    for removal in removals {
        removal.await.unwrap();
    }
    assert_eq!(images.list(), std::slice::from_ref(&two));
    assert!(hold.lower().iter().all(|path| path.exists()));
    assert!(images.sweep().await.layers.is_empty());
    drop(hold);
    assert_eq!(layer_count(root.path(), 2).await, 2);
    assert_eq!(images.hold(&one.layers).unwrap_err().0, one.layers[1]);
    images.remove(two.id.hex()).await.unwrap();
    images.remove(two.id.hex()).await.unwrap();
    assert_eq!(layer_count(root.path(), 0).await, 0);
    assert_eq!(images.usage().await.unwrap().inodes, 0);
    assert!(matches!(
        images.remove("No Name").await,
        Err(RemoveError::Find(FindError::Invalid(_)))
    ));
}

#[tokio::test]
async fn a_layer_that_an_image_has_twice_is_stacked_once() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let (twice, between) =
        (Layer::gzip(&layer("x", "twice")), Layer::gzip(&Tar::default().file(".wh.x", b"").end()));
    registry.image("app", "latest", &[twice.clone(), between, twice.clone()]);
    let image = images.pull(request(format!("{}/app", registry.host()))).await.unwrap();
    assert_eq!(image.layers.len(), 3);
    let hold = images.hold(&image.layers).unwrap();
    assert_eq!(hold.lower().len(), 2);
    assert_eq!(LayerView::new(hold.lower()).read("x", 10).unwrap().unwrap(), b"twice");
}

#[tokio::test]
async fn directories_without_an_entry_look_as_they_do_below() {
    use std::os::unix::fs::MetadataExt;
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let base = Tar::default()
        .raw(b'5', b"./", b"", |header| header.set_mode(0o555))
        .raw(b'5', b"tmp", b"", |header| {
            header.set_mode(0o1777);
            header.set_gid(8);
            header.set_mtime(99);
        })
        .directory("var", 0o700)
        .directory("var/hidden", 0o700)
        .end();
    let top = Tar::default().file("tmp/x", b"").file("var/hidden/y", b"").file("new/z", b"").end();
    let middle = Tar::default().file("var/.wh.hidden", b"").end();
    registry.image("alone", "latest", &[Layer::gzip(&top)]);
    registry.image("app", "latest", &[Layer::gzip(&base), Layer::gzip(&middle), Layer::gzip(&top)]);
    let stat = |image: &Image, path: &str| {
        let hold = images.hold(&image.layers).unwrap();
        let mut seen = hold.lower().iter().map(|tree| tree.join(path));
        std::fs::metadata(seen.find(|path| path.exists()).unwrap()).unwrap()
    };
    let alone = images.pull(request(format!("{}/alone", registry.host()))).await.unwrap();
    assert_eq!(stat(&alone, "tmp").mode() & 0o7777, 0o755);
    let image = images.pull(request(format!("{}/app", registry.host()))).await.unwrap();
    let tmp = stat(&image, "tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.gid(), tmp.mtime()), (0o1777, 8, 99));
    assert_eq!(stat(&image, "").mode() & 0o7777, 0o555);
    assert_eq!(stat(&image, "var").mode() & 0o7777, 0o700);
    assert_eq!(stat(&image, "var/hidden").mode() & 0o7777, 0o755, "it was whited out in between");
    assert_eq!(stat(&image, "new").mode() & 0o7777, 0o755);
    assert_eq!(stat(&alone, "tmp").mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn what_a_directory_without_an_entry_looks_like_in_one_stack_is_no_others() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let top = Tar::default().file("tmp/x", b"").end();
    let mut all = Vec::new();
    for (name, mode) in [("alone", None), ("loose", Some(0o777)), ("sticky", Some(0o1777))] {
        let base = mode.map(|mode| Layer::gzip(&Tar::default().directory("tmp", mode).end()));
        let layers: Vec<_> = base.into_iter().chain([Layer::gzip(&top)]).collect();
        registry.image(name, "latest", &layers);
        let image = images.pull(request(format!("{}/{name}", registry.host()))).await.unwrap();
        all.push((image, mode.unwrap_or(0o755)));
    }
    let looks = |images: &Images| {
        for (image, mode) in &all {
            let hold = images.hold(&image.layers).unwrap();
            assert_eq!(seen_through(hold.lower(), root.path()), *mode);
        }
    };
    let stacks = || {
        let names = std::fs::read_dir(root.path().join("lib/layers")).unwrap().flatten();
        names.filter(|name| name.file_name().to_string_lossy().starts_with("stack-")).count()
    };
    looks(&images);
    assert_eq!(stacks(), 2);
    images.flush().await.unwrap();
    closed(images).await;
    let images = TestRegistry::images(root.path()).await;
    looks(&images);
    images.remove(&format!("{}/loose", registry.host())).await.unwrap();
    until("one goes with a layer of it", || stacks() == 1).await;
    assert_eq!(images.hold(&all[2].0.layers).unwrap().lower().len(), 3);
}

#[tokio::test]
async fn a_layer_whose_files_have_gone_is_pulled_again_though_a_container_has_it() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "text"))]);
    let name = format!("{}/app", registry.host());
    let image = images.pull(request(name.clone())).await.unwrap();
    let container = images.hold(&image.layers).unwrap();
    let gone = container.lower()[0].clone();
    std::fs::remove_dir_all(&gone).unwrap();
    assert!(images.hold(&image.layers).is_err());
    until("the image is let go", || images.find(&name).unwrap().is_none()).await;
    let again = images.pull(request(name)).await.unwrap();
    let hold = images.hold(&again.layers).unwrap();
    assert_eq!(LayerView::new(hold.lower()).read("x", 10).unwrap().unwrap(), b"text");
    drop(hold);
    images.remove(again.id.as_str()).await.unwrap();
    assert!(gone.exists(), "the container has it");
    drop(container);
    // Whose record is just being rewritten goes after that.
    until("nobody has it", || !gone.exists()).await;
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The mode of `tmp` where these are mounted, and one that is empty.
fn seen_through(lower: &[PathBuf], root: &Path) -> u32 {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use std::os::unix::fs::MetadataExt;
    let (at, empty) = (root.join("at"), root.join("empty"));
    std::fs::create_dir_all(&at).unwrap();
    std::fs::create_dir_all(&empty).unwrap();
    let lower: Vec<String> =
        lower.iter().chain([&empty]).map(|path| path.display().to_string()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
    mount("overlay", &at, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
    let mode = std::fs::metadata(at.join("tmp")).unwrap().mode() & 0o7777;
    unmount(&at, UnmountFlags::DETACH).unwrap();
    mode
}

/// Nobody writes behind the test's back any more: what was pulled is on disk and sealed.
async fn closed(images: Images) {
    let (inner, layers) = (Arc::downgrade(&images.0), Arc::downgrade(&images.0.layers));
    drop(images);
    let end = Instant::now() + Duration::from_secs(60);
    while inner.strong_count() + layers.strong_count() > 0 {
        assert!(Instant::now() < end, "somebody keeps the images");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn everything_is_found_again_after_a_restart_and_what_is_broken_is_named() {
    use std::io::Write;
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let config = ImagesConfig {
        pinned: vec![format!("{}/keep*", registry.host())],
        ..TestRegistry::config(root.path())
    };
    let images = Images::open(config.clone(), Arc::default()).await.unwrap();
    let mut ids = Vec::new();
    for name in ["keep", "torn", "layerless", "unsynced"] {
        registry.image(name, "latest", &[Layer::gzip(&layer("x", name))]);
        ids.push(images.pull(request(format!("{}/{name}", registry.host()))).await.unwrap());
    }
    images.flush().await.unwrap();
    closed(images).await;
    let lib = root.path().join("lib");
    let write = |path: &Path, text: &str| {
        std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap()
    };
    write(&lib.join("images").join(ids[1].id.hex()).join("image.json"), "{");
    std::fs::remove_file(lib.join("layers").join(ids[2].layers[0].hex()).join("layer.json"))
        .unwrap();
    let record = lib.join("layers").join(ids[3].layers[0].hex()).join("layer.json");
    let text = std::fs::read_to_string(&record).unwrap();
    write(&record, &text.replacen('{', "{\"boot\":\"another\",", 1));
    let half = format!("{}.tmp-1", "a".repeat(64));
    for directory in
        [format!("layers/{half}/fs/a"), "layers/trash-1/b".to_owned(), format!("images/{half}")]
    {
        std::fs::create_dir_all(lib.join(directory)).unwrap();
    }
    // What has no name that is davit's is nobody's to remove.
    let foreign = [lib.join("images/notes"), lib.join("layers/x.tmp-1")];
    for path in &foreign {
        std::fs::create_dir(path).unwrap();
    }

    let images = Images::open(config, Arc::default()).await.unwrap();
    assert_eq!(images.list(), std::slice::from_ref(&ids[0]));
    assert!(ids[0].pinned && !ids[1].pinned);
    let reasons: Vec<_> =
        images.quarantined().iter().map(|broken| broken.reason.as_str()).collect();
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    for text in ["parse image.json", "read layer.json", "is not here", "before the machine stopped"]
    {
        assert!(reasons.iter().any(|reason| reason.contains(text)), "{text}: {reasons:?}");
    }
    assert_eq!(images.foreign(), foreign);
    for path in &foreign {
        std::fs::remove_dir(path).unwrap();
    }
    // What the broken images left is nobody's any more.
    assert_eq!(images.sweep().await.layers, [ids[1].layers[0].clone()]);
    assert!(leftovers(root.path()).await.iter().all(|name| name.starts_with("images/broken-")));
    let again = images.pull(request(format!("{}/layerless", registry.host()))).await.unwrap();
    assert_eq!(again.id, ids[2].id);
    assert_eq!(
        LayerView::new(images.hold(&again.layers).unwrap().lower()).read("x", 99).unwrap().unwrap(),
        b"layerless"
    );
}

#[tokio::test]
async fn names_are_looked_up_as_people_write_them() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    for number in 0..20 {
        registry.image(
            "app",
            &format!("v{number}"),
            &[Layer::gzip(&layer("x", &number.to_string()))],
        );
        images.pull(request(format!("{}/app:v{number}", registry.host()))).await.unwrap();
    }
    let mut digits: Vec<String> =
        images.list().iter().map(|image| image.id.hex()[..1].to_owned()).collect();
    digits.sort();
    let twice = digits.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0].clone();
    assert!(matches!(images.find(&twice), Err(FindError::Ambiguous { count, .. }) if count > 1));
    assert!(matches!(images.find(&format!("sha256:{twice}")), Err(FindError::Ambiguous { .. })));
    assert_eq!(images.find("busybox").unwrap(), None);
    assert_eq!(images.find(&"0".repeat(64)).unwrap(), None);
    for text in ["", "A B", "../x", "sha256:"] {
        assert!(matches!(images.find(text), Err(FindError::Invalid(_))), "{text:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let config = TestRegistry::config(root.path());
    let platform = ImagesConfig { platform: Some("here".into()), ..config.clone() };
    assert!(matches!(Images::open(platform, Arc::default()).await, Err(OpenError::Platform(_))));
    let pinned = ImagesConfig { pinned: vec!["No".into()], ..config };
    assert!(matches!(Images::open(pinned, Arc::default()).await, Err(OpenError::Pinned(_))));
}

/// Of this process, all threads.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
}

/// Prints how long 256 MiB in 8 layers take: `cargo test --release -p davit-runtime a_quarter -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_quarter_of_a_gigabyte_in_eight_layers() {
    let registry = TestRegistry::start().await;
    for (tag, make) in [
        ("plain", Layer::plain as fn(&[u8]) -> Layer),
        ("gzip", Layer::gzip),
        ("zstd", Layer::zstd),
    ] {
        let layers: Vec<Layer> = (0..8_u64)
            .map(|number| {
                let files = (0..32).fold(Tar::default(), |tar, file| {
                    tar.file(&format!("f{file}"), &noise(1 << 20, number * 100 + file + 1))
                });
                make(&files.end())
            })
            .collect();
        registry.image("app", tag, &layers);
        for _ in 0..5 {
            let root = tempfile::tempdir_in("/var/tmp").unwrap();
            let images = TestRegistry::images(root.path()).await;
            let (started, cpu) = (Instant::now(), cpu_time());
            images.pull(request(format!("{}/app:{tag}", registry.host()))).await.unwrap();
            let (pulled, cpu) = (started.elapsed(), cpu_time() - cpu);
            images.flush().await.unwrap();
            println!(
                "{tag}: pulled in {pulled:?}, registry's work included {cpu:?} of CPU; on disk after {:?}",
                started.elapsed()
            );
        }
    }
}

/// Once everything that was pulled has its seal.
async fn sealed(images: &Images) {
    images.flush().await.unwrap();
    let all_sealed = async {
        while images.check().await.unwrap().unsealed > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_sealed).await.unwrap();
}

/// Who seals meets layers that go while they are read, and that are there again before it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_goes_and_comes_again_is_sealed() {
    let root = tempfile::tempdir_in("/var/tmp").unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let layers: Vec<Layer> = (0..4_u64)
        .map(|number| Layer::gzip(&Tar::default().file("f", &noise(1 << 20, number + 1)).end()))
        .collect();
    registry.image("app", "latest", &layers);
    let name = format!("{}/app:latest", registry.host());
    for round in 0..10_u64 {
        for _ in 0..2 {
            images.pull(request(&name)).await.unwrap();
            images.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(round)).await;
            images.remove(&name).await.unwrap();
        }
        images.pull(request(&name)).await.unwrap();
        sealed(&images).await;
        images.remove(&name).await.unwrap();
    }
}

fn corrupt(root: &Path, layer: &Digest, name: &str) {
    let file = root.join("lib/layers").join(layer.hex()).join("fs").join(name);
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let content = std::fs::read(&file).unwrap();
    #[expect(clippy::disallowed_methods, reason = "as a failing disk does it")]
    std::fs::write(&file, content.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
}

#[tokio::test]
async fn a_layer_that_has_rotted_is_found_let_go_and_pulled_again() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    let base = Layer::gzip(&layer("x", "base"));
    registry.image("app", "latest", &[base.clone(), Layer::gzip(&layer("y", "app"))]);
    registry.image("other", "latest", &[Layer::gzip(&layer("z", "other"))]);
    let [app, other] = ["app", "other"].map(|name| format!("{}/{name}:latest", registry.host()));
    let image = images.pull(request(&app)).await.unwrap();
    images.pull(request(&other)).await.unwrap();
    sealed(&images).await;
    let checked = images.check().await.unwrap();
    assert_eq!((checked.images, checked.layers, checked.damages.len()), (2, 3, 0));

    corrupt(root.path(), &image.layers[0], "x");
    let checked = images.check().await.unwrap();
    let [damage] = checked.damages.as_slice() else { panic!("{checked:?}") };
    assert_eq!(damage.part, Part::Layer(image.layers[0].clone()));
    assert_eq!(damage.images[0].id, image.id);
    let hold = images.hold(&image.layers).unwrap();
    let refused = images.discard(damage).await.unwrap_err();
    assert!(refused.to_string().contains("is in use"), "{refused}");
    drop(hold);
    assert_eq!(images.discard(damage).await.unwrap(), std::slice::from_ref(&app));
    assert!(images.find(&app).unwrap().is_none() && images.find(&other).unwrap().is_some());
    assert!(images.hold(&image.layers[..1]).is_err(), "the broken layer has gone");
    let again = images.pull(request(&app)).await.unwrap();
    assert_eq!(again.id, image.id);
    sealed(&images).await;
    assert!(images.check().await.unwrap().damages.is_empty());
}

#[tokio::test]
async fn documents_that_have_rotted_are_found() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "app"))]);
    let image = images.pull(request(format!("{}/app:latest", registry.host()))).await.unwrap();
    let file = root.path().join("lib/images").join(image.id.hex()).join("config.json");
    let content = std::fs::read_to_string(&file).unwrap();
    #[expect(clippy::disallowed_methods, reason = "as a failing disk does it")]
    std::fs::write(&file, content + " ").unwrap();
    let checked = images.check().await.unwrap();
    let [damage] = checked.damages.as_slice() else { panic!("{checked:?}") };
    assert_eq!(damage.part, Part::Documents(image.id.clone()));
    assert!(damage.reason.contains("config.json has digest"), "{}", damage.reason);
    images.discard(damage).await.unwrap();
    assert!(images.list().is_empty());
}

#[tokio::test]
async fn an_image_whose_layer_has_gone_is_let_go_when_it_is_used() {
    let root = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start().await;
    let images = TestRegistry::images(root.path()).await;
    registry.image("app", "latest", &[Layer::gzip(&layer("x", "app"))]);
    let name = format!("{}/app:latest", registry.host());
    let image = images.pull(request(&name)).await.unwrap();
    sealed(&images).await;
    let place = root.path().join("lib/layers").join(image.layers[0].hex());
    std::fs::remove_dir_all(&place).unwrap();
    assert_eq!(images.hold(&image.layers).unwrap_err().0, image.layers[0]);
    let gone = async {
        while images.find(&name).unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    images.pull(request(&name)).await.unwrap();
    assert!(images.hold(&image.layers).is_ok() && place.join("fs/x").exists());
}
