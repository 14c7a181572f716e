//! Where the logs of `davit run` are: `<root>/logs/<uid of the pod>`.
//!
//! CRI leaves the log directory to its client (the kubelet makes and removes its own), so here it is this client's: made before the pod,
//! removed after it. It is below the daemon's root and not its state, as logs would fill memory there. What is removed is named by the
//! daemon's root and a uid of the form that `davit run` draws, and by nothing that another client could have put into a pod.

use crate::client::error::ClientError;
use davit_proto::cri;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The namespace of pods that `davit run` makes.
pub(crate) const NAMESPACE: &str = "davit";

/// The logs of the pod with this uid; `None` if `davit run` drew no such uid.
pub(crate) fn directory(root: &str, uid: &str) -> Option<PathBuf> {
    let ours = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    ours.then(|| Path::new(root).join("logs").join(uid))
}

/// Whether `davit run` made this pod.
pub(crate) fn is_ours(pod: &cri::PodSandbox) -> bool {
    pod.metadata.as_ref().is_some_and(|metadata| {
        metadata.namespace == NAMESPACE && directory("/", &metadata.uid).is_some()
    })
}

/// Makes it.
///
/// # Errors
/// [`ClientError::LogDirectory`].
pub(crate) fn make(path: &str) -> Result<(), ClientError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ClientError::LogDirectory { path: path.into(), source })
}

/// Removes it; one that is gone is removed.
///
/// # Errors
/// [`ClientError::LogDirectory`].
pub(crate) fn remove(root: &str, uid: &str) -> Result<(), ClientError> {
    let Some(path) = directory(root, uid) else { return Ok(()) };
    match std::fs::remove_dir_all(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ClientError::LogDirectory { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uids_that_were_drawn_here_name_a_directory() {
        let uid = "0123456789abcdef".repeat(2);
        assert_eq!(directory("/r", &uid), Some(PathBuf::from(format!("/r/logs/{uid}"))));
        for uid in ["", "..", "../../etc", &uid[1..], &format!("{}/x", &uid[2..])] {
            assert_eq!(directory("/r", uid), None, "{uid}");
        }
    }

    #[test]
    fn logs_are_removed_with_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().to_str().unwrap();
        let uid = "ab".repeat(16);
        let path = directory(root, &uid).unwrap();
        make(path.to_str().unwrap()).unwrap();
        std::fs::File::create(path.join("x.log")).unwrap();
        remove(root, &uid).unwrap();
        remove(root, &uid).unwrap();
        assert!(!path.exists());
    }
}
