//! `global/pg_control`, with its checksum corrected.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::pg::control::ControlFile;

fuzz_target!(|bytes: &[u8]| {
    let _ = ControlFile::parse(bytes);
    for at in [288, 292] {
        let mut bytes = bytes.to_vec();
        if bytes.len() >= at + 4 {
            let crc = crc32c::crc32c(&bytes[..at]);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
        if let Ok(control) = ControlFile::parse(&bytes) {
            let _ = format!("{control:?} {} {}", control.state, control.checkpoint);
        }
    }
});
