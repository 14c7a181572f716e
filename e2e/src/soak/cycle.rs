//! One pod's life: what a node does with it, more or less of it by the life's number, and the right answer to each.

use crate::cri::{Cri, refused, spec};
use crate::host::eventually;
use crate::test::{Pod, Test, namespaces, sh};
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use k8s_cri::v1::{
    AttachRequest, ContainerStatsRequest, ExecRequest, GetEventsRequest, ListContainerStatsRequest,
    ListPodSandboxStatsRequest, PortMapping, StatusRequest,
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tonic::Code;

/// No stream takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first host port that is used; each life that uses one has its own.
const PORTS: u32 = 41_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Lives<'a> {
    pub(super) test: &'a Test,
    /// An image that comes and goes: one at a time.
    extra: Mutex<String>,
}

impl<'a> Lives<'a> {
    pub(super) fn new(test: &'a Test) -> Result<Self> {
        test.pull("davit-test/busybox:latest")?;
        let image = test.busybox()?.layer(|layer| {
            layer.file("extra", vec![7; 300_000]);
        })?;
        let extra = Mutex::new(test.push("soak/extra", &image)?);
        Ok(Self { test, extra })
    }

    /// Life number `number`, from its pod's beginning to its end.
    pub(super) fn live(&self, number: u32) -> Result<()> {
        let cri = &self.test.cri;
        let every = |times: u32| number.is_multiple_of(times);
        let pod = self.pod(number)?;
        let main = self.start(
            &pod,
            "main",
            "trap 'exit 3' TERM; echo begun; while :; do sleep 100 & wait $!; done",
        )?;
        self.exec(&main)?;
        if every(2) {
            self.short(&pod, number % 200)?;
        }
        if every(3) {
            self.attach(&main)?;
        }
        if every(4) {
            self.wait_until_begun(&main)?;
            cri.reopen_log(&main).context("ReopenContainerLog")?;
        }
        if every(5) {
            self.look(&main)?;
        }
        if every(8) {
            self.err(&pod, &main)?;
        }
        if every(10) {
            self.pull()?;
        }
        self.end(&pod, &main, number)
    }

    fn pod(&self, number: u32) -> Result<Pod> {
        let mut config = self.test.pod_config(&format!("pod-{number}"));
        if number % 7 == 6 {
            namespaces(&mut config).network = 2;
        } else if number % 5 == 4 {
            config.port_mappings.push(PortMapping {
                container_port: 80,
                host_port: i32::try_from(PORTS + number % 1000)?,
                ..PortMapping::default()
            });
        }
        std::fs::create_dir_all(&config.log_directory).context("make the log directory")?;
        let id = self.test.cri.run_pod(&config, "").context("RunPodSandbox")?;
        Ok(Pod { id, config })
    }

    fn start(&self, pod: &Pod, name: &str, script: &str) -> Result<String> {
        let mut config = self.test.container_config(name);
        config.command = sh(script);
        config.stdin = true;
        let id = self.test.cri.create(&pod.id, &config, &pod.config).context("CreateContainer")?;
        self.test.cri.start(&id).context("StartContainer")?;
        Ok(id)
    }

    /// A first process that has set no handler yet is deaf to every signal but SIGKILL.
    fn wait_until_begun(&self, id: &str) -> Result<()> {
        let log = self.test.cri.status(id).context("ContainerStatus")?.log_path;
        eventually(PATIENCE, "the container says a word", || {
            Ok(std::fs::metadata(&log).is_ok_and(|log| log.len() > 0).then_some(()))
        })
    }

    fn exec(&self, id: &str) -> Result<()> {
        let answer =
            self.test.cri.exec(id, &["sh", "-c", "echo here; exit 4"], 20).context("ExecSync")?;
        ensure!((answer.exit_code, answer.stdout.as_slice()) == (4, b"here\n"), "{answer:?}");
        Ok(())
    }

    /// One that ends by itself: its code is told, its log is whole.
    fn short(&self, pod: &Pod, code: u32) -> Result<()> {
        let id = self.start(pod, "short", &format!("seq 200; exit {code}"))?;
        let status = self.test.wait_for_exit(&id)?;
        ensure!(u32::try_from(status.exit_code) == Ok(code), "{status:?}");
        let lines = self.test.log(&status)?.len();
        ensure!(lines == 200, "{lines} lines of 200");
        self.test.cri.remove(&id).context("RemoveContainer")
    }

