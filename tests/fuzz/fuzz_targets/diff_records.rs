//! The records of a diff: those in its store, and its binding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::internals::diff::{Binding, ContentRecord, HeldBlocks, InodeRecord, system_time};
use pbkfs::internals::overlay::apply_delta;
use pbkfs::pg::BLOCK_SIZE;
use pbkfs_fuzz::choice;

fuzz_target!(|bytes: &[u8]| {
    let (how, bytes) = choice(bytes);
    match how % 5 {
        0 => round_trip::<InodeRecord>(bytes, |record| {
            let _ = (system_time(record.mtime_ns), system_time(record.ctime_ns));
        }),
        1 => round_trip::<ContentRecord>(bytes, |_| {}),
        2 => round_trip::<Binding>(bytes, |binding| {
            assert!(binding.same_image(binding) && !binding.to_string().is_empty());
        }),
        3 => {
            let chunk = u32::from(how) / 5;
            let mut held = HeldBlocks::default();
            if held.add(chunk, bytes).is_ok() {
                assert!(held.data.is_disjoint(&held.small));
                let mut again = HeldBlocks::default();
                again
                    .add(chunk, &held.encode().expect("a buffer takes all"))
                    .expect("our own");
                assert_eq!(held, again);
            }
        }
        _ => {
            let from = usize::from(how) * 37 % BLOCK_SIZE;
            let mut part = vec![0; BLOCK_SIZE - from];
            let _ = apply_delta(bytes, from, &mut part);
        }
    }
});

fn round_trip<R>(bytes: &[u8], look: impl Fn(&R))
where
    R: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let Ok(record) = serde_json::from_slice::<R>(bytes) else {
        return;
    };
    look(&record);
    let again = serde_json::to_vec(&record).expect("it can be written");
    assert_eq!(
        serde_json::from_slice::<R>(&again).expect("our own"),
        record
    );
}
