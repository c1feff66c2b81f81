//! Reads everything in a mount, as `cp -r` or a backup would.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use crate::case::CANARY;

/// Number of bytes that are read at the start and at the end of a file: a sparse file
/// may have terabytes.
const HEAD: u64 = 4 << 20;
const TAIL: i64 = 64 << 10;

/// Returns the files below `root` that expose the contents of a file outside. Errors
/// of single files do not matter here.
pub fn leaks(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, &mut Vec::new(), &mut found);
    found
}

/// `above` holds the inodes of the directories above this one.
fn walk(dir: &Path, above: &mut Vec<u64>, found: &mut Vec<PathBuf>) {
    let Ok(meta) = fs::symlink_metadata(dir) else {
        return;
    };
    assert!(
        !above.contains(&meta.ino()),
        "{} contains itself, so a walk never ends",
        dir.display()
    );
    above.push(meta.ino());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            walk(&path, above, found);
        } else if kind.is_file() && shows_the_canary(&path).unwrap_or(false) {
            found.push(path);
        } else if kind.is_symlink() || kind.is_fifo() || kind.is_socket() {
            let _ = fs::read_link(&path);
        }
    }
    above.pop();
}

fn shows_the_canary(path: &Path) -> io::Result<bool> {
    let mut file = File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == HEAD {
        file.seek(SeekFrom::End(-TAIL))?;
        file.take(TAIL.unsigned_abs()).read_to_end(&mut bytes)?;
    }
    Ok(memchr::memmem::find(&bytes, CANARY.as_bytes()).is_some())
}
