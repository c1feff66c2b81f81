//! Moments as text.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// This moment, in RFC 3339, in UTC and whole seconds.
#[must_use]
pub fn now() -> String {
    rfc3339(OffsetDateTime::now_utc().truncate_to_second())
}

/// A moment in RFC 3339; empty where that has no words for its year.
#[must_use]
pub fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
