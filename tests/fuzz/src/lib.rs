//! What several targets need.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use pbkfs::catalog::content::FileEntry;

/// A file of these bytes that is in memory only.
pub fn file_of(bytes: &[u8]) -> File {
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.write_all_at(bytes, 0).expect("room in memory");
    file
}

/// A data file's line of a content list, of `size` stored bytes.
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

/// The first byte, by which a target chooses, and the rest.
pub fn choice(bytes: &[u8]) -> (u8, &[u8]) {
    bytes
        .split_first()
        .map_or((0, bytes), |(first, rest)| (*first, rest))
}
