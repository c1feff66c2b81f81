//! Timeline histories, and the names of segments, relations and backups.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::{BackupId, CompressAlg, ProgramVersion};
use pbkfs::pg::relation::RelationFile;
use pbkfs::pg::wal::segment::{backup_history_segment, history_timeline, is_segment_name};
use pbkfs::pg::wal::{History, SegmentId, SegmentSize};
use pbkfs::pg::{BlockNumber, Lsn};
use pbkfs_fuzz::choice;

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = choice(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(history) = History::parse(u32::from(how), &text) {
        for ancestor in &history.ancestors {
            assert!(ancestor.timeline < history.timeline);
            let _ = history.timeline_at(ancestor.end);
        }
        let _ = history.parent();
    }
    let name = text.lines().next().unwrap_or_default();
    let _ = (
        history_timeline(name),
        backup_history_segment(name),
        is_segment_name(name),
    );
    if let Some(size) = SegmentSize::new(1 << 20 << (how % 11))
        && let Some(id) = SegmentId::parse(name, size)
    {
        assert_eq!(id.name(size).to_string(), name.to_ascii_uppercase());
        let _ = (id.start(size), id.end(size));
        let _ = (id.next().start(size), id.next().name(size).to_string());
    }
    if let Some(file) = RelationFile::parse(name) {
        let _ = file.absolute(BlockNumber(u32::from(how)));
    }
    let _ = BackupId(name.to_owned()).start_time();
    let _ = (name.parse::<Lsn>(), name.parse::<ProgramVersion>());
    let _ = name.parse::<CompressAlg>();
});
