//! `davit check` and `davit repair`: problems as they are found, one line each, and a last line that sums up.
//!
//! Exits with 0 if nothing is wrong, or no longer, else with 1.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use crate::output;
use davit_proto::admin::check_report::Kind;
use davit_proto::admin::{CheckRequest, CheckSummary, Problem};
use std::process::ExitCode;

/// What the daemon is to do about problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Tell of them.
    Check,
    /// Put them right.
    Repair,
}

/// Asks, and prints what comes.
///
/// # Errors
/// [`ClientError::Call`] if the daemon could not look.
pub(crate) async fn check(mut daemon: Daemon, aim: Aim) -> Result<ExitCode, ClientError> {
    let failed = || doing("check");
    let request = CheckRequest { repair: aim == Aim::Repair };
    let mut stream = daemon.davit.check(request).await.map_err(failed())?.into_inner();
    while let Some(report) = stream.message().await.map_err(failed())? {
        match report.kind {
            Some(Kind::Problem(problem)) => output::print(&line(&problem))?,
            Some(Kind::Summary(summary)) => {
                output::print(&sum(&summary))?;
                let well = summary.problems == summary.repaired;
                return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            // From a newer daemon; what is not understood is not shown.
            None => {}
        }
    }
    Err(ClientError::Incomplete { doing: "check", what: "the summary" })
}

fn line(problem: &Problem) -> String {
    let Problem { subject, problem, affects, done, left } = problem;
    let mut line = format!("{subject}: {problem}");
    if !affects.is_empty() {
        line.push_str(&format!(" (affects {})", affects.join(", ")));
    }
    if !done.is_empty() {
        line.push_str(&format!("; {done}"));
    }
    if !left.is_empty() {
        line.push_str(&format!("; still there: {left}"));
    }
    line.push('\n');
    line
}

fn sum(summary: &CheckSummary) -> String {
    let CheckSummary { images, layers, unsealed, problems, repaired } = *summary;
    let found = match (problems, repaired) {
        (0, _) => "nothing is wrong".to_owned(),
        (1, 0) => "1 problem".to_owned(),
        (_, 0) => format!("{problems} problems"),
        (_, _) => format!("{problems} problems, {repaired} repaired"),
    };
    let pending = match unsealed {
        0 => String::new(),
        _ => format!(", {unsealed} of them too new to be compared"),
    };
    format!("{images} images and {layers} layers looked at{pending}: {found}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem {
            subject: "layer sha256:1".to_owned(),
            problem: "its files are not what they were".to_owned(),
            affects: vec!["a/b:1".to_owned()],
            done: "let go".to_owned(),
            left: "a/b:1 could not be pulled again".to_owned(),
        };
        assert_eq!(
            line(&problem),
            "layer sha256:1: its files are not what they were (affects a/b:1); let go; still there: a/b:1 could not be pulled again\n"
        );
    }

    #[test]
    fn the_sum_says_what_is_left() {
        let summary = CheckSummary { images: 2, layers: 3, unsealed: 1, problems: 2, repaired: 1 };
        assert_eq!(
            sum(&summary),
            "2 images and 3 layers looked at, 1 of them too new to be compared: 2 problems, 1 repaired\n"
        );
        let well = CheckSummary { images: 2, layers: 3, ..CheckSummary::default() };
        assert_eq!(sum(&well), "2 images and 3 layers looked at: nothing is wrong\n");
    }
}
