//! `davit doctor`: whether this machine can run pods, whether or not a daemon runs.
//!
//! Owns what is shown, and the configuration's part; all else is found out by the daemon's own code ([`davit_runtime::doctor`], [`crate::serve`]). A signal does not
//! cut off what would leave something behind: it is answered once that is over.

use crate::auth_file::AuthFile;
use crate::client::{ClientError, Format, print_json, print_template};
use crate::config::{self, Config, ServeFlags};
use crate::{open, output, serve};
use davit_runtime::doctor;
use davit_runtime::error::chain;
use davit_runtime::machine::{Finding, Verdict};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// What a program exits with that a signal has ended, less the signal's number.
const SIGNALLED: u8 = 128;

/// Looks, and shows what was found. Fails if there is a problem.
pub(crate) fn main(flags: &ServeFlags, format: &Format) -> ExitCode {
    let executor =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(executor) => executor,
            Err(error) => {
                return output::end(Err(anyhow::Error::new(error).context("start the executor")));
            }
        };
    let (found, signalled) = executor.block_on(to_the_end(flags));
    if let Some(number) = signalled {
        return ExitCode::from(SIGNALLED.saturating_add(number));
    }
    match show(&found, format) {
        Err(error) => output::end(Err(error.into())),
        Ok(()) if found.iter().any(|one| one.verdict == Verdict::Problem) => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// The findings, and the signal that came meanwhile.
async fn to_the_end(flags: &ServeFlags) -> (Vec<Finding>, Option<u8>) {
    let taken =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)] = taken else {
        return (Box::pin(examine(flags)).await, None);
    };
    let mut examination = Box::pin(examine(flags));
    let number = tokio::select! {
        found = &mut examination => return (found, None),
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    };
    output::complain("davit: ends once its trials are cleaned up");
    (examination.await, Some(number))
}

async fn examine(flags: &ServeFlags) -> Vec<Finding> {
    let subject = "configuration";
    let config = match config::load(flags) {
        Ok(config) => config,
        Err(error) => {
            let wrong = Finding::problem(
                subject,
                chain(&error),
                "correct it; what depends on it was not looked at",
            );
            return [vec![wrong], doctor::examine_machine()].concat();
        }
    };
    let mut found = vec![Finding::ok(subject, "right")];
    found.extend(credentials(&config));
    match open::runtime_config(&config) {
        Ok(runtime) => found.extend(Box::pin(doctor::examine(&runtime)).await),
        Err(error) => {
            let advice = "install it beside davit, or set shim; OCI runtimes and the network were not looked at";
            found.push(Finding::problem("shim", output::one_line(&error), advice));
            found.extend(doctor::examine_machine());
        }
    }
    found.extend(serve::examine_sockets(&config));
    found
}

/// Credentials that can't be read fail every pull that brings none.
fn credentials(config: &Config) -> Option<Finding> {
    let path = config.registry_auth_file()?;
    let error = AuthFile::read(path).err()?;
    Some(Finding::problem(
        "credentials",
        chain(&error),
        "correct the file, or unset registry_auth_file",
    ))
}

fn show(found: &[Finding], format: &Format) -> Result<(), ClientError> {
    match format {
        Format::Table => {
            let rows: Vec<Vec<String>> = found.iter().map(row).collect();
            Ok(output::print(&output::table(&["VERDICT", "SUBJECT", "FINDING"], &rows))?)
        }
        Format::Json => print_json(&found.iter().map(json).collect::<Vec<_>>()),
        Format::Template(text) => found.iter().try_for_each(|one| print_template(text, &json(one))),
    }
}

fn row(finding: &Finding) -> Vec<String> {
    vec![finding.verdict.name().to_owned(), finding.subject.clone(), finding.to_string()]
}

fn json(finding: &Finding) -> serde_json::Value {
    let Finding { subject, verdict, text, advice } = finding;
    serde_json::json!({ "subject": subject, "verdict": verdict.name(), "text": text, "advice": advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_row_and_an_object() {
        let finding = Finding::problem("network", "there is none", "install one");
        assert_eq!(row(&finding), ["problem", "network", "there is none; install one"]);
        let json = json(&finding);
        assert_eq!((&json["verdict"], &json["advice"]), (&"problem".into(), &"install one".into()));
    }
}
