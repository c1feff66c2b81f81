//! Finding the `postgres` program of the backup's major version.

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program;
use crate::server::error::{Searched, ServerError};

/// Time limit of each call of `postgres` and `pg_config` here. They answer at once,
/// unless their file system hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Number of bytes kept from the end of what such a program says about its failure.
const STDERR_KEPT: usize = 64 << 10;

/// One installation of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory of its programs.
    pub dir: PathBuf,
    /// The server program.
    pub postgres: PathBuf,
    /// Output of `postgres --version`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

impl Binaries {
    /// Returns the installation in `bin_dir` or, without one, the first of the wanted
    /// `major` version in `PATH` and in the directories used by Debian, PGDG's RPMs,
    /// a build from source and Postgres Pro.
    ///
    /// # Errors
    /// If none of that version is found; the error lists the directories searched and
    /// what was there.
    pub fn find(major: u32, bin_dir: Option<&Path>) -> Result<Self, ServerError> {
        let dirs = bin_dir.map_or_else(|| usual_places(major), |dir| vec![dir.to_owned()]);
        let mut searched = Vec::new();
        for dir in dirs {
            let found = match Self::look_in(&dir) {
                Ok(Some(binaries)) if binaries.major == major => return Ok(binaries),
                Ok(Some(other)) => other.version,
                Ok(None) => "no postgres program".to_owned(),
                Err(error) => error.to_string(),
            };
            searched.push(Searched { dir, found });
        }
        Err(ServerError::NoBinaries { major, searched })
    }

    fn look_in(dir: &Path) -> Result<Option<Self>, ServerError> {
        let named = dir.join("postgres");
        if !named.is_file() {
            return Ok(None);
        }
        // A link in PATH may be alone there; the other programs and the libraries are
        // beside its target. PostgreSQL resolves it the same way.
        let postgres = named.canonicalize().map_err(|source| ServerError::Run {
            program: named.clone(),
            source,
        })?;
        let dir = postgres.parent().unwrap_or(dir).to_owned();
        let version = run(&postgres, &["--version"], TIMEOUT)?.trim().to_owned();
        Ok(major_of(&version).map(|major| Self {
            dir,
            postgres,
            version,
            major,
        }))
    }

    /// Asks the server whether it accepts the settings, without starting it. It
    /// accepts any setting of an extension, because none is loaded.
    ///
    /// # Errors
    /// Returns [`ServerError::RefusedSettings`] if it does not accept them.
    pub fn check_settings(&self, settings: &BTreeMap<String, String>) -> Result<(), ServerError> {
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            bytes.all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
        };
        let given = settings.iter().filter(|(name, _)| is_name(name));
        let given: Vec<String> = given
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let dir = self.dir.to_string_lossy();
        let ask = |settings: &[String]| {
            let mut args = vec!["-C", "server_version_num", "-D", &*dir];
            args.extend(["-c", "config_file=/dev/null"]);
            args.extend(settings.iter().flat_map(|setting| ["-c", setting]));
            run(&self.postgres, &args, TIMEOUT)
        };
        if given.is_empty() {
            return Ok(());
        }
        match ask(&given) {
            // It fails without them, too; the start reports why.
            Err(ServerError::RunFailed { .. }) if ask(&[]).is_err() => Ok(()),
            Err(ServerError::RunFailed { stderr, .. }) => {
                let last = stderr.lines().last().unwrap_or_default();
                let said = last.rsplit_once("FATAL:").map_or(last, |(_, said)| said);
                Err(ServerError::RefusedSettings {
                    said: said.trim().to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Returns the directory of the server's loadable libraries, `$libdir` in its
    /// settings: from `pg_config` if it is installed (Debian has it in another
    /// package), else the usual places beside the programs.
    #[must_use]
    pub fn pkglibdir(&self) -> Option<PathBuf> {
        let pg_config = self.dir.join("pg_config");
        if let Ok(answer) = run(&pg_config, &["--pkglibdir"], TIMEOUT) {
            let dir = PathBuf::from(answer.trim_end());
            if dir.is_dir() {
                return Some(dir);
            }
        }
        // PL/pgSQL is part of every build, so its library identifies the directory.
        [
            "lib",
            "lib/postgresql",
            "lib64",
            "lib64/postgresql",
            "lib64/pgsql",
        ]
        .iter()
        .filter_map(|lib| Some(self.dir.parent()?.join(lib)))
        .find(|dir| dir.join("plpgsql.so").is_file())
    }
}

fn usual_places(major: u32) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).filter(|dir| dir.join("postgres").is_file());
    let usual = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
        format!("/usr/local/pgsql-{major}/bin"),
        format!("/opt/postgresql/{major}/bin"),
        format!("/opt/pgsql-{major}/bin"),
        format!("/opt/pgpro/std-{major}/bin"),
        format!("/opt/pgpro/ent-{major}/bin"),
    ];
    in_path
        .chain(usual.into_iter().map(PathBuf::from))
        .collect()
}

/// Returns the 15 of `postgres (PostgreSQL) 15.20 (Debian 15.20-1)`, the 18 of
/// `postgres (PostgreSQL) 18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let (_, number) = version.split_once(") ")?;
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    number.get(..digits)?.parse().ok()
}

/// Runs a program of PostgreSQL's that must succeed, and returns its standard output.
fn run(program: &Path, args: &[&str], timeout: Duration) -> Result<String, ServerError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0);
    let ended = program::run(&mut command, Instant::now() + timeout, STDERR_KEPT)
        .map_err(|unfinished| ServerError::unfinished(program, timeout, unfinished))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(ServerError::RunFailed {
        program: program.to_owned(),
        status: ended.status,
        stderr: ended.stderr.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &Path, text: &str) {
        let path = dir.join("postgres");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn major_is_read_from_every_form_of_the_version() {
        for (version, major) in [
            (
                "postgres (PostgreSQL) 15.20 (Debian 15.20-1.pgdg12+1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 17devel", Some(17)),
            ("postgres (PostgreSQL) ", None),
            ("something else", None),
        ] {
            assert_eq!(major_of(version), major, "{version}");
        }
    }

    #[test]
    fn the_given_directory_must_hold_the_right_version() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binaries::find(15, Some(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no postgres program"), "{error}");

        script(dir.path(), "echo 'postgres (PostgreSQL) 14.3'");
        let error = Binaries::find(15, Some(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("14.3") && error.contains("postgres.bin_dir"),
            "{error}"
        );
        assert_eq!(Binaries::find(14, Some(dir.path())).unwrap().major, 14);

        script(dir.path(), "echo broken >&2; exit 3");
        let error = Binaries::find(15, Some(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn a_link_leads_to_the_installation() {
        let dir = tempfile::tempdir().unwrap();
        let (real, links) = (dir.path().join("real"), dir.path().join("links"));
        fs::create_dir_all(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("lib/plpgsql.so"), "").unwrap();
        fs::create_dir(&real).unwrap();
        fs::create_dir(&links).unwrap();
        script(&real, "echo 'postgres (PostgreSQL) 16.1'");
        std::os::unix::fs::symlink(real.join("postgres"), links.join("postgres")).unwrap();
        let binaries = Binaries::find(16, Some(&links)).unwrap();
        let resolved = dir.path().canonicalize().unwrap();
        assert_eq!(binaries.dir, resolved.join("real"));
        assert_eq!(binaries.pkglibdir(), Some(resolved.join("lib")));
    }

    #[test]
    fn a_program_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "exec sleep 60");
        let program = dir.path().join("postgres");
        let error = run(&program, &[], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ServerError::RunTimeout { .. }), "{error}");
    }
}
