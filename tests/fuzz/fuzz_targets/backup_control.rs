//! `backup.control`, and the backup that it describes.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::store::{LocalStore, Place};
use pbkfs::catalog::{ControlFile, from_control};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = ControlFile::parse(Path::new("backup.control"), bytes) else {
        return;
    };
    let catalog = Place::root(Arc::new(LocalStore::new("/c".into())));
    let Ok(backup) = from_control(&catalog.join("backups/main/X"), &file) else {
        return;
    };
    // What `list` and `plan` show of it.
    let _ = format!("{backup:?} {} {}", backup.id, backup.program_version);
    let _ = (backup.server_major(), backup.id.start_time());
    let _ = backup.content_path();
});
