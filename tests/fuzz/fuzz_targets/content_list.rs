//! `backup_content.control`.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use pbkfs::internals::catalog::content_list;

fuzz_target!(|bytes: &[u8]| {
    let Ok(list) = content_list(bytes, Path::new("list")) else {
        return;
    };
    for (index, entry) in list.iter().enumerate() {
        assert_eq!(list.find(entry.path, entry.external_dir_num), Some(index));
        let path = std::str::from_utf8(entry.path).map(Path::new);
        let is_plain = |part| matches!(part, Component::Normal(_));
        assert!(path.is_err() || path.is_ok_and(|path| path.components().all(is_plain)));
    }
    // The memory for a list is bounded by its size, except for the smallest lists.
    assert!(list.memory_bytes() <= 16 * bytes.len() + 4096);
});
