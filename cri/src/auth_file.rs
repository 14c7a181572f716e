//! The file in which credentials for registries are kept: `{"auths": {"HOST[/PATH]": {"auth": "…"}}}`, as podman, skopeo and docker have it.
//!
//! Owns its grammar and where it is. The daemon reads the one that its configuration names, for pulls that bring no credentials; the command line
//! reads and writes its user's. What else is in it is left as it is. Credential helpers are other programs' business: an entry that only names one is
//! no entry here.

use base64::Engine as _;
use davit_runtime::image::Auth;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What such a file may have, in bytes.
const LIMIT: u64 = 1 << 20;
/// Under which name docker.io's credentials are kept.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
const DOCKER: &str = "docker.io";

/// Why credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthFileError {
    /// The file refuses.
    #[error("{verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no credentials: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; nothing of what it holds.
        problem: String,
    },
    /// There is no place for it.
    #[error("neither REGISTRY_AUTH_FILE nor HOME says where credentials are kept")]
    NoPlace,
}

/// The credentials of a file.
#[derive(Debug, Default)]
pub(crate) struct AuthFile {
    auths: Map<String, Value>,
}

/// Where the user's file is to be written: `$REGISTRY_AUTH_FILE`, else `~/.config/containers/auth.json`.
///
/// # Errors
/// [`AuthFileError::NoPlace`].
pub(crate) fn own_path() -> Result<PathBuf, AuthFileError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("REGISTRY_AUTH_FILE") {
        return Ok(path);
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    config.map(|config| config.join("containers/auth.json")).ok_or(AuthFileError::NoPlace)
}

/// What the user has for an image: from that file, else from docker's.
///
/// # Errors
/// [`AuthFileError`].
pub(crate) fn own(registry: &str, repository: &str) -> Result<Option<Auth>, AuthFileError> {
    let Ok(path) = own_path() else { return Ok(None) };
    if let Some(auth) = AuthFile::read(&path)?.find(registry, repository) {
        return Ok(Some(auth));
    }
    if std::env::var_os("REGISTRY_AUTH_FILE").is_some_and(|value| !value.is_empty()) {
        return Ok(None);
    }
    let Some(home) = std::env::var_os("HOME") else { return Ok(None) };
    Ok(AuthFile::read(&Path::new(&home).join(".docker/config.json"))?.find(registry, repository))
}

impl AuthFile {
    /// Reads a file; one that isn't there holds nothing.
    ///
    /// # Errors
    /// [`AuthFileError`].
    pub(crate) fn read(path: &Path) -> Result<Self, AuthFileError> {
        let whole = read(path)?;
        let auths = whole.get("auths").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { auths })
    }

    /// What it holds for a repository: the entry with the longest name that this is below, the registry's last.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Option<Auth> {
        let name = format!("{registry}/{repository}");
        let above = name.match_indices('/').rev().filter_map(|(at, _)| name.get(..at));
        let docker = [DOCKER_KEY, "index.docker.io", "registry-1.docker.io"];
        let more = docker.iter().copied().filter(|_| registry == DOCKER);
        let urls = [format!("https://{registry}"), format!("https://{registry}/v2/")];
        let mut names = std::iter::once(name.as_str())
            .chain(above)
            .chain(more)
            .chain(urls.iter().map(String::as_str));
        names.find_map(|name| auth(self.auths.get(name)?))
    }
}

