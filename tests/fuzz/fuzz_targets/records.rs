//! A stored data file, scanned for the positions of its records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::ProgramVersion;
use pbkfs::catalog::pages::PageIndex;
use pbkfs::pg::BlockNumber;
use pbkfs_fuzz::{choice, file_of};

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = choice(bytes);
    let version = match how % 2 {
        0 => ProgramVersion::new(2, 5, 16),
        _ => ProgramVersion::new(2, 2, 0),
    };
    let Ok(index) = PageIndex::from_records(&file_of(bytes), version) else {
        return;
    };
    let mut pages = 0;
    for (blocks, first) in index.runs() {
        for (block, page) in blocks.zip(first..) {
            assert_eq!(index.find(BlockNumber(block)), Some(page));
            let place = index.records().place(page).expect("it is stored");
            let record = &bytes[place.start as usize..place.end as usize];
            assert!(index.records().payload(record, BlockNumber(block)).is_ok());
            pages += 1;
        }
    }
    assert_eq!(pages, index.len());
});
