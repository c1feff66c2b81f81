//! The section `[recovery]`: its values, and what they come to.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use toml::value::Datetime;

use super::error::ProfileError;
use super::plan::need;
use super::raw::RecoveryProfile;
use super::values::{Node, read};
use crate::pg::Lsn;

/// A target that is called by a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedTarget {
    /// As soon as the backup is consistent.
    Immediate,
    /// The end of the archive.
    Latest,
}

/// What happens at the target, PostgreSQL's `recovery_target_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The server becomes writable, on a timeline of its own.
    Promote,
    /// The server stays there, read-only.
    Pause,
    /// The server ends.
    Shutdown,
}

impl Action {
    /// The word for it, in a profile and in PostgreSQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Which timeline recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The backup's.
    Current,
    /// The newest that the archive has.
    Latest,
    /// That one.
    Number(u32),
}

impl fmt::Display for TimelineChoice {
    /// As `recovery_target_timeline` takes it.
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

impl<'de> Deserialize<'de> for TimelineChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = |number: u32| (number > 0).then_some(Self::Number(number));
        let expected = "\"current\", \"latest\" or a timeline's number";
        read(deserializer, expected, |node| match node {
            Node::Text(text) => match text.as_str() {
                "current" => Some(Self::Current),
                "latest" => Some(Self::Latest),
                text => text.parse().ok().and_then(number),
            },
            Node::Integer(value) => u32::try_from(*value).ok().and_then(number),
            _ => None,
        })
    }
}

/// A moment, with its offset from UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MomentText(pub OffsetDateTime);

const DATE_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day][first [ ][T]][hour]:[minute][optional [:[second]]]\
     [optional [.[subsecond]]]"
);

impl FromStr for MomentText {
    type Err = String;

    /// `2026-11-22 14:32[:00[.123]]` and `Z`, `UTC`, `+HH`, `+HHMM` or
    /// `+HH:MM`. A time without an offset would mean whatever zone the backup
    /// is configured for, so it is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "expected a date, a time and its offset from UTC, as in \
                 \"2026-11-22 14:32:00+00\", not \"{text}\""
            )
        };
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
    // A date has dashes, too; the time's first colon is behind them.
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
    /// In UTC, as PostgreSQL reads and prints it, to the microsecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
            version = 2,
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00"
        );
        // What was parsed can be told in UTC.
        let utc = self.0.checked_to_offset(UtcOffset::UTC).unwrap_or(self.0);
        f.write_str(&utc.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for MomentText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MomentText {
    /// Text, or a date and time as TOML itself has them. One without an offset is
    /// refused in either form.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MomentVisitor;
        impl<'de> Visitor<'de> for MomentVisitor {
            type Value = MomentText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a date, a time and its offset from UTC")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<MomentText, E> {
                text.parse().map_err(E::custom)
            }
            // How the toml crate hands its dates on.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MomentText, A::Error> {
                let moment = Datetime::deserialize(MapAccessDeserializer::new(map))?;
                self.visit_str(&moment.to_string())
            }
        }
        deserializer.deserialize_any(MomentVisitor)
    }
}

/// A position in the WAL, `hi/lo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LsnText(pub Lsn);

impl FromStr for LsnText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| {
            format!("expected a position in the WAL, as in \"0/4C037C8\", not \"{text}\"")
        })
    }
}

impl Serialize for LsnText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LsnText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// As soon as the backup is consistent.
    Immediate,
    /// At the end of the archive.
    Latest,
    /// At the last transaction that ended before that.
    Time(OffsetDateTime),
    /// At that position.
    Lsn(Lsn),
    /// When that transaction has ended.
    Xid(u64),
    /// At that restore point.
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

/// How far the WAL archive is replayed, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Where it ends; `None` leaves that to the kind of backup.
    pub target: Option<RecoveryTarget>,
    /// Whether what stands right at the target is replayed.
    pub inclusive: bool,
    /// Which timeline is followed.
    pub timeline: TimelineChoice,
    /// What happens at the target.
    pub action: Action,
    /// The command that fetches WAL, if not our own.
    pub restore_command: Option<String>,
    /// How much WAL is fetched ahead, in bytes.
    pub prefetch: u64,
}

