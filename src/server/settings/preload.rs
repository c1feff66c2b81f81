//! Libraries that the backup's configuration wants loaded into the server.
//!
//! A library that is not installed here would keep the server, or every session, from
//! starting. The lists are filtered, not emptied: some databases do not work without
//! one of their libraries (pgaudit's event trigger, for example).

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::list::{quote, split};
use crate::server::conf::Conf;
use crate::server::error::ServerError;
use crate::untrusted::{self, Rights, as_user};

/// The settings that name libraries, each with the subdirectory in which a plain name
/// is searched for.
const SETTINGS: [(&str, &str); 3] = [
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", "plugins"),
];

/// The setting that keeps pg_cron from running its jobs. A pg_cron without it (before
/// 1.5) would run them, possibly on production, to which a job's node and port may
/// point.
const CRON_SWITCH: &[u8] = b"cron.launch_active_jobs";

/// A library that will not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its name in the configuration.
    pub library: String,
    /// Why it is not loaded.
    pub reason: &'static str,
}

/// One setting's list of libraries, some of which are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preload {
    /// The setting.
    pub setting: &'static str,
    /// The libraries that are loaded, in order.
    pub kept: Vec<String>,
    /// The libraries that are not loaded; never empty.
    pub dropped: Vec<Dropped>,
}

