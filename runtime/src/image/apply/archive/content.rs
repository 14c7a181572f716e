//! A regular file's data: all of it, or regions that one of four sparse formats lists.

use super::{Archive, BLOCK};
use crate::image::apply::ApplyError;
use crate::image::apply::entry::Content;
use crate::image::apply::pax::{Pax, decimal};
use crate::image::apply::sparse::{Format, regions};
use std::io::BufRead;
use tar::{EntryType, GnuExtSparseHeader, Header};

impl<R: BufRead> Archive<'_, R> {
    pub(super) fn content(
        &mut self,
        header: &Header,
        pax: Pax,
        size: u64,
    ) -> Result<Content, ApplyError> {
        if header.entry_type() == EntryType::GNUSparse {
            let (numbers, length) = self.gnu_map(header)?;
            self.enter(size)?;
            return self
                .well(regions(&numbers, length, size))
                .map(|regions| Content::Sparse { regions, length });
        }
        self.enter(size)?;
        match self.well(Format::of(pax.sparse))? {
            Format::None => Ok(Content::Whole(size)),
            Format::Header { numbers, length } => {
                self.bounded(numbers.len())?;
                self.well(regions(&numbers, length, size))
                    .map(|regions| Content::Sparse { regions, length })
            }
            Format::Data { length } => {
                let numbers = self.data_map()?;
                let stored = self.left;
                self.well(regions(&numbers, length, stored))
                    .map(|regions| Content::Sparse { regions, length })
            }
        }
    }

    fn bounded(&self, numbers: usize) -> Result<(), ApplyError> {
        if numbers / 2 > self.limits.sparse_regions {
            Err(self.broken("sparse map is too long"))
        } else {
            Ok(())
        }
    }

    /// The old format: four regions in the header, 21 in each block that follows it.
    fn gnu_map(&mut self, header: &Header) -> Result<(Vec<u64>, u64), ApplyError> {
        let gnu = header.as_gnu().ok_or_else(|| self.broken("sparse file has no GNU header"))?;
        let length = self.field(gnu.real_size())?;
        let mut numbers = Vec::new();
        for region in gnu.sparse.iter().filter(|region| !region.is_empty()) {
            numbers.extend([self.field(region.offset())?, self.field(region.length())?]);
        }
        let mut extended = gnu.is_extended();
        while extended {
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(self.broken("ends inside a sparse map"));
            }
            for region in block.sparse().iter().filter(|region| !region.is_empty()) {
                numbers.extend([self.field(region.offset())?, self.field(region.length())?]);
            }
            self.bounded(numbers.len())?;
            extended = block.is_extended();
        }
        Ok((numbers, length))
    }

    /// The newest format: decimal numbers, one a line, how many regions first, filled up to a whole block.
    fn data_map(&mut self) -> Result<Vec<u64>, ApplyError> {
        let mut used = 0_u64;
        let count = self.line(&mut used)?;
        let count =
            usize::try_from(count).ok().filter(|count| *count <= self.limits.sparse_regions);
        let count = count.ok_or_else(|| self.broken("sparse map is too long"))?;
        let mut numbers = Vec::with_capacity(count * 2);
        for _ in 0..count * 2 {
            numbers.push(self.line(&mut used)?);
        }
        let mut fill = (BLOCK - used % BLOCK) % BLOCK;
        while fill > 0 {
            let length = self.data(fill)?.len();
            if length == 0 {
                return Err(self.broken("ends inside a sparse map"));
            }
            self.consume(length);
            fill -= length as u64;
        }
        Ok(numbers)
    }

    fn line(&mut self, used: &mut u64) -> Result<u64, ApplyError> {
        let mut digits = Vec::new();
        loop {
            let byte = self.data(1)?.first().copied();
            let byte = byte.ok_or_else(|| self.broken("ends inside a sparse map"))?;
            self.consume(1);
            *used += 1;
            if byte == b'\n' {
                return decimal(&digits)
                    .ok_or_else(|| self.broken("sparse map has a number that is none"));
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(self.broken("sparse map has a number that is none"));
            }
        }
    }
}
