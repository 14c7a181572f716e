//! What a container may do, read from `/proc/self/status` inside and tried out.

use davit_e2e::prelude::*;
use k8s_cri::v1::SecurityProfile;
use k8s_cri::v1::security_profile::ProfileType;

fn status(t: &Test, id: &str, field: &str) -> Result<String> {
    t.exec(id, &format!("awk '$1 == \"{field}:\" {{print $2}}' /proc/1/status"))
}

fn capabilities(t: &Test, name: &str, pod: &Pod, add: &[&str], drop: &[&str]) -> Result<u64> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let id = t.run(pod, name, |c| {
        security(c).capabilities = Some(Capability {
            add_capabilities: words(add),
            drop_capabilities: words(drop),
            ..Default::default()
        });
    })?;
    Ok(u64::from_str_radix(&status(t, &id, "CapEff")?, 16)?)
}

const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

on_both!(capabilities_are_the_default_ones_changed_as_asked, |t| {
    let pod = t.pod("web", |_| ())?;
    let default = capabilities(t, "default", &pod, &[], &[])?;
    assert!(default & CHOWN != 0 && default & (NET_ADMIN | SYS_ADMIN) == 0, "{default:x}");
    assert_eq!(capabilities(t, "add", &pod, &["NET_ADMIN"], &[])?, default | NET_ADMIN);
    assert_eq!(capabilities(t, "drop", &pod, &[], &["cap_chown"])?, default & !CHOWN);
    assert_eq!(capabilities(t, "none", &pod, &[], &["ALL"])?, 0);
    assert_eq!(capabilities(t, "one", &pod, &["CHOWN"], &["ALL"])?, CHOWN);
    let own = std::fs::read_to_string("/proc/self/status")?;
    let bound =
        own.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("own bounding set")?;
    let all = capabilities(t, "all", &pod, &["ALL"], &[])?;
    assert_eq!(all, u64::from_str_radix(bound.trim(), 16)?, "all that this machine's root has");
    let answer = t.try_create(&pod, "unknown", |c| {
        security(c).capabilities =
            Some(Capability { add_capabilities: vec!["NO_SUCH".to_owned()], ..Default::default() });
    });
    refused(answer, Code::InvalidArgument, &["NO_SUCH"])?;
    Ok(())
});

on_both!(seccomp_is_as_asked, |t| {
    let pod = t.pod("web", |_| ())?;
    let profile = t.dir.join("profile.json");
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    std::io::Write::write_all(&mut std::fs::File::create(&profile)?, json.as_bytes())?;
    let make = |name: &str, kind: ProfileType, localhost: &Path| {
        t.run(&pod, name, |c| {
            security(c).seccomp = Some(SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: localhost.to_string_lossy().into_owned(),
            });
        })
    };
    let default = make("default", ProfileType::RuntimeDefault, Path::new(""))?;
    assert_eq!(status(t, &default, "Seccomp")?, "2");
    let unconfined = make("unconfined", ProfileType::Unconfined, Path::new(""))?;
    assert_eq!(status(t, &unconfined, "Seccomp")?, "0");
    let local = make("local", ProfileType::Localhost, &profile)?;
    assert_eq!(status(t, &local, "Seccomp")?, "2");
    t.exec(&local, "! mkdir /tmp/x && touch /tmp/y")?;
    t.exec(&unconfined, "mkdir /tmp/x")?;
    let missing = t.dir.join("missing.json");
    let answer = make("missing", ProfileType::Localhost, &missing);
    let error = format!("{:#}", answer.err().context("refused")?);
    assert!(error.contains("missing.json"), "{error}");
    Ok(())
});

on_both!(no_new_privileges_is_as_asked, |t| {
    let image = t.pull("e2e-test-images/nonewprivs:1.3")?;
    let pod = t.pod("web", |_| ())?;
    for (name, no_new_privs, line) in
        [("off", false, "Effective uid: 0"), ("on", true, "Effective uid: 1000")]
    {
        let (_, lines) = t.output(&pod, name, |c| {
            c.image = Some(davit_e2e::cri::spec(&image));
            c.command.clear();
            security(c).no_new_privs = no_new_privs;
            security(c).run_as_user = Some(k8s_cri::v1::Int64Value { value: 1000 });
        })?;
        assert_eq!(lines[0].content, line);
    }
    Ok(())
});

on_both!(masked_paths_are_empty_and_read_only_ones_cannot_be_written, |t| {
    let (_, id) = t.sleeper(|c| {
        security(c).masked_paths = ["/bin/vi", "/etc", "/no/such"].map(str::to_owned).to_vec();
        security(c).readonly_paths = ["/proc/sys", "/var", "/no/such"].map(str::to_owned).to_vec();
    })?;
    assert_eq!(t.exec(&id, "wc -c < /bin/vi; ls -A /etc")?, "0");
    t.exec(&id, "! touch /etc/x && ! touch /var/x && touch /tmp/x")?;
    t.exec(&id, "! sh -c 'echo 1 > /proc/sys/kernel/shm_rmid_forced'")?;
    // A hard link to the masked file is another path.
    t.exec(&id, "test $(wc -c < /bin/busybox) -gt 100000")?;
    Ok(())
});

on_both!(a_read_only_root_cannot_be_written, |t| {
    let (_, id) = t.sleeper(|c| security(c).readonly_rootfs = true)?;
    t.exec(&id, "! touch /x && ! touch /tmp/x && touch /dev/shm/x")?;
    Ok(())
});

on_both!(a_privileged_container_has_all_and_needs_a_privileged_pod, |t| {
    let plain = t.pod("plain", |_| ())?;
    let answer = t.try_create(&plain, "main", |c| security(c).privileged = true);
    refused(answer, Code::InvalidArgument, &["privileged"])?;
    let pod = t.pod("web", |p| {
        p.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    })?;
    let id = t.run(&pod, "main", |c| security(c).privileged = true)?;
    assert_eq!(status(t, &id, "Seccomp")?, "0");
    t.exec(&id, "mkdir -p /mnt && mount -t tmpfs tmpfs /mnt && touch /mnt/x && umount /mnt")?;
    t.exec(&id, "test -e /dev/kmsg && test -w /proc/sys/kernel")?;
    let default = t.run(&pod, "default", |_| ())?;
    t.exec(&default, "! mount -t tmpfs tmpfs /tmp")?;
    Ok(())
});
