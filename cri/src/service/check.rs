//! `davit check` and `davit repair`: what is not as it should be, told problem by problem, and put right where that was asked for.
//!
//! Owns the order: images first, since a broken one is what a person wants to know of; then what belongs to nobody. A repair that fails is told with its
//! problem and ends nothing.

use davit_proto::admin::check_report::Kind;
use davit_proto::admin::{CheckReport, CheckSummary, Problem};
use davit_runtime::Runtime;
use davit_runtime::error::chain;
use davit_runtime::image::{Auth, Damage, Part, PullRequest};
use davit_runtime::sweep::{Leftover, Swept};
use tokio::sync::mpsc;
use tonic::Status;

/// What is to be done about a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// Only tell.
    Look,
    /// Put it right.
    Repair,
}

type Answers = mpsc::Sender<Result<CheckReport, Status>>;

/// Looks, and repairs if it is to, until it is done or nobody listens any more.
pub(super) async fn run(runtime: Runtime, aim: Aim, answers: Answers) {
    let check = Check { runtime, aim, answers };
    let last = match check.all().await {
        Ok(Some(summary)) => Ok(CheckReport { kind: Some(Kind::Summary(summary)) }),
        Ok(None) => return,
        Err(error) => Err(Status::internal(format!("check the images: {error}"))),
    };
    drop(check.answers.send(last).await);
}

struct Check {
    runtime: Runtime,
    aim: Aim,
    answers: Answers,
}

impl Check {
    /// `None` once nobody listens.
    async fn all(&self) -> std::io::Result<Option<CheckSummary>> {
        let checked = self.runtime.images().check().await?;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let mut summary = CheckSummary {
            images: count(checked.images),
            layers: count(checked.layers),
            unsealed: count(checked.unsealed),
            ..CheckSummary::default()
        };
        for damage in &checked.damages {
            let problem = self.damage(damage).await;
            if !self.tell(problem, &mut summary).await {
                return Ok(None);
            }
        }
        for (leftover, swept) in self.leftovers().await {
            let why_left = leftover.why_left().unwrap_or_default().to_owned();
            let mut problem = Problem {
                subject: leftover.to_string(),
                problem: match leftover {
                    Leftover::Quarantined { .. } => "could not be read and was put aside",
                    Leftover::Foreign { .. } => "is no file of davit's",
                    Leftover::WritableLayer { .. }
                    | Leftover::SharedMemory { .. }
                    | Leftover::Network { .. }
                    | Leftover::NetworkNamespace { .. }
                    | Leftover::Cgroup { .. }
                    | Leftover::Link { .. } => "belongs to nobody",
                }
                .to_owned(),
                ..Problem::default()
            };
            match swept {
                None => problem.left = why_left,
                Some(Swept::Removed) => "removed".clone_into(&mut problem.done),
                Some(Swept::Left(why)) => problem.left = why,
            }
            if !self.tell(problem, &mut summary).await {
                return Ok(None);
            }
        }
        Ok(Some(summary))
    }

    async fn tell(&self, problem: Problem, summary: &mut CheckSummary) -> bool {
        summary.problems += 1;
        summary.repaired += u64::from(!problem.done.is_empty() && problem.left.is_empty());
        self.answers.send(Ok(CheckReport { kind: Some(Kind::Problem(problem)) })).await.is_ok()
    }

    async fn leftovers(&self) -> Vec<(Leftover, Option<Swept>)> {
        match self.aim {
            Aim::Look => {
                self.runtime.leftovers().await.into_iter().map(|found| (found, None)).collect()
            }
            Aim::Repair => {
                let swept = self.runtime.sweep().await;
                swept.into_iter().map(|(found, swept)| (found, Some(swept))).collect()
            }
        }
    }

    async fn damage(&self, damage: &Damage) -> Problem {
        let names = damage.images.iter().flat_map(|image| match image.repo_tags.is_empty() {
            true => image.repo_digests.iter(),
            false => image.repo_tags.iter(),
        });
        let mut problem = Problem {
            subject: damage.part.to_string(),
            problem: damage.reason.clone(),
            affects: names.cloned().chain(self.containers_of(damage)).collect(),
            ..Problem::default()
        };
        if self.aim == Aim::Repair {
            match self.runtime.images().discard(damage).await {
                Ok(names) => self.pull_again(names, &mut problem).await,
                Err(error) => problem.left = chain(&error),
            }
        }
        problem
    }

    /// The containers that have a layer mounted.
    fn containers_of(&self, damage: &Damage) -> Vec<String> {
        let Part::Layer(diff_id) = &damage.part else { return Vec::new() };
        let pods = self.runtime.sandboxes();
        let containers = pods.iter().flat_map(|pod| pod.containers.values());
        containers
            .filter(|container| container.facts.layers.contains(diff_id))
            .map(|container| container.id.to_string())
            .collect()
    }

    async fn pull_again(&self, names: Vec<String>, problem: &mut Problem) {
        "let go".clone_into(&mut problem.done);
        let mut failed = Vec::new();
        for name in names {
            let request = PullRequest { image: name, auth: Auth::default(), progress: None };
            let told = request.image.clone();
            match self.runtime.images().pull(request).await {
                Ok(_) => problem.done.push_str(&format!(", pulled {told} again")),
                Err(error) => {
                    failed.push(format!("{told} could not be pulled again: {}", chain(&error)))
                }
            }
        }
        problem.left = failed.join("; ");
    }
}