impl RecoveryPlan {
    pub(super) fn check(profile: &RecoveryProfile) -> Result<Self, ProfileError> {
        let named = profile.target.map(|target| match target {
            NamedTarget::Immediate => RecoveryTarget::Immediate,
            NamedTarget::Latest => RecoveryTarget::Latest,
        });
        let name = profile.name.clone().map(restore_point).transpose()?;
        let mut targets: Vec<(&'static str, RecoveryTarget)> = [
            ("recovery.target", named),
            (
                "recovery.time",
                profile.time.map(|t| RecoveryTarget::Time(t.0)),
            ),
            (
                "recovery.lsn",
                profile.lsn.map(|l| RecoveryTarget::Lsn(l.0)),
            ),
            ("recovery.xid", profile.xid.map(RecoveryTarget::Xid)),
            ("recovery.name", name.map(RecoveryTarget::Name)),
        ]
        .into_iter()
        .filter_map(|(key, target)| Some((key, target?)))
        .collect();
        if targets.len() > 1 {
            let keys = targets.iter().map(|(key, _)| *key).collect();
            return Err(ProfileError::SeveralTargets { keys });
        }
        let action = need("recovery.action", &profile.action)?;
        let is_latest = profile.target == Some(NamedTarget::Latest);
        if is_latest && action != Action::Promote {
            return Err(ProfileError::Value {
                place: "profile".to_owned(),
                key: "recovery.action".to_owned(),
                reason: "PostgreSQL always promotes at the end of the archive (recovery.target \
                         = \"latest\"); name a point before it"
                    .to_owned(),
            });
        }
        Ok(Self {
            target: targets.pop().map(|(_, target)| target),
            inclusive: need("recovery.inclusive", &profile.inclusive)?,
            timeline: need("recovery.timeline", &profile.timeline)?,
            action,
            restore_command: profile.restore_command.clone(),
            prefetch: need("recovery.prefetch", &profile.prefetch)?.0,
        })
    }
}

/// A restore point's name, which PostgreSQL keeps in 63 bytes
/// (`MAXFNAMELEN`).
fn restore_point(name: String) -> Result<String, ProfileError> {
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        return Err(ProfileError::Value {
            place: "profile".to_owned(),
            key: "recovery.name".to_owned(),
            reason: "the name of a restore point has 1 to 63 bytes".to_owned(),
        });
    }
    Ok(name)
}

impl RecoveryProfile {
    /// Replaces whatever target was set by a time.
    pub fn set_time(&mut self, time: MomentText) {
        self.target = None;
        self.lsn = None;
        self.xid = None;
        self.name = None;
        self.time = Some(time);
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::profile::Profile;

    fn plan(set: impl Fn(&mut RecoveryProfile)) -> Result<RecoveryPlan, ProfileError> {
        let mut recovery = Profile::defaults().unwrap().recovery;
        set(&mut recovery);
        RecoveryPlan::check(&recovery)
    }

    #[test]
    fn defaults_ask_for_no_target_on_the_backups_timeline() {
        let plan = plan(|_| {}).unwrap();
        assert_eq!(plan.target, None);
        assert!(plan.inclusive && plan.restore_command.is_none());
        assert_eq!(
            (plan.timeline, plan.action),
            (TimelineChoice::Current, Action::Promote)
        );
        assert_eq!(plan.prefetch, 64 << 20);
    }

    #[test]
    fn one_target_and_no_more() {
        let lsn = plan(|r| r.lsn = Some("0/4C037C8".parse().unwrap())).unwrap();
        assert_eq!(lsn.target, Some(RecoveryTarget::Lsn(Lsn(0x4C0_37C8))));
        let error = plan(|r| {
            r.xid = Some(5);
            r.target = Some(NamedTarget::Latest);
        });
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("recovery.target and recovery.xid"),
            "{message}"
        );
        let time = plan(|r| {
            r.xid = Some(5);
            r.set_time("2026-11-22 14:32Z".parse().unwrap());
        });
        let expected = RecoveryTarget::Time(datetime!(2026-11-22 14:32 UTC));
        assert_eq!(time.unwrap().target, Some(expected));
        assert!(plan(|r| r.name = Some("x".repeat(64))).is_err());
        let paused = plan(|r| {
            r.target = Some(NamedTarget::Latest);
            r.action = Some(Action::Pause);
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
            let text = format!("recovery.time = {value}");
            let profile = crate::profile::parse(&text, "/p/x.toml".as_ref());
            let profile = profile.and_then(Profile::over_defaults);
            profile.map_err(|error| error.to_string())
        };
        for (value, utc) in [
            ("2026-11-22T07:31:20Z", "2026-11-22 07:31:20.000000+00"),
            ("2026-11-22 07:31:20.75z", "2026-11-22 07:31:20.750000+00"),
            ("2026-11-22T07:31:20-03:30", "2026-11-22 11:01:20.000000+00"),
            ("'2026-11-22 07:31+02'", "2026-11-22 05:31:00.000000+00"),
        ] {
            let time = read(value).unwrap().recovery.time.unwrap();
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
        let read = |text: &str| crate::profile::parse(text, "/p/x.toml".as_ref());
        for (text, timeline) in [
            ("2", TimelineChoice::Number(2)),
            ("'2'", TimelineChoice::Number(2)),
            ("'latest'", TimelineChoice::Latest),
        ] {
            let profile = read(&format!("recovery.timeline = {text}")).unwrap();
            assert_eq!(profile.recovery.timeline, Some(timeline));
        }
        for text in [
            "recovery.timeline = 0",
            "recovery.timeline = 'newest'",
            "recovery.target = 'now'",
            "recovery.action = 'stop'",
            "recovery.lsn = '12'",
            "recovery.xid = -1",
            "recovery.time = '2026-11-22 14:32'",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
