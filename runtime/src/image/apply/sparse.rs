//! Where the data of a sparse file belongs.

use super::pax::{Malformed, PaxSparse};

/// A run of data in a file; between two runs there is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The regions that `numbers` lists, checked: in order, apart, inside `length`, and holding exactly the `stored` bytes that the
/// archive has. Empty ones, with which writers mark a hole at the end, are dropped.
pub(super) fn regions(numbers: &[u64], length: u64, stored: u64) -> Result<Vec<Region>, Malformed> {
    let mut regions = Vec::new();
    let (mut end, mut sum) = (0_u64, 0_u64);
    let mut pairs = numbers.chunks_exact(2);
    for pair in &mut pairs {
        let [offset, size] = *pair else { continue };
        if offset < end {
            return Err(Malformed("sparse map is out of order"));
        }
        end = offset.checked_add(size).ok_or(Malformed("sparse map overflows"))?;
        sum = sum.checked_add(size).ok_or(Malformed("sparse map overflows"))?;
        if size > 0 {
            regions.push(Region { offset, length: size });
        }
    }
    if !pairs.remainder().is_empty() {
        return Err(Malformed("sparse map ends with an offset"));
    }
    if end > length || i64::try_from(length).is_err() {
        return Err(Malformed("sparse map ends behind the file"));
    }
    if sum != stored {
        return Err(Malformed("sparse map and data differ in size"));
    }
    Ok(regions)
}

/// How an extended header says that a file is sparse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    None,
    /// Versions 0.0 and 0.1: the map is in the header.
    Header {
        numbers: Vec<u64>,
        length: u64,
    },
    /// Version 1.0: the map begins the data.
    Data {
        length: u64,
    },
}

impl Format {
    pub(super) fn of(sparse: PaxSparse) -> Result<Self, Malformed> {
        let length = sparse.length.ok_or(Malformed("sparse file has no size"));
        match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => Ok(Self::Data { length: length? }),
            (Some(0), _) | (None, None) => match (sparse.map, sparse.numbers) {
                (Some(numbers), _) => Ok(Self::Header { numbers, length: length? }),
                (None, numbers) if !numbers.is_empty() || sparse.length.is_some() => {
                    Ok(Self::Header { numbers, length: length? })
                }
                (None, _) => Ok(Self::None),
            },
            (_, _) => Err(Malformed("sparse file has an unknown version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_that_lie_are_refused() {
        assert_eq!(regions(&[0, 5, 10, 0], 10, 5).unwrap(), [Region { offset: 0, length: 5 }]);
        for (numbers, length, stored) in [
            (&[0, 5, 4, 1][..], 10, 6),
            (&[5, 1, 0, 1], 10, 2),
            (&[0, 5], 4, 5),
            (&[0, 5], 10, 4),
            (&[0, 5, 7], 10, 5),
            (&[u64::MAX, 1], u64::MAX, 1),
            (&[0, u64::MAX], u64::MAX, u64::MAX),
            (&[], u64::MAX, 0),
        ] {
            assert!(regions(numbers, length, stored).is_err(), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_regions_lie_in_order_inside_the_file(
            numbers in proptest::collection::vec(prop_oneof![0_u64..50, any::<u64>()], 0..10), length in 0_u64..100, stored in 0_u64..100
        ) {
            if let Ok(found) = regions(&numbers, length, stored) {
                let mut end = 0;
                for region in &found {
                    prop_assert!(region.offset >= end && region.length > 0);
                    end = region.offset + region.length;
                }
                prop_assert!(end <= length);
                prop_assert_eq!(found.iter().map(|region| region.length).sum::<u64>(), stored);
            }
        }
    }
}
