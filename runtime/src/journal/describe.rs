//! What is kept of an event: names, labels and what the kind of event has to tell, each bounded.
//!
//! Owns what an event says. The view that it came with is let go here, so that nothing of a pod that is gone is kept alive by its history.

use super::{Entry, Told, What};
use crate::container::{ContainerState, ContainerView, Resources};
use crate::events::{Change, Event};
use crate::image::Image;
use crate::sandbox::SandboxView;
use std::collections::BTreeMap;

/// Bytes of one text that are kept.
const TEXT: usize = 512;
/// Bytes of all of an event's labels that are kept.
const LABELS: usize = 4096;

type Attributes = BTreeMap<String, String>;

/// The entry for what was told; none for what is no event.
pub(super) fn describe(told: &Told, number: u64) -> Option<Entry> {
    match told {
        Told::Pod(event) => match &event.container {
            Some(container) => of_container(event, container, number),
            None => of_pod(event, number),
        },
        Told::Image { what, image, at } => Some(of_image(*what, image, *at, number)),
        Told::Flush(_) => None,
    }
}

fn of_container(event: &Event, view: &ContainerView, number: u64) -> Option<Entry> {
    let what = match event.change {
        Change::Created => What::ContainerCreated,
        Change::Started => What::ContainerStarted,
        Change::Paused => What::ContainerPaused,
        Change::Resumed => What::ContainerResumed,
        Change::Updated => What::ContainerUpdated,
        Change::OomKilled => What::ContainerOom,
        Change::Stopped => What::ContainerExited,
        Change::Deleted => What::ContainerRemoved,
        Change::ReadyAgain => return None,
    };
    let mut attributes = Attributes::new();
    match (event.change, &view.state) {
        (Change::Created, _) => put(&mut attributes, "attempt", view.spec.attempt),
        (Change::Started, ContainerState::Running { pid, .. }) => {
            put(&mut attributes, "pid", pid);
        }
        (Change::Stopped, state) => ended(&mut attributes, state),
        (Change::Updated, _) => limits(&mut attributes, &view.spec.resources),
        (_, _) => {}
    }
    let labels = bounded(&view.spec.labels, &mut attributes);
    Some(Entry {
        name: text(&view.spec.name),
        image: text(&view.facts.image_name),
        labels,
        attributes,
        ..in_pod(event, &event.sandbox, what, number)
    })
}

fn of_pod(event: &Event, number: u64) -> Option<Entry> {
    let what = match event.change {
        Change::Created => What::PodCreated,
        Change::Started | Change::ReadyAgain => What::PodReady,
        Change::Updated => What::PodUpdated,
        Change::Stopped => What::PodNotReady,
        Change::Deleted => What::PodRemoved,
        Change::Paused | Change::Resumed | Change::OomKilled => return None,
    };
    let pod = &event.sandbox;
    let mut attributes = Attributes::new();
    match event.change {
        Change::Created => {
            put(&mut attributes, "attempt", pod.spec.key.attempt);
            put(&mut attributes, "handler", &pod.handler);
            put(&mut attributes, "uid", &pod.spec.key.uid);
        }
        Change::Started | Change::ReadyAgain if !pod.ips.is_empty() => {
            let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
            put(&mut attributes, "ips", ips.join(" "));
        }
        Change::Stopped => {
            if let Some(trouble) = &pod.trouble {
                put(&mut attributes, "reason", trouble);
            }
        }
        Change::Updated => {
            limits(&mut attributes, &pod.spec.resources.clone().unwrap_or_default());
        }
        Change::Started
        | Change::ReadyAgain
        | Change::Deleted
        | Change::Paused
        | Change::Resumed
        | Change::OomKilled => {}
    }
    let labels = bounded(&pod.spec.labels, &mut attributes);
    let entry = in_pod(event, pod, what, number);
    Some(Entry { name: entry.pod_name.clone(), labels, attributes, ..entry })
}

/// What all events of a pod have.
fn in_pod(event: &Event, pod: &SandboxView, what: What, number: u64) -> Entry {
    Entry {
        number,
        at: event.at,
        what,
        id: event.id.clone(),
        name: String::new(),
        pod: pod.id.to_string(),
        pod_name: text(&pod.spec.key.name),
        namespace: text(&pod.spec.key.namespace),
        image: String::new(),
        labels: BTreeMap::new(),
        attributes: Attributes::new(),
    }
}

fn of_image(what: What, image: &Image, at: i64, number: u64) -> Entry {
    let mut attributes = Attributes::new();
    let names: Vec<&String> = image.repo_tags.iter().chain(&image.repo_digests).collect();
    if names.len() > 1 {
        let all: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        put(&mut attributes, "names", all.join(" "));
    }
    put(&mut attributes, "size", image.size);
    Entry {
        number,
        at,
        what,
        id: image.id.to_string(),
        name: names.first().map(|name| text(name)).unwrap_or_default(),
        pod: String::new(),
        pod_name: String::new(),
        namespace: String::new(),
        image: String::new(),
        labels: BTreeMap::new(),
        attributes,
    }
}

/// How a container ended; nothing of one whose end is not known, as it went with its pod.
fn ended(attributes: &mut Attributes, state: &ContainerState) {
    let ContainerState::Exited(exit) = state else { return };
    put(attributes, "exit_code", exit.code);
    put(attributes, "reason", exit.reason.as_str());
    if !exit.message.is_empty() {
        put(attributes, "message", &exit.message);
    }
    if let Some(at) = exit.started_at {
        put(attributes, "started_at", moment(at));
    }
    put(attributes, "finished_at", moment(exit.finished_at));
}

/// The limits that are in force, those that are none left out.
fn limits(attributes: &mut Attributes, resources: &Resources) {
    let fields = |resources: &Resources| serde_json::to_value(resources).unwrap_or_default();
    let (now, none) = (fields(resources), fields(&Resources::default()));
    for (name, value) in now.as_object().into_iter().flatten() {
        if none.get(name) == Some(value) {
            continue;
        }
        match value.as_str() {
            Some(value) => put(attributes, name, value),
            None => put(attributes, name, value),
        }
    }
}

fn moment(nanoseconds: i64) -> String {
    let stamp = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    stamp.map_or_else(|_beyond| nanoseconds.to_string(), |stamp| stamp.to_string())
}

fn put(attributes: &mut Attributes, name: &str, value: impl ToString) {
    attributes.insert(name.to_owned(), text(&value.to_string()));
}

/// A text, cut at a character's boundary if it is too long.
fn text(whole: &str) -> String {
    let end = (0..=TEXT.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at));
    whole.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// As many labels as there is room for; how many are left out is an attribute.
fn bounded(labels: &Attributes, attributes: &mut Attributes) -> Attributes {
    let mut room = LABELS;
    let mut kept = Attributes::new();
    for (name, value) in labels {
        let Some(left) = room.checked_sub(name.len() + value.len()) else { continue };
        room = left;
        kept.insert(name.clone(), value.clone());
    }
    if kept.len() < labels.len() {
        put(attributes, "labels_left_out", labels.len() - kept.len());
    }
    kept
}
