// An expression: the bundled catalog `pg15-hazards`, unpacked, as a `TempDir` with the
// catalog in its directory `catalog`. The examples in the library's documentation
// include it.
{
    use std::process::{Command, Stdio};

    let dir = tempfile::tempdir().unwrap();
    let place = include!("bundled.rs");
    let packed = std::fs::File::open(place("pg15-hazards").join("catalog.tar.zst")).unwrap();
    let mut tar = Command::new("tar")
        .args(["-x", "--no-same-owner", "-C"])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    zstd::stream::copy_decode(packed, tar.stdin.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    dir
}
