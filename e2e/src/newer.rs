//! The fields of CRI that the foreign client is too old for, said with davit's own messages.
//!
//! Owns the way from one to the other: both are the same bytes. Nothing else of davit's is used, so that what davit gets wrong
//! about the interface is not wrong on both sides.

use crate::cri::{Cri, MESSAGE};
use crate::test::{Pod, Test};
use anyhow::{Context, Result};
use davit_proto::admin::davit_client::DavitClient;
use davit_proto::cri;
use davit_proto::cri::image_service_client::ImageServiceClient;
use davit_proto::cri::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use tonic::Status;

/// The same message in the other's words.
fn same<T: Message + Default>(message: &impl Message) -> Result<T> {
    T::decode(message.encode_to_vec().as_slice()).context("say it in the other's words")
}

impl Cri {
    /// The runtime service in full.
    #[must_use]
    pub fn newer(&self) -> RuntimeServiceClient<tonic::transport::Channel> {
        RuntimeServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE)
    }

    /// davit's own service.
    #[must_use]
    pub fn admin(&self) -> DavitClient<tonic::transport::Channel> {
        DavitClient::new(self.channel()).max_decoding_message_size(MESSAGE)
    }

    /// The image service in full.
    #[must_use]
    pub fn newer_images(&self) -> ImageServiceClient<tonic::transport::Channel> {
        ImageServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE)
    }

    /// Waits for a stream's end: all of its messages.
    ///
    /// # Errors
    /// The server's, or that it takes longer than any call may.
    pub fn all<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<tonic::Streaming<T>>, Status>>,
    ) -> Result<Vec<T>, Status> {
        let mut stream = self.wait(call)?;
        self.wait(async {
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok(tonic::Response::new(messages))
        })
    }

    /// `ContainerStatus` in full.
    ///
    /// # Errors
    /// The server's.
    pub fn newer_status(&self, id: &str) -> Result<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.wait(self.newer().container_status(request))?;
        answer.status.context("a status")
    }
}

impl Test {
    /// Creates a container of the default image, whose configuration is changed in full.
    ///
    /// # Errors
    /// The server's answer is the inner one.
    pub fn try_create_newer(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<Result<String, Status>> {
        let config = self.container_config(name);
        if let Some(image) = &config.image {
            self.cri.pull(&image.image)?;
        }
        let mut config: cri::ContainerConfig = same(&config)?;
        change(&mut config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(same(&pod.config)?),
        };
        let created = self.cri.wait(self.cri.newer().create_container(request));
        Ok(created.map(|answer| {
            self.watch(&answer.container_id);
            answer.container_id
        }))
    }

    /// Creates and starts such a container.
    ///
    /// # Errors
    /// The server's.
    pub fn run_newer(
        &self,
        pod: &Pod,
        name: &str,
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String> {
        let id = self.try_create_newer(pod, name, change)?;
        let id = id.with_context(|| format!("create container {name}"))?;
        self.cri.start(&id).with_context(|| format!("start container {name}"))?;
        Ok(id)
    }
}
