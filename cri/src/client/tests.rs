//! `davit run` and `davit rm` against a daemon that answers what the test says, and notes what it was asked.

use super::connect::Daemon;
use super::error::ClientError;
use super::{rm, run};
use crate::cli::{Action, ClientCommand, RunArgs, parse};
use crate::serve::tests::placeholder::{Answers, answering};
use crate::serve::tests::{Daemon as Served, daemon_with};
use davit_proto::{admin, cri};
use prost::Message;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tonic::Status;

const POD: &str = "aa11";
const CONTAINER: &str = "bb22";

/// A daemon, what it was asked, and where its root is said to be.
struct Fake {
    served: Served,
    asked: Arc<Mutex<Vec<String>>>,
}

type Override = fn(&str, usize) -> Option<Result<Vec<Vec<u8>>, Status>>;

/// The answers of a daemon where all goes well; `other` has the say first, with the method and how often it was asked before.
fn fake(other: Override) -> Fake {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let root: Arc<Mutex<String>> = Arc::default();
    let (noted, told_root) = (Arc::clone(&asked), Arc::clone(&root));
    let answers: Answers = Arc::new(move |method, _| {
        let before = {
            let mut noted = noted.lock().unwrap();
            let before = noted.iter().filter(|asked| *asked == method).count();
            noted.push(method.to_owned());
            before
        };
        other(method, before).unwrap_or_else(|| Ok(good(method, &told_root.lock().unwrap())))
    });
    let go_on = Arc::new(Notify::new());
    let served = daemon_with("", &answering(&go_on, answers), go_on);
    *root.lock().unwrap() = served.dir.path().join("root").display().to_string();
    Fake { served, asked }
}

fn one(message: &impl Message) -> Vec<Vec<u8>> {
    vec![message.encode_to_vec()]
}

fn good(method: &str, root: &str) -> Vec<Vec<u8>> {
    let (pod_sandbox_id, container_id) = (POD.to_owned(), CONTAINER.to_owned());
    match method {
        "info" => one(&admin::InfoResponse { root: root.to_owned(), ..Default::default() }),
        "run_pod_sandbox" => one(&cri::RunPodSandboxResponse { pod_sandbox_id }),
        "create_container" => one(&cri::CreateContainerResponse { container_id }),
        "wait" => one(&admin::WaitResponse { exit_code: 3, ..Default::default() }),
        "logs" => one(&admin::LogEntry { stream: 2, content: b"out\n".to_vec(), time: 1 }),
        "pull" => {
            let kind = admin::pull_progress::Kind::ImageId("sha256:x".to_owned());
            one(&admin::PullProgress { kind: Some(kind) })
        }
        // Lists are empty, and the other answers have nothing in them.
        _ => vec![Vec::new()],
    }
}

impl Fake {
    async fn connect(&self) -> Daemon {
        let address = format!("unix://{}", self.served.socket.display());
        Daemon::connect(&address.parse().unwrap()).await.unwrap()
    }

    async fn run(&self, line: &str) -> Result<ExitCode, ClientError> {
        run::run(self.connect().await, args(line)).await
    }

    async fn rm(&self, id: &str, running: rm::Running) -> ExitCode {
        rm::remove(self.connect().await, &[id.to_owned()], running).await.unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.served.dir.path().join(name)
    }

    /// How many pods' logs there are.
    fn logs(&self) -> usize {
        std::fs::read_dir(self.path("root/logs")).map_or(0, Iterator::count)
    }
}

fn args(line: &str) -> RunArgs {
    let words = line.split_whitespace().map(std::ffi::OsString::from);
    let action = parse(words).unwrap();
    let Action::Client(_, ClientCommand::Run(args)) = action else { panic!("{action:?}") };
    *args
}

#[tokio::test]
async fn a_missing_image_is_pulled_and_the_commands_exit_code_is_ours() {
    let fake = fake(|method, before| {
        let missing = method == "create_container" && before == 0;
        missing.then(|| Err(Status::not_found("no such image")))
    });
    let cidfile = fake.path("cid");
    let code = fake.run(&format!("davit run --cidfile {} image true", cidfile.display())).await;
    assert_eq!(code.unwrap(), ExitCode::from(3));
    assert_eq!(
        fake.asked(),
        [
            "info",
            "run_pod_sandbox",
            "create_container",
            "pull",
            "create_container",
            "start_container",
            "logs",
            "wait"
        ]
    );
    assert_eq!(std::fs::read_to_string(cidfile).unwrap(), CONTAINER);
    assert_eq!(fake.logs(), 1, "the container is still there, and so are its logs");
}

#[tokio::test]
async fn with_rm_nothing_stays() {
    let fake = fake(|_, _| None);
    assert_eq!(fake.run("davit run --rm image").await.unwrap(), ExitCode::from(3));
    let asked = fake.asked();
    assert_eq!(
        asked[asked.len() - 3..],
        ["remove_container", "stop_pod_sandbox", "remove_pod_sandbox"]
    );
    assert_eq!(fake.logs(), 0);
}

#[tokio::test]
async fn a_detached_container_is_left_alone() {
    let fake = fake(|_, _| None);
    assert_eq!(fake.run("davit run -d image").await.unwrap(), ExitCode::SUCCESS);
    assert_eq!(fake.asked().last().unwrap(), "start_container");
}

