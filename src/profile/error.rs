//! Errors in a profile.

use std::io;
use std::path::PathBuf;

/// A profile that cannot be read, or that asks for something impossible.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file of settings could not be read.
    #[error("cannot read the profile {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },

    /// A file is not TOML, or one of its values has the wrong type. The source's text
    /// shows the line and a snippet.
    #[error("{}: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The TOML parser's error, with the line.
        #[source]
        source: Box<toml::de::Error>,
    },

    /// A key that pbkfs does not know.
    #[error("{place}: unknown key \"{key}\"{}", did_you_mean(nearest))]
    UnknownKey {
        /// `file:line`, the environment variable or the `--set` argument.
        place: String,
        /// The key as it was written, with its sections.
        key: String,
        /// The most similar known key.
        nearest: Option<&'static str>,
    },

    /// A value that its key does not accept.
    #[error("{place}: invalid value for \"{key}\": {reason}")]
    Value {
        /// The origin of the value; `profile` if it was not set.
        place: String,
        /// The key.
        key: String,
        /// What is wrong with the value, and what would be valid.
        reason: String,
    },

    /// A `--set` argument without `=`.
    #[error("--set {argument}: expected key=value, as in --set postgres.port=5433")]
    NoEquals {
        /// The argument as it was given.
        argument: String,
    },

    /// An environment variable with our prefix that is not UTF-8.
    #[error("the environment variable {name} is not valid UTF-8")]
    NotUtf8 {
        /// The variable's name, as far as it can be shown.
        name: String,
    },

    /// The working directory, which relative paths start from, is unknown.
    #[error("cannot make {} an absolute path: {source}", path.display())]
    WorkingDirectory {
        /// The relative path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },

    /// A key that has no default and is not set.
    #[error("the profile does not set \"{key}\" ({help})")]
    Missing {
        /// The key.
        key: &'static str,
        /// The key's help.
        help: String,
    },

    /// More than one recovery target.
    #[error("the profile sets {}; recovery ends at one target, so set only one of them",
        keys.join(" and "))]
    SeveralTargets {
        /// The keys that are set.
        keys: Vec<&'static str>,
    },

    /// Two paths, one of which would damage or hide the other.
    #[error("{inner_key} ({}) may not be {relation} {outer_key} ({}): {reason}",
        inner.display(), outer.display())]
    Overlap {
        /// The key whose path is the inner one.
        inner_key: &'static str,
        /// The inner path, links resolved.
        inner: PathBuf,
        /// `the same as` or `inside`.
        relation: &'static str,
        /// The key whose path is the outer one.
        outer_key: &'static str,
        /// The outer path, links resolved.
        outer: PathBuf,
        /// The harm that it would do.
        reason: &'static str,
    },
}

impl ProfileError {
    /// Creates the error for an invalid or conflicting value. The caller that knows its
    /// origin adds that.
    pub fn wrong(key: &str, reason: impl Into<String>) -> Self {
        Self::Value {
            place: "profile".to_owned(),
            key: key.to_owned(),
            reason: reason.into(),
        }
    }
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean \"{key}\"?"))
}
