//! The section `[recovery]`: how far the WAL archive is replayed, and what happens
//! then.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use toml::Value;

use crate::pg::Lsn;
use crate::profile::error::ProfileError;
use crate::profile::values::{ByteSize, FromValue, from_value};

section! {
    /// The keys of the section `[recovery]`.
    pub struct RecoveryPlan {
        /// Recovery target: "immediate" replays the archive until the backup is consistent,
        /// "latest" replays all of it. At most one of target, time, lsn, xid and name may be
        /// set.
        ///
        /// Default: "immediate" for an ARCHIVE backup; a STREAM backup contains the WAL that
        /// it needs, and replays no more
        #[schemars(example = NamedTarget::Latest)]
        target: Option<NamedTarget>,

        /// Recovery target: a timestamp with its UTC offset, as a string or a TOML date-time.
        ///
        /// Default: none
        #[schemars(example = "2026-11-22 14:32:00+00")]
        time: Option<MomentText>,

        /// Recovery target: this position in the WAL.
        ///
        /// Default: none
        #[schemars(example = "0/4C037C8")]
        lsn: Option<LsnText>,

        /// Recovery target: the end of this transaction.
        ///
        /// Default: none
        #[schemars(title = "transaction id", example = 1271)]
        xid: Option<u64>,

        /// Recovery target: this restore point (pg_create_restore_point), the first of that
        /// name after the backup.
        ///
        /// Default: none
        #[schemars(title = "name of a restore point", example = &"before_migration")]
        name: Option<String>,

        /// Whether to replay the transaction exactly at the target (time, lsn or xid).
        #[schemars(example = false)]
        pub inclusive: bool = true,

        /// Timeline to follow: "current" (the backup's), "latest" (the newest in the archive)
        /// or a timeline's number.
        #[schemars(example = &"latest")]
        pub timeline: TimelineChoice = TimelineChoice::Current,

        /// Action at the target: "promote" (become writable), "pause" (stay there, read-only)
        /// or "shutdown" (shut down).
        #[schemars(example = Action::Pause)]
        pub action: Action = Action::Promote,

        /// Command with which PostgreSQL fetches WAL.
        ///
        /// Default: pbkfs wal-get, which reads the catalog's archive
        #[schemars(title = "shell command with %f and %p", example = "cp /srv/wal/%f %p")]
        pub restore_command: Option<String>,

        /// Amount of WAL to prefetch for PostgreSQL; 0 disables it.
        #[schemars(example = &"256MB")]
        pub prefetch: ByteSize = ByteSize::megabytes(64),
    }
}

/// The keys that each set a target.
pub const TARGETS: [&str; 5] = [
    "recovery.target",
    "recovery.time",
    "recovery.lsn",
    "recovery.xid",
    "recovery.name",
];

/// A target that is named by a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NamedTarget {
    /// As soon as the backup is consistent.
    Immediate,
    /// The end of the archive.
    Latest,
}

/// What happens at the target, PostgreSQL's `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The server becomes writable, on a timeline of its own.
    Promote,
    /// The server stays there, read-only.
    Pause,
    /// The server shuts down.
    Shutdown,
}

impl Action {
    /// Returns its keyword, in a profile and in PostgreSQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The timeline that recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The backup's timeline.
    Current,
    /// The newest timeline in the archive.
    Latest,
    /// The timeline with this number.
    Number(u32),
}

impl fmt::Display for TimelineChoice {
    /// Formats it for `recovery_target_timeline`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Latest => f.write_str("latest"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl Serialize for TimelineChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromValue for TimelineChoice {
    const EXPECTED: &'static str = "\"current\", \"latest\" or a timeline's number";

    fn schema() -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": "^(current|latest|[0-9]+)$",
            "minimum": 1
        })
    }

    fn from_value(value: &Value) -> Option<Self> {
        let number = |number: u32| (number > 0).then_some(Self::Number(number));
        match value {
            Value::String(text) => match text.as_str() {
                "current" => Some(Self::Current),
                "latest" => Some(Self::Latest),
                text => text.parse().ok().and_then(number),
            },
            Value::Integer(value) => u32::try_from(*value).ok().and_then(number),
            _ => None,
        }
    }
}

from_value!(TimelineChoice, MomentText, LsnText);

/// A time, with its offset from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MomentText(pub OffsetDateTime);

const DATE_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day][first [ ][T]][hour]:[minute][optional [:[second]]]\
     [optional [.[subsecond]]]"
);

impl FromStr for MomentText {
    type Err = String;

    /// Parses `2026-11-22 14:32[:00[.123]]` and `Z`, `UTC`, `+HH`, `+HHMM` or
    /// `+HH:MM`. A time without an offset would depend on the time zone that the
    /// backup is configured for, so it is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || Self::refused(format!("\"{text}\""));
        let (date_time, offset) = split_offset(text.trim()).ok_or_else(wrong)?;
        time::PrimitiveDateTime::parse(date_time, DATE_TIME)
            .map(|moment| moment.assume_offset(offset))
            .ok()
            .filter(|moment| moment.checked_to_offset(UtcOffset::UTC).is_some())
            .map(Self)
            .ok_or_else(wrong)
    }
}

