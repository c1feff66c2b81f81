//! Files that are there whole or not at all: written beside their place, and
//! renamed into it at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where what becomes `path` is written. Always the same name: what a killed
/// process has left there is written over by the next.
#[must_use]
pub fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.pbkfs-part"))
}

/// Begins such a file.
///
/// # Errors
/// It cannot be made.
pub fn create(path: &Path, mode: u32) -> io::Result<File> {
    let part = part_of(path);
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(&part)
}

/// Puts a finished one, a file or a directory, into its place, durably.
///
/// # Errors
/// It cannot be renamed.
pub fn commit(path: &Path) -> io::Result<()> {
    let part = part_of(path);
    File::open(&part)?.sync_all()?;
    fs::rename(&part, path)?;
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes a whole file.
///
/// # Errors
/// It cannot be written; what stood there before still does.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let written = create(path, 0o644)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| commit(path));
    if written.is_err() {
        // The failure is told already.
        let _ = fs::remove_file(part_of(path));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prom");
        fs::write(part_of(&path), "left by a killed one").unwrap();
        write(&path, "one\n").unwrap();
        write(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("no/x"), "").is_err());
    }
}
