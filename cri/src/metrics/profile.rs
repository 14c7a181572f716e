//! A CPU profile in the format of pprof (`go tool pprof`, and what else reads it).
//!
//! Owns the message, as far as it is filled in: <https://github.com/google/pprof/blob/main/proto/profile.proto>. The sampling is a library's; its
//! own encoder is of another version of protobuf than everything else here. A release is built without symbols, so its frames are addresses.
//!
//! One profile at a time: the kernel has one timer for it.

use prost::Message;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Samples for each second of CPU time: not in step with anything that happens a hundred times a second.
const FREQUENCY: i32 = 99;
/// Libraries whose unwinding is known to be wrong or to take locks.
const BLOCKED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    /// Somebody else's is being made.
    #[error("a profile is being made already: ask again when it is done")]
    Busy,
    /// The library can't sample here.
    #[error("sample the CPU")]
    Sample(#[from] pprof::Error),
    /// It was interrupted.
    #[error("make a profile")]
    Interrupted(#[from] io::Error),
}

/// Whoever holds it makes the profile.
struct Turn;

impl Turn {
    fn take() -> Result<Self, ProfileError> {
        match RUNNING.swap(true, Ordering::AcqRel) {
            true => Err(ProfileError::Busy),
            false => Ok(Self),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}

/// What this process does with the CPU for so long. Dropping it ends the sampling.
pub(super) async fn take(length: Duration) -> Result<Vec<u8>, ProfileError> {
    let turn = Turn::take()?;
    let guard = pprof::ProfilerGuardBuilder::default();
    let guard = guard.frequency(FREQUENCY).blocklist(&BLOCKED).build()?;
    tokio::time::sleep(length).await;
    // Looking up symbols takes a while.
    let made = tokio::task::spawn_blocking(move || {
        let report = guard.report().build();
        drop((guard, turn));
        report.map(|report| encode(&report, length))
    });
    Ok(made.await.map_err(io::Error::other)??)
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Builds the tables that samples point into.
#[derive(Default)]
struct Tables {
    profile: Profile,
    strings: HashMap<String, i64>,
    places: HashMap<(String, u32), u64>,
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        let at = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), at);
        at
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.text(kind), unit: self.text(unit) }
    }

    fn place(&mut self, symbol: &pprof::Symbol) -> u64 {
        let address = symbol.addr.map_or(0, |address| address.addr() as u64);
        let name = match symbol.name {
            Some(_) => symbol.name(),
            None => format!("{address:#x}"),
        };
        let key = (name, symbol.lineno());
        if let Some(id) = self.places.get(&key) {
            return *id;
        }
        let id = self.profile.location.len() as u64 + 1;
        let name = self.text(&key.0);
        let system_name = self.text(&symbol.sys_name());
        let filename = self.text(&symbol.filename());
        self.profile.function.push(Function { id, name, system_name, filename });
        let line = Line { function_id: id, line: i64::from(key.1) };
        self.profile.location.push(Location { id, address, line: vec![line] });
        self.places.insert(key, id);
        id
    }
}

fn encode(report: &pprof::Report, length: Duration) -> Vec<u8> {
    let mut tables = Tables::default();
    // The first one is empty, by the format.
    tables.text("");
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let samples = tables.value_type("samples", "count");
    let cpu = tables.value_type("cpu", "nanoseconds");
    for (frames, count) in &report.data {
        let location_id = frames.frames.iter().flatten().map(|symbol| tables.place(symbol));
        let location_id = location_id.collect();
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        let value = vec![count, count.saturating_mul(period)];
        tables.profile.sample.push(Sample { location_id, value });
    }
    let mut profile = tables.profile;
    profile.sample_type = vec![samples, cpu];
    profile.period_type = Some(cpu);
    profile.period = period;
    profile.duration_nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    profile.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_profile_has_what_burns_in_it_and_there_is_one_at_a_time() {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let burner = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !seen.load(Ordering::Relaxed) {
                number = std::hint::black_box(number.wrapping_mul(31).wrapping_add(7));
            }
        });
        let (profile, other) = tokio::join!(take(Duration::from_millis(500)), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            take(Duration::from_millis(1)).await
        });
        stop.store(true, Ordering::Relaxed);
        burner.join().unwrap();
        assert!(matches!(other, Err(ProfileError::Busy)));
        let profile = Profile::decode(profile.unwrap().as_slice()).unwrap();
        assert!(!profile.sample.is_empty());
        assert_eq!(profile.string_table[0], "");
        let known = profile.location.len() as u64;
        let locations = profile.sample.iter().flat_map(|sample| &sample.location_id);
        assert!(locations.into_iter().all(|id| (1..=known).contains(id)));
    }
}
