//! An S3 server over a directory, with faults: `tests/s3`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::sandbox::{Profile, Sandbox};

/// Where `tests/run.sh` installs it.
const PROGRAM: &str = "/var/cache/pbkfs-tests/bin/pbkfs-s3";

/// Fails unless the server is installed; returns its program.
pub fn require_s3() -> PathBuf {
    let program = std::env::var_os("PBKFS_TEST_S3").map_or(PROGRAM.into(), PathBuf::from);
    assert!(
        program.exists(),
        "this test needs an S3 server, {}: tests/run.sh builds it",
        program.display()
    );
    program
}

/// A running server, which ends with this value.
pub struct S3 {
    process: Child,
    address: String,
    faults: PathBuf,
    /// The catalog in the bucket.
    pub url: String,
    dir: TempDir,
}

impl S3 {
    /// Serves the sandbox's catalog. The bucket is not in the sandbox: what the server has
    /// there would be taken for something that pbkfs has left.
    pub fn serve(sandbox: &Sandbox) -> S3 {
        let dir = TempDir::new().unwrap();
        let (root, faults) = (dir.path().join("s3"), dir.path().join("faults"));
        fs::create_dir_all(root.join("backups")).unwrap();
        // A name that no other test has: root's history of verifications is that of the host.
        let name = sandbox.dir().file_name().unwrap().to_str().unwrap();
        symlink(&sandbox.fixture.catalog, root.join("backups").join(name)).unwrap();
        fs::write(&faults, "").unwrap();
        let mut process = Command::new(require_s3())
            .args([&root, &faults])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut address).unwrap();
        S3 {
            process,
            address: address.trim().to_owned(),
            faults,
            url: format!("s3://backups/{name}"),
            dir,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a profile read its catalog from here.
    pub fn profile<'a>(&self, profile: Profile<'a>) -> Profile<'a> {
        profile
            .catalog_at(&self.url)
            .storage("endpoint", &format!("{:?}", self.endpoint()))
            .storage("allow_http", "true")
    }

    /// From now on, this goes wrong: lines as in `tests/s3/src/faults.rs`.
    pub fn faults(&self, lines: &str) {
        // At once, because it is read at any moment.
        let new = self.faults.with_extension("new");
        fs::write(&new, lines).unwrap();
        fs::rename(&new, &self.faults).unwrap();
    }

    /// Returns the numbers of requests and of bytes since the last call of
    /// [`Self::forget`].
    pub fn stats(&self) -> (u64, u64) {
        let text = self.get("/.stats");
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    pub fn forget(&self) {
        self.get("/.forget");
    }

    fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        body.to_owned()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The credentials, as variables of the environment.
pub fn credentials() -> [(&'static str, &'static str); 2] {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
}