    /// Attaches and leaves without a word; asks for a command's URL and never goes there.
    fn attach(&self, id: &str) -> Result<()> {
        let cri = &self.test.cri;
        let container_id = id.to_owned();
        let request = AttachRequest { container_id, stdout: true, ..AttachRequest::default() };
        let url = cri.wait(cri.runtime().attach(request)).context("Attach")?.url;
        let mut request = url.replacen("http", "ws", 1).into_client_request()?;
        let protocol = HeaderValue::from_static("v5.channel.k8s.io");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let attached = cri.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                let address = request.uri().authority().context("no address")?.to_string();
                let stream = tokio::net::TcpStream::connect(address).await?;
                let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
                socket.next().await.context("it was closed")??;
                anyhow::Ok(())
            })
            .await
        });
        attached.context("attached to nothing")?.context("attach")?;
        let cmd = vec!["true".to_owned()];
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd,
            stdout: true,
            ..ExecRequest::default()
        };
        cri.wait(cri.runtime().exec(request)).context("Exec").map(drop)
    }

    /// All that somebody who watches a node asks for.
    fn look(&self, id: &str) -> Result<()> {
        let cri = &self.test.cri;
        let request = ContainerStatsRequest { container_id: id.to_owned() };
        let stats = cri.wait(cri.runtime().container_stats(request)).context("ContainerStats")?;
        ensure!(stats.stats.is_some_and(|stats| stats.cpu.is_some()), "no use is told");
        let all = ListContainerStatsRequest::default();
        cri.wait(cri.runtime().list_container_stats(all)).context("ListContainerStats")?;
        let all = ListPodSandboxStatsRequest::default();
        cri.wait(cri.runtime().list_pod_sandbox_stats(all)).context("ListPodSandboxStats")?;
        let all = davit_proto::cri::ListPodSandboxMetricsRequest::default();
        cri.wait(cri.newer().list_pod_sandbox_metrics(all)).context("ListPodSandboxMetrics")?;
        cri.wait(cri.runtime().status(StatusRequest { verbose: true })).context("Status")?;
        cri.pod_status(&self.pod_of(id)?).context("PodSandboxStatus")?;
        // Another listener, who goes at once.
        let events = cri.wait(cri.runtime().get_container_events(GetEventsRequest {}));
        drop(events.context("GetContainerEvents")?);
        Ok(())
    }

    fn pod_of(&self, id: &str) -> Result<String, tonic::Status> {
        let all = self.test.cri.containers(None)?;
        let found = all.into_iter().find(|container| container.id == id);
        found
            .map(|container| container.pod_sandbox_id)
            .ok_or_else(|| tonic::Status::not_found("the container is not listed"))
    }

    /// What can't be.
    fn err(&self, pod: &Pod, id: &str) -> Result<()> {
        let cri: &Cri = &self.test.cri;
        let mut config = self.test.container_config("unborn");
        config.image = Some(spec("nowhere.invalid/none:1"));
        refused(cri.create(&pod.id, &config, &pod.config), Code::NotFound, &["nowhere"])?;
        let missing = cri.exec(id, &["/no/such/command"], 20);
        if let Ok(answer) = missing.as_ref().map(|answer| answer.exit_code)
            && answer == 0
        {
            bail!("a command that is not there succeeded");
        }
        let mut config = self.test.container_config("broken");
        config.command = vec!["/no/such/command".to_owned()];
        match cri.create(&pod.id, &config, &pod.config) {
            Ok(broken) => {
                ensure!(cri.start(&broken).is_err(), "what is not there was started");
                cri.remove(&broken).context("RemoveContainer")
            }
            Err(_refused) => Ok(()),
        }
    }

    fn pull(&self) -> Result<()> {
        let extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        self.test.cri.pull(&extra).context("PullImage")?;
        self.test.cri.remove_image(&extra).context("RemoveImage")
    }

    fn end(&self, pod: &Pod, main: &str, number: u32) -> Result<()> {
        let cri = &self.test.cri;
        if !number.is_multiple_of(3) {
            self.wait_until_begun(main)?;
            cri.stop(main, 20).context("StopContainer")?;
            let status = cri.status(main).context("ContainerStatus")?;
            ensure!(status.exit_code == 3, "{status:?}");
        }
        if number % 3 == 1 {
            cri.remove(main).context("RemoveContainer")?;
        }
        cri.stop_pod(&pod.id).context("StopPodSandbox")?;
        cri.remove_pod(&pod.id).context("RemovePodSandbox")?;
        std::fs::remove_dir_all(&pod.config.log_directory).context("remove the logs")
    }
}
