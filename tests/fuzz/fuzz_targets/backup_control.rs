//! `backup.control`, and the backup it describes.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::store::{LocalStore, Place};
use pbkfs::internals::catalog::backup;

fuzz_target!(|bytes: &[u8]| {
    let catalog = Place::root(Arc::new(LocalStore::new("/c".into())));
    let Ok(backup) = backup(&catalog.join("backups/main/X"), bytes) else {
        return;
    };
    // The fields that `list` and `plan` show.
    let _ = format!("{backup:?} {} {}", backup.id, backup.program_version);
    let _ = (backup.server_major(), backup.id.start_time());
    let _ = backup.content().name();
});
