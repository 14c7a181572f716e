//! The values that configuration keys and flags have, each refusing what makes no sense.
//!
//! Owns text ↔ value, both ways. The same types are read from files (serde) and from flags (`FromStr`), so a wrong value gets the
//! same words wherever it was written. Whether values make sense together is decided in [`super::effective`].

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Why a text is no such value: the text and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} {problem}")]
pub(crate) struct InvalidValue {
    value: String,
    problem: &'static str,
}

pub(super) fn invalid(value: &str, problem: &'static str) -> InvalidValue {
    InvalidValue { value: value.chars().take(200).collect(), problem }
}

/// Reads and writes a type as the text that `FromStr` and `Display` agree on.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, InvalidValue> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

pub(super) use as_text;

as_text!(AbsolutePath, Listen, HostPort, Span, Subnet, Subnet6, Name, Interface, Collector);

/// A path from the root, without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// As a path.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for AbsolutePath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let path = PathBuf::from(text);
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            Err(invalid(text, "has a control character in it"))
        } else if !path.is_absolute() {
            Err(invalid(text, "is not an absolute path"))
        } else if path.components().any(|part| part == Component::ParentDir) {
            Err(invalid(text, "has a `..` in it"))
        } else {
            Ok(Self(path))
        }
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Where calls are taken: `unix://PATH` or `tcp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Listen {
    /// A socket in the file system; absolute.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// The longest path that fits `sockaddr_un`, its final NUL left out (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

impl FromStr for Listen {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path: AbsolutePath = path.parse()?;
            if path.as_path().as_os_str().len() > SOCKET_PATH_MAX {
                return Err(invalid(text, "is longer than a socket's path may be (107 bytes)"));
            }
            Ok(Self::Unix(path.0))
        } else if let Some(address) = text.strip_prefix("tcp://") {
            HostPort::from_str(address).map(|address| Self::Tcp(address.0))
        } else {
            Err(invalid(text, "is neither unix://PATH nor tcp://HOST:PORT"))
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// An IP address (or `localhost`) and a port. Names are not resolved: what a daemon listens on should not hang on DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct HostPort(pub(crate) SocketAddr);

impl FromStr for HostPort {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let local = text
            .strip_prefix("localhost:")
            .and_then(|port| port.parse().ok())
            .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        local
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| invalid(text, "is not HOST:PORT, HOST being an IP address or localhost"))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a collector of traces listens: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Collector(String);

impl Collector {
    /// As a URL.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Collector {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let not = |problem| invalid(text, problem);
        if text.starts_with("https://") {
            return Err(not("is not http://: a collector on this node passes traces on with TLS"));
        }
        let uri: http::Uri = text.parse().map_err(|_no_uri| not("is not http://HOST:PORT"))?;
        let plain = uri.scheme_str() == Some("http") && uri.port_u16().is_some();
        if !plain || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(not("is not http://HOST:PORT"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A share of all, from 0 to 1. All by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub(crate) struct Share(f64);

impl Share {
    /// As a number.
    pub(crate) fn get(self) -> f64 {
        self.0
    }
}

impl Default for Share {
    fn default() -> Self {
        Self(1.0)
    }
}

impl TryFrom<f64> for Share {
    type Error = InvalidValue;

    fn try_from(value: f64) -> Result<Self, InvalidValue> {
        match (0.0..=1.0).contains(&value) {
            true => Ok(Self(value)),
            false => Err(invalid(&value.to_string(), "is not between 0 and 1")),
        }
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl FromStr for Share {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let number: f64 = text.parse().map_err(|_no_number| invalid(text, "is not a number"))?;
        Self::try_from(number)
    }
}

/// A length of time, such as `30s` or `2m 30s`; more than nothing, at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Span(Duration);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Span {
    /// So many seconds.
    pub(crate) const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// As the standard library has it.
    pub(crate) fn as_duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let duration = text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|signed| Duration::try_from(signed).ok())
            .ok_or_else(|| invalid(text, "is not a length of time such as 30s, 5m or 1h"))?;
        if duration.is_zero() || duration > DAY {
            return Err(invalid(text, "is not between 1ns and 24h"));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A day fits a SignedDuration; the fallback prints seconds, which parse as well.
        match jiff::SignedDuration::try_from(self.0) {
            Ok(signed) => write!(f, "{signed:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

/// A network of one family; no host bits are set.
macro_rules! network {
    ($name:ident, $net:ty, $doc:literal, $problem:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) struct $name(pub(crate) $net);

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                match text.parse::<$net>() {
                    Err(_) => Err(invalid(text, $problem)),
                    Ok(net) if net.trunc() != net => Err(invalid(text, "has host bits set")),
                    Ok(net) => Ok(Self(net)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

network!(Subnet, Ipv4Net, "An IPv4 network.", "is not an IPv4 network such as 10.88.0.0/16");
network!(Subnet6, Ipv6Net, "An IPv6 network.", "is not an IPv6 network such as fd00:88::/64");

/// The name of a handler, a cgroup or an nftables table: letters, digits, `-`, `_` and `.`, a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Name(String);

impl Name {
    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let fits =
            |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= 63 && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid(
                text,
                "is not a name of 1 to 63 letters, digits, `-`, `_` and `.`, a letter or digit first",
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network interface's name: what the kernel takes (`dev_valid_name`), 15 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Interface(String);

impl Interface {
    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Interface {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match Name::from_str(text) {
            Ok(name) if name.0.len() <= 15 => Ok(Self(name.0)),
            Ok(_) | Err(_) => Err(invalid(text, "is no name of a network interface")),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    /// systemd if it runs this host, else davit itself.
    Auto,
    /// davit itself, as directories.
    Cgroupfs,
    /// systemd, as scopes and slices.
    Systemd,
}

/// What is done about a volume's path on the host that isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MissingHostPaths {
    /// A directory is made, for root to write and all to read.
    Create,
    /// The container is refused.
    Refuse,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// What failed.
    Error,
    /// And what is odd.
    Warn,
    /// And what an operator wants to know.
    Info,
    /// And every call.
    Debug,
    /// And every step, the libraries' too.
    Trace,
}

/// How a handler is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum HandlerKind {
    /// By an OCI runtime's command line.
    #[serde(rename = "oci")]
    Oci,
    /// By a containerd shim; reserved.
    #[serde(rename = "shim-v2")]
    ShimV2,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_refused<T: FromStr<Err = InvalidValue> + fmt::Debug>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_a_socket_path_or_host_and_port() {
        for text in ["unix:///run/davit/davit.sock", "tcp://127.0.0.1:1", "tcp://[::1]:65535"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!(
            "tcp://localhost:80".parse::<Listen>().unwrap().to_string(),
            "tcp://127.0.0.1:80"
        );
        let long = format!("unix:///{}", "a".repeat(107));
        all_refused::<Listen>(&[
            "",
            "/run/davit.sock",
            "unix://run/davit.sock",
            "unix://",
            "tcp://host:1",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:65536",
            &long,
        ]);
    }

    #[test]
    fn lengths_of_time_are_read_and_told_alike() {
        for text in ["30s", "5m", "1h", "250ms", "24h"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        assert_eq!("5m".parse::<Span>().unwrap().to_string(), "5m");
        all_refused::<Span>(&["", "0s", "-3s", "25h", "5", "fast"]);
    }

    #[test]
    fn a_subnet_has_a_prefix_and_no_host_bits() {
        assert_eq!("10.88.0.0/16".parse::<Subnet>().unwrap().to_string(), "10.88.0.0/16");
        all_refused::<Subnet>(&["10.88.0.0", "10.88.0.1/16", "10.0.0.0/33", "fd00::/64"]);
        assert_eq!("fd00:88::/64".parse::<Subnet6>().unwrap().to_string(), "fd00:88::/64");
        all_refused::<Subnet6>(&["fd00::", "fd00::1/64", "fd00::/129", "10.88.0.0/16"]);
    }

    #[test]
    fn names_and_paths_that_would_lead_elsewhere_are_refused() {
        all_refused::<Name>(&["", "../x", "-x", ".x", "a b", "a/b", &"x".repeat(64)]);
        all_refused::<AbsolutePath>(&["", "x", "/a/../b", "/a\nb"]);
        all_refused::<Interface>(&["", "averyveryverylongname", "a/b"]);
    }
}
