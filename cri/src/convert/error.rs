//! The refusal of a field.

use std::borrow::Cow;
use std::fmt::Debug;
use tonic::Status;

/// No value is told beyond this many characters: some are secrets by mistake, and some are megabytes.
const VALUE_MAX: usize = 200;

/// A field whose value davit does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value} {problem}")]
pub(crate) struct InvalidField {
    /// As the interface names it, from the request's config down: `linux.security_context.selinux_options`.
    pub(crate) field: String,
    /// As it came, quoted if it is text.
    pub(crate) value: String,
    /// What is wrong, as the end of a sentence.
    pub(crate) problem: Cow<'static, str>,
}

impl From<InvalidField> for Status {
    fn from(invalid: InvalidField) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// A refusal.
pub(crate) fn refuse(
    field: impl Into<String>,
    value: &(impl Debug + ?Sized),
    problem: impl Into<Cow<'static, str>>,
) -> InvalidField {
    let value = format!("{value:?}").chars().take(VALUE_MAX).collect();
    InvalidField { field: field.into(), value, problem: problem.into() }
}

/// The variant that a number stands for.
pub(crate) fn variant<T: TryFrom<i32>>(field: &str, number: i32) -> Result<T, InvalidField> {
    T::try_from(number).map_err(|_unknown| refuse(field, &number, "is no value of this field"))
}
