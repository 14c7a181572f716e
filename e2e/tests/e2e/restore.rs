//! Containers from checkpoints: restored by that verb alone, and refused by name, before anything is touched, where that can't be.
//!
//! CRIU works on few machines that tests run on. So a script stands before the OCI runtime here, and another in the place of `criu`: its `checkpoint` leaves the
//! one file that CRIU always writes, and its `restore` is the real runtime's `create` and `start`. All that is davit's own is real (the archive, the pod, the
//! writable layer, the shim, a process with its log and its exit); that the process goes on where it was is what these tests do not show. hack/vm
//! shows that, in a machine where CRIU works.

use davit_e2e::host::script;
use davit_e2e::images::ImageBuilder;
use davit_e2e::prelude::*;
use std::io::{Read as _, Write as _};
use std::process::Output;

const IMAGE: &str = "davit-test/busybox:latest";

/// What the container of these tests does: it has a file, has lost another, and ends when it is told.
const BODY: &str = "[ -e /made ] && echo again || echo first; echo text > /made; rm -rf /etc/group; trap 'exit 7' TERM; \
                    while :; do sleep 0.1; done";

/// See the module. Files in the test's directory make it fail: `no-criu`, `no-restore`.
pub(crate) fn with_stand_ins(s: &mut Settings) -> Result<()> {
    let real = davit_e2e::tools::oci_runtime(&s.handler)?.display().to_string();
    let dir = s.dir.display().to_string();
    script(
        &s.dir.join("bin/criu"),
        &format!("[ ! -e {dir}/no-criu ] || {{ echo 'no such kernel' >&2; exit 1; }}"),
    )?;
    // --root R --log L --log-format json VERB …
    let lines = format!(
        r#"[ "$1" != --version ] || {{ {real} --version; echo +CRIU; exit; }}
for id; do :; done
globals="$1 $2 $3 $4 $5 $6"; verb=$7
option() {{ name=$1; shift; while [ "$1" != "$name" ]; do shift; done; echo "$2"; }}
if [ "$verb" = checkpoint ]; then echo images > "$(option --image-path "$@")/inventory.img"; exit; fi
if [ "$verb" = restore ]; then
    [ -s "$(option --image-path "$@")/inventory.img" ] || exit 3
    if [ -e {dir}/no-restore ]; then
        echo '(00.1) Error (criu/x.c:1): it is not the day' > "$(option --work-path "$@")/restore.log"
        echo 'criu failed' >&2; exit 1
    fi
    {real} $globals create --bundle "$(option --bundle "$@")" --pid-file "$(option --pid-file "$@")" "$id" || exit
    exec {real} --root "$2" start "$id"
fi"#
    );
    let path = std::env::var("PATH").unwrap_or_default();
    s.env.push(("PATH".to_owned(), format!("{dir}/bin:{path}")));
    s.wrap_runtime(&lines, 30)
}

/// A container that was checkpointed as `one`; it is gone, with its pod.
pub(crate) fn checkpointed(t: &Test) -> Result<()> {
    let pod = t.pod("before", |_| ())?;
    let id = t.run(&pod, "main", |c| c.command = sh(BODY))?;
    let ready = || {
        Ok((t.exec(&id, "cat /made; ls /etc/group 2>&1 || :")?.contains("No such")).then_some(()))
    };
    eventually(Duration::from_secs(40), "it has written", ready)?;
    t.davit_ok(&["checkpoint", "create", "--name", "one", &id])?;
    t.cri.remove_pod(&pod.id)?;
    Ok(())
}

