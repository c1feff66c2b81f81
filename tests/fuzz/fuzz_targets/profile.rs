//! A profile's text, up to the plan.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pbkfs::internals::profile::Profile;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Profile::parse(text, Path::new("/etc/pbkfs/fuzz.toml")) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(profile) => {
            let _ = profile.plan().map_err(|error| error.to_string());
        }
    }
});
