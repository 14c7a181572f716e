//! `davit ps`, `pods`, `images` and `inspect`: who is shown, in which order and in which form.

use davit_e2e::prelude::*;
use serde_json::Value;

fn lines(t: &Test, arguments: &[&str]) -> Result<Vec<String>> {
    Ok(t.davit_ok(arguments)?.lines().map(str::to_owned).collect())
}

/// What a command that must fail says on standard error.
fn refusal(t: &Test, arguments: &[&str]) -> Result<String> {
    let output = t.davit(arguments)?;
    ensure!(!output.status.success(), "{arguments:?} succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

on_one!(containers_are_filtered_sorted_and_cut, |t| {
    let pod = t.pod("shop", |_| {})?;
    let labelled = |name: &str, app: &str| {
        t.create(&pod, name, |config| {
            config.labels.insert("app".to_owned(), app.to_owned());
        })
    };
    let web = labelled("web", "shop")?;
    let cache = labelled("cache", "shop")?;
    let job = labelled("job", "batch")?;
    t.cri.start(&web)?;
    t.cri.start(&job)?;
    t.cri.stop(&job, 0)?;
    let ids = |arguments: &[&str]| {
        lines(t, &[&["ps", "-q", "--no-trunc", "--sort", "name"], arguments].concat())
    };
    assert_eq!(ids(&[])?, std::slice::from_ref(&web));
    assert_eq!(ids(&["-a"])?, [cache.clone(), job.clone(), web.clone()]);
    assert_eq!(ids(&["--filter", "state=exited"])?, std::slice::from_ref(&job));
    assert_eq!(
        ids(&["--filter", "state=exited", "--filter", "state=created"])?,
        [cache.clone(), job.clone()]
    );
    assert_eq!(ids(&["-a", "--filter", "label=app=shop"])?, [cache.clone(), web.clone()]);
    assert_eq!(
        ids(&["-a", "--filter", "label=app", "--filter", "name=jo"])?,
        std::slice::from_ref(&job)
    );
    assert_eq!(
        ids(&["-a", "--filter", "pod=shop", "--filter", &format!("id={}", &web[..9])])?,
        std::slice::from_ref(&web)
    );
    assert_eq!(ids(&["-a", "--filter", "pod=other"])?, [""; 0]);
    assert_eq!(ids(&["-a", "--filter", "image=busybox"])?.len(), 3);
    assert_eq!(ids(&["--latest"])?, std::slice::from_ref(&job));
    assert_eq!(ids(&["--last", "2"])?, [cache.clone(), job.clone()]);
    assert_eq!(lines(t, &["ps", "-aq"])?, [&job[..13], &cache[..13], &web[..13]]);
    let table = t.davit_ok(&["ps", "-a"])?;
    assert!(table.contains("exited (137)") || table.contains("exited (0)"), "{table}");
    Ok(())
});

on_one!(a_list_is_written_as_a_script_wants_it, |t| {
    let (pod, id) = t.sleeper(|_| {})?;
    let template = "{{ id }}\\t{{ state }}{% if exit_code is none %} alive{% endif %}";
    assert_eq!(lines(t, &["ps", "--format", template])?, [format!("{id}\trunning alive")]);
    let json: Value = serde_json::from_str(&t.davit_ok(&["ps", "--format", "json"])?)?;
    assert_eq!(json[0]["id"], id.as_str());
    assert_eq!(json[0]["pod_namespace"], "e2e");
    assert_eq!(lines(t, &["pods", "-q", "--no-trunc"])?, std::slice::from_ref(&pod.id));
    assert_eq!(lines(t, &["pods", "--format", "{{ namespace }}/{{ state }}"])?, ["e2e/ready"]);
    assert_eq!(lines(t, &["pods", "-q", "--filter", "state=notready"])?, [""; 0]);
    let image = lines(t, &["images", "-q", "--no-trunc"])?;
    assert!(image[0].starts_with("sha256:"), "{image:?}");
    let named = lines(
        t,
        &[
            "images",
            "busybox",
            "--format",
            "{{ repo_tags | length }} {% if size > 0 %}big{% endif %}",
        ],
    )?;
    assert_eq!(named, ["1 big"]);
    assert_eq!(lines(t, &["images", "-q", "--filter", "dangling=true"])?, [""; 0]);
    Ok(())
});

on_one!(what_makes_no_sense_is_refused_with_what_does, |t| {
    for (arguments, told) in [
        (&["ps", "--filter", "colour=red"][..], "id, name, label, state, pod, image"),
        (&["ps", "--filter", "state=tired"], "created, running, paused, exited"),
        (&["ps", "--format", "yaml"], "table, json"),
        (&["ps", "--format", "{{ colour }}"], "exit_code"),
        (&["ps", "--format", "{{.ID}}"], "exit_code"),
        (&["ps", "--sort", "weight"], "created"),
        (&["pods", "--filter", "state=running"], "ready, notready"),
        (&["images", "--filter", "dangling=maybe"], "true, false"),
        (&["info", "--format", "{{ nothing }}"], "cgroup_driver"),
    ] {
        let said = refusal(t, arguments)?;
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    Ok(())
});

on_one!(everything_can_be_looked_into, |t| {
    let (pod, id) = t.sleeper(|config| {
        config.labels.insert("app".to_owned(), "web".to_owned());
    })?;
    let inspect = |arguments: &[&str]| -> Result<Value> {
        Ok(serde_json::from_str(&t.davit_ok(&[&["inspect"], arguments].concat())?)?)
    };
    let image = t.davit_ok(&["images", "-q"])?;
    let all = inspect(&[&id[..10], &pod.id, &image])?;
    let kinds: Vec<_> =
        all.as_array().context("an array")?.iter().map(|one| one["type"].clone()).collect();
    assert_eq!(kinds.len(), 3, "{all}");
    assert_eq!(kinds, ["container", "pod", "image"]);
    assert_eq!(all[0]["id"], id.as_str());
    assert_eq!(all[0]["status"]["labels"]["app"], "web");
    assert_eq!(all[0]["info"]["pid"], t.pid(&id)?);
    assert_eq!(all[1]["status"]["metadata"]["namespace"], "e2e");
    assert!(all[2]["status"]["size"].as_u64().context("a size")? > 0);
    let pid = t.davit_ok(&["inspect", "-f", "{{ info.pid }}", &id])?;
    assert_eq!(pid, t.pid(&id)?.to_string());
    let said = refusal(t, &["inspect", "--type", "pod", &id])?;
    assert!(said.contains(&id), "{said}");
    let said = refusal(t, &["inspect", "no-such"])?;
    assert!(said.contains("no container, pod or image"), "{said}");
    Ok(())
});
