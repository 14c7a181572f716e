//! The configuration: files and flags in, one validated [`Config`] out.
//!
//! Owns the keys ([`layer`]), their values ([`value`], [`access`]), where they come from ([`mod@load`]), what is wrong with them together
//! ([`check`]), what they are by default ([`effective`]), and what a running daemon can take over from a new one ([`reload`]). Nothing else reads a
//! configuration file or a serve flag.
//!
//! ```text
//! config.toml ─┐
//! conf.d/*.toml┼─► Layer ─► Layer ─► … ─► Sources ──merged, defaults, checks──► Config
//! flags ───────┘   each key may be missing; each value makes sense by itself     every value makes sense beside the others
//! ```

mod access;
mod bridge;
mod check;
mod effective;
mod images;
mod keys;
mod layer;
mod load;
mod reload;
#[cfg(test)]
mod tests;
mod timeouts;
mod value;

pub(crate) use access::{ClientName, Group};
pub(crate) use check::Tls;
pub(crate) use effective::{Config, Handler};
pub(crate) use load::{DEFAULT_FILE, ServeFlags, load};
pub(crate) use reload::unchangeable;
pub(crate) use value::{CgroupDriver, Listen, LogLevel, MissingHostPaths};

/// A commented file with every key and its default.
pub(crate) const DEFAULT_TEXT: &str = include_str!("default.toml");

/// The configuration in effect as a file that would give it.
///
/// # Errors
/// None in practice: every value has a text. The signature is the library's.
pub(crate) fn dump(config: &Config) -> Result<String, toml::ser::Error> {
    toml::to_string(config.as_layer())
}
