//! How a session ended, in the words of its error stream.
//!
//! Owns the JSON that version 4 of the protocol and its successors end with, as much of Kubernetes' `metav1.Status` as clients look at,
//! and the bare text that came before it.

use crate::streaming::backend::Ended;
use crate::streaming::grant::Kind;
use serde::Serialize;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The process did, or davit let go of it.
    Ended(Ended),
    /// It never began, or something failed in between.
    Failed(String),
    /// The daemon stops.
    Stopping,
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Cause {
    /// Its type; the name on the wire is another.
    reason: &'static str,
    message: String,
}

impl Status {
    /// Of a session of this kind.
    pub(crate) fn new(kind: Kind, outcome: &Outcome) -> Self {
        match (kind, outcome) {
            // Who attaches hears that the container has ended, not how: that is in its status.
            (Kind::Attach | Kind::Forward, Outcome::Ended(Ended::Exited { .. }))
            | (Kind::Exec, Outcome::Ended(Ended::Exited { code: 0 })) => Self::success(),
            (Kind::Exec, Outcome::Ended(Ended::Exited { code })) => Self::exit(*code),
            (_, Outcome::Ended(Ended::Detached { reason: None })) => Self::success(),
            (_, Outcome::Ended(Ended::Detached { reason: Some(reason) })) => {
                Self::failure(kind, reason)
            }
            (_, Outcome::Failed(problem)) => Self::failure(kind, problem),
            (_, Outcome::Stopping) => Self::failure(kind, "davit stops"),
        }
    }

    fn success() -> Self {
        Self { status: "Success", message: String::new(), reason: None, details: None, code: None }
    }

    fn exit(code: i32) -> Self {
        // Clients take eight bits.
        let code = u8::try_from(code).unwrap_or(u8::MAX);
        Self {
            status: "Failure",
            message: format!("command terminated with non-zero exit code: exit status {code}"),
            reason: Some("NonZeroExitCode"),
            details: Some(Details {
                causes: [Cause { reason: "ExitCode", message: code.to_string() }],
            }),
            code: None,
        }
    }

    fn failure(kind: Kind, problem: &str) -> Self {
        let doing = match kind {
            Kind::Exec => "error executing command in container",
            Kind::Attach => "error attaching to container",
            Kind::Forward => "error forwarding ports of pod",
        };
        Self {
            status: "Failure",
            message: format!("Internal error occurred: {doing}: {problem}"),
            reason: Some("InternalError"),
            details: None,
            code: Some(500),
        }
    }

    /// For version 4 and later.
    pub(crate) fn json(&self) -> Vec<u8> {
        // Structs of strings and numbers always have a JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// For versions before 4: nothing if all went well.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.message.clone().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(kind: Kind, outcome: Outcome) -> String {
        String::from_utf8(Status::new(kind, &outcome).json()).unwrap()
    }

    #[test]
    fn each_end_has_the_status_that_clients_understand() {
        let exited = |code| Outcome::Ended(Ended::Exited { code });
        assert_eq!(json(Kind::Exec, exited(0)), r#"{"status":"Success"}"#);
        assert_eq!(
            json(Kind::Exec, exited(3)),
            r#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        assert!(json(Kind::Exec, exited(137)).contains(r#""message":"137""#));
        assert!(json(Kind::Exec, exited(-1)).contains(r#""message":"255""#));
        assert_eq!(json(Kind::Attach, exited(3)), r#"{"status":"Success"}"#);
        let detached = |reason: Option<&str>| {
            Outcome::Ended(Ended::Detached { reason: reason.map(str::to_owned) })
        };
        assert_eq!(json(Kind::Attach, detached(None)), r#"{"status":"Success"}"#);
        assert!(json(Kind::Attach, detached(Some("too slow"))).contains("to container: too slow"));
        assert_eq!(
            json(Kind::Exec, Outcome::Failed("no such \"file\"".to_owned())),
            r#"{"status":"Failure","message":"Internal error occurred: error executing command in container: no such \"file\"","reason":"InternalError","code":500}"#
        );
        assert!(json(Kind::Attach, Outcome::Stopping).contains("davit stops"));
    }

    #[test]
    fn before_version_4_success_is_silence() {
        let status = |code| Status::new(Kind::Exec, &Outcome::Ended(Ended::Exited { code }));
        assert!(status(0).text().is_empty());
        assert_eq!(
            String::from_utf8(status(3).text()).unwrap(),
            "command terminated with non-zero exit code: exit status 3"
        );
    }
}