fn auth(entry: &Value) -> Option<Auth> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = Auth {
        username: text("username"),
        password: text("password"),
        auth: text("auth"),
        server_address: String::new(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    (found != Auth::default()).then_some(found)
}

/// The user's name in credentials, if they tell one.
pub(crate) fn user(auth: &Auth) -> Option<String> {
    password(auth).map(|(user, _)| user)
}

/// The user's name and password in credentials, if they are that.
pub(crate) fn password(auth: &Auth) -> Option<(String, String)> {
    if !auth.username.is_empty() {
        return Some((auth.username.clone(), auth.password.clone()));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':').filter(|(user, _)| !user.is_empty())?;
    // Some tools pad the decoded text with zero bytes.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// Keeps a user's name and password for a registry.
///
/// # Errors
/// [`AuthFileError`]; the file is as it was then.
pub(crate) fn keep(
    path: &Path,
    registry: &str,
    (user, password): (&str, &str),
) -> Result<(), AuthFileError> {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut whole = read(path)?;
    let Some(auths) = auths_of(&mut whole) else { return Err(no_object(path)) };
    auths.insert(registry.to_owned(), json!({ "auth": auth }));
    write(path, &whole)
}

/// Forgets those for a registry, or all; answers whether there were any.
///
/// # Errors
/// [`AuthFileError`]; the file is as it was then.
pub(crate) fn forget(path: &Path, registry: Option<&str>) -> Result<bool, AuthFileError> {
    let mut whole = read(path)?;
    let Some(auths) = auths_of(&mut whole) else { return Err(no_object(path)) };
    let before = auths.len();
    match registry {
        None => auths.clear(),
        Some(registry) => {
            auths.remove(registry);
            if registry == DOCKER {
                auths.remove(DOCKER_KEY);
            }
        }
    }
    if auths.len() == before {
        return Ok(false);
    }
    write(path, &whole)?;
    Ok(true)
}

fn auths_of(whole: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    whole.entry("auths").or_insert_with(|| json!({})).as_object_mut()
}

fn no_object(path: &Path) -> AuthFileError {
    AuthFileError::Content { path: path.to_owned(), problem: "auths is no object".to_owned() }
}

fn read(path: &Path) -> Result<Map<String, Value>, AuthFileError> {
    let io = |source| AuthFileError::Io { verb: "read", path: path.to_owned(), source };
    let content = |problem: String| AuthFileError::Content { path: path.to_owned(), problem };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => return Err(io(source)),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LIMIT {
        return Err(content(format!("it has more than {LIMIT} bytes")));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    // The parser's words could quote a secret; where it stumbled says enough.
    serde_json::from_slice(&bytes).map_err(|error| {
        content(format!("no JSON object at line {}, column {}", error.line(), error.column()))
    })
}

/// Beside its place, for nobody else to read, then renamed: a reader finds the old or the new.
fn write(path: &Path, whole: &Map<String, Value>) -> Result<(), AuthFileError> {
    let io = |verb, path: &Path| {
        let path = path.to_owned();
        move |source| AuthFileError::Io { verb, path, source }
    };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(io("make", directory))?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let mut bytes = serde_json::to_vec_pretty(whole).unwrap_or_default();
    bytes.push(b'\n');
    let written = (|| {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(|source| {
        drop(std::fs::remove_file(&new));
        AuthFileError::Io { verb: "write", path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/auth.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_kept_is_found_and_for_nobody_else_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("containers/auth.json");
        assert!(AuthFile::read(&path).unwrap().find("quay.io", "a").is_none());
        keep(&path, "quay.io", ("me", "pass:word")).unwrap();
        keep(&path, "localhost:5000", ("you", "x")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = AuthFile::read(&path).unwrap();
        let found = file.find("quay.io", "some/thing").unwrap();
        assert_eq!(
            (user(&found).as_deref(), found.auth.as_str()),
            (Some("me"), "bWU6cGFzczp3b3Jk")
        );
        assert_eq!(file.auths.len(), 2);
        assert!(forget(&path, Some("quay.io")).unwrap());
        assert!(!forget(&path, Some("quay.io")).unwrap());
        assert!(AuthFile::read(&path).unwrap().find("localhost:5000", "a").is_some());
        assert!(forget(&path, None).unwrap());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_nearest_entry_counts_and_docker_io_has_its_own_name() {
        let text = r#"{"auths": {"quay.io": {"auth": "YTpi"}, "quay.io/team": {"auth": "Yzpk"},
            "https://index.docker.io/v1/": {"auth": "ZTpm"}, "helped": {}}, "credsStore": "x"}"#;
        let (_dir, path) = written(text);
        let file = AuthFile::read(&path).unwrap();
        let of =
            |registry, repository| file.find(registry, repository).and_then(|auth| user(&auth));
        assert_eq!(of("quay.io", "team/app").as_deref(), Some("c"));
        assert_eq!(of("quay.io", "teams/app").as_deref(), Some("a"));
        assert_eq!(of("docker.io", "library/busybox").as_deref(), Some("e"));
        assert_eq!(of("helped", "x"), None);
        assert_eq!(of("other.io", "x"), None);
        keep(&path, "other.io", ("o", "p")).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.contains("credsStore") && kept.contains("quay.io/team"), "{kept}");
    }

    #[test]
    fn what_is_no_such_file_is_refused_without_its_content() {
        for text in ["[]", "{\"auths\": \"hush", "hush", "{\"auths\": 5} hush"] {
            let (_dir, path) = written(text);
            let told = AuthFile::read(&path).unwrap_err().to_string();
            assert!(told.contains("auth.json") && !told.contains("hush"), "{told}");
            assert!(keep(&path, "x", ("a", "b")).is_err());
        }
        let (_dir, path) = written("");
        assert!(AuthFile::read(&path).unwrap().find("x", "y").is_none());
    }
}
