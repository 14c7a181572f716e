//! The values of flags that say what a container is to have.

use davit_proto::cri;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

/// Why a text is no such value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} {problem}")]
pub(crate) struct InvalidFlag {
    value: String,
    problem: &'static str,
}

fn invalid(value: &str, problem: &'static str) -> InvalidFlag {
    InvalidFlag { value: value.chars().take(200).collect(), problem }
}

/// Bytes: `64m`, `1g`, `1048576`. Units are powers of 1024, as container tools have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) i64);

impl FromStr for Memory {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let lower = text.to_ascii_lowercase();
        // `64mb` and `64mib` are what some people write for `64m`.
        let short = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
        let digits = short.trim_end_matches(|last: char| last.is_ascii_alphabetic());
        let shift = match short.strip_prefix(digits) {
            Some("") => 0,
            Some("k") => 10,
            Some("m") => 20,
            Some("g") => 30,
            Some("t") => 40,
            Some(_) | None => {
                return Err(invalid(text, "has an unknown unit: b, k, m, g and t are known"));
            }
        };
        let count: i64 =
            digits.parse().map_err(|_not_a_number| invalid(text, "is no size such as 64m"))?;
        let bytes = count.checked_mul(1 << shift).ok_or_else(|| invalid(text, "is too large"))?;
        // The kernel takes less, but no OCI runtime gets a container up in it.
        if bytes < 4096 {
            return Err(invalid(text, "is less than a page (4096 bytes)"));
        }
        Ok(Self(bytes))
    }
}

/// CPUs, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus(u32);

/// The kernel's default, in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;

impl Cpus {
    /// How many microseconds of each [`CPU_PERIOD`] that is.
    pub(crate) fn quota(self) -> i64 {
        i64::from(self.0) * (CPU_PERIOD / 1000)
    }
}

impl FromStr for Cpus {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let wrong = || invalid(text, "is no count of CPUs such as 2 or 0.5");
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        if !digits(whole) || !digits(part) || part.len() > 3 {
            return Err(wrong());
        }
        let thousandths: u32 = format!("{part:0<3}").parse().map_err(|_not_a_number| wrong())?;
        let whole: u32 = whole.parse().map_err(|_too_large| wrong())?;
        let all = whole.checked_mul(1000).and_then(|all| all.checked_add(thousandths));
        match all {
            Some(all) if all >= 10 => Ok(Self(all)),
            Some(_) => {
                Err(invalid(text, "is less than 0.01 CPUs, the least that the kernel takes"))
            }
            None => Err(wrong()),
        }
    }
}

/// `[IP:]HOST:CONTAINER[/PROTOCOL]`, IPv6 addresses in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    host_ip: Option<IpAddr>,
    host: u16,
    container: u16,
    protocol: cri::Protocol,
}

impl FromStr for Port {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => cri::Protocol::Tcp,
            "udp" => cri::Protocol::Udp,
            "sctp" => cri::Protocol::Sctp,
            _ => return Err(invalid(text, "has an unknown protocol: tcp, udp and sctp are known")),
        };
        let form = || invalid(text, "is not [IP:]HOST:CONTAINER[/PROTOCOL]");
        let port = |port: &str| match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            Ok(_) | Err(_) => Err(invalid(text, "has a port that is not between 1 and 65535")),
        };
        let (left, container) = ports.rsplit_once(':').ok_or_else(form)?;
        let (address, host) = match left.rsplit_once(':') {
            Some((address, host)) => (Some(address), host),
            None => (None, left),
        };
        let bare = |address: &str| {
            let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            inner.unwrap_or(address).parse::<IpAddr>()
        };
        let host_ip = address
            .map(bare)
            .transpose()
            .map_err(|_no_address| invalid(text, "has an address that is none"))?;
        Ok(Self { host_ip, host: port(host)?, container: port(container)?, protocol })
    }
}

impl From<Port> for cri::PortMapping {
    fn from(port: Port) -> Self {
        Self {
            protocol: port.protocol.into(),
            container_port: port.container.into(),
            host_port: port.host.into(),
            host_ip: port.host_ip.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

/// `HOST:CONTAINER[:ro|rw]`, both absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    host: String,
    container: String,
    readonly: bool,
}

impl FromStr for Volume {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, readonly) = match parts.as_slice() {
            [host, container] | [host, container, "rw"] => (*host, *container, false),
            [host, container, "ro"] => (*host, *container, true),
            [_, _, _] => return Err(invalid(text, "has an unknown option: ro and rw are known")),
            _ => return Err(invalid(text, "is not HOST:CONTAINER[:ro]")),
        };
        if !Path::new(host).is_absolute() {
            return Err(invalid(text, "has a host path that is not absolute"));
        }
        if !Path::new(container).is_absolute() {
            return Err(invalid(text, "has a container path that is not absolute"));
        }
        Ok(Self { host: host.to_owned(), container: container.to_owned(), readonly })
    }
}

