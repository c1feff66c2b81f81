//! Conversions between the overlay's types and fuser's.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::diff::InodeKind;
use crate::overlay::{Attr, FallocateMode, TimeChange};

pub fn file_type(kind: InodeKind) -> FileType {
    match kind {
        InodeKind::File => FileType::RegularFile,
        InodeKind::Directory => FileType::Directory,
        InodeKind::Symlink => FileType::Symlink,
        InodeKind::Fifo => FileType::NamedPipe,
        InodeKind::Socket => FileType::Socket,
    }
}

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        // Masked to 12 bits, so it fits.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 8192,
        flags: 0,
    }
}

/// Returns the reply "no such name", which the kernel may cache.
pub fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::SpecificTime(time) => TimeChange::At(time),
        TimeOrNow::Now => TimeChange::Now,
    }
}

pub fn fallocate_mode(mode: i32) -> Option<FallocateMode> {
    use nix::libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
    const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    Some(match mode {
        0 => FallocateMode::Extend,
        FALLOC_FL_KEEP_SIZE => FallocateMode::KeepSize,
        PUNCH => FallocateMode::PunchHole,
        FALLOC_FL_ZERO_RANGE => FallocateMode::ZeroRange { keep_size: false },
        ZERO_KEEP => FallocateMode::ZeroRange { keep_size: true },
        _ => return None,
    })
}
