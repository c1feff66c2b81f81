//! Timestamps as text.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns the current time in RFC 3339 format, in UTC and whole seconds.
#[must_use]
pub fn now() -> String {
    rfc3339(OffsetDateTime::now_utc().truncate_to_second())
}

/// Formats a timestamp in RFC 3339; the result is empty if RFC 3339 cannot represent the
/// year.
#[must_use]
pub fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
