//! A container's environment.
//!
//! Owns the order in which its sources count, the later over the earlier: davit's defaults, the image, the pod. An entry that is
//! replaced keeps its place.

/// What a command finds programs with if nobody says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an environment can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name:?} of {whose} {problem}")]
pub struct EnvError {
    /// Whose it is: the image's or the pod's.
    pub whose: &'static str,
    /// Its name; never its value, which may be a secret.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Names and values in order.
#[derive(Debug, Default)]
pub(super) struct Environment(Vec<(String, String)>);

impl Environment {
    /// davit's own defaults.
    pub(super) fn new(hostname: &str) -> Self {
        let mut env = Self::default();
        env.set("PATH", DEFAULT_PATH);
        if !hostname.is_empty() {
            env.set("HOSTNAME", hostname);
        }
        env
    }

    /// Those of a spec.
    pub(super) fn of_lines(lines: &[String]) -> Self {
        let split = |line: &String| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Self(lines.iter().filter_map(split).collect())
    }

    /// Sets one that is known to be sound.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Sets it unless it is there.
    pub(super) fn set_default(&mut self, name: &str, value: &str) {
        if !self.0.iter().any(|(known, _)| known == name) {
            self.set(name, value);
        }
    }

    /// The image's, each `NAME=value`.
    pub(super) fn add_image(&mut self, entries: &[String]) -> Result<(), EnvError> {
        self.add_lines("the image", entries)
    }

    fn add_lines(&mut self, whose: &'static str, entries: &[String]) -> Result<(), EnvError> {
        for entry in entries {
            let Some((name, value)) = entry.split_once('=') else {
                let name = entry.chars().take(100).collect();
                return Err(EnvError { whose, name, problem: "has no value" });
            };
            self.add(whose, name, value)?;
        }
        Ok(())
    }

    /// A command's own, each `NAME=value`.
    pub(super) fn add_exec(&mut self, entries: &[String]) -> Result<(), EnvError> {
        self.add_lines("the command", entries)
    }

    /// The pod's.
    pub(super) fn add_pod(&mut self, entries: &[(String, String)]) -> Result<(), EnvError> {
        entries.iter().try_for_each(|(name, value)| self.add("the pod", name, value))
    }

    fn add(&mut self, whose: &'static str, name: &str, value: &str) -> Result<(), EnvError> {
        let problem = if name.is_empty() {
            "has no name"
        } else if name.contains(['=', '\0']) {
            "has a `=` or NUL in its name"
        } else if value.contains('\0') {
            "has a NUL in its value"
        } else if name == "HOME" && value.contains(['\n', '\r', ':']) {
            // Programs write it into passwd(5), where these start a new field or line (CVE-2022-4318, CVE-2026-15809).
            "has a line break or a colon in its value"
        } else {
            self.set(name, value);
            return Ok(());
        };
        Err(EnvError { whose, name: name.chars().take(100).collect(), problem })
    }

    /// As the OCI spec has it.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.0.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn the_pod_wins_over_the_image_and_the_image_over_the_defaults() {
        let mut env = Environment::new("pod-0");
        env.add_image(&text(&["A=image", "PATH=/image", "B=b=c", "E="])).unwrap();
        env.add_pod(&[
            ("A".into(), "pod".into()),
            ("C".into(), "1".into()),
            ("C".into(), "2".into()),
        ])
        .unwrap();
        env.set_default("HOME", "/root");
        env.set_default("A", "nobody");
        assert_eq!(
            env.into_lines(),
            ["PATH=/image", "HOSTNAME=pod-0", "A=pod", "B=b=c", "E=", "C=2", "HOME=/root"]
        );
    }

    #[test]
    fn what_is_no_variable_is_refused_by_name_and_never_by_value() {
        for (name, value) in [
            ("", "secret"),
            ("A=B", "secret"),
            ("A\0", "secret"),
            ("A", "secret\0"),
            ("HOME", "/x\nsecret"),
            ("HOME", "/x\rsecret"),
            ("HOME", "/secret:0:0"),
        ] {
            let error = Environment::default().add_pod(&[(name.into(), value.into())]).unwrap_err();
            assert_eq!(error.name, name);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for entry in ["", "NAME", "=value", "A=\0", "HOME=a\nb"] {
            assert!(Environment::default().add_image(&text(&[entry])).is_err(), "{entry:?}");
        }
        assert!(Environment::default().add_image(&text(&["HOME=/a\\nb", "X=a\nb"])).is_ok());
    }
}
