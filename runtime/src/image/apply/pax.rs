//! POSIX extended headers: `length key=value\n`, over and over.
//!
//! Read strictly. A reader that is lenient here and one that is not see two different archives.

use rustix::fs::Timespec;
use std::collections::BTreeMap;

/// Extended attributes by name. A header has room for tens of thousands.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What of an extended header concerns us.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: PaxSparse,
}

/// The three ways in which GNU tar has put sparse maps here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`.
    pub(super) length: Option<u64>,
    /// Version 0.1: all numbers in one record.
    pub(super) map: Option<Vec<u64>>,
    /// Version 0.0: offset, length, offset, length …, each in a record of its own.
    pub(super) numbers: Vec<u64>,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) =
                record(bytes).ok_or(Malformed("extended header is malformed"))?;
            pax.set(key, value)?;
            bytes = rest;
        }
        Ok(pax)
    }

    /// A global header would change every later entry; what it may say without harm is a comment.
    pub(super) fn is_harmless_as_global(&self) -> bool {
        let nothing = Self::default();
        *self == Self { mtime: self.mtime, ..nothing } && self.mtime.is_none()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        // An empty value takes the record back, by POSIX.
        let filled = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(filled)?,
            b"linkpath" => self.link = text(filled)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = filled.map(|_| time(value)).transpose()?,
            b"GNU.sparse.major" => self.sparse.major = number(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = number(value)?,
            b"GNU.sparse.name" => self.sparse.name = text(filled)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.length = number(value)?,
            b"GNU.sparse.map" => self.sparse.map = Some(numbers(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let wants_offset = self.sparse.numbers.len().is_multiple_of(2);
                let number = number(value)?.ok_or(Malformed("sparse map has an empty number"))?;
                if wants_offset != (key == b"GNU.sparse.offset") {
                    return Err(Malformed("sparse map is out of order"));
                }
                self.sparse.numbers.push(number);
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// The first record's key and value, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = record.get(..equals).filter(|key| !key.is_empty() && !key.contains(&0))?;
    Some((key, record.get(equals + 1..)?, rest))
}

/// Digits only: no sign, no space, no leading text.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn number(value: &[u8]) -> Result<Option<u64>, Malformed> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value).map(Some).ok_or(Malformed("extended header has a number that is none"))
}

fn numbers(value: &[u8]) -> Result<Vec<u64>, Malformed> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    value
        .split(|byte| *byte == b',')
        .map(|part| decimal(part).ok_or(Malformed("sparse map has a number that is none")))
        .collect()
}

fn text(value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Malformed> {
    match value {
        Some(value) if value.contains(&0) => {
            Err(Malformed("extended header has a name with a zero byte"))
        }
        value => Ok(value),
    }
}

/// Seconds, perhaps negative, perhaps with a fraction of which nine digits count.
fn time(value: &[u8]) -> Result<Timespec, Malformed> {
    let wrong = Malformed("extended header has a time that is none");
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at_checked(point).ok_or(wrong)?;
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    let mut nanos = 0_i64;
    for place in 0..9 {
        nanos = nanos * 10 + i64::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    let seconds = i64::try_from(decimal(whole).ok_or(wrong)?).map_err(|_range| wrong)?;
    Ok(match (negative, nanos) {
        (false, nanos) => Timespec { tv_sec: seconds, tv_nsec: nanos },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, nanos) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn make(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length != body + length.to_string().len() {
                length = body + length.to_string().len();
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn values_are_read_and_the_last_one_counts() {
        let pax = Pax::parse(&make(&[
            ("path", b"a"),
            ("path", b"b\nc=d"),
            ("size", b"12"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.x", b"first"),
            ("SCHILY.xattr.user.x", b"\0\n="),
            ("comment", b"whatever"),
            ("uid", b"7"),
            ("uid", b""),
        ]))
        .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"b\nc=d"[..]));
        assert_eq!((pax.size, pax.uid), (Some(12), None));
        assert_eq!(pax.mtime.map(|time| (time.tv_sec, time.tv_nsec)), Some((-2, 750_000_000)));
        assert_eq!(pax.xattrs, Xattrs::from([(b"user.x".to_vec(), b"\0\n=".to_vec())]));
        assert!(!pax.is_harmless_as_global());
        assert!(Pax::parse(&make(&[("comment", b"x")])).unwrap().is_harmless_as_global());
    }

    #[test]
    fn a_header_full_of_attributes_is_read_in_no_time() {
        let names: Vec<String> =
            (0..200_000).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
        let records: Vec<_> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        let bytes = make(&records);
        let began = std::time::Instant::now();
        assert_eq!(Pax::parse(&bytes).unwrap().xattrs.len(), names.len());
        // Some hundredths of that, where each attribute is not compared with all before it.
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=bc",
            b"999999999999999999999 a=b\n",
            b"6 a=b\n6 a=b",
            b" 6 a=b\n",
            b"+6 a=b\n",
            b"5 ab\n",
            b"4 =\n",
            b"13 size=0x10\n",
            b"12 size= 10\n",
            b"11 path=a\0\n",
            b"0 a=b\n",
            b"12 mtime=1.x\n",
        ] {
            assert!(Pax::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _parsed = Pax::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(value in proptest::collection::vec(1_u8.., 1..300)) {
            let pax = Pax::parse(&make(&[("linkpath", &value)])).unwrap();
            prop_assert_eq!(pax.link, Some(value));
        }
    }
}
