//! Devices that vendors describe (CDI): a real container gets what the file says, and only who asks for it does.

use davit_e2e::prelude::*;
use davit_proto::cri::{CdiDevice, StatusRequest};
use std::io::Write as _;

fn directories(settings: &mut Settings) -> Result<()> {
    let dirs = ["first", "second"].map(|name| settings.dir.join("cdi").join(name));
    settings.keys = format!("cdi_spec_dirs = {:?}\n", dirs);
    dirs.iter().try_for_each(std::fs::create_dir_all)?;
    Ok(())
}

fn write(t: &Test, name: &str, text: &str) -> Result<()> {
    let mut file = std::fs::File::create(t.dir.join("cdi").join(name))?;
    Ok(file.write_all(text.as_bytes())?)
}

fn ask(names: &[&str]) -> Vec<CdiDevice> {
    names.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect()
}

fn vendor(t: &Test) -> String {
    let dir = t.dir.display();
    format!(
        r#"
cdiVersion: "0.8.0"
kind: vendor.com/gpu
containerEdits:
  env: ["DRIVER=1.2"]
  hooks:
    - hookName: createRuntime
      path: /bin/sh
      args: [sh, -c, "cat > {dir}/hooked"]
devices:
  - name: gpu0
    containerEdits:
      env: ["VISIBLE=0"]
      deviceNodes:
        - {{path: /dev/vendor/gpu0, hostPath: /dev/fuse, permissions: r}}
      mounts:
        - {{hostPath: "{dir}/library", containerPath: /vendor/lib, options: [ro, nosuid, nodev, bind]}}
      additionalGids: [4444]
"#
    )
}

on_both!(
    a_container_gets_the_device_that_it_asks_for,
    setup: directories,
    |t| {
        write(t, "first/vendor.yaml", &vendor(t))?;
        std::fs::create_dir_all(t.dir.join("library"))?;
        std::fs::File::create(t.dir.join("library/libgpu.so"))?;
        let pod = t.pod("web", |_| ())?;
        let id = t.run_newer(&pod, "main", |c| c.cdi_devices = ask(&["vendor.com/gpu=gpu0"]))?;
        assert_eq!(t.exec(&id, "echo $DRIVER $VISIBLE")?, "1.2 0");
        t.exec(&id, "exec 3< /dev/vendor/gpu0")?;
        t.exec(&id, "! (exec 3> /dev/vendor/gpu0)")?;
        t.exec(&id, "test -e /vendor/lib/libgpu.so && ! touch /vendor/lib/x")?;
        assert_eq!(t.exec(&id, "id -G | tr ' ' '\\n' | grep -c 4444")?, "1");
        assert!(std::fs::read_to_string(t.dir.join("hooked"))?.contains(&id));
        let user = t.cri.newer_status(&id)?.user.and_then(|user| user.linux).context("a user")?;
        assert!(user.supplemental_groups.contains(&4444), "{user:?}");
        // Who only says so in an annotation gets nothing.
        let other = t.run_newer(&pod, "other", |c| {
            c.annotations = [("cdi.k8s.io/x".to_owned(), "vendor.com/gpu=gpu0".to_owned())].into();
        })?;
        assert_eq!(t.exec(&other, "echo \"$VISIBLE\"; ls -d /dev/vendor || true")?, "");
        Ok(())
    }
);

on_one!(
    a_device_that_cannot_be_had_is_refused_by_name_and_broken_files_are_told,
    setup: directories,
    |t| {
        t.allow_log("a CDI specification is passed over");
        let pod = t.pod("web", |_| ())?;
        let refusal = |name: &str| -> Result<tonic::Status> {
            let answer = t.try_create_newer(&pod, "main", |c| c.cdi_devices = ask(&[name]))?;
            answer.err().with_context(|| format!("{name} was given"))
        };
        write(t, "first/broken.json", "{")?;
        let status = refusal("vendor.com/gpu=gpu0")?;
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        for part in ["config.CDI_devices[0] \"vendor.com/gpu=gpu0\"", "cdi/first", "broken.json"] {
            assert!(status.message().contains(part), "{part}: {status:?}");
        }
        assert_eq!(refusal("gpu0")?.code(), Code::InvalidArgument);
        for name in ["second/a.yaml", "second/b.yaml"] {
            write(t, name, &vendor(t))?;
        }
        let status = refusal("vendor.com/gpu=gpu0")?;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("a.yaml") && status.message().contains("b.yaml"));
        let answer = t.cri.wait(t.cri.newer().status(StatusRequest { verbose: true }))?;
        let told = answer.info.get("cdi").context("in the verbose status")?;
        assert!(told.contains("broken.json") && told.contains("cdi/second"), "{told}");
        assert!(t.cri.containers(None)?.is_empty());
        let log = t.daemon().log();
        assert_eq!(log.matches("a CDI specification is passed over").count(), 1, "once");
        Ok(())
    }
);