fn split_offset(text: &str) -> Option<(&str, UtcOffset)> {
    for utc in ["Z", "z", "UTC"] {
        if let Some(rest) = text.strip_suffix(utc) {
            return Some((rest.trim_end(), UtcOffset::UTC));
        }
    }
    // A date has dashes, too, but all of them precede the first colon of the time.
    let after_date = text.find(':')?;
    let sign_at = after_date + text.get(after_date..)?.find(['+', '-'])?;
    let (date_time, offset) = text.split_at_checked(sign_at)?;
    let digits = offset.get(1..)?.replace(':', "");
    let (hours, minutes) = match digits.len() {
        1 | 2 => (digits.as_str(), "0"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let part = |digits: &str| digits.parse::<u8>().ok().map(u8::cast_signed);
    let (hours, minutes) = (part(hours)?, part(minutes)?);
    let offset = UtcOffset::from_hms(hours.checked_mul(sign)?, minutes.checked_mul(sign)?, 0);
    Some((date_time.trim_end(), offset.ok()?))
}

impl fmt::Display for MomentText {
    /// Formats it in UTC, as PostgreSQL reads and prints it, to the microsecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
            version = 2,
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00"
        );
        // Every time that was parsed can be represented in UTC.
        let utc = self.0.checked_to_offset(UtcOffset::UTC).unwrap_or(self.0);
        f.write_str(&utc.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

impl FromValue for MomentText {
    const EXPECTED: &'static str =
        "a date, a time and its offset from UTC, as in \"2026-11-22 14:32:00+00\"";

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }

    /// Converts text, or a date and time in TOML's format. A time without an offset
    /// is refused in either form.
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Datetime(moment) => moment.to_string().parse().ok(),
            _ => None,
        }
    }
}

/// A position in the WAL, `hi/lo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LsnText(pub Lsn);

impl FromValue for LsnText {
    const EXPECTED: &'static str = "a position in the WAL, as in \"0/4C037C8\"";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f]+/[0-9A-Fa-f]+$" })
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok().map(Self)
    }
}

/// The point at which recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// As soon as the backup is consistent.
    Immediate,
    /// At the end of the archive.
    Latest,
    /// At the last transaction that ended before this time.
    Time(OffsetDateTime),
    /// At this position.
    Lsn(Lsn),
    /// When this transaction has ended.
    Xid(u64),
    /// At this restore point.
    Name(String),
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Latest => f.write_str("latest"),
            Self::Time(time) => write!(f, "time {}", MomentText(*time)),
            Self::Lsn(lsn) => write!(f, "lsn {lsn}"),
            Self::Xid(xid) => write!(f, "xid {xid}"),
            Self::Name(name) => write!(f, "name \"{name}\""),
        }
    }
}

impl RecoveryPlan {
    /// Returns the recovery target; `None` leaves it to the kind of backup.
    #[must_use]
    pub fn target(&self) -> Option<RecoveryTarget> {
        self.targets().into_iter().flatten().next()
    }

