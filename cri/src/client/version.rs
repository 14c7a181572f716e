//! `davit version`: this program's part, and the daemon's.
//!
//! The first is known whether or not anybody answers, so it is shown in any case; that nobody answers is a failure all the same.

use super::connect::{Address, Daemon};
use super::error::{ClientError, doing};
use super::format::{Format, Template, print_json};
use crate::{about, output};
use davit_proto::{admin, cri};
use serde::Serialize;
use tonic::Code;

/// Both sides.
#[derive(Debug, Serialize)]
struct Versions {
    client: Side,
    /// None if nobody answers.
    server: Option<Side>,
}

/// One of them.
#[derive(Debug, Serialize)]
struct Side {
    version: String,
    commit: String,
    rustc: String,
    os: String,
    arch: String,
    interfaces: Vec<Spoken>,
}

/// An interface that it speaks.
#[derive(Debug, Serialize)]
struct Spoken {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kubernetes: String,
}

/// `davit version`.
///
/// # Errors
/// [`ClientError`] if nobody answers; this program's part is shown then.
pub(crate) async fn version(address: &Address, format: &Format) -> Result<(), ClientError> {
    let client = Side::of(about::version());
    match format {
        Format::Table => {
            // Before anybody is asked: an answer may take its time.
            output::print(&client.lines("Client"))?;
            Ok(output::print(&format!("\n{}", ask(address).await?.lines("Server")))?)
        }
        Format::Json => {
            let (versions, failed) = both(client, ask(address).await);
            print_json(&versions)?;
            failed
        }
        Format::Template(text) => {
            let known = ["client", "server"].map(str::to_owned).into();
            let template = Template::new(text, Some(&known))?;
            let (versions, failed) = both(client, ask(address).await);
            let line = template.render(&serde_json::to_value(&versions)?);
            // Without a server its fields are missing, which is then not the template's fault.
            match (line, failed) {
                (Ok(line), failed) => output::print(&line).map_err(Into::into).and(failed),
                (Err(_), Err(failed)) => Err(failed),
                (Err(wrong), Ok(())) => Err(wrong),
            }
        }
    }
}

fn both(client: Side, asked: Result<Side, ClientError>) -> (Versions, Result<(), ClientError>) {
    match asked {
        Ok(server) => (Versions { client, server: Some(server) }, Ok(())),
        Err(error) => (Versions { client, server: None }, Err(error)),
    }
}

async fn ask(address: &Address) -> Result<Side, ClientError> {
    let mut daemon = Daemon::connect(address).await?;
    match daemon.davit.about(admin::AboutRequest {}).await {
        Ok(answer) => Ok(Side::of(answer.into_inner())),
        // A daemon from before this call, or another runtime.
        Err(status) if status.code() == Code::Unimplemented => by_cri(daemon).await,
        Err(status) => Err(doing("ask for the version")(status)),
    }
}

async fn by_cri(mut daemon: Daemon) -> Result<Side, ClientError> {
    let request = cri::VersionRequest { version: String::new() };
    let answer = daemon.runtime.version(request).await.map_err(doing("ask for the version"))?;
    let cri::VersionResponse { version: _, runtime_name, runtime_version, runtime_api_version } =
        answer.into_inner();
    let unknown = || "unknown".to_owned();
    let named = if runtime_name == "davit" { String::new() } else { format!("{runtime_name} ") };
    Ok(Side {
        version: named + &runtime_version,
        commit: unknown(),
        rustc: unknown(),
        os: unknown(),
        arch: unknown(),
        interfaces: vec![Spoken {
            name: "cri".to_owned(),
            version: runtime_api_version,
            kubernetes: String::new(),
        }],
    })
}

impl Side {
    fn of(told: admin::AboutResponse) -> Self {
        let admin::AboutResponse { version, commit, rustc, os, arch, interfaces } = told;
        let spoken = |one| {
            let admin::Interface { name, version, kubernetes } = one;
            Spoken { name, version, kubernetes }
        };
        let interfaces = interfaces.into_iter().map(spoken).collect();
        Self { version, commit, rustc, os, arch, interfaces }
    }

    fn lines(&self, title: &str) -> String {
        let Self { version, commit, rustc, os, arch, interfaces } = self;
        let spoken = interfaces.iter().map(|one| match one.kubernetes.as_str() {
            "" => format!("{} {}", one.name, one.version),
            kubernetes => format!("{} {} (Kubernetes {kubernetes})", one.name, one.version),
        });
        let spoken: Vec<String> = spoken.collect();
        format!(
            "{title}:\n  Version:     {version}\n  Interfaces:  {}\n  Commit:      {commit}\n  Rust:        {rustc}\n  OS/Arch:     {os}/{arch}\n",
            spoken.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_told_in_full() {
        let side = Side::of(about::version());
        let text = side.lines("Client");
        let kubernetes = format!("cri v1 (Kubernetes {}), davit v1", davit_proto::KUBERNETES);
        for part in ["Client:", crate::VERSION, &kubernetes, &side.commit, &side.rustc, "linux/"] {
            assert!(text.contains(part), "{part:?} is missing from {text}");
        }
    }
}
