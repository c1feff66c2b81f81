//! The bundled catalogs, for the benchmarks.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Unpacks the bundled catalog of that name into `dir`, and returns its path.
pub fn unpack(name: &str, dir: &Path) -> PathBuf {
    let place = include!("../common/bundled.rs");
    let packed = place(name).join("catalog.tar.zst");
    let mut tar = Command::new("tar")
        .args(["--extract", "--no-same-owner", "--directory"])
        .arg(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut unpacked = zstd::Decoder::new(File::open(packed).unwrap()).unwrap();
    io::copy(&mut unpacked, &mut tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    dir.join("catalog")
}
