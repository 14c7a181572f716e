//! Which events a client wants.
//!
//! Owns what the fields of a request mean: of several values of one field one must fit, of labels all; different fields must all fit. A value that can never fit
//! anything is refused with those that can.

use davit_runtime::journal::{Entry, What};

/// See the module. Empty: whatever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    types: Vec<Type>,
    ids: Vec<String>,
    pods: Vec<String>,
    containers: Vec<String>,
    images: Vec<String>,
    namespaces: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    since: Option<i64>,
    until: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Type {
    /// All of this kind of thing.
    Kind(&'static str),
    /// This.
    One(What),
}

const KINDS: [&str; 3] = ["pod", "container", "image"];

impl Filter {
    /// Reads a request's fields: types, then ids, pods, containers, images, namespaces and labels, then since and until.
    ///
    /// # Errors
    /// A sentence with the field and the value.
    pub(super) fn new(
        types: &[String],
        things: [Vec<String>; 6],
        (since, until): (Option<i64>, Option<i64>),
    ) -> Result<Self, String> {
        let fields = ["ids", "pods", "containers", "images", "namespaces", "labels"];
        for (field, values) in fields.iter().zip(&things) {
            if values.iter().any(|value| value.is_empty() || value.starts_with('=')) {
                return Err(format!("{field}: a value is empty or has no name"));
            }
        }
        if let (Some(since), Some(until)) = (since, until)
            && until < since
        {
            return Err(format!("until: {until} is before since, which is {since}"));
        }
        let [ids, pods, containers, images, namespaces, labels] = things;
        let label = |label: String| match label.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (label, None),
        };
        Ok(Self {
            types: types.iter().map(|text| Type::read(text)).collect::<Result<_, _>>()?,
            ids,
            pods,
            containers,
            images,
            namespaces,
            labels: labels.into_iter().map(label).collect(),
            since,
            until,
        })
    }

    /// Whether it happened before the time that was asked for.
    pub(super) fn is_before(&self, entry: &Entry) -> bool {
        self.since.is_some_and(|since| entry.at < since)
    }

    /// Whether this is wanted.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let kind = entry.what.kind();
        !self.is_before(entry)
            && self.until.is_none_or(|until| entry.at <= until)
            && any(&self.types, |wanted| match wanted {
                Type::Kind(wanted) => *wanted == kind,
                Type::One(wanted) => *wanted == entry.what,
            })
            && any(&self.ids, |id| begins(&entry.id, id))
            && any(&self.pods, |pod| {
                kind != "image" && (entry.pod.starts_with(pod) || entry.pod_name == *pod)
            })
            && any(&self.containers, |one| {
                kind == "container" && (entry.id.starts_with(one) || entry.name == *one)
            })
            && any(&self.images, |image| of_image(entry, image))
            && any(&self.namespaces, |namespace| kind != "image" && entry.namespace == *namespace)
            && self.labels.iter().all(|(name, wanted)| {
                let found = entry.labels.get(name);
                found.is_some_and(|found| wanted.as_ref().is_none_or(|wanted| wanted == found))
            })
    }
}

impl Type {
    fn read(text: &str) -> Result<Self, String> {
        if let Some(kind) = KINDS.into_iter().find(|kind| *kind == text) {
            return Ok(Self::Kind(kind));
        }
        text.parse().map(Self::One).map_err(|_unknown| {
            let known: Vec<&str> = What::ALL.iter().map(|what| what.word()).collect();
            let text: String = text.chars().take(100).collect();
            format!(
                "types: there is no {text:?}; there are {}, {}",
                KINDS.join(", "),
                known.join(", ")
            )
        })
    }
}

fn any<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

fn begins(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted) || id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(wanted))
}

