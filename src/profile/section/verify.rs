//! The section `[verify]`: how to prove that a backup restores.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use toml::Value;

use super::expectation::Expectation;
use crate::catalog::{BackupRef, InvalidBackupRef};
use crate::profile::error::ProfileError;
use crate::profile::values::{FromValue, Seconds, from_value};

section! {
    /// The keys of the section `[verify]`.
    pub struct VerifyPlan {
        /// Backups to verify. "oldest-unverified" is the one whose last verification is
        /// longest ago, so that nightly runs cover a whole catalog in time.
        ///
        /// Default: the profile's backup
        #[schemars(example = VerifyChoice::OldestUnverified)]
        pub backup: Option<VerifyChoice>,

        /// Whether to read every page and file that a restore would read, and to check
        /// compression, page checksums, page headers and stored checksums.
        #[schemars(example = false)]
        pub pages: bool = true,

        /// Whether to start PostgreSQL on the backup, recover to the target and run a
        /// query. The checks of amcheck, dump, sql and command require this.
        #[schemars(example = false)]
        pub start: bool = true,

        /// Effect of a backup that an earlier run found bad and no run has proved since:
        /// "fail" makes each run exit with 1, "report" only names it in the reports.
        #[schemars(example = KnownBadPolicy::Report)]
        pub known_bad: KnownBadPolicy = KnownBadPolicy::Fail,

        /// Program whose restore has to be complete. If a backup is based on a PAGE or PTRACK
        /// backup of pg_probackup 2.2.7 or older, pg_probackup's own restore may silently lose
        /// data written after a truncation. pbkfs shows all of the data, and reports what
        /// restore would lose; with "pg_probackup" such a backup is bad.
        #[schemars(example = RestoreBy::PgProbackup)]
        pub restore: RestoreBy = RestoreBy::Pbkfs,

        /// Databases whose tables and indexes pg_amcheck checks; true means all
        /// databases.
        #[schemars(example = ["shop"])]
        pub amcheck: Databases = Databases::Every(false),

        /// Databases that pg_dump reads completely; true means all databases.
        #[schemars(example = ["shop"])]
        pub dump: Databases = Databases::Every(false),

        /// Directory that keeps the dumps, each as DATABASE.dump in pg_dump's custom format.
        ///
        /// Default: none; the dumps are discarded
        #[schemars(extend("format" = "path"), example = "/srv/dumps/main")]
        pub dump_dir: Option<PathBuf>,

        /// Time limit for each check; a section of verify.sql or verify.command may set its
        /// own timeout.
        ///
        /// Default: the time that remains of verify.timeout
        #[schemars(example = 3600)]
        pub check_timeout: Option<Seconds>,

        /// Time limit for verifying one backup; when it expires, the result is "could not
        /// tell".
        #[schemars(example = 14400)]
        pub timeout: Seconds = Seconds::new(86_400),

        /// Directory that keeps the history of verifications.
        ///
        /// Default: /var/lib/pbkfs for root, else $XDG_STATE_HOME/pbkfs or
        /// ~/.local/state/pbkfs
        #[schemars(extend("format" = "path"), example = "/var/lib/pbkfs")]
        pub state_dir: Option<PathBuf>,

        /// File to write the result to, for node_exporter's textfile collector.
        ///
        /// Default: none
        #[schemars(
            extend("format" = "path"),
            example = "/var/lib/prometheus/node-exporter/pbkfs_main.prom"
        )]
        pub prometheus: Option<PathBuf>,

        /// File to write the result to, as one HTML page with the profile's history.
        ///
        /// Default: none
        #[schemars(extend("format" = "path"), example = "/var/www/reports/main.html")]
        pub html: Option<PathBuf>,

        /// URL of a monitoring service. URL/start is requested at the beginning, and
        /// URL/EXIT-CODE, with the end of the report, at the end. A failed ping does not
        /// change the verdict.
        ///
        /// Default: none
        #[schemars(
            title = "URL",
            example = "https://hc-ping.com/3c1169a0-7b4d-4cbb-8ff5-4f7a1d3f0f5e"
        )]
        pub ping: Option<String>,

        /// Queries and their expected answers: text as printed by psql -At, a condition on a
        /// number ("> 0"), or one on the age of a time ("age < 1 day"). Without expect, any
        /// answer will do.
        ///
        /// Default: none
        #[schemars(
            title = "[[verify.sql]] sections with name, database, query, expect and timeout",
            extend("examples" = [[{
                "name": "recent orders",
                "database": "shop",
                "query": "select max(created_at) from orders",
                "expect": "age < 1 day",
                "timeout": 600
            }]])
        )]
        pub sql: Vec<SqlCheck> = Vec::new(),

        /// Shell commands, run as PostgreSQL's user with PGHOST, PGPORT, PGUSER, PGDATABASE
        /// and PGDATA set. A command that fails has found the backup bad; one that exits with
        /// 3 could not tell.
        ///
        /// Default: none
        #[schemars(
            title = "[[verify.command]] sections with name, run and timeout",
            extend("examples" = [[{
                "name": "own checks",
                "run": "/usr/local/bin/check-shop",
                "timeout": 600
            }]])
        )]
        pub command: Vec<CommandCheck> = Vec::new(),
    }
}

