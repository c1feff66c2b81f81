//! The report of `list` and `plan` on the WAL that a backup needs itself.

use schemars::JsonSchema;
use serde::Serialize;

use crate::catalog::wal::{OwnWal, WalError};
use crate::cli::common::sentence;

/// State of the WAL that a backup needs itself.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct WalReport {
    /// complete, missing, damaged, unrecorded, or unknown if the search for it
    /// failed.
    state: &'static str,
    /// First segment that is missing or damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<String>,
    /// Its timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<u32>,
    /// The problem, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl WalReport {
    pub fn of(looked: Result<OwnWal, WalError>) -> Self {
        match looked {
            Ok(own) => Self {
                state: own.word(),
                segment: own.segment().map(|(_, name)| name.to_owned()),
                timeline: own.segment().map(|(id, _)| id.timeline),
                problem: own.is_bad().then(|| own.to_string()),
            },
            Err(error) => Self {
                state: "unknown",
                problem: Some(sentence(&error)),
                ..Self::default()
            },
        }
    }

    /// Returns the problem, for people.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}