impl From<Volume> for cri::Mount {
    fn from(volume: Volume) -> Self {
        Self {
            host_path: volume.host,
            container_path: volume.container,
            readonly: volume.readonly,
            ..Self::default()
        }
    }
}

/// `USER[:GROUP]`: a user by name or number, a group by its number (CRI has no word for a group's name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunUser {
    /// Exactly one of these is set.
    uid: Option<u32>,
    name: String,
    gid: Option<u32>,
}

impl RunUser {
    /// Puts it where CRI has it.
    pub(crate) fn apply(self, security: &mut cri::LinuxContainerSecurityContext) {
        let value = |id: u32| cri::Int64Value { value: i64::from(id) };
        security.run_as_user = self.uid.map(value);
        security.run_as_username = self.name;
        security.run_as_group = self.gid.map(value);
    }
}

impl FromStr for RunUser {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() {
            return Err(invalid(text, "names no user"));
        }
        let gid = group
            .map(str::parse)
            .transpose()
            .map_err(|_not_a_number| invalid(text, "has a group that is not a number"))?;
        let uid = user.parse().ok();
        let name = if uid.is_none() { user.to_owned() } else { String::new() };
        Ok(Self { uid, name, gid })
    }
}

/// `FILE=VALUE`: a file of cgroup v2, such as `pids.max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unified {
    file: String,
    value: String,
}

impl FromStr for Unified {
    type Err = InvalidFlag;

    fn from_str(text: &str) -> Result<Self, InvalidFlag> {
        let form = || invalid(text, "is not FILE=VALUE, such as pids.max=100");
        let (file, value) = text.split_once('=').ok_or_else(form)?;
        if file.is_empty() || value.is_empty() {
            return Err(form());
        }
        Ok(Self { file: file.to_owned(), value: value.to_owned() })
    }
}

impl From<Unified> for (String, String) {
    fn from(unified: Unified) -> Self {
        (unified.file, unified.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = InvalidFlag> + std::fmt::Debug>(texts: &[&str]) {
        for text in texts {
            let error = text.parse::<T>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4096b", 4096),
            ("64k", 65_536),
            ("64m", 67_108_864),
            ("64M", 67_108_864),
            ("64mb", 67_108_864),
            ("64MiB", 67_108_864),
            ("2g", 2_147_483_648),
        ] {
            assert_eq!(text.parse::<Memory>().unwrap().0, bytes, "{text}");
        }
        refused::<Memory>(&["", "m", "-1m", "1.5g", "64x", "64 m", "100", "9999999999t"]);
    }

    #[test]
    fn cpus_become_a_quota() {
        for (text, quota) in [
            ("1", 100_000),
            ("0.5", 50_000),
            ("0.25", 25_000),
            ("1.125", 112_500),
            ("2.0", 200_000),
        ] {
            assert_eq!(text.parse::<Cpus>().unwrap().quota(), quota, "{text}");
        }
        refused::<Cpus>(&["", ".", "0", "0.001", "-1", "1.2345", "1e3", "half", "99999999999"]);
    }

    #[test]
    fn a_port_has_an_address_if_it_is_given() {
        let port = |text: &str| cri::PortMapping::from(text.parse::<Port>().unwrap());
        let plain = port("8080:80");
        assert_eq!(
            (plain.host_port, plain.container_port, plain.protocol()),
            (8080, 80, cri::Protocol::Tcp)
        );
        assert_eq!(plain.host_ip, "");
        assert_eq!(port("127.0.0.1:53:5353/udp").host_ip, "127.0.0.1");
        assert_eq!(port("127.0.0.1:53:5353/udp").protocol(), cri::Protocol::Udp);
        assert_eq!(port("[::1]:1:2").host_ip, "::1");
        refused::<Port>(&[
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:65536",
            "1:2:3",
            "80:80/icmp",
            "x:1:2",
            "1.2.3.4:80",
        ]);
    }

    #[test]
    fn a_volume_is_between_two_absolute_paths() {
        let mount = cri::Mount::from("/a:/b:ro".parse::<Volume>().unwrap());
        assert_eq!(
            (mount.host_path.as_str(), mount.container_path.as_str(), mount.readonly),
            ("/a", "/b", true)
        );
        assert!(!cri::Mount::from("/a:/b".parse::<Volume>().unwrap()).readonly);
        refused::<Volume>(&["", "/a", "a:/b", "/a:b", "/a:/b:xx", "/a:/b:ro:x", "name:/b"]);
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        let of = |text: &str| {
            let mut security = cri::LinuxContainerSecurityContext::default();
            text.parse::<RunUser>().unwrap().apply(&mut security);
            (
                security.run_as_user.map(|id| id.value),
                security.run_as_username,
                security.run_as_group.map(|id| id.value),
            )
        };
        assert_eq!(of("1000"), (Some(1000), String::new(), None));
        assert_eq!(of("1000:50"), (Some(1000), String::new(), Some(50)));
        assert_eq!(of("www:50"), (None, "www".to_owned(), Some(50)));
        refused::<RunUser>(&["", ":1", "a:", "a:staff", "a:-1"]);
    }
}
