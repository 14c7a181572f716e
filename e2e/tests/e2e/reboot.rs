//! The machine reboots: no pod is left and nothing of one, networks are told so, images are whole, and everything can be used again.

use crate::failpoints::with_failpoints;
use davit_e2e::boot::{self, Run};
use davit_e2e::prelude::*;
use davit_e2e::{cni, leaks};
use k8s_cri::v1::PortMapping;
use std::collections::BTreeSet;
use std::io::Write as _;

/// In one order and the other: the second reboot finds what the first daemon after a reboot has made.
const RUNS: [Run; 2] = [Run::Emptied, Run::Kept];

/// Nothing of these pods and containers is left, and davit finds nothing wrong.
fn all_gone(t: &Test, ids: &[String]) -> Result<()> {
    assert!(t.cri.pods(None)?.is_empty() && t.cri.containers(None)?.is_empty());
    let mut left = Vec::new();
    let looked = eventually(Duration::from_secs(5), "nothing is left", || {
        left = leaks::find(&t.settings(), t.daemon().pid(), ids)?;
        Ok(left.is_empty().then_some(()))
    });
    looked.with_context(|| format!("left behind: {left:#?}"))?;
    let written = davit_e2e::host::names_in(&t.settings().root().join("containers"))?;
    assert!(written.is_empty(), "writable layers: {written:?}");
    let check = t.davit(&["check"])?;
    ensure!(check.status.success(), "{}", davit_e2e::tools::describe(&check));
    Ok(())
}

/// A pod that runs, with a host port and a container that has ended; a pod that was stopped; a pod in the host's network. Their ids, and the containers'.
fn populate(t: &Test, host_port: i32) -> Result<(Pod, Vec<String>)> {
    let port = PortMapping { container_port: 80, host_port, ..PortMapping::default() };
    let web = t.pod("web", |p| p.port_mappings = vec![port])?;
    let main = t.run(&web, "main", |c| c.command = sh("echo mine > /file; sleep 4331"))?;
    let short = t.run(&web, "short", |c| c.command = sh("exit 3"))?;
    t.wait_for_exit(&short)?;
    let stopped = t.pod("stopped", |_| ())?;
    t.cri.stop_pod(&stopped.id)?;
    let host = t.pod("host", |p| namespaces(p).network = 2)?;
    let ids = vec![web.id.clone(), main, short, stopped.id, host.id];
    Ok((web, ids))
}

on_both!(no_pod_is_left_and_everything_can_be_used_again, |t| {
    let host_port = i32::from(free_port()?);
    let mut seen = Vec::new();
    for run in RUNS {
        let (web, ids) = populate(t, host_port)?;
        let extra = t.pull("davit-test/user:uid")?;
        let images = t.cri.list_images()?;
        seen.extend(ids);
        // In an orderly way: what was pulled a moment ago is on the disk when davit has ended.
        t.daemon().stop()?;
        boot::end(t, run)?;
        t.daemon().spawn().with_context(|| format!("{run:?}"))?;
        all_gone(t, &seen).with_context(|| format!("{run:?}"))?;
        assert_eq!(t.cri.list_images()?, images, "{run:?}");
        ensure!(!t.daemon().log().contains("aside"), "{run:?}: an image was lost");
        // The same name, address pool and host port; the images' content.
        let (again, _) = populate(t, host_port)?;
        assert_ne!(again.id, web.id);
        let id = t.run(&again, "user", |c| c.image = Some(davit_e2e::cri::spec(&extra)))?;
        assert_eq!(t.exec(&id, "id -u")?, "1234");
        for pod in t.cri.pods(None)? {
            t.cri.remove_pod(&pod.id)?;
        }
    }
    Ok(())
});

on_one!(a_crash_in_the_middle_of_the_first_start_changes_nothing, setup: with_failpoints, |t| {
    let (_, ids) = populate(t, i32::from(free_port()?))?;
    for step in ["recover.parts", "recover.records", "recover.networks"] {
        boot::end(t, Run::Kept)?;
        t.daemon().set_env(vec![("DAVIT_FAILPOINT".to_owned(), format!("{step}=kill"))]);
        t.daemon().launch()?;
        t.daemon().wait(Duration::from_secs(20)).with_context(|| step.to_owned())?;
    }
    t.daemon().set_env(Vec::new());
    t.daemon().spawn()?;
    all_gone(t, &ids)
});

on_one!(a_boot_id_that_is_gone_or_broken_costs_no_pod, |t| {
    t.allow_log("it holds no boot id");
    let (_, id) = t.sleeper(|_| ())?;
    let pid = t.pid(&id)?;
    let path = t.settings().state().join("boot_id");
    let damages: [(&str, &dyn Fn() -> std::io::Result<()>); 3] = [
        ("gone", &|| std::fs::remove_file(&path)),
        ("empty", &|| std::fs::File::create(&path).map(drop)),
        ("nonsense", &|| std::fs::File::create(&path)?.write_all(b"yesterday\n")),
    ];
    for (what, damage) in damages {
        t.daemon().kill()?;
        damage()?;
        t.daemon().spawn()?;
        assert_eq!(t.exec(&id, "echo well")?, "well", "{what}");
        assert_eq!(t.pid(&id)?, pid, "{what}");
        let now = std::fs::read("/proc/sys/kernel/random/boot_id")?;
        assert_eq!(std::fs::read(&path)?, now, "{what}");
    }
    Ok(())
});

