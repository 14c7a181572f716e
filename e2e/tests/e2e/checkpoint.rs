//! Checkpoints: made where CRIU works, refused with the reason where it doesn't, and the container runs on either way.

use davit_e2e::host::script;
use davit_e2e::prelude::*;
use davit_proto::cri::CheckpointContainerRequest;

fn checkpoint(t: &Test, id: &str, location: &Path) -> std::result::Result<(), tonic::Status> {
    checkpoint_within(t, id, location, 50)
}

fn checkpoint_within(
    t: &Test,
    id: &str,
    location: &Path,
    timeout: i64,
) -> std::result::Result<(), tonic::Status> {
    let request = CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_string_lossy().into_owned(),
        timeout,
    };
    t.cri.wait(t.cri.newer().checkpoint_container(request)).map(drop)
}

/// Whether this machine's CRIU works with its kernel, and this OCI runtime with it: crun may have been built without.
pub(crate) fn criu_works(t: &Test) -> Result<bool> {
    let run = std::process::Command::new("criu").arg("check").output();
    let runtime = davit_e2e::tools::oci_runtime(&t.settings().handler)?;
    let told = std::process::Command::new(runtime).arg("--version").output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let usable = !told.starts_with("crun") || told.contains("+CRIU");
    Ok(usable && run.is_ok_and(|output| output.status.success()))
}

on_both!(a_checkpoint_is_made_where_criu_works_and_refused_with_the_reason_elsewhere, |t| {
    let (_, id) = t.sleeper(|_| ())?;
    t.exec(&id, "echo text > /made; rm /etc/group")?;
    let location = t.dir.join("checkpoint.tar");
    let answer = checkpoint(t, &id, &location);
    if criu_works(t)? {
        answer.context("a checkpoint")?;
        let file = std::fs::File::open(&location)?;
        let mut archive = tar::Archive::new(file);
        let mut names = Vec::new();
        for entry in archive.entries()? {
            names.push(entry?.path()?.to_string_lossy().into_owned());
        }
        for name in ["rootfs-diff.tar", "deleted.files", "spec.dump", "config.dump"] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        assert!(names.iter().any(|found| found.starts_with("checkpoint/pages-")), "{names:?}");
    } else {
        let status = answer.err().context("refused")?;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().starts_with("criu "), "{status:?}");
        assert!(!location.exists());
    }
    assert_eq!(t.exec(&id, "echo well")?, "well");
    assert!(davit_e2e::host::names_in(&t.dir)?.iter().all(|name| !name.contains("davit-tmp")));
    Ok(())
});

on_one!(what_cannot_be_checkpointed_is_refused_by_its_reason, |t| {
    let pod = t.pod("web", |_| ())?;
    let id = t.create(&pod, "main", |_| ())?;
    let location = t.dir.join("checkpoint.tar");
    let refusal = |id: &str, location: &Path| -> Result<tonic::Status> {
        checkpoint(t, id, location).err().context("it was made")
    };
    let status = refusal(&id, &location)?;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("only one that is running"), "{status:?}");
    assert_eq!(refusal("nobody", &location)?.code(), Code::NotFound);
    t.cri.start(&id)?;
    for location in ["relative.tar", "", "/a/../b", "/davit-nowhere/x.tar", "/"] {
        let status = refusal(&id, Path::new(location))?;
        assert_eq!(status.code(), Code::InvalidArgument, "{location}: {status:?}");
        assert!(status.message().starts_with("location "), "{location}: {status:?}");
    }
    Ok(())
});

on_one!(
    checkpoints_can_be_switched_off,
    setup: |s| {
        s.keys = "criu = false\n".to_owned();
        Ok(())
    },
    |t| {
        let (_, id) = t.sleeper(|_| ())?;
        let status = checkpoint(t, &id, &t.dir.join("x.tar")).err().context("refused")?;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("criu = false"), "{status:?}");
        Ok(())
    }
);

on_one!(
    a_checkpoint_that_takes_too_long_is_given_up_and_told_as_that,
    setup: |s| {
        // A CRIU that is content, and a dump without an end.
        let (criu, crun) = (s.dir.join("bin/criu"), s.dir.join("bin/slow-crun"));
        script(&criu, "exit 0")?;
        let real = davit_e2e::tools::oci_runtime("crun")?;
        let slow = format!(
            "[ \"$1\" != --version ] || {{ {0} --version; echo +CRIU; exit; }}; for word; do [ \"$word\" != checkpoint ] || exec sleep 1000; done; exec {0} \"$@\"",
            real.display()
        );
        script(&crun, &slow)?;
        s.tables = format!("[handlers.crun]\npath = {crun:?}\n");
        let path = std::env::var("PATH").unwrap_or_default();
        s.env.push(("PATH".to_owned(), format!("{}:{path}", s.dir.join("bin").display())));
        Ok(())
    },
    |t| {
        let (_, id) = t.sleeper(|_| ())?;
        let location = t.dir.join("checkpoint.tar");
        // Daemon and shim have the same limit: whoever of them is first, it is the same.
        for _ in 0..4 {
            let begun = std::time::Instant::now();
            let answer = checkpoint_within(t, &id, &location, 1);
            let status = answer.err().context("refused")?;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
            assert_eq!(t.exec(&id, "echo well")?, "well");
            assert!(!location.exists());
        }
        Ok(())
    }
);