#[tokio::test]
async fn what_fails_half_way_is_undone_and_says_whose_fault_it_was() {
    let cases: [(Override, Option<u8>, usize); 4] = [
        (|method, _| (method == "run_pod_sandbox").then(|| Err(Status::internal("x"))), None, 0),
        (|method, _| (method == "create_container").then(|| Err(Status::internal("x"))), None, 2),
        (
            |method, _| match method {
                "create_container" => Some(Err(Status::not_found("x"))),
                "pull" => Some(Err(Status::not_found("no such image"))),
                _ => None,
            },
            None,
            2,
        ),
        (
            |method, _| {
                let mut status = Status::unknown("exec: not found");
                status.metadata_mut().insert("davit-exit-code", "127".parse().unwrap());
                (method == "start_container").then_some(Err(status))
            },
            Some(127),
            3,
        ),
    ];
    for (other, code, undone) in cases {
        let fake = fake(other);
        let cidfile = fake.path("cid");
        let line = format!("davit run --cidfile {} image", cidfile.display());
        assert_eq!(fake.run(&line).await.unwrap_err().exit_code(), code);
        let undo = ["remove_container", "stop_pod_sandbox", "remove_pod_sandbox"];
        let asked = fake.asked();
        assert_eq!(
            asked.iter().filter(|asked| undo.contains(&asked.as_str())).count(),
            undone,
            "{asked:?}"
        );
        assert_eq!(fake.logs(), 0);
        assert!(!cidfile.exists());
    }
}

#[tokio::test]
async fn a_cidfile_that_exists_stops_it_before_anything_is_made() {
    let fake = fake(|_, _| None);
    let cidfile = fake.path("cid");
    std::fs::File::create(&cidfile).unwrap();
    let error = fake.run(&format!("davit run --cidfile {} image", cidfile.display())).await;
    assert!(matches!(error.unwrap_err(), ClientError::CidFile { .. }));
    assert_eq!(fake.asked(), ["info"]);
}

fn container(state: cri::ContainerState) -> cri::Container {
    cri::Container {
        id: CONTAINER.to_owned(),
        pod_sandbox_id: POD.to_owned(),
        state: state.into(),
        ..Default::default()
    }
}

fn containers(containers: Vec<cri::Container>) -> Option<Result<Vec<Vec<u8>>, Status>> {
    Some(Ok(one(&cri::ListContainersResponse { containers })))
}

fn pods(namespace: &str) -> Option<Result<Vec<Vec<u8>>, Status>> {
    let metadata = Some(cri::PodSandboxMetadata {
        namespace: namespace.to_owned(),
        uid: "0123456789abcdef".repeat(2),
        ..Default::default()
    });
    let pod = cri::PodSandbox { id: POD.to_owned(), metadata, ..Default::default() };
    Some(Ok(one(&cri::ListPodSandboxResponse { items: vec![pod] })))
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let fake = fake(|method, _| match method {
        "list_containers" => containers(vec![container(cri::ContainerState::ContainerExited)]),
        _ => None,
    });
    let error = fake.run("davit run --name web image").await.unwrap_err();
    assert!(matches!(error, ClientError::NameTaken { .. }), "{error}");
}

#[tokio::test]
async fn a_running_container_is_removed_by_force_alone() {
    let fake = fake(|method, _| match method {
        "list_containers" => containers(vec![container(cri::ContainerState::ContainerRunning)]),
        _ => None,
    });
    assert_eq!(fake.rm("bb", rm::Running::Keep).await, ExitCode::FAILURE);
    assert!(!fake.asked().contains(&"remove_container".to_owned()));
    assert_eq!(fake.rm("bb", rm::Running::Stop).await, ExitCode::SUCCESS);
    assert!(fake.asked().contains(&"remove_container".to_owned()));
}

#[tokio::test]
async fn a_container_of_davit_run_goes_with_its_pod_and_another_without() {
    let own = fake(|method, before| match (method, before) {
        ("list_containers", 0) => containers(vec![container(cri::ContainerState::ContainerExited)]),
        ("list_pod_sandbox", _) => pods("davit"),
        _ => None,
    });
    let logs = own.path("root/logs").join("0123456789abcdef".repeat(2));
    std::fs::create_dir_all(&logs).unwrap();
    assert_eq!(own.rm(CONTAINER, rm::Running::Keep).await, ExitCode::SUCCESS);
    assert!(own.asked().contains(&"remove_pod_sandbox".to_owned()));
    assert!(!logs.exists());
    let kubelets = fake(|method, before| match (method, before) {
        ("list_containers", 0) => containers(vec![container(cri::ContainerState::ContainerExited)]),
        ("list_pod_sandbox", _) => pods("default"),
        _ => None,
    });
    assert_eq!(kubelets.rm(CONTAINER, rm::Running::Keep).await, ExitCode::SUCCESS);
    assert!(!kubelets.asked().contains(&"remove_pod_sandbox".to_owned()));
}

#[tokio::test]
async fn an_id_that_is_unknown_empty_or_ambiguous_removes_nothing() {
    let fake = fake(|method, before| match (method, before) {
        ("list_containers", 0) => {
            containers(vec![container(cri::ContainerState::ContainerExited); 2])
        }
        _ => None,
    });
    assert_eq!(fake.rm("b", rm::Running::Stop).await, ExitCode::FAILURE);
    assert_eq!(fake.rm("", rm::Running::Stop).await, ExitCode::FAILURE);
    assert_eq!(fake.rm("cc", rm::Running::Stop).await, ExitCode::FAILURE);
    assert!(!fake.asked().iter().any(|asked| asked.starts_with("remove")));
}
