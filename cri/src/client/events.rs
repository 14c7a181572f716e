//! `davit events`: what has happened, and goes on to happen.
//!
//! Owns the three forms: a line for people, an object of JSON on a line, or a template. Ends well when nobody reads any more and on SIGINT; when the daemon
//! ends, says how to go on from there.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::event_filter::put;
use super::format::{Ids, Template, fields};
use super::moment::exact;
use crate::cli::EventsArgs;
use crate::output::{self, Audience};
use davit_proto::admin;
use serde::Serialize;
use std::collections::BTreeMap;
use std::str::FromStr;

/// How events are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventFormat {
    /// For people.
    Line,
    /// For programs: one object for each, on a line of its own.
    Json,
    /// For scripts.
    Template(String),
}

/// A text that says no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no format: line, json, and templates such as '{{{{ id }}}}' are known")]
pub(crate) struct NoEventFormat(String);

impl FromStr for EventFormat {
    type Err = NoEventFormat;

    fn from_str(text: &str) -> Result<Self, NoEventFormat> {
        match text {
            "line" => Ok(Self::Line),
            "json" => Ok(Self::Json),
            _ if text.contains("{{") || text.contains("{%") => Ok(Self::Template(text.to_owned())),
            _ => Err(NoEventFormat(text.chars().take(200).collect())),
        }
    }
}

/// An event, as it is shown.
#[derive(Debug, Clone, Default, Serialize)]
struct Happened {
    number: u64,
    time: String,
    #[serde(rename = "type")]
    what: String,
    id: String,
    name: String,
    pod: String,
    pod_name: String,
    namespace: String,
    image: String,
    labels: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
    missed: u64,
}

/// How each is written, once that is known to make sense.
enum Writing {
    Line(Ids),
    Json,
    Template(Box<Template>),
}

/// `davit events`.
pub(crate) async fn events(mut daemon: Daemon, args: &EventsArgs) -> Result<(), ClientError> {
    let EventsArgs { filters, since, until, after, no_follow, stream, format, no_trunc } = args;
    let mut request = admin::EventsRequest {
        follow: !no_follow && *stream,
        since: since.map(|since| since.0),
        until: until.map(|until| until.0),
        after: *after,
        ..admin::EventsRequest::default()
    };
    put(filters, &mut request)?;
    let writing = Writing::new(format, if *no_trunc { Ids::Whole } else { Ids::Short })?;
    let asked = daemon.davit.events(request).await;
    let mut events = asked.map_err(doing("ask for events"))?.into_inner();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut last = *after;
    loop {
        let event = tokio::select! {
            _ = &mut interrupted => return Ok(()),
            event = events.message() => event.map_err(|status| ended(last, status))?,
        };
        let Some(event) = event else { return Ok(()) };
        if event.number > 0 {
            last = Some(event.number);
        }
        if writing.write(Happened::of(event))? == Audience::Gone {
            return Ok(());
        }
    }
}

/// A stream of events has no error of its own: whatever breaks it is the daemon's end, or the connection's.
fn ended(last: Option<u64>, status: tonic::Status) -> ClientError {
    ClientError::EventsEnded { last, status: Box::new(status) }
}

impl Happened {
    fn of(event: admin::Event) -> Self {
        let admin::Event {
            number,
            time,
            r#type,
            id,
            name,
            pod_id,
            pod_name,
            namespace,
            image,
            labels,
            attributes,
            missed,
        } = event;
        Self {
            number,
            time: exact(time),
            what: r#type,
            id,
            name,
            pod: pod_id,
            pod_name,
            namespace,
            image,
            labels,
            attributes,
            missed,
        }
    }

    /// For people: what tells it apart, then what else there is to tell.
    fn line(&self, ids: Ids) -> String {
        let mut told = Vec::new();
        let mut tell = |name: &str, value: &str| {
            if !value.is_empty() {
                told.push(format!("{name}={}", quoted(value)));
            }
        };
        tell("name", &self.name);
        if self.what.starts_with("container.") {
            tell("pod", &self.pod_name);
        }
        tell("namespace", &self.namespace);
        tell("image", &self.image);
        for (name, value) in &self.attributes {
            tell(name, value);
        }
        format!("{} {} {} ({})\n", self.time, self.what, ids.show(&self.id), told.join(", "))
    }
}

/// What could be taken for the line's own marks is put into quotes.
fn quoted(value: &str) -> String {
    let marks = |c: char| c.is_control() || matches!(c, ',' | '(' | ')' | '"' | '=');
    if value.contains(marks) { format!("{value:?}") } else { value.to_owned() }
}

impl Writing {
    fn new(format: &EventFormat, ids: Ids) -> Result<Self, ClientError> {
        Ok(match format {
            EventFormat::Line => Self::Line(ids),
            EventFormat::Json => Self::Json,
            EventFormat::Template(text) => {
                let known = fields(&serde_json::to_value(Happened::default())?);
                Self::Template(Box::new(Template::new(text, Some(&known))?))
            }
        })
    }

    fn write(&self, event: Happened) -> Result<Audience, ClientError> {
        let text = match self {
            Self::Json => serde_json::to_string(&event)? + "\n",
            Self::Line(_) | Self::Template(_) if event.missed > 0 => {
                let reason = event.attributes.get("reason").map_or("", String::as_str);
                output::complain(&format!("davit: missed {} events: {reason}", event.missed));
                return Ok(Audience::There);
            }
            Self::Line(ids) => event.line(*ids),
            Self::Template(template) => template.render(&serde_json::to_value(&event)?)?,
        };
        Ok(output::tell(text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited() -> Happened {
        Happened::of(admin::Event {
            number: 7,
            time: 1_700_000_000_123_456_789,
            r#type: "container.exited".to_owned(),
            id: "ab".repeat(32),
            name: "main".to_owned(),
            pod_id: "cd".repeat(32),
            pod_name: "web".to_owned(),
            namespace: "shop".to_owned(),
            image: "docker.io/library/busybox:latest".to_owned(),
            attributes: [
                ("exit_code".to_owned(), "3".to_owned()),
                ("message".to_owned(), "two\nlines, (and) \"marks\"".to_owned()),
            ]
            .into(),
            ..admin::Event::default()
        })
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        assert_eq!(
            exited().line(Ids::Short),
            "2023-11-14T22:13:20.123456789Z container.exited abababababaab (name=main, pod=web, namespace=shop, \
             image=docker.io/library/busybox:latest, exit_code=3, message=\"two\\nlines, (and) \\\"marks\\\"\")\n"
                .replace("abababababaab", &"ab".repeat(32)[..13])
        );
        let json = serde_json::to_value(exited()).unwrap();
        assert_eq!((&json["number"], &json["type"]), (&7.into(), &"container.exited".into()));
    }

    #[test]
    fn a_format_is_a_name_or_a_template() {
        assert_eq!("json".parse(), Ok(EventFormat::Json));
        let refused = "table".parse::<EventFormat>().unwrap_err().to_string();
        assert!(refused.contains("table") && refused.contains("line, json"), "{refused}");
        let template =
            |text: &str| Writing::new(&EventFormat::Template(text.to_owned()), Ids::Short);
        assert!(template("{{ type }} {{ attributes.exit_code }}").is_ok());
        let refused = template("{{ Action }}").err().unwrap().to_string();
        assert!(refused.contains("attributes, id, image"), "{refused}");
    }
}
