//! One thing that was looked at, and what there is to say of it.

use std::fmt;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something does not work, or worse than it could; davit runs.
    Warning,
    /// Pods can't be run, or not as they should.
    Problem,
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What it is; if it is not as it should be, what is missing and what that costs.
    pub text: String,
    /// What to do about it; empty if it is well, or nothing can be done.
    pub advice: String,
}

impl Finding {
    /// It is well.
    pub fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Ok,
            text: one_line(text),
            advice: String::new(),
        }
    }

    /// It is not, and davit runs nevertheless.
    pub fn warning(
        subject: impl Into<String>,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Warning,
            text: one_line(text),
            advice: one_line(advice),
        }
    }

    /// Pods can't be run as they should.
    pub fn problem(
        subject: impl Into<String>,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Problem, ..Self::warning(subject, text, advice) }
    }
}

/// What others' programs say may have several.
fn one_line(text: impl Into<String>) -> String {
    let text: String = text.into();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "; {}", self.advice) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_what_to_do() {
        let found = Finding::problem("x", "it is\n  broken", "mend it");
        assert_eq!(found.to_string(), "it is broken; mend it");
        assert_eq!(Finding::ok("x", "well").to_string(), "well");
        assert!(Verdict::Problem > Verdict::Warning && Verdict::Warning > Verdict::Ok);
    }
}