/// The bridge plugin by way of a program that writes down each call, which fails a DEL while `refuse` is there, and hangs in an ADD for a pod named so.
fn recorded(settings: &mut Settings) -> Result<()> {
    let dir = settings.dir.join("plugins");
    let own = settings.dir.display();
    let text = format!(
        "echo $CNI_COMMAND $CNI_CONTAINERID \"${{CNI_NETNS:-none}}\" >> {own}/calls\n\
         case \"$CNI_COMMAND $CNI_ARGS\" in ADD*K8S_POD_NAME=hangs*) cat > /dev/null; exec sleep 4332;; esac\n\
         if [ \"$CNI_COMMAND\" = DEL ] && [ -e {own}/refuse ]; then echo '{{\"code\": 11, \"msg\": \"not now\"}}'; exit 1; fi\n\
         exec /usr/lib/cni/bridge"
    );
    davit_e2e::host::script(&dir.join("recorder"), &text)?;
    for plugin in ["host-local", "bridge"] {
        std::os::unix::fs::symlink(Path::new("/usr/lib/cni").join(plugin), dir.join(plugin))?;
    }
    settings.cni_bin_dir = dir;
    cni::configure(settings, &cni::bridge(settings)?.replacen("\"bridge\"", "\"recorder\"", 1))
}

/// Who was told DEL since the log of calls was begun anew.
fn deleted(t: &Test) -> Result<BTreeSet<String>> {
    let text = davit_e2e::host::read_optional(&t.dir.join("calls"))?.unwrap_or_default();
    let dels = text.lines().filter_map(|line| line.strip_prefix("DEL "));
    Ok(dels.filter_map(|rest| Some(rest.split(' ').next()?.to_owned())).collect())
}

fn leases(t: &Test) -> Result<Vec<String>> {
    let names = davit_e2e::host::names_in(&t.dir.join("ipam").join(t.settings().tag()))?;
    Ok(names.into_iter().filter(|name| name.starts_with("10.")).collect())
}

on_one!(del_is_called_for_every_attachment_that_is_known, setup: recorded, |t| {
    for run in RUNS {
        let ready = [t.pod("one", |_| ())?.id, t.pod("two", |_| ())?.id];
        let stopped = t.pod("stopped", |_| ())?;
        t.cri.stop_pod(&stopped.id)?;
        assert_eq!(leases(t)?.len(), 2);
        // The power goes while the plugin is at work on one.
        std::thread::scope(|scope| {
            let hangs = scope.spawn(|| t.try_pod("hangs", |_| ()));
            eventually(Duration::from_secs(30), "the plugin hangs", || {
                let calls = std::fs::read_to_string(t.dir.join("calls"))?;
                Ok((calls.lines().filter(|line| line.starts_with("ADD ")).count() == 4).then_some(()))
            })?;
            boot::end(t, run)?;
            ensure!(hangs.join().unwrap().is_err(), "a pod was made");
            anyhow::Ok(())
        })?;
        let calls = std::fs::read_to_string(t.dir.join("calls"))?;
        let hung = calls.lines().rfind(|line| line.starts_with("ADD "));
        let hung = hung.and_then(|line| line.split(' ').nth(1)).context("its id")?.to_owned();
        std::fs::remove_file(t.dir.join("calls"))?;
        t.daemon().spawn()?;
        assert!(t.cri.pods(None)?.is_empty(), "{run:?}");
        let expected: BTreeSet<String> = ready.iter().cloned().chain([hung]).collect();
        // While davit serves already.
        eventually(Duration::from_secs(30), "DEL is called for all of them", || {
            Ok((deleted(t)? == expected && leases(t)?.is_empty()).then_some(()))
        })?;
        let text = std::fs::read_to_string(t.dir.join("calls"))?;
        let told = text.lines().find(|line| line.starts_with("DEL ")).unwrap_or_default();
        println!("{run:?}: {} times DEL, the first as {told:?}", deleted(t)?.len());
        assert!(leases(t)?.is_empty(), "{run:?}: addresses are not free");
        all_gone(t, &ready)?;
        std::fs::remove_file(t.dir.join("calls"))?;
    }
    Ok(())
});

on_one!(a_plugin_that_fails_then_is_asked_again_and_holds_up_nobody, setup: recorded, |t| {
    t.allow_log("not now");
    let gone = t.pod("web", |_| ())?;
    boot::end(t, Run::Emptied)?;
    std::fs::File::create(t.dir.join("refuse"))?;
    t.daemon().spawn()?;
    assert!(t.cri.pods(None)?.is_empty());
    let (_, id) = t.sleeper(|_| ())?;
    assert_eq!(t.exec(&id, "echo well")?, "well");
    // Not while davit itself is at it, which it is now and then.
    let network = format!("network of pod {}", gone.id);
    eventually(Duration::from_secs(30), "the check finds the network", || {
        let check = t.davit(&["check"])?;
        Ok(String::from_utf8_lossy(&check.stdout).contains(&network).then_some(()))
    })?;
    std::fs::remove_file(t.dir.join("refuse"))?;
    eventually(Duration::from_secs(30), "only the new pod has an address", || {
        t.davit_ok(&["repair"])?;
        Ok((leases(t)?.len() == 1).then_some(()))
    })?;
    Ok(())
});
