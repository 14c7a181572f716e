//! Which keys there are, learnt from the types themselves, and the nearest one to a key that there isn't.
//!
//! serde refuses an unknown key too ([`Layer`] denies them), but without the path that leads to it and without a guess at what was
//! meant; so keys are looked through first.

use super::bridge::Bridge;
use super::images::Images;
use super::layer::{Handler, Layer, Limits, MetricsTls, StreamingTls, Tls, Tracing};
use super::timeouts::Timeouts;
use serde::Deserialize;
use serde::de::{self, Visitor};

/// A key that there isn't.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownKey {
    /// As written, tables and all: `bridge.nmae`.
    pub(crate) key: String,
    /// The one that was probably meant.
    pub(crate) nearest: Option<String>,
}

/// The first unknown key of a file.
pub(crate) fn unknown(file: &toml::Table) -> Option<UnknownKey> {
    let mut known = Vec::new();
    collect(file, &mut known);
    let key = written(file).into_iter().find(|key| !known.contains(key) && !is_table(key, file))?;
    let nearest = nearest(&key, &known);
    Some(UnknownKey { key, nearest })
}

/// Every key there is, those of `[handlers.NAME]` for each name in `file`.
fn collect(file: &toml::Table, known: &mut Vec<String>) {
    let mut below = |table: &str, fields: &[&str]| {
        known.extend(fields.iter().map(|field| format!("{table}.{field}")));
    };
    below("bridge", fields_of::<Bridge>());
    below("timeouts", fields_of::<Timeouts>());
    below("limits", fields_of::<Limits>());
    below("images", fields_of::<Images>());
    below("tls", fields_of::<Tls>());
    below("streaming_tls", fields_of::<StreamingTls>());
    below("metrics_tls", fields_of::<MetricsTls>());
    below("tracing", fields_of::<Tracing>());
    if let Some(toml::Value::Table(handlers)) = file.get("handlers") {
        for name in handlers.keys() {
            below(&format!("handlers.{name}"), fields_of::<Handler>());
        }
    }
    known.extend(fields_of::<Layer>().iter().map(|field| (*field).to_owned()));
}

/// Whether this key stands for a handler: its name is free.
fn is_table(key: &str, file: &toml::Table) -> bool {
    let handlers = file.get("handlers").and_then(toml::Value::as_table);
    key.strip_prefix("handlers.")
        .is_some_and(|name| handlers.is_some_and(|handlers| handlers.contains_key(name)))
}

/// Every key of a file down to the depth that keys have, tables before what is in them.
fn written(file: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in file {
        keys.push(key.clone());
        let toml::Value::Table(table) = value else { continue };
        for (inner, value) in table {
            keys.push(format!("{key}.{inner}"));
            if let ("handlers", toml::Value::Table(handler)) = (key.as_str(), value) {
                keys.extend(handler.keys().map(|field| format!("{key}.{inner}.{field}")));
            }
        }
    }
    keys
}

/// The known key that looks most like `key`, if any looks like it at all. The last part counts too, on its own: `subnet` is meant to be
/// `bridge.subnet`, and `network.cni_bin_dir` to be `cni_bin_dir`.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &String| {
        let whole = strsim::jaro_winkler(key, candidate);
        let parts = strsim::jaro_winkler(&last(key), &last(candidate));
        whole.max(parts)
    };
    let best = known.iter().map(|candidate| (likeness(candidate), candidate));
    let best = best.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 >= 0.8).then(|| best.1.clone())
}

/// The names of a struct's fields, as its `Deserialize` tells them to whoever deserializes it.
pub(crate) fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It always fails: there is nothing to read. Only what it asked for is wanted.
    drop(T::deserialize(Listening(&mut fields)));
    fields
}

/// A deserializer with no data that notes which fields were asked for.
struct Listening<'a>(&'a mut &'static [&'static str]);

impl<'de> de::Deserializer<'de> for Listening<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("nothing to read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("nothing to read"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Option<(String, Option<String>)> {
        unknown(&text.parse().unwrap()).map(|unknown| (unknown.key, unknown.nearest))
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let cases = [
            ("rooot = 1", "rooot", "root"),
            ("[bridge]\nsubnett = 1", "bridge.subnett", "bridge.subnet"),
            ("subnet = 1", "subnet", "bridge.subnet"),
            ("[network]\ncni_bin_dir = 1", "network", ""),
            ("[handlers.crun]\npth = 1", "handlers.crun.pth", "handlers.crun.path"),
            ("[timeout]\ncni = 1", "timeout", "timeouts"),
        ];
        for (text, key, nearest) in cases {
            let (found, near) = check(text).unwrap();
            assert_eq!(found, key);
            if !nearest.is_empty() {
                assert_eq!(near.as_deref(), Some(nearest), "{text}");
            }
        }
        assert_eq!(check("zzz = 1"), Some(("zzz".to_owned(), None)));
    }

    #[test]
    fn known_keys_and_free_handler_names_pass() {
        assert_eq!(check("root = 1\n[handlers.anything]\npath = 1\n[tls]\ncert = 1"), None);
    }
}
