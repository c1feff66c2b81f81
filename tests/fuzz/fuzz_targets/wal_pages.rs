//! WAL pages, and the records on them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::pg::Lsn;
use pbkfs::pg::wal::page::{PAGE_SIZE, PageHeader};
use pbkfs::pg::wal::scan::Scanner;
use pbkfs::pg::wal::{SegmentId, SegmentSize};
use pbkfs_fuzz::choice;

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = choice(bytes);
    let Some(size) = SegmentSize::new(1 << 20 << (how % 11)) else {
        return;
    };
    let Ok(first) = PageHeader::parse(bytes) else {
        return;
    };
    let id = SegmentId::containing(first.address, first.timeline.max(1), size);
    let system_identifier = first.long.map(|long| long.system_identifier);
    let _ = first.check_first(id, size, system_identifier);
    // The scan must find the pages at the address they claim.
    let start = match how & 0x80 {
        0 => first.address,
        _ => Lsn(u64::MAX - u64::from(how)),
    };
    let mut scanner = Scanner::new(start);
    for page in bytes.chunks(PAGE_SIZE) {
        scanner.page(page);
    }
    let _ = scanner
        .told()
        .times
        .map(|(from, to)| (from.to_offset(), to.to_offset()));
    let _ = format!("{:?} {:?}", scanner.end(), scanner.last_end());
    let _ = format!("{:?}", scanner.told());
});
