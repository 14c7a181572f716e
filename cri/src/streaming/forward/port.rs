//! Ports, as requests name them.

use std::num::NonZeroU16;

/// Ports in one request with a channel per port. Each has two, and in base64's protocol a channel is a character counted from '0': with
/// more, that would be none of ASCII.
const MOST: usize = 40;

/// What is wrong with a request's port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    #[error("\"port\" header is required")]
    NoHeader,
    #[error("\"port\" header: {0}")]
    Header(NotAPort),
    #[error("query parameter \"port\" is required")]
    NoParameter,
    #[error("query parameter \"port\": {0}")]
    Parameter(NotAPort),
    #[error("query parameter \"port\": {0} ports, and there may be {MOST}")]
    TooMany(usize),
}

/// A text that names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse {0:?} as a port: it must be a number from 1 to 65535")]
pub(crate) struct NotAPort(String);

/// The port that a stream's headers name.
pub(crate) fn from_header(value: Option<&str>) -> Result<u16, PortError> {
    match value {
        None | Some("") => Err(PortError::NoHeader),
        Some(text) => parse(text).map_err(PortError::Header),
    }
}

/// The ports that a request's query names: in values of `port`, each with one or, between commas, several.
pub(crate) fn from_query<'a>(
    values: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<u16>, PortError> {
    let ports = values
        .into_iter()
        .flat_map(|value| value.split(','))
        .map(parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(PortError::Parameter)?;
    match ports.len() {
        0 => Err(PortError::NoParameter),
        1..=MOST => Ok(ports),
        more => Err(PortError::TooMany(more)),
    }
}

fn parse(text: &str) -> Result<u16, NotAPort> {
    // Rust's parser takes a sign, which no peer does.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<NonZeroU16>() {
        Ok(port) if digits => Ok(port.get()),
        Ok(_) | Err(_) => Err(NotAPort(text.chars().take(64).collect())),
    }
}
