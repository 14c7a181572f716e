//! ContainerConfig → ContainerSpec.

use super::error::{InvalidField, refuse};
use super::image::image_request;
use super::{mount, resources, security, signal, text};
use davit_proto::cri;
use davit_runtime::container::ContainerSpec;
use davit_runtime::sandbox::SandboxSpec;
use std::path::PathBuf;
use std::time::Duration;

/// What a container of this pod is asked to be. The pod is the one that davit knows, not the copy of its config that comes with the
/// request: what holds is what the pod was made as.
///
/// # Errors
/// [`InvalidField`] for the first field that davit does not take, or that does not fit the pod.
pub(crate) fn container_spec(
    config: cri::ContainerConfig,
    pod: &SandboxSpec,
) -> Result<ContainerSpec, InvalidField> {
    let cri::ContainerConfig {
        metadata,
        image,
        command,
        args,
        working_dir,
        envs,
        mounts,
        devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        linux,
        windows,
        cdi_devices,
        stop_signal,
    } = config;
    if let Some(windows) = windows {
        return Err(refuse("windows", &windows, "makes no sense on Linux"));
    }
    let (name, attempt) = identity(metadata)?;
    let cri::LinuxContainerConfig { resources, security_context } = linux.unwrap_or_default();
    let mounts = mounts.into_iter().enumerate().map(|(at, wire)| mount::mount(at, wire, pod));
    let devices = devices.into_iter().enumerate().map(|(at, wire)| mount::device(at, wire));
    Ok(ContainerSpec {
        name,
        attempt,
        image: image_request("image", image, pod)?,
        command: arguments("command", command)?,
        args: arguments("args", args)?,
        working_dir: text::optional_absolute("working_dir", working_dir)?,
        envs: envs.into_iter().map(environment).collect::<Result<_, _>>()?,
        mounts: mounts.collect::<Result<_, _>>()?,
        devices: devices.collect::<Result<_, _>>()?,
        cdi_devices: cdi_devices
            .into_iter()
            .enumerate()
            .map(|(at, wire)| cdi_device(at, wire))
            .collect::<Result<_, _>>()?,
        labels: text::labels("labels", labels)?,
        annotations: text::annotations("annotations", annotations)?,
        log_path: log(log_path, pod)?,
        stdin,
        stdin_once,
        tty,
        resources: resources::resources("linux.resources", resources.unwrap_or_default())?,
        security: security::security(security_context.unwrap_or_default(), pod)?,
        stop_signal: signal::signal("stop_signal", stop_signal)?,
    })
}

/// Which file describes it is found out where it is given; what is no name is in none.
fn cdi_device(at: usize, wire: cri::CdiDevice) -> Result<String, InvalidField> {
    let cri::CdiDevice { name } = wire;
    if davit_runtime::cdi::is_qualified(&name) {
        return Ok(name);
    }
    Err(refuse(format!("CDI_devices[{at}]"), &name, "is not of the form vendor/class=name"))
}

/// Where an archive is.
pub(crate) fn archive_path(path: String) -> Result<PathBuf, InvalidField> {
    text::absolute("archive.path", path)
}

/// Where a checkpoint goes, and how long it may take.
pub(crate) fn checkpoint(
    location: String,
    timeout: i64,
) -> Result<(PathBuf, Option<Duration>), InvalidField> {
    let location = text::absolute("location", location)?;
    match u64::try_from(timeout) {
        Ok(0) => Ok((location, None)),
        Ok(seconds) => Ok((location, Some(Duration::from_secs(seconds)))),
        Err(_) => Err(refuse("timeout", &timeout, "is less than 0")),
    }
}

fn identity(metadata: Option<cri::ContainerMetadata>) -> Result<(String, u32), InvalidField> {
    let Some(metadata) = metadata else {
        return Err(refuse("metadata", &metadata, "is required"));
    };
    let cri::ContainerMetadata { name, attempt } = metadata;
    Ok((text::name("metadata.name", name)?, attempt))
}

fn arguments(field: &str, arguments: Vec<String>) -> Result<Vec<String>, InvalidField> {
    arguments.into_iter().map(|argument| text::argument(field, argument)).collect()
}

fn environment(pair: cri::KeyValue) -> Result<(String, String), InvalidField> {
    let cri::KeyValue { key, value } = pair;
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(refuse("envs.key", &key, "is no name of an environment variable"));
    }
    // The value may be a secret: only its name is told.
    if value.contains('\0') {
        return Err(refuse(format!("envs[{key:?}]"), "(not shown)", "has a NUL in it"));
    }
    Ok((key, value))
}

fn log(path: String, pod: &SandboxSpec) -> Result<Option<PathBuf>, InvalidField> {
    let path = text::relative_file("log_path", path)?;
    match (&path, &pod.log_directory) {
        (Some(path), None) => {
            Err(refuse("log_path", path, "is given, and the pod has no log_directory"))
        }
        (_, _) => Ok(path),
    }
}
