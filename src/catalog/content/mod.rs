//! `backup_content.control`: a backup's contents, one object per line.
//!
//! ```text
//! {"path":"base/5/2619", "size":"1740", "mode":"33152", "is_datafile":"1", .. ,"segno":"0"}
//! ```
//! It looks like JSON but is not (`write_backup_filelist` in pg_probackup's backup.c,
//! `get_control_value_str` in util.c): nothing is escaped, a backslash is literal, the
//! first `"` ends a value, and every number is a quoted string. The lines are in no
//! particular order.

mod entry;
mod error;
mod line;
mod list;
mod packed;
mod reader;

pub use entry::FileEntry;
pub use error::{ContentError, LineError};
pub use list::ContentList;

/// The file type bits of `st_mode`, and the two types that are listed.
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;

/// Maximum length of a line in bytes. pg_probackup reads lines of less than 8 KiB.
const LINE_MAX: usize = 16 << 10;
