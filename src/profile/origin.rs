//! Where the value of a key is from.

use std::fmt;
use std::path::PathBuf;

/// A value that somebody gave to a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The value as it was written; a path is absolute.
    pub value: toml::Value,
    /// Where it is from.
    pub origin: Origin,
}

/// Where a value is from. As text it is the place that an error names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key in it, from 1.
        line: usize,
    },
    /// The environment variable of that name.
    Variable(String),
    /// The argument of `--set`.
    Set(String),
    /// That flag of the command, or what the command knows by itself.
    Command(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Set(argument) => write!(f, "--set {argument}"),
            Self::Command(what) => f.write_str(what),
        }
    }
}