fn archive(t: &Test) -> PathBuf {
    t.settings().root().join("checkpoints/one.tar")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The archive, which tells of the container that it is of, goes too.
pub(crate) fn forgotten(t: &Test) -> Result<()> {
    t.davit_ok(&["checkpoint", "delete", "one"]).map(drop)
}

/// It fails, says this, and leaves nothing.
fn refused(t: &Test, arguments: &[&str], says: &str) -> Result<()> {
    let before = (t.cri.pods(None)?.len(), t.cri.containers(None)?.len());
    let output = t.davit(&[&["checkpoint", "restore"], arguments].concat())?;
    ensure!(!output.status.success(), "{arguments:?} succeeded");
    ensure!(said(&output).contains(says), "{arguments:?}: {}", said(&output));
    let after = (t.cri.pods(None)?.len(), t.cri.containers(None)?.len());
    ensure!(before == after, "{arguments:?} left something: {before:?} to {after:?}");
    let kept = davit_e2e::host::names_in(&t.settings().root().join("containers"))?.len();
    ensure!(kept == after.1, "{arguments:?} left a writable layer");
    Ok(())
}

on_both!(
    a_restored_container_is_like_any_other_with_a_stand_in_for_what_criu_does,
    setup: with_stand_ins,
    |t| {
        checkpointed(t)?;
        let id = t.davit_ok(&["checkpoint", "restore", "one"])?;
        let status = t.cri.status(&id)?;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        ensure!(status.started_at >= status.created_at && status.created_at > 0, "{status:?}");
        // What it had changed is there, what it had removed is not.
        let look = "cat /made; ls /etc/group 2>/dev/null || echo gone";
        assert_eq!(t.exec(&id, look)?, "text\ngone");
        let log = PathBuf::from(&status.log_path);
        eventually(Duration::from_secs(40), "its log", || {
            Ok(std::fs::read_to_string(&log)?.contains("again").then_some(()))
        })?;
        ensure!(t.davit_ok(&["info"])?.contains("running"), "no counters");
        t.cri.stop(&id, 20)?;
        assert_eq!(t.cri.status(&id)?.exit_code, 7);
        ensure!(t.davit_ok(&["logs", &id])?.contains("again"), "no log");
        // A second one beside it, by the archive's path, under another name; a restart of davit knows it.
        let path = archive(t).to_string_lossy().into_owned();
        let other = t.davit_ok(&["checkpoint", "restore", "--name", "other", &path])?;
        t.daemon().kill()?;
        t.daemon().spawn()?;
        assert_eq!(t.cri.status(&other)?.state(), ContainerState::ContainerRunning);
        assert_eq!(t.exec(&other, "cat /made")?, "text");
        t.davit_ok(&["rm", "-f", &id, &other])?;
        assert_eq!(t.cri.pods(None)?.len(), 0);
        forgotten(t)?;
    Ok(())
    }
);

on_one!(it_is_restored_into_a_pod_that_is_there, setup: with_stand_ins, |t| {
    checkpointed(t)?;
    let pod = t.pod("after", |_| ())?;
    let id = t.davit_ok(&["checkpoint", "restore", "--pod", &pod.id, "one"])?;
    assert_eq!(t.cri.status(&id)?.state(), ContainerState::ContainerRunning);
    ensure!(t.cri.status(&id)?.log_path.starts_with(&pod.config.log_directory), "its log");
    refused(t, &["--pod", &pod.id, "one"], "is taken by container")?;
    refused(t, &["--pod", "nobody", "one"], "nobody")?;
    refused(t, &["--pod", &pod.id, "--name", "../x", "one"], "metadata.name")?;
    let another = t.davit_ok(&["checkpoint", "restore", "--pod", &pod.id, "--name", "b", "one"])?;
    assert_eq!(t.exec(&another, "cat /made")?, "text");
    // Its processes' ids may be others' there.
    let shared = t.pod("shared", |c| namespaces(c).pid = 0)?;
    refused(t, &["--pod", &shared.id, "one"], "PID namespace")?;
    let stopped = t.pod("stopped", |_| ())?;
    t.cri.stop_pod(&stopped.id)?;
    refused(t, &["--pod", &stopped.id, "one"], "is not ready")?;
    forgotten(t)?;
    Ok(())
});

on_one!(a_restore_that_cannot_be_is_refused_and_leaves_nothing, setup: with_stand_ins, |t| {
    let mark = |name: &str| std::fs::File::create(t.dir.join(name)).map(drop);
    checkpointed(t)?;
    refused(t, &["none"], "there is no checkpoint \"none\"")?;
    refused(t, &["./none.tar"], "none.tar")?;
    refused(t, &["--", "-x"], "is none")?;
    mark("no-criu")?;
    refused(t, &["one"], "criu does not work here: no such kernel")?;
    std::fs::remove_file(t.dir.join("no-criu"))?;
    mark("no-restore")?;
    refused(t, &["one"], "criu: criu/x.c:1): it is not the day")?;
    std::fs::remove_file(t.dir.join("no-restore"))?;
    t.cri.remove_image(&t.registry.reference(IMAGE))?;
    refused(t, &["one"], "is not here; pull it first")?;
    t.pull(IMAGE)?;
    t.davit_ok(&["checkpoint", "restore", "one"])?;
    refused(t, &["one"], "main")?;
    forgotten(t)?;
    Ok(())
});

on_one!(
    without_criu_nothing_is_touched,
    setup: |s| {
        with_stand_ins(s)?;
        s.keys = "criu = false\n".to_owned();
        Ok(())
    },
    |t| {
        let path = t.dir.join("any.tar");
        std::fs::File::create(&path)?;
        let whole = path.to_string_lossy().into_owned();
        refused(t, &[&whole], "has no davit.dump")?;
        Ok(())
    }
);

type Change = fn(&mut serde_json::Value);

/// The archive's entries, changed.
fn rewritten(t: &Test, to: &Path, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Result<()> {
    let mut from = tar::Archive::new(std::fs::File::open(archive(t))?);
    let mut out = tar::Builder::new(std::fs::File::create(to)?);
    for entry in from.entries()? {
        let mut entry = entry?;
        let (mut header, path) = (entry.header().clone(), entry.path()?.into_owned());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        let Some(bytes) = change(&path.to_string_lossy(), bytes) else { continue };
        header.set_size(bytes.len() as u64);
        out.append_data(&mut header, path, bytes.as_slice())?;
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

on_one!(hostile_archives_are_refused_by_what_is_wrong_with_them, setup: with_stand_ins, |t| {
    checkpointed(t)?;
    let path = t.dir.join("bad.tar");
    let whole = path.to_string_lossy().into_owned();
    let dump = |change: Change| {
        rewritten(t, &path, |name, bytes| {
            if name != "davit.dump" {
                return Some(bytes);
            }
            let mut dump = serde_json::from_slice(&bytes).ok()?;
            change(&mut dump);
            serde_json::to_vec(&dump).ok()
        })
    };
    let wrong: [(Change, &str); 6] = [
        (|d| d["version"] = 9.into(), "is of version 9"),
        (|d| d["architecture"] = "vax".into(), "architecture \"vax\""),
        (|d| d["container"]["name"] = "../../x".into(), "metadata.name"),
        (|d| d["container"]["working_dir"] = "relative".into(), "working_dir"),
        (|d| d["container"]["security"]["privileged"] = true.into(), "privileged"),
        (|d| d["image"]["id"] = "busybox".into(), "is not here"),
    ];
    for (change, says) in wrong {
        dump(change)?;
        refused(t, &[&whole], says)?;
    }
    for name in ["davit.dump", "rootfs-diff.tar", "deleted.files", "checkpoint/inventory.img"] {
        rewritten(t, &path, |found, bytes| (found != name).then_some(bytes))?;
        refused(t, &[&whole], name)?;
    }
    // Only found once it is applied, with all that was made before.
    rewritten(t, &path, |name, bytes| {
        Some(if name == "rootfs-diff.tar" { b"no archive".repeat(100) } else { bytes })
    })?;
    refused(t, &[&whole], "rootfs-diff.tar")?;
    let bytes = std::fs::read(archive(t))?;
    std::fs::File::create(&path)?.write_all(&bytes[..bytes.len() / 2])?;
    refused(t, &[&whole], "bad.tar")?;
    std::fs::copy(archive(t), &path)?;
    std::os::unix::fs::chown(&path, Some(1000), None)?;
    refused(t, &[&whole], "could be written by others than root")?;
    forgotten(t)?;
    Ok(())
});

on_one!(an_image_is_never_a_checkpoint, setup: with_stand_ins, |t| {
    checkpointed(t)?;
    let pod = t.pod("web", |_| ())?;
    let path = archive(t).to_string_lossy().into_owned();
    let answer = t.try_create(&pod, "main", |c| c.image = Some(davit_e2e::cri::spec(&path)));
    let status = answer.err().context("a container was made from an archive")?;
    ensure!(status.message().contains("davit checkpoint restore"), "{status:?}");
    // As other runtimes wrap one: the archive is the image's one layer.
    let wrapped = ImageBuilder::new().archive(&std::fs::read(archive(t))?)?;
    let name = t.push("davit-test/wrapped", &wrapped)?;
    t.cri.pull(&name)?;
    let answer = t.try_create(&pod, "main", |c| c.image = Some(davit_e2e::cri::spec(&name)));
    let status = answer.err().context("a container was made from a checkpoint's image")?;
    ensure!(status.message().contains("is a checkpoint"), "{status:?}");
    ensure!(status.message().contains("davit checkpoint restore"), "{status:?}");
    forgotten(t)?;
    Ok(())
});
