//! Times, as people write and read them.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::str::FromStr;

/// A moment, in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) i64);

/// A text that says no moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time: 2026-01-02T03:04:05Z, 2026-01-02 (UTC), 1767323045 (seconds since the epoch) and 10m or 1h30m (ago) are understood"
)]
pub(crate) struct NoTime(String);

impl FromStr for Instant {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let wrong = || NoTime(text.chars().take(100).collect());
        let stamp = stamp(text).ok_or_else(wrong)?;
        i64::try_from(stamp.as_nanosecond()).map(Self).map_err(|_too_far| wrong())
    }
}

fn stamp(text: &str) -> Option<Timestamp> {
    let in_utc = |civil: DateTime| Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp());
    if let Ok(stamp) = text.parse::<Timestamp>() {
        return Some(stamp);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let since = SignedDuration::try_from_secs_f64(seconds).ok()?;
        return Timestamp::UNIX_EPOCH.checked_add(since).ok();
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return in_utc(civil);
    }
    if let Ok(date) = text.parse::<Date>() {
        return in_utc(date.to_datetime(jiff::civil::Time::midnight()));
    }
    let ago = text.parse::<SignedDuration>().ok()?;
    Timestamp::now().checked_sub(ago.abs()).ok()
}

/// Nanoseconds since the epoch as a date and time, to the second; empty if there is none.
pub(crate) fn moment(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return String::new();
    }
    match Timestamp::from_nanosecond(i128::from(nanoseconds)) {
        Ok(moment) => format!("{moment:.0}"),
        Err(_) => nanoseconds.to_string(),
    }
}

/// The same to the nanosecond, for logs.
pub(crate) fn exact(nanoseconds: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanoseconds)) {
        Ok(moment) => format!("{moment:.9}"),
        Err(_) => nanoseconds.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_seconds() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(1_700_000_000_999_999_999), "2023-11-14T22:13:20Z");
        assert_eq!(moment(i64::MAX), "2262-04-11T23:47:16Z");
    }

    #[test]
    fn a_time_is_understood_in_each_of_its_forms() {
        let at = |text: &str| text.parse::<Instant>().unwrap().0;
        let second = 1_000_000_000;
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T23:13:20+01:00",
            "1700000000",
            "2023-11-14T22:13:20",
        ] {
            assert_eq!(at(text), 1_700_000_000 * second, "{text}");
        }
        assert_eq!(at("2023-11-14"), (1_700_000_000 - 80_000) * second);
        assert_eq!(at("1700000000.5"), 1_700_000_000 * second + second / 2);
        let (ago, now) = (at("1h30m"), crate::client::moment::tests::now());
        assert!((now - ago - 5400 * second).abs() < 60 * second, "{ago} {now}");
    }

    fn now() -> i64 {
        i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_is() {
        for text in ["", "yesterday", "12:00", "1e400", "9999999999999999", "10 parsecs"] {
            let refused = text.parse::<Instant>().unwrap_err().to_string();
            assert!(refused.contains("10m"), "{refused}");
        }
    }
}
