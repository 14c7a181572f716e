//! Which of an index's images fits a machine.
//!
//! Owns the order of preference among variants of one architecture. An entry fits if its image can run here: a machine of a
//! higher level runs what was built for a lower one, never the other way round.

use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// An operating system, an architecture and its variant, in the words of the Go tool chain (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, or the empty text.
    #[serde(default)]
    pub variant: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not `os/architecture` or `os/architecture/variant`")]
pub struct InvalidPlatform(String);

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", x86_level()),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            "loongarch64" => ("loong64", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well `offered` suits this machine, the lower the better; `None` if it cannot run here.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        if offered.os != self.os {
            return None;
        }
        let foreign = match (self.architecture.as_str(), offered.architecture.as_str()) {
            (mine, theirs) if mine == theirs => 0,
            // 64-bit machines run 32-bit programs, most of ARM's do: better than nothing, worse than anything of its own.
            ("arm64", "arm") | ("amd64", "386") => 100,
            (_, _) => return None,
        };
        let mine = if foreign == 0 { self.level() } else { 8 };
        let theirs = offered.level();
        if theirs > mine { None } else { Some(foreign + mine - theirs) }
    }

    /// The number in the variant; an absent one is what the architecture's tool chains build without being told.
    fn level(&self) -> u32 {
        let absent = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => 0,
        };
        match self.variant.strip_prefix('v').and_then(|number| number.split('.').next()) {
            Some(number) => number.parse().unwrap_or(u32::MAX),
            None if self.variant.is_empty() => absent,
            None => u32::MAX,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_level() -> &'static str {
    let second = is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("ssse3");
    let third = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("movbe");
    match (second, third) {
        (true, true) => "v3",
        (true, false) => "v2",
        (false, _) => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> &'static str {
    ""
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, &""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => return Err(InvalidPlatform(text.to_owned())),
        };
        let word = |part: &str| {
            part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if os.is_empty() || architecture.is_empty() || !parts.iter().all(|part| word(part)) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        Ok(Self {
            os: (*os).to_owned(),
            architecture: (*architecture).to_owned(),
            variant: (*variant).to_owned(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_that_runs_here_is_preferred() {
        for (host, offered, best) in [
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"][..],
                Some(2),
            ),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/arm64", "windows/amd64"], None),
            ("linux/arm64/v8", &["linux/arm/v7", "linux/arm64", "linux/arm/v6"], Some(1)),
            ("linux/arm64/v8", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"], Some(1)),
            ("linux/arm/v7", &["linux/arm"], Some(0)),
            ("linux/amd64", &["linux/amd64/odd"], None),
            ("linux/amd64/v3", &["linux/386", "linux/amd64", "linux/amd64/v4"], Some(1)),
            ("linux/amd64", &["linux/amd64/v2", "linux/386", "linux/arm"], Some(1)),
            ("linux/386", &["linux/amd64", "linux/386"], Some(1)),
            ("linux/riscv64", &["linux/riscv64"], Some(0)),
        ] {
            let host: Platform = host.parse().unwrap();
            let found = offered
                .iter()
                .enumerate()
                .filter_map(|(at, text)| Some((host.rank(&text.parse().unwrap())?, at)))
                .min()
                .map(|(_, at)| at);
            assert_eq!(found, best, "{host} {offered:?}");
        }
    }

    #[test]
    fn texts_that_are_no_platform_are_refused() {
        for text in ["", "linux", "/amd64", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!(Platform::host().os, "linux");
    }
}