    /// Returns the targets set by the keys of [`TARGETS`], in their order.
    fn targets(&self) -> [Option<RecoveryTarget>; TARGETS.len()] {
        let named = self.target.map(|target| match target {
            NamedTarget::Immediate => RecoveryTarget::Immediate,
            NamedTarget::Latest => RecoveryTarget::Latest,
        });
        [
            named,
            self.time.map(|time| RecoveryTarget::Time(time.0)),
            self.lsn.map(|lsn| RecoveryTarget::Lsn(lsn.0)),
            self.xid.map(RecoveryTarget::Xid),
            self.name.clone().map(RecoveryTarget::Name),
        ]
    }

    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        let set = TARGETS.into_iter().zip(self.targets());
        let keys: Vec<_> = set
            .filter_map(|(key, target)| target.map(|_| key))
            .collect();
        if keys.len() > 1 {
            return Err(ProfileError::SeveralTargets { keys });
        }
        // PostgreSQL stores a restore point's name in 63 bytes (`MAXFNAMELEN`).
        if let Some(name) = &self.name
            && (name.is_empty() || name.len() > 63 || name.contains('\0'))
        {
            let reason = "the name of a restore point must have 1 to 63 bytes";
            return Err(ProfileError::wrong("recovery.name", reason));
        }
        if self.target == Some(NamedTarget::Latest) && self.action != Action::Promote {
            return Err(ProfileError::wrong(
                "recovery.action",
                "PostgreSQL always promotes at the end of the archive (recovery.target = \
                 \"latest\"); name a point before it",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn plan(set: impl Fn(&mut RecoveryPlan)) -> Result<RecoveryPlan, ProfileError> {
        let mut recovery = RecoveryPlan::default();
        set(&mut recovery);
        recovery.check().map(|()| recovery)
    }

    #[test]
    fn defaults_ask_for_no_target_on_the_backups_timeline() {
        let plan = plan(|_| {}).unwrap();
        assert_eq!(plan.target(), None);
        assert!(plan.inclusive && plan.restore_command.is_none());
        assert_eq!(
            (plan.timeline, plan.action),
            (TimelineChoice::Current, Action::Promote)
        );
        assert_eq!(plan.prefetch, ByteSize(64 << 20));
    }

    #[test]
    fn one_target_and_no_more() {
        let lsn = plan(|r| r.lsn = Some(LsnText(Lsn(0x4C0_37C8)))).unwrap();
        assert_eq!(lsn.target(), Some(RecoveryTarget::Lsn(Lsn(0x4C0_37C8))));
        let error = plan(|r| {
            r.xid = Some(5);
            r.target = Some(NamedTarget::Latest);
        });
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("recovery.target and recovery.xid"),
            "{message}"
        );
        let time = plan(|r| r.time = Some("2026-11-22 14:32Z".parse().unwrap()));
        let expected = RecoveryTarget::Time(datetime!(2026-11-22 14:32 UTC));
        assert_eq!(time.unwrap().target(), Some(expected));
        assert!(plan(|r| r.name = Some("x".repeat(64))).is_err());
        let paused = plan(|r| {
            r.target = Some(NamedTarget::Latest);
            r.action = Action::Pause;
        });
        assert!(paused.is_err());
    }

    #[test]
    fn times_without_a_place_in_utc_are_refused() {
        for text in ["9999-12-31 23:59:59-23", "-9999-01-01 00:00:00+23"] {
            assert!(text.parse::<MomentText>().is_err(), "{text}");
        }
        let last: MomentText = "9999-12-31 23:59:59+00".parse().unwrap();
        assert_eq!(last.to_string(), "9999-12-31 23:59:59.000000+00");
    }

    #[test]
    fn times_need_their_offset() {
        for (text, utc) in [
            ("2026-11-22 14:32:00+00", "2026-11-22 14:32:00.000000+00"),
            ("2026-11-22T14:32:00Z", "2026-11-22 14:32:00.000000+00"),
            (
                "2026-11-22 07:31:22.75436+00",
                "2026-11-22 07:31:22.754360+00",
            ),
            ("2026-11-22 14:32 +05:30", "2026-11-22 09:02:00.000000+00"),
            ("2026-11-22 23:32:01-0330", "2026-11-23 03:02:01.000000+00"),
            ("2026-11-22 14:32:00 UTC", "2026-11-22 14:32:00.000000+00"),
        ] {
            let moment: MomentText = text.parse().unwrap();
            assert_eq!(moment.to_string(), utc, "{text}");
            assert_eq!(moment.to_string().parse::<MomentText>(), Ok(moment));
        }
        for text in [
            "",
            "2026-11-22 14:32:00",
            "14:32+00",
            "yesterday",
            "2026-13-22 14:32+00",
            "2026-11-22 14:32+99",
            "2026-11-22 14:32+1:2:3",
        ] {
            assert!(text.parse::<MomentText>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_may_be_tomls_own() {
        let read = |value: &str| {
            let plan = toml::from_str::<RecoveryPlan>(&format!("time = {value}"));
            plan.map_err(|error| error.to_string())
        };
        for (value, utc) in [
            ("2026-11-22T07:31:20Z", "2026-11-22 07:31:20.000000+00"),
            ("2026-11-22 07:31:20.75z", "2026-11-22 07:31:20.750000+00"),
            ("2026-11-22T07:31:20-03:30", "2026-11-22 11:01:20.000000+00"),
            ("'2026-11-22 07:31+02'", "2026-11-22 05:31:00.000000+00"),
        ] {
            let time = read(value).unwrap().time.unwrap();
            assert_eq!(time.to_string(), utc, "{value}");
        }
        for value in [
            "2026-11-22T07:31:20",
            "'2026-11-22 07:31:20'",
            "2026-11-22",
            "07:31:20",
            "5",
            "true",
            "{ a = 1 }",
        ] {
            let error = read(value).unwrap_err();
            let wanted = "a date, a time and its offset from UTC";
            let is_table = value.starts_with('{');
            assert!(is_table || error.contains(wanted), "{value}: {error}");
            assert!(error.contains("line 1"), "{value}: {error}");
        }
    }

    #[test]
    fn timelines_and_words_are_read_from_toml() {
        let read = |text: &str| toml::from_str::<RecoveryPlan>(text);
        for (text, timeline) in [
            ("2", TimelineChoice::Number(2)),
            ("'2'", TimelineChoice::Number(2)),
            ("'latest'", TimelineChoice::Latest),
        ] {
            let plan = read(&format!("timeline = {text}")).unwrap();
            assert_eq!(plan.timeline, timeline);
        }
        for text in [
            "timeline = 0",
            "timeline = 'newest'",
            "target = 'now'",
            "action = 'stop'",
            "lsn = '12'",
            "xid = -1",
            "time = '2026-11-22 14:32'",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
