//! The changes of a clone, file by file: from a mounted overlay, or from the records of
//! a diff that is not in use.

mod change;
mod mounted;
mod survey;

pub use change::{Change, ChangeKind};
pub use survey::changes;