fn of_image(entry: &Entry, wanted: &str) -> bool {
    match entry.what.kind() {
        "image" => {
            let names = entry.attributes.get("names").unwrap_or(&entry.name);
            begins(&entry.id, wanted) || names.contains(wanted)
        }
        "container" => entry.image.contains(wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(what: What) -> Entry {
        let text = |text: &str| text.to_owned();
        let pod = what.kind() != "image";
        let only = |pod: bool, text: &str| if pod { text.to_owned() } else { String::new() };
        Entry {
            number: 1,
            at: 100,
            what,
            id: text(match what.kind() {
                "pod" => "aa11",
                "container" => "bb22",
                _ => "sha256:cc33",
            }),
            name: text(match what.kind() {
                "pod" => "web",
                "container" => "main",
                _ => "docker.io/library/busybox:latest",
            }),
            pod: only(pod, "aa11"),
            pod_name: only(pod, "web"),
            namespace: only(pod, "shop"),
            image: only(what.kind() == "container", "docker.io/library/busybox:latest"),
            labels: if pod {
                BTreeMap::from([(text("app"), text("web")), (text("tier"), text("a\n\"b\""))])
            } else {
                BTreeMap::new()
            },
            attributes: BTreeMap::new(),
        }
    }

    /// The fields of a request, by name, and which kinds of events fit.
    #[test]
    fn each_field_lets_through_what_it_means() {
        let at = |field: &str| {
            ["ids", "pods", "containers", "images", "namespaces", "labels"]
                .iter()
                .position(|known| *known == field)
                .unwrap()
        };
        for (given, fit) in [
            (&[][..], "pci"),
            (&[("ids", "aa")], "p"),
            (&[("ids", "aa"), ("ids", "cc3")], "pi"),
            (&[("ids", "sha256:cc")], "i"),
            (&[("pods", "web")], "pc"),
            (&[("pods", "we")], ""),
            (&[("pods", "aa1")], "pc"),
            (&[("containers", "main")], "c"),
            (&[("containers", "bb")], "c"),
            (&[("containers", "web")], ""),
            (&[("images", "busybox")], "ci"),
            (&[("images", "cc33")], "i"),
            (&[("namespaces", "shop")], "pc"),
            (&[("labels", "app")], "pc"),
            (&[("labels", "app=web"), ("labels", "tier=a\n\"b\"")], "pc"),
            (&[("labels", "app=web"), ("labels", "tier=b")], ""),
            (&[("pods", "web"), ("containers", "main")], "c"),
        ] {
            let mut things: [Vec<String>; 6] = Default::default();
            for (field, value) in given {
                things[at(field)].push((*value).to_owned());
            }
            let filter = Filter::new(&[], things, (None, None)).unwrap();
            let kinds =
                [('p', What::PodReady), ('c', What::ContainerExited), ('i', What::ImagePulled)];
            let fits = kinds.iter().filter(|(_, what)| filter.fits(&entry(*what)));
            assert_eq!(fits.map(|(kind, _)| *kind).collect::<String>(), fit, "{given:?}");
        }
    }

    fn filter(types: &[&str], times: (Option<i64>, Option<i64>)) -> Result<Filter, String> {
        let types: Vec<String> = types.iter().map(|text| (*text).to_owned()).collect();
        Filter::new(&types, Default::default(), times)
    }

    #[test]
    fn types_and_times_let_through_what_they_mean() {
        let exited = entry(What::ContainerExited);
        let fits = |types: &[&str], times| filter(types, times).unwrap().fits(&exited);
        assert!(fits(&["container"], (None, None)));
        assert!(fits(&["pod", "container.exited"], (Some(100), Some(100))));
        assert!(!fits(&["container.started"], (None, None)));
        assert!(!fits(&[], (Some(101), None)));
        assert!(!fits(&[], (None, Some(99))));
        assert!(fits(&[], (Some(i64::MIN), Some(i64::MAX))));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field_and_value() {
        let refused = filter(&["container.dancing"], (None, None)).unwrap_err();
        assert!(refused.contains("container.dancing") && refused.contains("container.oom"));
        let refused = filter(&[], (Some(2), Some(1))).unwrap_err();
        assert!(refused.starts_with("until: 1 "), "{refused}");
        for (at, value) in [(0, ""), (4, ""), (5, "=x")] {
            let mut things: [Vec<String>; 6] = Default::default();
            things[at].push(value.to_owned());
            Filter::new(&[], things, (None, None)).unwrap_err();
        }
    }
}
