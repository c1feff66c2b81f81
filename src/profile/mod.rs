//! The user's settings: TOML files, the environment and `--set`, merged into a
//! [`Profile`] and checked into a [`Plan`].
//!
//! Later layers win, key by key:
//!
//! ```text
//! defaults < /etc/pbkfs/config.toml < profile < PBKFS_* environment < --set key=value < flags
//! ```
//!
//! A key is defined only by a field of [`Plan`] or of one of its sections: the
//! field's type parses and bounds it, its doc comment is its help, its default
//! follows the type, and its example is in an attribute. [`keys`] derives all of this
//! from the fields, for unknown keys, the manual page, `config/full.toml` and the
//! JSON schema.
//!
//! Each layer is also parsed into a [`Plan`] by itself, but only to report a mistake
//! with its place. The values are merged as they were written, each with its
//! [`Origin`].

#[macro_use]
mod section;
pub mod error;
mod given;
pub mod keys;
mod layers;
pub mod plan;
mod values;

pub use error::ProfileError;
pub use given::{Given, Origin, Profile};
pub use layers::unknown_variables;
pub use plan::{LockBackups, MetadataSource, Plan};
pub use section::expectation::Expectation;
pub use section::fence::{IoNice, Level, Network, Require};
pub use section::fuse::Passthrough;
pub use section::log::{LogFormat, LogPlan, LogTarget};
pub use section::postgres::{Port, PostgresPlan};
pub use section::recovery::{Action, MomentText, RecoveryTarget, TimelineChoice};
pub use section::storage::StoragePlan;
pub use section::verify::{
    Databases, KnownBadPolicy, RestoreBy, SqlCheck, VerifyChoice, VerifyPlan,
};
pub use values::{ByteSize, Seconds};
