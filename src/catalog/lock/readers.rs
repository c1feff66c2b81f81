//! `backup_ro.pid`, the list of a backup's readers. It is changed only while holding
//! `backup.pid`.

use std::io::{self, Write};

use super::error::file_error;
use super::holder::Holder;
use super::{LIMIT, LockError};
use crate::escape::value;
use crate::untrusted::{Dir, Kind, Refused, found};

pub(super) const READERS_FILE: &str = "backup_ro.pid";
pub(super) const READERS_TEMP_FILE: &str = "backup_ro.pidtmp";

/// Returns the running readers other than `own`, in the order listed. Readers block
/// nobody, so those of other users are kept.
pub(super) fn read(dir: &Dir, own: Holder) -> Result<Vec<Holder>, LockError> {
    let text = content(dir, READERS_FILE)?;
    let mut living = Vec::new();
    for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        match Holder::parse(line) {
            Some(reader) if reader != own && reader.is_alive() => living.push(reader),
            Some(_) => {}
            None => tracing::warn!(
                file = %value(&dir.path().join(READERS_FILE)),
                "dropping a line that names no process"
            ),
        }
    }
    Ok(living)
}

/// Whether a lock file names a process, running or not.
pub(super) fn names(dir: &Dir, file: &str, pid: u32) -> Result<bool, LockError> {
    let text = content(dir, file)?;
    let mut named = text.split(|&b| b == b'\n').filter_map(Holder::parse);
    Ok(named.any(|holder| holder.number() == pid))
}

/// Returns the content of a lock file; empty if there is none.
fn content(dir: &Dir, file: &str) -> Result<Vec<u8>, LockError> {
    let text = found(dir.read(file, LIMIT)).map_err(|e| file_error(dir.path(), file, e))?;
    Ok(text.unwrap_or_default())
}

/// Replaces the list, or removes it if it is empty.
pub(super) fn write(dir: &Dir, readers: &[Holder]) -> Result<(), LockError> {
    if readers.is_empty() {
        let removed = dir.remove_file(READERS_FILE);
        return removed.map_err(|error| file_error(dir.path(), READERS_FILE, error));
    }
    let temp = |error| file_error(dir.path(), READERS_TEMP_FILE, error);
    clear_temp(dir).map_err(temp)?;
    let mut file = dir.create(READERS_TEMP_FILE, 0o600).map_err(temp)?;
    let list: String = readers
        .iter()
        .map(|reader| format!("{}\n", reader.number()))
        .collect();
    let written = file
        .write_all(list.as_bytes())
        .and_then(|()| dir.rename(READERS_TEMP_FILE, READERS_FILE));
    written.map_err(|error| {
        // If this fails as well, the next writer removes the file.
        let _ = dir.remove_file(READERS_TEMP_FILE);
        file_error(dir.path(), READERS_FILE, error)
    })
}

/// Removes what a killed writer has left, but nothing that a writer cannot have left: a
/// link, for example, was put there by somebody for some reason.
fn clear_temp(dir: &Dir) -> io::Result<()> {
    match dir.stat(READERS_TEMP_FILE)? {
        None => Ok(()),
        Some(stat) if stat.kind == Kind::File => dir.remove_file(READERS_TEMP_FILE),
        Some(stat) => Err(Refused::Is(stat.kind).into()),
    }
}
