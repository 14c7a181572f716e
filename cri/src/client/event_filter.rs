//! The filters of `davit events`, as people know them from other tools, and what they ask of the daemon.
//!
//! `type` and `event` narrow each other, as they do elsewhere: `type=container` with `event=exited` is one type of the daemon's.

use super::error::ClientError;
use davit_proto::admin::EventsRequest;
use davit_runtime::journal::What;
use std::collections::BTreeSet;
use std::str::FromStr;

/// What can be filtered by.
const KEYS: [&str; 8] = ["type", "event", "id", "pod", "container", "image", "namespace", "label"];

/// One filter, known to make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventFilter {
    key: &'static str,
    value: String,
}

impl FromStr for EventFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let keys = KEYS.join(", ");
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("a filter is KEY=VALUE; the keys are {keys}"))?;
        let key = KEYS.into_iter().find(|known| *known == key);
        let key = key.ok_or_else(|| format!("there is no such filter; there are {keys}"))?;
        let known = match key {
            "type" => types(),
            "event" => actions(),
            _ if value.is_empty() || value.starts_with('=') => {
                return Err(format!("{key}: the value is empty or has no name"));
            }
            _ => BTreeSet::from([value]),
        };
        if !known.contains(value) {
            let known: Vec<&str> = known.into_iter().collect();
            return Err(format!("{key} can't be {value:?}; it can be {}", known.join(", ")));
        }
        Ok(Self { key, value: value.to_owned() })
    }
}

fn parts(what: What) -> (&'static str, &'static str) {
    what.word().split_once('.').unwrap_or_default()
}

fn types() -> BTreeSet<&'static str> {
    What::ALL.into_iter().flat_map(|what| [what.kind(), what.word()]).collect()
}

fn actions() -> BTreeSet<&'static str> {
    What::ALL.into_iter().map(|what| parts(what).1).collect()
}

/// Puts filters into a request.
///
/// # Errors
/// [`ClientError::NoEvent`]: nothing is of such a type and such an event.
pub(super) fn put(filters: &[EventFilter], request: &mut EventsRequest) -> Result<(), ClientError> {
    for EventFilter { key, value } in filters {
        let field = match *key {
            "id" => &mut request.ids,
            "pod" => &mut request.pods,
            "container" => &mut request.containers,
            "image" => &mut request.images,
            "namespace" => &mut request.namespaces,
            "label" => &mut request.labels,
            // Below.
            _ => continue,
        };
        field.push(value.clone());
    }
    let of = |wanted: &str| -> Vec<&str> {
        let of_key = filters.iter().filter(|filter| filter.key == wanted);
        of_key.map(|filter| filter.value.as_str()).collect()
    };
    let (types, events) = (of("type"), of("event"));
    if events.is_empty() {
        request.types = types.into_iter().map(str::to_owned).collect();
        return Ok(());
    }
    let fits = |what: &What| {
        let of_type = types.iter().any(|wanted| [what.kind(), what.word()].contains(wanted));
        (types.is_empty() || of_type) && events.contains(&parts(*what).1)
    };
    let all = What::ALL.iter().filter(|what| fits(what));
    request.types = all.map(|what| what.word().to_owned()).collect();
    if request.types.is_empty() {
        return Err(ClientError::NoEvent { types: types.join(", "), events: events.join(", ") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(filters: &[&str]) -> Result<EventsRequest, ClientError> {
        let filters: Vec<EventFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        let mut request = EventsRequest::default();
        put(&filters, &mut request).map(|()| request)
    }

    #[test]
    fn types_and_events_narrow_each_other() {
        assert_eq!(asked(&["type=container"]).unwrap().types, ["container"]);
        let both = asked(&["type=container", "event=exited"]).unwrap();
        assert_eq!(both.types, ["container.exited"]);
        let removed = asked(&["event=removed"]).unwrap();
        assert_eq!(removed.types, ["pod.removed", "container.removed", "image.removed"]);
        let several = asked(&["type=pod.ready", "type=image", "event=ready", "event=pulled"]);
        assert_eq!(several.unwrap().types, ["pod.ready", "image.pulled"]);
        assert!(matches!(asked(&["type=pod", "event=oom"]), Err(ClientError::NoEvent { .. })));
    }

    #[test]
    fn the_others_are_the_daemons() {
        let request = asked(&["id=a", "pod=b", "container=c", "image=d", "label=e=f", "id=g"]);
        let request = request.unwrap();
        assert_eq!((request.ids, request.pods), (vec!["a".into(), "g".into()], vec!["b".into()]));
        assert_eq!((request.containers, request.images), (vec!["c".into()], vec!["d".into()]));
        assert_eq!(request.labels, ["e=f"]);
    }

    #[test]
    fn what_is_no_filter_is_refused_with_what_there_is() {
        for (text, told) in [
            ("web", "type, event, id, pod, container, image, namespace, label"),
            ("colour=red", "type, event, id, pod"),
            ("type=volume", "container.exited"),
            ("event=die", "exited"),
            ("pod=", "pod: the value is empty"),
            ("label==x", "label"),
        ] {
            let refused = text.parse::<EventFilter>().unwrap_err();
            assert!(refused.contains(told), "{text}: {refused}");
        }
    }
}
