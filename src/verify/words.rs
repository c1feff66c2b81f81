//! The words by which PostgreSQL and its programs tell whose fault something is:
//! data of another program, in the language that its messages always have here.
//! Nothing else in `verify` is judged by words, and none of our own.

/// What PostgreSQL says when the host is at fault.
const HOST: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "out of memory",
    "Permission denied",
    "Operation not permitted",
    "Too many open files",
    "Read-only file system",
    "File too large",
    "Transport endpoint is not connected",
    "could not access file \"$libdir",
    "could not load library",
    "shared memory",
    "was terminated by signal 9",
    "canceling statement due to",
    // One that no damaged page explains is of a disk.
    "Input/output error",
];

/// What it says when its files are.
const DAMAGE: &[&str] = &[
    "invalid page in block",
    "page verification failed",
    "could not read block",
    "invalid checkpoint record",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "could not find redo location",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "WAL contains references to invalid pages",
    "incorrect resource manager data checksum",
    "invalid magic number",
    "unexpected pageaddr",
    "incorrect checksum in control file",
    "control file appears to be corrupt",
    "incorrect checksum in file",
    "relation mapping file",
    "invalid data in file",
    "could not access status of transaction",
    "is not a valid data directory",
    "could not open file \"base/",
    "could not open file \"global/",
    "could not open file \"pg_",
    "missing chunk number",
    "unexpected chunk number",
    "compressed pglz data is corrupt",
    "compressed lz4 data is corrupt",
    "unexpected zero page",
    "contains corrupted page",
    "invalid memory alloc request size",
    "backup_label contains data inconsistent with control file",
    "was terminated by signal 6",
    "was terminated by signal 11",
    "was terminated by signal 7",
];

/// Whether these words blame the host.
#[must_use]
pub fn blame_host(text: &str) -> bool {
    says(text, HOST)
}

/// Whether these words blame PostgreSQL's files.
#[must_use]
pub fn blame_files(text: &str) -> bool {
    says(text, DAMAGE)
}

fn says(text: &str, list: &[&str]) -> bool {
    list.iter().any(|what| text.contains(what))
}