impl Preload {
    /// Returns the filtered list as the setting's value.
    #[must_use]
    pub fn value(&self) -> String {
        self.kept
            .iter()
            .map(|name| quote(name))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Maximum number of libraries per list, and of directories, that are checked: the
/// clone can write the lists, and each library is searched for in each directory.
const MOST: usize = 128;

/// The longest path that the kernel accepts, in bytes (`PATH_MAX`).
const LONGEST: usize = 4096;

/// Returns the lists that have to be changed for a server whose libraries are in
/// `pkglibdir`. What the lists name is resolved with the permissions of the server's
/// user: the lists could name any file of the host, and the result reveals whether it
/// exists.
///
/// # Errors
/// Returns [`ServerError::Read`] if these permissions cannot be assumed.
pub fn filter(
    conf: &Conf,
    pkglibdir: &Path,
    rights: Option<&Rights>,
) -> Result<Vec<Preload>, ServerError> {
    let lists = || {
        let lists = SETTINGS.iter();
        let lists = lists.filter_map(|(setting, plain_dir)| {
            let libraries = split(conf.get(setting)?);
            list(setting, libraries, |library| {
                locate(library, conf, pkglibdir, plain_dir)
            })
        });
        Ok(lists.collect())
    };
    as_user(rights, lists).map_err(unreadable(pkglibdir))
}

fn list(
    setting: &'static str,
    libraries: Vec<String>,
    locate: impl Fn(&str) -> Option<PathBuf>,
) -> Option<Preload> {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (at, library) in libraries.into_iter().enumerate() {
        let located = || locate(&library);
        let reason = match (at < MOST).then(located) {
            None => "too many libraries precede it",
            Some(None) => "it is not installed here",
            Some(Some(file)) if is_untamed_cron(&file) => {
                "this version of pg_cron would run the backup's jobs"
            }
            Some(Some(_)) => {
                kept.push(library);
                continue;
            }
        };
        dropped.push(Dropped { library, reason });
    }
    (!dropped.is_empty()).then_some(Preload {
        setting,
        kept,
        dropped,
    })
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Read {
        path: path.to_owned(),
        source,
    }
}

/// Maximum number of bytes that are read of a library.
const LIBRARY_LIMIT: u64 = 64 << 20;

/// Returns the files of the libraries that are loaded from outside `pkglibdir`. The
/// server will be able to see them, so they have to be libraries: the clone can write
/// the lists, and could name any file of the host.
///
/// # Errors
/// As for [`filter`].
pub fn elsewhere(
    conf: &Conf,
    pkglibdir: &Path,
    rights: Option<&Rights>,
) -> Result<Vec<PathBuf>, ServerError> {
    let files = || {
        let lists = SETTINGS.iter();
        let files = lists.flat_map(|(setting, plain_dir)| {
            let libraries = split(conf.get(setting).unwrap_or_default());
            libraries
                .into_iter()
                .take(MOST)
                .filter_map(move |library| locate(&library, conf, pkglibdir, plain_dir))
        });
        let elsewhere = files
            .filter(|file| !file.starts_with(pkglibdir) && !conf.is_inside(file))
            .filter(|file| is_library(file));
        Ok(elsewhere.collect())
    };
    as_user(rights, files).map_err(unreadable(pkglibdir))
}

/// Returns the library's file, searched for as in PostgreSQL's dfmgr.c. A library in
/// the data directory is assumed to exist: the directory may be a mount that this
/// very process serves, and must not access.
fn locate(library: &str, conf: &Conf, pkglibdir: &Path, plain_dir: &str) -> Option<PathBuf> {
    if library.len() >= LONGEST {
        return None;
    }
    let expand = |path: &str| match path.strip_prefix("$libdir") {
        Some(rest) => pkglibdir.join(rest.trim_start_matches('/')),
        None => PathBuf::from(path),
    };
    let candidates: Vec<PathBuf> = if library.contains('/') {
        vec![expand(library)]
    } else if plain_dir.is_empty() {
        let search = conf.get("dynamic_library_path").unwrap_or("$libdir");
        let dirs = search.split(':').take(MOST);
        let dirs = dirs.filter(|dir| dir.len() < LONGEST);
        dirs.map(|dir| expand(dir.trim()).join(library)).collect()
    } else {
        vec![pkglibdir.join(plain_dir).join(library)]
    };
    candidates.into_iter().find_map(|path| {
        let mut with_suffix = path.clone().into_os_string();
        with_suffix.push(".so");
        [path, with_suffix.into()]
            .into_iter()
            .find(|path| conf.is_inside(path) || path.is_file())
    })
}

/// Returns whether a file begins as all programs and libraries do (`elf(5)`).
fn is_library(file: &Path) -> bool {
    let begins = || {
        let mut start = [0; 4];
        untrusted::open(&file.canonicalize()?)?.read_exact(&mut start)?;
        Ok::<_, io::Error>(start)
    };
    begins().is_ok_and(|start| &start == b"\x7fELF")
}

fn is_untamed_cron(file: &Path) -> bool {
    let is_cron = file.file_stem().is_some_and(|stem| stem == "pg_cron");
    // Unreadable counts as untamed: PostgreSQL could not load it either.
    let read = || untrusted::read(&file.canonicalize()?, LIBRARY_LIMIT);
    is_cron
        && read().map_or(true, |bytes| {
            !bytes
                .windows(CRON_SWITCH.len())
                .any(|window| window == CRON_SWITCH)
        })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::server::conf::{Host, Source};

    fn filtered(conf: &str, libraries: &[(&str, &str)]) -> Vec<Preload> {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        fs::create_dir_all(lib.join("plugins")).unwrap();
        for (name, text) in libraries {
            fs::write(lib.join(name), text).unwrap();
        }
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("postgresql.conf"), conf).unwrap();
        let conf = Conf::read_from(&Host::default(), &data).unwrap();
        filter(&conf, &lib, None).unwrap()
    }

    #[test]
    fn what_is_not_installed_is_dropped_and_the_rest_stays() {
        let found = filtered(
            "shared_preload_libraries = 'pgaudit, $libdir/gone, auto_explain.so,\"a b\"'",
            &[("pgaudit.so", ""), ("auto_explain.so", ""), ("a b.so", "")],
        );
        let [preload] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(preload.value(), "pgaudit, auto_explain.so, \"a b\"");
        assert_eq!(preload.dropped.len(), 1);
        assert_eq!(preload.dropped[0].library, "$libdir/gone");
    }

    #[test]
    fn lists_that_can_be_loaded_stay_as_they_are() {
        let conf = "shared_preload_libraries = 'pgaudit'\nsession_preload_libraries = ''";
        assert_eq!(filtered(conf, &[("pgaudit.so", "")]), []);
        assert_eq!(filtered("port = 1", &[]), []);
    }

    #[test]
    fn local_libraries_are_looked_for_among_the_plugins() {
        let conf = "local_preload_libraries = 'a'\nsession_preload_libraries = 'a'";
        let found = filtered(conf, &[("plugins/a.so", "")]);
        let settings: Vec<_> = found.iter().map(|preload| preload.setting).collect();
        assert_eq!(settings, ["session_preload_libraries"]);
    }

    #[test]
    fn a_pg_cron_that_cannot_be_held_back_is_dropped() {
        let conf = "shared_preload_libraries = 'pg_cron'";
        assert_eq!(
            filtered(conf, &[("pg_cron.so", "..cron.launch_active_jobs..")]),
            []
        );
        assert_eq!(filtered(conf, &[("pg_cron.so", "..cron.host..")]).len(), 1);
    }

    #[test]
    fn the_data_directory_is_not_looked_into() {
        let conf = "shared_preload_libraries = '/data/mine.so'";
        let conf = Conf::read_from(&OneFile(conf), Path::new("/data")).unwrap();
        let lib = Path::new("/usr/lib/none");
        assert_eq!(filter(&conf, lib, None).unwrap(), []);
        let none = [""; 0].map(PathBuf::from);
        assert_eq!(elsewhere(&conf, lib, None).unwrap(), none);
    }

    /// A data directory with nothing but a `postgresql.conf`.
    struct OneFile(&'static str);

    impl Source for OneFile {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            match path.ends_with("postgresql.conf") {
                true => Ok(self.0.into()),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        }

        fn names(&self, _: &Path) -> io::Result<Vec<OsString>> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn only_libraries_are_shown_from_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(path("lib.so"), b"\x7fELF...").unwrap();
        fs::write(path(".pgpass"), b"host:5432:*:*:secret").unwrap();
        let text = format!(
            "shared_preload_libraries = '{}, {}'",
            path("lib.so"),
            path(".pgpass")
        );
        fs::write(data.join("postgresql.conf"), text).unwrap();
        let conf = Conf::read_from(&Host::default(), &data).unwrap();
        let shown = elsewhere(&conf, Path::new("/usr/lib/none"), None).unwrap();
        assert_eq!(shown, [dir.path().join("lib.so")]);
    }

    #[test]
    fn what_the_servers_user_cannot_see_is_not_told() {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (data, secret) = (dir.path().join("data"), dir.path().join("secret"));
        for made in [&data, &secret] {
            fs::create_dir(made).unwrap();
        }
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
        let library = secret.join("lib.so");
        fs::write(&library, b"\x7fELF...").unwrap();
        let conf = format!("shared_preload_libraries = '{}'", library.display());
        fs::write(data.join("postgresql.conf"), conf).unwrap();
        let conf = Conf::read_from(&Host::default(), &data).unwrap();
        let nobody = Rights {
            uid: 65534,
            gid: 65534,
            groups: vec![],
        };
        let pkglibdir = Path::new("/usr/lib/none");
        let seen = |rights: Option<&Rights>| {
            let dropped = filter(&conf, pkglibdir, rights).unwrap().len();
            (dropped, elsewhere(&conf, pkglibdir, rights).unwrap().len())
        };
        assert_eq!(seen(None), (0, 1));
        assert_eq!(seen(Some(&nobody)), (1, 0));
    }

    #[test]
    fn long_lists_end() {
        let many = vec!["a"; MOST + 2].join(",");
        let found = filtered(
            &format!("shared_preload_libraries = '{many}'"),
            &[("a.so", "")],
        );
        assert_eq!(found[0].kept.len(), MOST);
        assert_eq!(found[0].dropped.len(), 2);
        let name = "x".repeat(LONGEST);
        let found = filtered(&format!("session_preload_libraries = '{name}'"), &[]);
        assert_eq!(found[0].dropped[0].reason, "it is not installed here");
        let dirs = vec!["/nowhere"; MOST].join(":");
        let conf =
            format!("shared_preload_libraries = 'a'\ndynamic_library_path = '{dirs}:$libdir'");
        assert_eq!(filtered(&conf, &[("a.so", "")])[0].dropped.len(), 1);
    }
}
