//! What a clone has changed, file by file: of a mounted overlay, or of the
//! records of a diff that nobody uses.

mod change;
mod mounted;
mod survey;

pub use change::{Change, ChangeKind};
pub use survey::changes;
