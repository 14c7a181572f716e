//! CRI's ImageService.

use super::registry::Keyring;
use super::status::plain_status;
use super::{Streamed, required, streamed, whole};
use crate::convert::{self, ImageParts};
use davit_proto::cri::image_service_server::ImageService;
use davit_proto::cri::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image, ImageFilter, ImageFsInfoRequest,
    ImageFsInfoResponse, ImageSpec, ImageStatusRequest, ImageStatusResponse, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse, StreamImagesRequest, StreamImagesResponse, UInt64Value,
};
use davit_runtime::Runtime;
use davit_runtime::image::{Auth, Image as Kept, PullRequest};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    runtime: Runtime,
    keyring: Keyring,
}

impl Images {
    /// Of this runtime; pulls that bring no credentials get those of `keyring`.
    pub(crate) fn new(runtime: Runtime, keyring: Keyring) -> Self {
        Self { runtime, keyring }
    }

    fn select(&self, filter: Option<ImageFilter>) -> Result<Vec<Image>, Status> {
        let name = filter
            .and_then(|ImageFilter { image }| image)
            .map(|image| image.image)
            .filter(|name| !name.is_empty());
        let images = match name {
            None => self.runtime.images().list(),
            Some(name) => self.find(&name)?.into_iter().collect(),
        };
        Ok(images.iter().map(|image| wire(image)).collect())
    }

    fn find(&self, name: &str) -> Result<Option<Arc<Kept>>, Status> {
        self.runtime.images().find(name).map_err(|error| plain_status(&error))
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type StreamImagesStream = Streamed<StreamImagesResponse>;

    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let ListImagesRequest { filter } = request.into_inner();
        whole(ListImagesResponse { images: self.select(filter)? }, "StreamImages")
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let StreamImagesRequest { filter } = request.into_inner();
        Ok(Response::new(streamed(self.select(filter)?, |images| StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let name = name(image)?;
        let found = self.find(&name)?;
        let info = found.as_ref().filter(|_| verbose).map(|image| info(image)).unwrap_or_default();
        Ok(Response::new(ImageStatusResponse { image: found.map(|image| wire(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        // The pod that the image is for changes nothing about the pull.
        let PullImageRequest { image, auth, sandbox_config: _ } = request.into_inner();
        let image = name(image)?;
        let auth = self.keyring.complete(auth_of(auth), &image)?;
        let images = self.runtime.images().clone();
        // The pull is the daemon's: a caller that goes away does not end it, and finds it done when it comes back.
        let pull =
            tokio::spawn(
                async move { images.pull(PullRequest { image, auth, progress: None }).await },
            );
        match pull.await {
            Ok(Ok(image)) => {
                Ok(Response::new(PullImageResponse { image_ref: image.id.to_string() }))
            }
            Ok(Err(error)) => Err(plain_status(&error)),
            Err(error) => Err(Status::internal(format!("the pull failed: {error}"))),
        }
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let RemoveImageRequest { image } = request.into_inner();
        let name = name(image)?;
        self.runtime.images().remove(&name).await.map_err(|error| plain_status(&error))?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let ImageFsInfoRequest {} = request.into_inner();
        let usage = self.runtime.images().usage().await.map_err(|error| plain_status(&error))?;
        let usage = FilesystemUsage {
            timestamp: davit_runtime::now(),
            fs_id: Some(FilesystemIdentifier {
                mountpoint: usage.mountpoint.display().to_string(),
            }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes }),
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage],
            container_filesystems: Vec::new(),
        }))
    }
}

/// Images are the same for every handler, so all but the name only tells of the pod.
fn name(image: Option<ImageSpec>) -> Result<String, Status> {
    let ImageSpec {
        image,
        annotations: _,
        user_specified_image: _,
        runtime_handler: _,
        image_ref: _,
    } = required(image, "image")?;
    if image.is_empty() { Err(Status::invalid_argument("image.image: empty")) } else { Ok(image) }
}

fn wire(image: &Kept) -> Image {
    convert::image(ImageParts {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        user: image.config.user.clone(),
        pinned: image.pinned,
    })
}

/// What `crictl inspecti` shows besides.
fn info(image: &Kept) -> BTreeMap<String, String> {
    let spec: serde_json::Value = serde_json::from_str(&image.raw_config).unwrap_or_default();
    let info = serde_json::json!({ "manifest": image.manifest, "layers": image.layers, "imageSpec": spec });
    [("info".to_owned(), info.to_string())].into()
}

/// Credentials as they came; which of them can be used, and where, is the pull's to say.
fn auth_of(auth: Option<AuthConfig>) -> Auth {
    let AuthConfig { username, password, auth, server_address, identity_token, registry_token } =
        auth.unwrap_or_default();
    Auth { username, password, auth, server_address, identity_token, registry_token }
}
