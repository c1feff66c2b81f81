//! Where configuration files are read from: a clone's data directory, whose contents
//! its superuser controls, and the host, as far as the clone's server could read
//! there.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::untrusted::{self, Dir, Rights, as_user};

/// Maximum size of a configuration file, in bytes. PostgreSQL's own sample has 30 KB.
pub const LIMIT: u64 = 1 << 20;

/// Where configuration files are read from.
pub trait Source {
    /// Reads a file.
    ///
    /// # Errors
    /// If there is none (`NotFound`), it is not a regular file, or it is too large.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Returns the names in a directory, in any order.
    ///
    /// # Errors
    /// If there is none (`NotFound`).
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>>;
}

/// The host's files, as the server's user sees them.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// That user, if it is not this process's.
    pub rights: Option<Rights>,
}

impl Source for Host {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        as_user(self.rights.as_ref(), || {
            // Links are resolved here as the server would resolve them.
            let path = path.canonicalize()?;
            untrusted::read(&path, LIMIT)
        })
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        as_user(self.rights.as_ref(), || Dir::open(dir)?.names())
    }
}

/// A clone's data directory, and the host outside it.
pub struct InClone<'a> {
    /// The data directory's path.
    pub root: &'a Path,
    /// The contents of the data directory, by relative paths.
    pub inside: &'a dyn Source,
    /// Everything else.
    pub host: Host,
    /// The host's files that the backup's own configuration includes. An include that
    /// the clone has added could show it any file of the host.
    pub known: &'a [PathBuf],
}

impl InClone<'_> {
    /// Returns where a path is read from, and the path there.
    ///
    /// # Errors
    /// Returns `PermissionDenied`, with the reason, if it is outside and the backup does
    /// not include it.
    fn place(&self, path: &Path) -> io::Result<(&dyn Source, PathBuf)> {
        if let Ok(inside) = normal(path).strip_prefix(self.root) {
            return Ok((self.inside, inside.to_owned()));
        }
        if self.known.iter().any(|known| known == path) {
            return Ok((&self.host, path.to_owned()));
        }
        let reason = "the backup's own configuration does not include it";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    }
}

impl Source for InClone<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (source, path) = self.place(path)?;
        source.read(&path)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let (source, dir) = self.place(dir)?;
        source.names(&dir)
    }
}

/// Returns a path without `.` and `..`; no link is resolved.
#[must_use]
pub fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::server::Conf;
    use crate::untrusted::{Kind, Refused, refused};

    /// A directory in place of a session's data directory.
    struct InDir<'a>(&'a Dir);

    impl Source for InDir<'_> {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            self.0.read(path, LIMIT)
        }

        fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
            match dir.as_os_str().is_empty() {
                true => self.0.names(),
                false => self.0.dir(dir)?.names(),
            }
        }
    }

    #[test]
    fn a_clones_configuration_is_read_without_being_led_astray() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside.conf");
        fs::write(&outside, "work_mem = 1\n").unwrap();
        let path = temp.path().join("data");
        fs::create_dir(&path).unwrap();
        let data = Dir::open(&path).unwrap();
        let source = InClone {
            root: &path,
            inside: &InDir(&data),
            host: Host::default(),
            known: &[path.join("../outside.conf")],
        };
        let main = |text: &str| fs::write(path.join("postgresql.conf"), text).unwrap();
        let read = || Conf::read_from(&source, &path);

        main("include '../outside.conf'\ninclude_dir '.'");
        fs::write(path.join("x.conf"), "a = 1").unwrap();
        let conf = read().unwrap();
        assert_eq!(
            (conf.get("work_mem"), conf.get("a")),
            (Some("1"), Some("1"))
        );

        for other in [
            "include '/dev/zero'",
            "include_dir '/etc'",
            "include '/nowhere'",
        ] {
            main(other);
            let left_out = read().unwrap().left_out;
            assert!(
                left_out[0].reason.contains("does not include it"),
                "{left_out:?}"
            );
        }
        let device = InClone {
            root: &path,
            inside: &InDir(&data),
            host: Host::default(),
            known: &["/dev/zero".into()],
        };
        main("include '/dev/zero'");
        let error = Conf::read_from(&device, &path).unwrap_err();
        assert!(error.to_string().contains("a device"));
        nix::unistd::mkfifo(&path.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        main("include 'fifo'");
        assert!(read().unwrap_err().to_string().contains("a named pipe"));
        symlink(&outside, path.join("link")).unwrap();
        let link = source.read(&path.join("link")).unwrap_err();
        assert_eq!(refused(&link), Some(Refused::Is(Kind::Symlink)));
        main(&"#".repeat(2 << 20));
        assert!(read().unwrap_err().to_string().contains("larger than"));
        // Each level would read a hundred times as many.
        main(&"include 'postgresql.conf'\n".repeat(100));
        assert!(read().unwrap_err().to_string().contains("postgresql.conf"));
    }
}
