//! `--filter KEY=VALUE` and `--sort FIELD`.
//!
//! Owns what they mean: of several filters with one key one must fit, of labels all; filters with different keys must all fit. What a key's value can be is
//! checked when it is read, so that a slip of the pen is an error and not an empty list.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// One filter, known to make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    key: &'static str,
    value: String,
}

/// What a key's values can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Whatever.
    Any,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// A field to sort by, and its order.
pub(crate) type Sort<T> = (&'static str, fn(&T, &T) -> Ordering);

/// Something that can be filtered and sorted.
pub(crate) trait Listed: Sized + 'static {
    /// What can be filtered by.
    const KEYS: &'static [(&'static str, Values)];
    /// What can be sorted by, and how; what compares equal keeps its order.
    const SORTS: &'static [Sort<Self>];

    /// Whether it has this under a key of [`Self::KEYS`] that is not "label".
    fn has(&self, key: &str, value: &str) -> bool;

    /// Its labels.
    fn labels(&self) -> &BTreeMap<String, String>;

    /// Reads a filter.
    ///
    /// # Errors
    /// A sentence that names what there is.
    fn filter(text: &str) -> Result<Filter, String> {
        let keys = || Self::KEYS.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("a filter is KEY=VALUE; the keys are {}", keys()))?;
        let (key, values) = Self::KEYS
            .iter()
            .find(|(known, _)| *known == key)
            .ok_or_else(|| format!("there is no filter {key:?}; there are {}", keys()))?;
        match values {
            Values::OneOf(known) if !known.contains(&value) => {
                Err(format!("{key} can't be {value:?}; it can be {}", known.join(", ")))
            }
            Values::Any if value.is_empty() => Err(format!("{key}: the value is empty")),
            Values::OneOf(_) | Values::Any => Ok(Filter { key, value: value.to_owned() }),
        }
    }

    /// What can be sorted by, for clap.
    fn sort_keys() -> clap::builder::PossibleValuesParser {
        clap::builder::PossibleValuesParser::new(Self::SORTS.iter().map(|(name, _)| *name))
    }

    /// Whether all filters let it through.
    fn fits(&self, filters: &[Filter]) -> bool {
        filters.iter().all(|filter| match filter.key {
            "label" => self.has_label(&filter.value),
            key => {
                let mut same = filters.iter().filter(|other| other.key == key);
                same.any(|other| self.has(key, &other.value))
            }
        })
    }

    /// `name`, or `name=value`.
    fn has_label(&self, wanted: &str) -> bool {
        match wanted.split_once('=') {
            Some((name, value)) => self.labels().get(name).is_some_and(|found| found == value),
            None => self.labels().contains_key(wanted),
        }
    }
}

/// Whether one of the filters is by this key.
pub(crate) fn asks_for(filters: &[Filter], key: &str) -> bool {
    filters.iter().any(|filter| filter.key == key)
}

/// Those that fit, in order, and no more than `most`, which are the first of them as they came.
pub(crate) fn select<L: Listed>(
    found: Vec<L>,
    filters: &[Filter],
    most: Option<usize>,
    sort: &str,
) -> Vec<L> {
    let fitting = found.into_iter().filter(|one| one.fits(filters));
    let mut found: Vec<L> = fitting.take(most.unwrap_or(usize::MAX)).collect();
    if let Some((_, order)) = L::SORTS.iter().find(|(name, _)| *name == sort) {
        found.sort_by(order);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Thing {
        name: String,
        labels: BTreeMap<String, String>,
    }

    impl Listed for Thing {
        const KEYS: &'static [(&'static str, Values)] = &[
            ("name", Values::Any),
            ("label", Values::Any),
            ("state", Values::OneOf(&["new", "old"])),
        ];
        const SORTS: &'static [Sort<Self>] =
            &[("none", |_, _| Ordering::Equal), ("name", |a, b| a.name.cmp(&b.name))];

        fn has(&self, key: &str, value: &str) -> bool {
            key == "name" && self.name.contains(value)
        }

        fn labels(&self) -> &BTreeMap<String, String> {
            &self.labels
        }
    }

    fn thing(name: &str, labels: &[(&str, &str)]) -> Thing {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Thing { name: name.to_owned(), labels }
    }

    fn names(filters: &[&str], most: Option<usize>, sort: &str) -> Vec<String> {
        let things = vec![
            thing("web", &[("app", "shop"), ("tier", "front")]),
            thing("db", &[("app", "shop")]),
            thing("cron", &[]),
        ];
        let filters: Vec<Filter> =
            filters.iter().map(|text| Thing::filter(text).unwrap()).collect();
        select(things, &filters, most, sort).into_iter().map(|thing| thing.name).collect()
    }

    #[test]
    fn names_widen_and_labels_narrow() {
        assert_eq!(names(&["name=web", "name=cron"], None, "none"), ["web", "cron"]);
        assert_eq!(names(&["label=app", "label=tier=front"], None, "none"), ["web"]);
        assert_eq!(names(&["label=app=shop", "name=d"], None, "none"), ["db"]);
        assert_eq!(names(&["label=app=shops"], None, "none"), [""; 0]);
        assert_eq!(names(&[], Some(2), "name"), ["db", "web"]);
    }

    #[test]
    fn what_is_no_filter_is_refused_with_what_there_is() {
        for (text, told) in [
            ("web", "name, label, state"),
            ("colour=red", "name, label, state"),
            ("state=tired", "new, old"),
            ("name=", "empty"),
        ] {
            let refused = Thing::filter(text).unwrap_err();
            assert!(refused.contains(told), "{text}: {refused}");
        }
    }
}
