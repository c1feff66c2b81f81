//! What the user asked for: TOML files, the environment and `--set`, merged
//! into a [`Profile`] and checked into a [`Plan`].
//!
//! Later layers win, key by key:
//!
//! ```text
//! defaults < /etc/pbkfs/config.toml < profile < PBKFS_* environment < --set key=value
//! ```
//!
//! Every layer is read into a [`Profile`] of its own, so that a mistake is
//! reported with the place where it was made; only then are they merged.
//! [`keys::KEYS`] is the one list of keys, with their defaults and help.

pub mod error;
mod expectation;
pub mod fence;
pub mod keys;
mod layers;
pub mod logging;
pub mod plan;
pub mod raw;
pub mod recovery;
pub mod values;
pub mod verify;

pub use error::ProfileError;
pub use expectation::{Comparison, Expectation};
pub use fence::{FencePlan, FenceProfile, IoNice, Level, Network, Require};
pub use layers::{load, load_given, parse, unknown_variables};
pub use logging::{LogDestination, LogFormat, LogLevel};
pub use plan::{FusePlan, LogPlan, LogTarget, Plan, PostgresPlan};
pub use raw::{FuseProfile, LogProfile, PostgresProfile, Profile, RecoveryProfile};
pub use recovery::{Action, MomentText, RecoveryPlan, RecoveryTarget, TimelineChoice};
pub use values::{
    BackupChoice, ByteSize, LockBackups, MetadataSource, Passthrough, Port, Seconds, Settings,
};
pub use verify::{
    CommandCheck, Databases, KnownBadPolicy, RestoreBy, SqlCheck, VerifyChoice, VerifyPlan,
    VerifyProfile,
};
