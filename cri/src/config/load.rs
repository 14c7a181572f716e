//! From files and flags to [`Sources`], and what can be wrong on the way.
//!
//! Owns which files are read: the one named by `--config` (else `/etc/davit/config.toml`, which may be missing) and, beside it,
//! `conf.d/*.toml` in the order of their names. Later ones have the last word, and the flags have it over all.

use super::effective::Config;
use super::keys;
use super::layer::{HandlerFlag, Layer};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Read when `--config` names no other.
pub(crate) const DEFAULT_FILE: &str = "/etc/davit/config.toml";

/// No configuration is larger than this, in bytes: what is, is no configuration.
const FILE_MAX: u64 = 1 << 20;

/// The flags of `davit serve` and `davit config dump`.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(crate) struct ServeFlags {
    /// The configuration file; conf.d/*.toml beside it is read after it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One key of one runtime handler, such as crun.path=/usr/bin/crun; may be given more than once
    #[arg(long = "handler", value_name = "NAME.KEY=VALUE")]
    pub(crate) handler: Vec<HandlerFlag>,
    /// Every key.
    #[command(flatten)]
    pub(crate) keys: Layer,
}

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// This file.
    File(PathBuf),
    /// Whoever started the program.
    CommandLine,
    /// Nobody: it is a default.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.display().fmt(f),
            Self::CommandLine => f.write_str("command line"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file or directory can't be read.
    #[error("read configuration {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no TOML, or a value is of the wrong kind.
    #[error("{}:{line}:{column}: `{text}`: {problem}", file.display())]
    Syntax {
        /// Which.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What stands there.
        text: String,
        /// In the parser's words.
        problem: String,
    },
    /// A key that there isn't.
    #[error("{}: key {key:?} is unknown{}", file.display(), meant(nearest.as_ref()))]
    UnknownKey {
        /// Where.
        file: PathBuf,
        /// Which.
        key: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// A value that makes no sense beside the others.
    #[error("{source_of}: {key} {value:?} {problem}")]
    Value {
        /// Who gave it.
        source_of: Source,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong.
        problem: String,
    },
}

fn meant(nearest: Option<&String>) -> String {
    nearest.map(|key| format!(" (is {key:?} meant?)")).unwrap_or_default()
}

/// What each source says, the one with the last word last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources(Vec<(Source, Layer)>);

impl Sources {
    /// Reads the files and adds the flags.
    ///
    /// # Errors
    /// [`ConfigError`] for the first file that can't be read or understood.
    pub(crate) fn read(flags: &ServeFlags) -> Result<Self, ConfigError> {
        let mut sources = Self::default();
        for file in files(flags.config.as_deref())? {
            let layer = layer_from(&file)?;
            sources.0.push((Source::File(file), layer));
        }
        let said = flags.keys.clone().with_handlers(flags.handler.clone());
        sources.0.push((Source::CommandLine, said));
        Ok(sources)
    }

    /// All layers in one.
    pub(crate) fn merged(&self) -> Layer {
        self.0.iter().fold(Layer::default(), |under, (_, over)| under.under(over.clone()))
    }

    /// The error for a value, blamed on the source that had the last word on its key.
    pub(crate) fn wrong(
        &self,
        set: impl Fn(&Layer) -> bool,
        key: &str,
        value: &dyn fmt::Display,
        problem: impl Into<String>,
    ) -> ConfigError {
        let last = self.0.iter().rev().find(|(_, layer)| set(layer));
        ConfigError::Value {
            source_of: last.map_or(Source::Default, |(source, _)| source.clone()),
            key: key.to_owned(),
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}

/// The configuration that `davit serve` with these flags uses.
///
/// # Errors
/// [`ConfigError`], which names the file or the command line, the key and the value.
pub(crate) fn load(flags: &ServeFlags) -> Result<Config, ConfigError> {
    Config::new(&Sources::read(flags)?)
}

/// The files to read, in order.
fn files(named: Option<&Path>) -> Result<Vec<PathBuf>, ConfigError> {
    let main = named.unwrap_or(Path::new(DEFAULT_FILE));
    let mut files = Vec::new();
    // A file that was asked for must be there; the default one may be missing.
    if named.is_some() || main.exists() {
        files.push(main.to_owned());
    }
    let drop_ins = main.parent().unwrap_or(Path::new("/")).join("conf.d");
    let read = |source| ConfigError::Read { file: drop_ins.clone(), source };
    let entries = match std::fs::read_dir(&drop_ins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(source) => return Err(read(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
    found.sort();
    files.append(&mut found);
    Ok(files)
}

/// What one file says.
fn layer_from(file: &Path) -> Result<Layer, ConfigError> {
    let read = |source| ConfigError::Read { file: file.to_owned(), source };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(read)?;
    opened.take(FILE_MAX + 1).read_to_string(&mut text).map_err(read)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX) {
        return Err(read(io::Error::other("it is larger than 1 MiB")));
    }
    layer_from_text(&text, file)
}

/// What this text says; `file` is who to blame.
pub(crate) fn layer_from_text(text: &str, file: &Path) -> Result<Layer, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error| syntax(&error, text, file))?;
    if let Some(keys::UnknownKey { key, nearest }) = keys::unknown(&table) {
        return Err(ConfigError::UnknownKey { file: file.to_owned(), key, nearest });
    }
    toml::from_str(text).map_err(|error| syntax(&error, text, file))
}

/// One line for what toml says in four.
fn syntax(error: &toml::de::Error, text: &str, file: &Path) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..start).unwrap_or_default();
    let line = before.bytes().filter(|byte| *byte == b'\n').count();
    ConfigError::Syntax {
        file: file.to_owned(),
        line: line + 1,
        column: before.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
        text: text.lines().nth(line).unwrap_or_default().trim().chars().take(200).collect(),
        problem: error.message().replace('\n', " "),
    }
}
