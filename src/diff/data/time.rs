//! Timestamps as the diff keeps them: nanoseconds since the epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time `ns` nanoseconds after the epoch (before it, if negative). A time
/// that the system cannot represent becomes the epoch.
#[must_use]
pub fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = match ns < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// Returns the nanoseconds from the epoch to `time`, clamped to the range of an i64
/// (the years 1677 to 2262).
#[must_use]
pub fn time_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// Returns the nanoseconds from the epoch to now.
#[must_use]
pub fn now_ns() -> i64 {
    time_ns(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_comes_back() {
        for ns in [i64::MIN + 1, -1_000_000_001, -1, 0, 1, i64::MAX] {
            assert_eq!(time_ns(system_time(ns)), ns);
        }
        assert_eq!(time_ns(system_time(i64::MIN)), i64::MIN);
    }
}
