//! Keys that leave a session without ending anything: ctrl-p,ctrl-q unless `--detach-keys` says otherwise.
//!
//! Owns their grammar and the search for them in what is typed. What may be the beginning of them is held back until it is clear that it isn't.

use std::str::FromStr;

/// The sequence; empty: none leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

/// A text that says no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} are no keys: a list such as ctrl-p,ctrl-q of letters, digits and ctrl-a to ctrl-z, ctrl-@, ctrl-[, ctrl-\\, ctrl-], ctrl-^ and ctrl-_ is understood, and an empty one for none"
)]
pub(crate) struct NoKeys(String);

/// As many as anybody remembers.
const MOST: usize = 16;

impl FromStr for DetachKeys {
    type Err = NoKeys;

    fn from_str(text: &str) -> Result<Self, NoKeys> {
        let wrong = || NoKeys(text.chars().take(100).collect());
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let keys: Vec<u8> = text.split(',').map(key).collect::<Option<_>>().ok_or_else(wrong)?;
        if keys.len() > MOST { Err(wrong()) } else { Ok(Self(keys)) }
    }
}

fn key(text: &str) -> Option<u8> {
    match (text.strip_prefix("ctrl-"), text.as_bytes()) {
        (Some(control), _) => match control.as_bytes() {
            [key @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => Some(key & 0x1f),
            _ => None,
        },
        (None, [key]) if key.is_ascii_graphic() => Some(*key),
        (None, _) => None,
    }
}

/// The search.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: Vec<u8>,
    /// How many of them were typed last.
    seen: usize,
}

/// What is to be done about what was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Pass this on.
    Bytes(Vec<u8>),
    /// Pass this on, and leave.
    Leave(Vec<u8>),
}

impl Watch {
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, seen: 0 }
    }

    /// Looks through what was typed.
    pub(crate) fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            while self.seen > 0 && self.keys.get(self.seen) != Some(byte) {
                // The first of what was held back is none of them; the rest may be.
                self.fall_back(&mut passed);
            }
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    return Typed::Leave(passed);
                }
            } else {
                passed.push(*byte);
            }
        }
        Typed::Bytes(passed)
    }

    fn fall_back(&mut self, passed: &mut Vec<u8>) {
        let held = self.keys.get(..self.seen).unwrap_or_default();
        let next = (1..=held.len())
            .find(|from| self.keys.starts_with(held.get(*from..).unwrap_or_default()))
            .unwrap_or(held.len());
        passed.extend_from_slice(held.get(..next).unwrap_or_default());
        self.seen -= next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_named_as_people_know_them() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
        assert_eq!(keys("ctrl-],x").unwrap(), [29, b'x']);
        assert_eq!(keys("ctrl-@").unwrap(), [0]);
        assert!(keys("").unwrap().is_empty());
        for text in ["ctrl-", "ctrl-P", "p,", "pq", "alt-p", "ä", " ", &["a"; 17].join(",")] {
            assert!(keys(text).unwrap_err().to_string().contains("ctrl-p,ctrl-q"), "{text}");
        }
    }

    #[test]
    fn what_only_begins_like_the_keys_is_passed_on() {
        let mut watch = Watch::new("a,a,b".parse().unwrap());
        assert_eq!(watch.typed(b"xa"), Typed::Bytes(b"x".to_vec()));
        assert_eq!(watch.typed(b"a"), Typed::Bytes(Vec::new()));
        assert_eq!(watch.typed(b"a"), Typed::Bytes(b"a".to_vec()));
        assert_eq!(watch.typed(b"c"), Typed::Bytes(b"aac".to_vec()));
        assert_eq!(watch.typed(b"xaab!"), Typed::Leave(b"x".to_vec()));
        let mut none = Watch::new("".parse().unwrap());
        assert_eq!(none.typed(&[16, 17]), Typed::Bytes(vec![16, 17]));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(keys in "[ab](,[ab]){0,3}", typed in "[abc]{0,60}", cut in 1_usize..7) {
            let plain = keys.replace(',', "");
            let mut watch = Watch::new(keys.parse().unwrap());
            let (mut passed, mut left) = (Vec::new(), false);
            for piece in typed.as_bytes().chunks(cut) {
                match watch.typed(piece) {
                    Typed::Bytes(bytes) => passed.extend(bytes),
                    Typed::Leave(bytes) => {
                        passed.extend(bytes);
                        left = true;
                        break;
                    }
                }
            }
            match typed.find(&plain) {
                Some(at) => prop_assert!(left && passed == typed.as_bytes()[..at]),
                None => {
                    passed.extend(&plain.as_bytes()[..watch.seen]);
                    prop_assert!(!left && passed == typed.as_bytes());
                }
            }
        }
    }
}
