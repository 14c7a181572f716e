//! The entries of a tar archive, one after the other.
//!
//! The `tar` crate reads the fields of a header; the walk from header to header is ours, because each reader's own idea of it
//! is what archives are smuggled through: here a size that two readers could take differently is an error.
//!
//! ```text
//! header ─► extension (x, L, K, g) ─► remembered, next header
//!    ├────► zero block ─► a second one or the end of the file ─► end
//!    └────► member ─► entry; its data is read or skipped ─► next header
//! ```

mod content;

use super::entry::{Content, Entry, EntryPath, Kind, Metadata};
use super::pax::{Malformed, Pax};
use super::{ApplyError, Name};
use crate::image::Limits;
use rustix::fs::Timespec;
use std::io::BufRead;
use std::ops::Range;
use tar::Header;

const BLOCK: u64 = 512;

pub(super) struct Archive<'a, R> {
    reader: R,
    limits: &'a Limits,
    offset: u64,
    /// Of the current member's data, not yet read.
    left: u64,
    /// Zero bytes that fill the current member's last block.
    padding: u64,
    entries: u64,
}

/// What extension headers have said about the next member.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub(super) fn new(reader: R, limits: &'a Limits) -> Self {
        Self { reader, limits, offset: 0, left: 0, padding: 0, entries: 0 }
    }

    /// The next member; what is left of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ApplyError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_member()?;
            let Some(header) = self.header()? else {
                if !extensions.is_empty() {
                    return Err(self.broken("extension header describes no entry"));
                }
                return Ok(None);
            };
            match kind_byte(&header) {
                b'x' => {
                    let pax =
                        self.extension(&header).and_then(|bytes| self.well(Pax::parse(&bytes)))?;
                    self.once(extensions.pax.replace(pax))?;
                }
                b'g' => {
                    let pax =
                        self.extension(&header).and_then(|bytes| self.well(Pax::parse(&bytes)))?;
                    if !pax.is_harmless_as_global() {
                        return Err(self.broken("global header changes the entries behind it"));
                    }
                }
                b'L' => {
                    let name = self.extension(&header)?;
                    self.once(extensions.long_name.replace(up_to_zero(&name)))?;
                }
                b'K' => {
                    let name = self.extension(&header)?;
                    self.once(extensions.long_link.replace(up_to_zero(&name)))?;
                }
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// The next bytes of the current member's data, at most `max` of them; empty at its end.
    pub(super) fn data(&mut self, max: u64) -> Result<&[u8], ApplyError> {
        let want = self.left.min(max);
        if want == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let buffer = self.reader.fill_buf().map_err(ApplyError::Read)?;
        if buffer.is_empty() {
            return Err(ApplyError::Archive { offset, reason: "ends inside an entry".to_owned() });
        }
        let length = usize::try_from(want).unwrap_or(usize::MAX).min(buffer.len());
        Ok(buffer.get(..length).unwrap_or(buffer))
    }

    /// Says how much of what [`Self::data`] gave has been used.
    pub(super) fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.left = self.left.saturating_sub(length as u64);
        self.offset += length as u64;
    }

    /// Reads what follows the archive's end: it counts for the digest, and nothing else.
    pub(super) fn drain(&mut self) -> Result<(), ApplyError> {
        loop {
            let length = self.reader.fill_buf().map_err(ApplyError::Read)?.len();
            if length == 0 {
                return Ok(());
            }
            self.reader.consume(length);
        }
    }

    fn broken(&self, reason: &str) -> ApplyError {
        ApplyError::Archive { offset: self.offset, reason: reason.to_owned() }
    }

    fn well<T>(&self, result: Result<T, Malformed>) -> Result<T, ApplyError> {
        result.map_err(|Malformed(reason)| self.broken(reason))
    }

    fn field<T>(&self, result: std::io::Result<T>) -> Result<T, ApplyError> {
        result.map_err(|error| self.broken(&error.to_string()))
    }

    fn number<T: Default>(
        &self,
        header: &Header,
        place: Range<usize>,
        read: fn(&Header) -> std::io::Result<T>,
    ) -> Result<T, ApplyError> {
        if written(header, place) { self.field(read(header)) } else { Ok(T::default()) }
    }

    fn once<T>(&self, before: Option<T>) -> Result<(), ApplyError> {
        match before {
            None => Ok(()),
            Some(_) => Err(self.broken("two extension headers of one kind describe one entry")),
        }
    }

    fn skip_member(&mut self) -> Result<(), ApplyError> {
        while self.left > 0 {
            let length = self.data(u64::MAX)?.len();
            self.consume(length);
        }
        self.left = std::mem::take(&mut self.padding);
        while self.left > 0 {
            let length = self.data(u64::MAX)?.len();
            self.consume(length);
        }
        Ok(())
    }

    fn block(&mut self, block: &mut [u8; 512]) -> Result<bool, ApplyError> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let buffer = self.reader.fill_buf().map_err(ApplyError::Read)?;
            let length = rest.len().min(buffer.len());
            if length == 0 {
                return if filled == 0 {
                    Ok(false)
                } else {
                    Err(self.broken("ends inside a header"))
                };
            }
            for (to, from) in rest.iter_mut().zip(buffer) {
                *to = *from;
            }
            self.reader.consume(length);
            self.offset += length as u64;
            filled += length;
        }
        Ok(true)
    }

    fn header(&mut self) -> Result<Option<Header>, ApplyError> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            // One zero block and then more entries: a reader that stops here and one that does not would differ.
            let end = !self.block(header.as_mut_bytes())?
                || header.as_bytes().iter().all(|byte| *byte == 0);
            return if end { Ok(None) } else { Err(self.broken("has a lone zero block")) };
        }
        // The checksum is of the header with its own eight bytes, from 148 on, taken for spaces.
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(
                |(at, byte)| {
                    if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) }
                },
            )
            .sum();
        if self.field(header.cksum())? != sum {
            return Err(self.broken("header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    /// Makes `size` bytes, and what fills their last block, the current member's data.
    fn enter(&mut self, size: u64) -> Result<(), ApplyError> {
        if size > self.limits.layer_bytes {
            return Err(ApplyError::Limit {
                what: "size of an entry (images.layer_bytes)",
                limit: self.limits.layer_bytes,
                path: Name::new(b"(archive)"),
            });
        }
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
        Ok(())
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ApplyError> {
        self.count()?;
        let size = self.number(header, 124..136, Header::entry_size)?;
        if size > self.limits.header_bytes {
            return Err(self.broken("extension header is too large"));
        }
        self.enter(size)?;
        let mut bytes = Vec::new();
        while self.left > 0 {
            let part = self.data(u64::MAX)?;
            let length = part.len();
            bytes.extend_from_slice(part);
            self.consume(length);
        }
        Ok(bytes)
    }

    fn count(&mut self) -> Result<(), ApplyError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ApplyError::Limit {
                what: "number of entries (images.layer_entries)",
                limit: self.limits.entries,
                path: Name::new(b"(archive)"),
            });
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, ApplyError> {
        self.count()?;
        let Extensions { pax, long_name, long_link } = extensions;
        let mut pax = pax.unwrap_or_default();
        let sparse_name = pax.sparse.name.take();
        let raw = self.agreed(long_name, sparse_name.or(pax.path.take()))?;
        let raw = raw.unwrap_or_else(|| header.path_bytes().into_owned());
        let raw_link = self.agreed(long_link, pax.link.take())?;
        let raw_link =
            raw_link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let path = EntryPath::parse(&raw, self.limits.path_bytes)?;
        let size = match pax.size {
            Some(size) => size,
            None => self.number(header, 124..136, Header::entry_size)?,
        };
        let metadata = self.metadata(header, &mut pax, &path)?;
        let kind = self.kind(header, &raw, &raw_link)?;
        let kind = match kind {
            Kind::Regular(_) => Kind::Regular(self.content(header, pax, size)?),
            Kind::HardLink(_)
            | Kind::Symlink(_)
            | Kind::Directory
            | Kind::Fifo
            | Kind::Character { .. }
            | Kind::Block { .. } => {
                // Some readers skip such data and some take it for the next header.
                if size != 0 {
                    return Err(ApplyError::Field {
                        path: path.name(),
                        field: "size",
                        value: size.to_string(),
                    });
                }
                kind
            }
        };
        Ok(Entry { path, kind, metadata })
    }

    /// GNU's and POSIX's way to give a long name, should both be there, must agree.
    fn agreed(
        &self,
        gnu: Option<Vec<u8>>,
        pax: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, ApplyError> {
        match (gnu, pax) {
            (Some(gnu), Some(pax)) if gnu != pax => {
                Err(self.broken("two extension headers give an entry two names"))
            }
            (gnu, pax) => Ok(gnu.or(pax)),
        }
    }

    fn kind(&self, header: &Header, raw: &[u8], raw_link: &[u8]) -> Result<Kind, ApplyError> {
        let device =
            |value: std::io::Result<Option<u32>>| self.field(value).map(Option::unwrap_or_default);
        let kind = match kind_byte(header) {
            // Before POSIX, a directory was a file whose name ends in a slash.
            0 if raw.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::Regular(Content::Whole(0)),
            b'1' => Kind::HardLink(EntryPath::parse(raw_link, self.limits.path_bytes)?),
            b'2' => Kind::Symlink(self.symlink(raw, raw_link)?),
            b'3' => Kind::Character {
                major: device(header.device_major())?,
                minor: device(header.device_minor())?,
            },
            b'4' => Kind::Block {
                major: device(header.device_major())?,
                minor: device(header.device_minor())?,
            },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let value = format!("{:?}", char::from(other));
                return Err(ApplyError::Field { path: Name::new(raw), field: "type", value });
            }
        };
        Ok(kind)
    }

    fn symlink(&self, raw: &[u8], target: &[u8]) -> Result<Vec<u8>, ApplyError> {
        if target.is_empty() || target.contains(&0) || target.len() > self.limits.path_bytes {
            let value = Name::new(target).to_string();
            return Err(ApplyError::Field { path: Name::new(raw), field: "link target", value });
        }
        Ok(target.to_vec())
    }

    fn metadata(
        &self,
        header: &Header,
        pax: &mut Pax,
        path: &EntryPath,
    ) -> Result<Metadata, ApplyError> {
        let id = |field, value: u64| match u32::try_from(value) {
            // All ones would mean "leave it" to chown(2).
            Ok(id) if id != u32::MAX => Ok(id),
            Ok(_) | Err(_) => {
                Err(ApplyError::Field { path: path.name(), field, value: value.to_string() })
            }
        };
        let uid = pax.uid.map_or_else(|| self.number(header, 108..116, Header::uid), Ok)?;
        let gid = pax.gid.map_or_else(|| self.number(header, 116..124, Header::gid), Ok)?;
        // Times before the epoch are two's complement in GNU's binary form.
        let seconds = pax.mtime.map_or_else(
            || self.number(header, 136..148, Header::mtime).map(u64::cast_signed),
            |_| Ok(0),
        )?;
        Ok(Metadata {
            mode: self.number(header, 100..108, Header::mode)? & 0o7777,
            uid: id("owner", uid)?,
            gid: id("group", gid)?,
            mtime: pax.mtime.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }),
            xattrs: std::mem::take(&mut pax.xattrs),
        })
    }
}

/// The byte that says what an entry is. The library's own type forgets one of the two spellings of a file.
fn kind_byte(header: &Header) -> u8 {
    header.as_bytes().get(156).copied().unwrap_or_default()
}

/// A field that was never written is zero, as all readers have it; the library wants digits.
fn written(header: &Header, place: Range<usize>) -> bool {
    header
        .as_bytes()
        .get(place)
        .is_some_and(|field| field.iter().any(|byte| !matches!(byte, 0 | b' ')))
}

fn up_to_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}
