//! `postgresql.conf`, with the files it includes.

#![no_main]

use std::ffi::OsString;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pbkfs::internals::server::Conf;
use pbkfs::internals::server::conf::Source;

/// A data directory whose two configuration files are identical, with a file `a`, and
/// a directory `d` with one file in it.
struct Files<'a>(&'a [u8]);

impl Source for Files<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let here = ["postgresql.conf", "postgresql.auto.conf", "a", "d/b.conf"];
        match here
            .iter()
            .any(|name| path == Path::new("/data").join(name))
        {
            true => Ok(self.0.to_vec()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        match dir == Path::new("/data/d") {
            true => Ok(vec!["b.conf".into(), ".c.conf".into()]),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(conf) = Conf::read_from(&Files(bytes), Path::new("/data")) {
        let _ = (conf.socket_dirs(), conf.get("port"));
        assert!(conf.has_main_file);
    }
});
