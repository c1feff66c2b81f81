//! Helpers shared by several targets.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use pbkfs::catalog::content::FileEntry;

/// Returns an in-memory file with these bytes.
pub fn file_of(bytes: &[u8]) -> File {
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.write_all_at(bytes, 0).expect("room in memory");
    file
}

/// Returns a data file's line of a content list, with `size` stored bytes.
pub fn data_file(size: i64) -> FileEntry<'static> {
    FileEntry {
        path: b"base/5/2619",
        size,
        mode: 0o100_600,
        is_datafile: true,
        db_oid: 5,
        ..FileEntry::default()
    }
}

/// Splits off the first byte, with which a target chooses.
pub fn choice(bytes: &[u8]) -> (u8, &[u8]) {
    bytes
        .split_first()
        .map_or((0, bytes), |(first, rest)| (*first, rest))
}
