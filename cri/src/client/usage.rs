//! What containers and pods use: two looks at the daemon's counts, and the rates between them.
//!
//! Owns the reckoning: the daemon tells counts that only grow and when they were read, so a rate is the same whoever else asks. Nothing is drawn here.

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::format::{Ids, Row};
use clap::ValueEnum;
use davit_proto::admin;
use serde::Serialize;
use std::cmp::Ordering;
use std::collections::HashMap;

/// What can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes.
    Pids,
    /// Bytes read and written.
    Io,
    /// Bytes received and sent.
    Net,
    /// The name.
    Name,
}

/// What one container, or one pod, uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Use {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// The pod's id.
    pub(crate) pod: String,
    /// The pod's name.
    pub(crate) pod_name: String,
    /// Of one CPU; nothing at the first look.
    pub(crate) cpu_percent: Option<f64>,
    /// The working set, in bytes.
    pub(crate) memory: u64,
    /// In bytes; 0: none.
    pub(crate) memory_limit: u64,
    /// Processes.
    pub(crate) pids: u64,
    /// Bytes read from disks so far.
    pub(crate) read_bytes: u64,
    /// Bytes written to disks so far.
    pub(crate) written_bytes: u64,
    /// Bytes that the pod has received so far; nothing if the host's network is its own.
    pub(crate) received_bytes: Option<u64>,
    /// Bytes that the pod has sent so far.
    pub(crate) sent_bytes: Option<u64>,
    /// It is frozen.
    pub(crate) paused: bool,
}

/// CPU time at a moment, both in nanoseconds.
type Reading = (i64, u64);

/// The looks.
#[derive(Debug)]
pub(crate) struct Watch {
    daemon: Daemon,
    before: HashMap<String, Reading>,
}

impl Watch {
    /// Before the first look.
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon, before: HashMap::new() }
    }

    /// Looks: every container that runs.
    ///
    /// # Errors
    /// [`ClientError::Call`].
    pub(crate) async fn look(&mut self) -> Result<Vec<Use>, ClientError> {
        let answer = self.daemon.davit.usage(admin::UsageRequest {}).await;
        let admin::UsageResponse { pods } = answer.map_err(doing("measure"))?.into_inner();
        let mut now = HashMap::new();
        let mut found = Vec::new();
        for pod in pods {
            for container in &pod.containers {
                let reading = (container.at, container.cpu_nanoseconds);
                let before = self.before.get(&container.id).copied();
                found.push(measured(&pod, container, before.and_then(|old| rate(old, reading))));
                now.insert(container.id.clone(), reading);
            }
        }
        self.before = now;
        Ok(found)
    }
}

/// Per cent of one CPU.
fn rate((from, used): Reading, (to, uses): Reading) -> Option<f64> {
    let time = u64::try_from(to.checked_sub(from)?).ok().filter(|time| *time > 0)?;
    Some(uses.saturating_sub(used) as f64 * 100.0 / time as f64)
}

fn measured(
    pod: &admin::PodUsage,
    container: &admin::ContainerUsage,
    cpu_percent: Option<f64>,
) -> Use {
    Use {
        id: container.id.clone(),
        name: container.name.clone(),
        pod: pod.id.clone(),
        pod_name: pod.name.clone(),
        cpu_percent,
        memory: container.memory_bytes,
        memory_limit: container.memory_limit_bytes,
        pids: container.processes,
        read_bytes: container.read_bytes,
        written_bytes: container.written_bytes,
        received_bytes: pod.has_network.then_some(pod.received_bytes),
        sent_bytes: pod.has_network.then_some(pod.sent_bytes),
        paused: container.paused,
    }
}

/// The pods of these containers, each with what its containers use together.
pub(crate) fn by_pod(containers: &[Use]) -> Vec<Use> {
    let mut pods: Vec<Use> = Vec::new();
    for one in containers {
        let Some(pod) = pods.iter_mut().find(|pod| pod.id == one.pod) else {
            let (id, name) = (one.pod.clone(), one.pod_name.clone());
            pods.push(Use { id, name, ..one.clone() });
            continue;
        };
        pod.cpu_percent = match (pod.cpu_percent, one.cpu_percent) {
            (Some(sum), Some(more)) => Some(sum + more),
            (sum, more) => sum.or(more),
        };
        pod.memory += one.memory;
        // What limits one of them limits nothing of the pod's.
        pod.memory_limit = 0;
        pod.pids += one.pids;
        pod.read_bytes += one.read_bytes;
        pod.written_bytes += one.written_bytes;
        pod.paused &= one.paused;
    }
    pods
}

