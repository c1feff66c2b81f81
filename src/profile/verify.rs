//! The section `[verify]`: what proves that a backup restores.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::error::ProfileError;
use super::expectation::Expectation;
use super::plan::{need, optional_absolute};
use super::values::{BackupChoice, Node, Seconds, read};

/// Which backups are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyChoice {
    /// The newest that can be restored, or the one of that id.
    One(BackupChoice),
    /// The one whose last verification is longest ago; one that was never
    /// verified before all others.
    OldestUnverified,
    /// Every one that can be restored.
    All,
}

impl FromStr for VerifyChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "oldest-unverified" => Ok(Self::OldestUnverified),
            text => text.parse().map(Self::One),
        }
    }
}

impl fmt::Display for VerifyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(choice) => choice.fmt(f),
            Self::OldestUnverified => f.write_str("oldest-unverified"),
            Self::All => f.write_str("all"),
        }
    }
}

impl Serialize for VerifyChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifyChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(
            deserializer,
            "\"latest\", \"all\", \"oldest-unverified\" or a backup id",
            |node| match node {
                Node::Text(text) => text.parse().ok(),
                _ => None,
            },
        )
    }
}

/// Databases, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// None, or all that take connections.
    Every(bool),
    /// These.
    Named(Vec<String>),
}

impl Databases {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        match self {
            Self::Every(every) => !every,
            Self::Named(names) => names.is_empty(),
        }
    }
}

impl Serialize for Databases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Every(every) => serializer.serialize_bool(*every),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Databases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DatabasesVisitor;
        impl<'de> Visitor<'de> for DatabasesVisitor {
            type Value = Databases;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of databases")
            }
            fn visit_bool<E: de::Error>(self, every: bool) -> Result<Databases, E> {
                Ok(Databases::Every(every))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Databases, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Databases::Named(names))
            }
        }
        deserializer.deserialize_any(DatabasesVisitor)
    }
}

/// By whose restore a backup has to come back whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreBy {
    /// By pbkfs, which shows all that the backup has.
    Pbkfs,
    /// By pg_probackup's own restore as well.
    PgProbackup,
}

/// What a backup that is known to be bad does to the exit code of a run that did
/// not look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KnownBadPolicy {
    /// It is 1, until the backup is proved or gone.
    Fail,
    /// Nothing; the reports name the backup.
    Report,
}

/// One `[[verify.sql]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlCheck {
    /// What reports call it.
    pub name: String,
    /// Where the query runs.
    pub database: String,
    /// The query.
    pub query: String,
    /// What it has to answer; without it, an answer is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expectation>,
    /// How long it may take, where that is not `verify.check_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
}

/// One `[[verify.command]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandCheck {
    /// What reports call it.
    pub name: String,
    /// The command, for `/bin/sh`.
    pub run: String,
    /// How long it may take, where that is not `verify.check_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
}

/// The section as it was written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(
    missing_docs,
    reason = "keys::KEYS has the text, and a test that none is missing"
)]
pub struct VerifyProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<VerifyChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_bad: Option<KnownBadPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amcheck: Option<Databases>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<Databases>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<Vec<SqlCheck>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<CommandCheck>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Seconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<String>,
}

/// What is verified, and where that is written down.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyPlan {
    /// Which backups; `None` is the profile's own choice.
    pub backup: Option<VerifyChoice>,
    /// Whether every page is read.
    pub pages: bool,
    /// Whether a server is started.
    pub start: bool,
    /// Whether bad backups that a run does not look at make it fail.
    pub known_bad: KnownBadPolicy,
    /// By whose restore it has to come back whole.
    pub restore: RestoreBy,
    /// The databases that pg_amcheck looks through.
    pub amcheck: Databases,
    /// The databases that pg_dump reads.
    pub dump: Databases,
    /// Where dumps are kept; `None` is nowhere.
    pub dump_dir: Option<PathBuf>,
    /// Queries.
    pub sql: Vec<SqlCheck>,
    /// Programs.
    pub command: Vec<CommandCheck>,
    /// How long one check may take; `None` leaves it to `timeout`.
    pub check_timeout: Option<Duration>,
    /// How long all of one backup's may take.
    pub timeout: Duration,
    /// Where the history is kept; `None` is the user's usual place.
    pub state_dir: Option<PathBuf>,
    /// The textfile for Prometheus.
    pub prometheus: Option<PathBuf>,
    /// The HTML report.
    pub html: Option<PathBuf>,
    /// The URL that is told of begin and end.
    pub ping: Option<String>,
}

impl VerifyPlan {
    pub(super) fn check(profile: &VerifyProfile) -> Result<Self, ProfileError> {
        let plan = Self {
            backup: profile.backup.clone(),
            pages: need("verify.pages", &profile.pages)?,
            start: need("verify.start", &profile.start)?,
            known_bad: need("verify.known_bad", &profile.known_bad)?,
            restore: need("verify.restore", &profile.restore)?,
            amcheck: need("verify.amcheck", &profile.amcheck)?,
            dump: need("verify.dump", &profile.dump)?,
            dump_dir: optional_absolute("verify.dump_dir", &profile.dump_dir)?,
            sql: profile.sql.clone().unwrap_or_default(),
            command: profile.command.clone().unwrap_or_default(),
            check_timeout: profile.check_timeout.map(Into::into),
            timeout: need("verify.timeout", &profile.timeout)?.into(),
            state_dir: optional_absolute("verify.state_dir", &profile.state_dir)?,
            prometheus: optional_absolute("verify.prometheus", &profile.prometheus)?,
            html: optional_absolute("verify.html", &profile.html)?,
            ping: profile.ping.clone(),
        };
        plan.check_sense()?;
        Ok(plan)
    }

    fn check_sense(&self) -> Result<(), ProfileError> {
        let wrong = |key: &str, reason: &str| {
            Err(ProfileError::Value {
                place: "profile".to_owned(),
                key: key.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if let Some(url) = &self.ping
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            return wrong("verify.ping", "a URL begins with http:// or https://");
        }
        if !self.pages && !self.start {
            return wrong(
                "verify.pages",
                "with verify.start = false too, nothing is verified",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_a_flag_or_a_list() {
        #[derive(Deserialize)]
        struct Doc {
            a: Databases,
        }
        let read = |text: &str| toml::from_str::<Doc>(text).map(|doc| doc.a);
        assert!(read("a = false").unwrap().is_none());
        assert!(read("a = []").unwrap().is_none());
        assert_eq!(read("a = true").unwrap(), Databases::Every(true));
        let named = Databases::Named(vec!["x".into()]);
        assert_eq!(read("a = [\"x\"]").unwrap(), named);
        assert!(
            read("a = \"x\"")
                .unwrap_err()
                .to_string()
                .contains("true, false or a list")
        );
    }

    #[test]
    fn choices_are_read_as_written() {
        for text in ["latest", "all", "oldest-unverified", "SBOL8S"] {
            assert_eq!(text.parse::<VerifyChoice>().unwrap().to_string(), text);
        }
        assert!("some backup".parse::<VerifyChoice>().is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let base = || crate::profile::Profile::defaults().unwrap().verify;
        let said = |profile: &VerifyProfile| VerifyPlan::check(profile).unwrap_err().to_string();
        let mut nothing = base();
        (nothing.pages, nothing.start) = (Some(false), Some(false));
        assert!(said(&nothing).contains("nothing is verified"));
        let mut ping = base();
        ping.ping = Some("ftp://x".into());
        assert!(said(&ping).contains("http"));
        assert!(VerifyPlan::check(&base()).is_ok());
    }
}
