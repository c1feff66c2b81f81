// An expression: the bundled catalog `pg15-hazards`, unpacked, as a `TempDir` with the
// catalog in its directory `catalog`. The examples in the library's documentation
// include it.
{
    use std::process::{Command, Stdio};

    let dir = tempfile::tempdir().unwrap();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/postgres/fixtures/pg15-hazards");
    let packed = std::fs::File::open(format!("{bundled}/catalog.tar.zst")).unwrap();
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
