//! The directory of a diff and its files other than data and metadata.

mod binding;
mod parts;
mod promotion;
mod record;
mod root;
mod wal_dir;

pub use binding::{Binding, FORMAT_VERSION};
pub(super) use binding::{check, write};
pub use promotion::Promotion;
pub(super) use promotion::write as record_promotion;
pub use root::Root;
pub(super) use wal_dir::disk_usage;