/// The hungriest first; names as in the alphabet.
pub(crate) fn sort(found: &mut [Use], field: Field) {
    let io = |one: &Use| one.read_bytes + one.written_bytes;
    let net = |one: &Use| one.received_bytes.unwrap_or(0) + one.sent_bytes.unwrap_or(0);
    let cpu = |one: &Use| one.cpu_percent.unwrap_or(0.0);
    found.sort_by(|one, other| {
        let order = match field {
            Field::Cpu => cpu(other).partial_cmp(&cpu(one)).unwrap_or(Ordering::Equal),
            Field::Memory => other.memory.cmp(&one.memory),
            Field::Pids => other.pids.cmp(&one.pids),
            Field::Io => io(other).cmp(&io(one)),
            Field::Net => net(other).cmp(&net(one)),
            Field::Name => Ordering::Equal,
        };
        order.then_with(|| (&one.name, &one.id).cmp(&(&other.name, &other.id)))
    });
}

impl Use {
    /// Its cells, for a table of any kind.
    pub(crate) fn line(&self, ids: Ids) -> Vec<String> {
        let bytes = |bytes: u64| indicatif::BinaryBytes(bytes).to_string();
        let pair = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => format!("{} / {}", bytes(one), bytes(other)),
            (_, _) => "-".to_owned(),
        };
        let cpu = match (self.paused, self.cpu_percent) {
            (true, _) => "paused".to_owned(),
            (false, Some(percent)) => format!("{percent:.1}%"),
            (false, None) => "-".to_owned(),
        };
        let share = match self.memory_limit {
            0 => "-".to_owned(),
            limit => format!("{:.1}%", self.memory as f64 * 100.0 / limit as f64),
        };
        vec![
            ids.show(&self.id),
            self.name.clone(),
            self.pod_name.clone(),
            cpu,
            bytes(self.memory),
            share,
            self.pids.to_string(),
            pair(self.received_bytes, self.sent_bytes),
            pair(Some(self.read_bytes), Some(self.written_bytes)),
        ]
    }
}

impl Row for Use {
    const HEADINGS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "POD",
        "CPU",
        "MEMORY",
        "OF LIMIT",
        "PIDS",
        "NET IN / OUT",
        "DISK READ / WRITTEN",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn cells(&self, ids: Ids) -> Vec<Vec<String>> {
        vec![self.line(ids)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, pod: &str, cpu: f64, memory: u64) -> Use {
        Use {
            id: format!("{name}-id"),
            name: name.to_owned(),
            pod: pod.to_owned(),
            pod_name: pod.to_owned(),
            cpu_percent: Some(cpu),
            memory,
            memory_limit: 4 << 20,
            pids: 2,
            received_bytes: Some(5),
            sent_bytes: Some(6),
            ..Use::default()
        }
    }

    #[test]
    fn a_rate_is_between_two_looks() {
        assert_eq!(rate((0, 0), (1_000_000_000, 500_000_000)), Some(50.0));
        assert_eq!(rate((0, 500), (1_000, 400)), Some(0.0), "a count that went back is none");
        assert_eq!(rate((5, 0), (5, 1)), None);
        assert_eq!(rate((5, 0), (4, 1)), None);
    }

    #[test]
    fn a_pod_uses_what_its_containers_do_and_its_network_once() {
        let all =
            [one("a", "p", 10.0, 1 << 20), one("b", "p", 5.0, 2 << 20), one("c", "q", 1.0, 7)];
        let pods = by_pod(&all);
        assert_eq!(pods.len(), 2);
        let pod = &pods[0];
        assert_eq!(
            (pod.id.as_str(), pod.cpu_percent, pod.memory, pod.pids),
            ("p", Some(15.0), 3 << 20, 4)
        );
        assert_eq!((pod.received_bytes, pod.memory_limit), (Some(5), 0));
    }

    #[test]
    fn the_hungriest_comes_first() {
        let mut all = vec![one("b", "p", 1.0, 9), one("a", "p", 1.0, 3), one("c", "p", 8.0, 5)];
        let names = |all: &[Use]| all.iter().map(|one| one.name.clone()).collect::<String>();
        for (field, order) in [
            (Field::Cpu, "cab"),
            (Field::Memory, "bca"),
            (Field::Pids, "abc"),
            (Field::Name, "abc"),
        ] {
            sort(&mut all, field);
            assert_eq!(names(&all), order, "{field:?}");
        }
    }

    #[test]
    fn a_line_tells_what_there_is_to_tell() {
        let line = one("a", "p", 12.34, 1 << 20).line(Ids::Short);
        assert_eq!(line[3..7], ["12.3%", "1.00 MiB", "25.0%", "2"]);
        let paused = Use { paused: true, received_bytes: None, ..one("a", "p", 0.0, 1) };
        assert_eq!(paused.line(Ids::Short)[3], "paused");
        assert_eq!(paused.line(Ids::Short)[7], "-");
    }
}