/// The choice of backups to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyChoice {
    /// The newest backup that can be restored, or the one with this id.
    One(BackupRef),
    /// The backup whose last verification is longest ago; one that was never verified
    /// comes first.
    OldestUnverified,
    /// Every backup that can be restored.
    All,
}

impl FromStr for VerifyChoice {
    type Err = InvalidBackupRef;

    fn from_str(text: &str) -> Result<Self, InvalidBackupRef> {
        match text {
            "all" => Ok(Self::All),
            "oldest-unverified" => Ok(Self::OldestUnverified),
            text => Ok(Self::One(text.parse()?)),
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

impl FromValue for VerifyChoice {
    const EXPECTED: &'static str = "\"latest\", \"all\", \"oldest-unverified\" or a backup id";

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(oldest-unverified|[A-Za-z0-9]+)$" })
    }

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Databases, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// None, or all that accept connections.
    Every(bool),
    /// The databases with these names.
    Named(Vec<String>),
}

impl Databases {
    /// Returns whether there are none.
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

impl FromValue for Databases {
    const EXPECTED: &'static str = "true, false or a list of databases";

    fn schema() -> Schema {
        json_schema!({ "type": ["boolean", "array"], "items": { "type": "string" } })
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(every) => Some(Self::Every(*every)),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                names.collect::<Option<_>>().map(Self::Named)
            }
            _ => None,
        }
    }
}

from_value!(VerifyChoice, Databases);

/// The program whose restore of a backup has to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestoreBy {
    /// pbkfs, which shows all data of the backup.
    Pbkfs,
    /// pg_probackup's own restore as well.
    PgProbackup,
}

/// The effect of a known-bad backup on the exit code of a run that did not check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KnownBadPolicy {
    /// The exit code is 1 until the backup is proved or deleted.
    Fail,
    /// None; the reports name the backup.
    Report,
}

/// One `[[verify.sql]]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section [[verify.sql]]")]
pub struct SqlCheck {
    /// Its name in reports.
    pub name: String,
    /// The database that the query runs in.
    pub database: String,
    /// The query.
    pub query: String,
    /// The expected answer; without it, any answer will do.
    pub expect: Option<Expectation>,
    /// Its time limit, if other than `verify.check_timeout`.
    pub timeout: Option<Seconds>,
}

/// One `[[verify.command]]`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section [[verify.command]]")]
pub struct CommandCheck {
    /// Its name in reports.
    pub name: String,
    /// The command, for `/bin/sh`.
    pub run: String,
    /// Its time limit, if other than `verify.check_timeout`.
    pub timeout: Option<Seconds>,
}

impl VerifyPlan {
    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if self.ping.as_ref().is_some_and(|url| !is_url(url)) {
            let reason = "a URL has to begin with http:// or https://";
            return Err(ProfileError::wrong("verify.ping", reason));
        }
        if !self.pages && !self.start {
            let reason = "with verify.start = false too, nothing is verified";
            return Err(ProfileError::wrong("verify.pages", reason));
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
        let check = |text: &str| toml::from_str::<VerifyPlan>(text).unwrap().check();
        let said = |text: &str| check(text).unwrap_err().to_string();
        assert!(said("pages = false\nstart = false").contains("nothing is verified"));
        assert!(said("ping = 'ftp://x'").contains("http"));
        assert!(check("").is_ok());
    }
}
