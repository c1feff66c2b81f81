//! Runs the `pg_probackup` program to read the backups' metadata.

mod error;
mod show;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use error::{CommandLine, ProbackupError};

use super::{Backup, Instance, ProgramVersion};
use crate::program::{self, Unfinished};

/// The oldest version whose `show` is known to print what we need.
const OLDEST: ProgramVersion = ProgramVersion::new(2, 5, 0);

/// The first version with a different catalog format.
const TOO_NEW: ProgramVersion = ProgramVersion::new(3, 0, 0);

/// Time limit for `pg_probackup version`, which does not access a catalog.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of bytes kept from the end of the program's messages: the last messages say why
/// it gave up.
const STDERR_KEPT: usize = 8 << 10;

/// An installed `pg_probackup` of a supported version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probackup {
    path: PathBuf,
    version: ProgramVersion,
}

impl Probackup {
    /// Finds the program: at `explicit` if that is given, otherwise `pg_probackup` on the
    /// PATH, otherwise `pg_probackup-MAJOR` for each of `majors` in order. `None` if
    /// there is none.
    ///
    /// # Errors
    /// If the explicitly given program does not exist, or if the program found is not a
    /// pg_probackup of a supported version.
    pub fn find(explicit: Option<&Path>, majors: &[u32]) -> Result<Option<Self>, ProbackupError> {
        Self::find_in(explicit, majors, std::env::var_os("PATH").as_deref())
    }

    fn find_in(
        explicit: Option<&Path>,
        majors: &[u32],
        search_path: Option<&OsStr>,
    ) -> Result<Option<Self>, ProbackupError> {
        if let Some(path) = explicit {
            let found = which::which_in(path, search_path, ".").map_err(|source| {
                let path = path.to_owned();
                ProbackupError::NotFound { path, source }
            })?;
            return Self::with_version(found).map(Some);
        }
        let packaged = majors.iter().map(|major| format!("pg_probackup-{major}"));
        std::iter::once("pg_probackup".to_owned())
            .chain(packaged)
            .find_map(|name| which::which_in(name, search_path, ".").ok())
            .map(Self::with_version)
            .transpose()
    }

    /// Returns the program's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its version.
    #[must_use]
    pub fn version(&self) -> ProgramVersion {
        self.version
    }

    fn with_version(path: PathBuf) -> Result<Self, ProbackupError> {
        let command = CommandLine {
            program: path.clone(),
            arguments: vec!["version".into()],
        };
        let output = run(&command, VERSION_TIMEOUT)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answer = text.lines().next().unwrap_or_default();
        // `pg_probackup-15 2.5.16 (PostgreSQL 15.20 ..)`
        let word = answer.split_whitespace().nth(1).unwrap_or_default();
        let Ok(version) = word.parse::<ProgramVersion>() else {
            let answer = answer.to_owned();
            return Err(ProbackupError::UnknownVersion { path, answer });
        };
        if version < OLDEST || version >= TOO_NEW {
            return Err(ProbackupError::UnsupportedVersion { path, version });
        }
        Ok(Self { path, version })
    }

    /// Returns all backups of an instance as shown by the program, newest first.
    ///
    /// It always requests the whole instance: with `-i`, the program prints a wrong
    /// parent timeline, and nothing at all for an unknown id.
    ///
    /// # Errors
    /// If the program fails, does not finish within `timeout` (it is then killed, along
    /// with everything that it started), or prints something other than expected.
    pub fn show(
        &self,
        instance: &Instance,
        timeout: Duration,
    ) -> Result<Vec<Backup>, ProbackupError> {
        let mut named = OsString::from("--instance=");
        named.push(&instance.name);
        let command = CommandLine {
            program: self.path.clone(),
            arguments: vec![
                "show".into(),
                "-B".into(),
                instance.catalog.name().into(),
                named,
                "--format=json".into(),
                // The instance may be configured to log into the catalog, which is
                // not ours to write to.
                "--log-level-file=off".into(),
            ],
        };
        let output = run(&command, timeout)?;
        let json = String::from_utf8_lossy(&output.stdout);
        show::parse(instance, &json).map_err(|source| ProbackupError::BadJson {
            command,
            stderr: output.stderr,
            source,
        })
    }
}

/// Runs a command that must succeed within `limit`.
fn run(command: &CommandLine, limit: Duration) -> Result<program::Ended, ProbackupError> {
    let CommandLine { program, arguments } = command;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0);
    let ended = program::run(&mut process, Instant::now() + limit, STDERR_KEPT);
    let command = command.clone();
    match ended {
        Ok(ended) if ended.status.success() => Ok(ended),
        Ok(program::Ended { status, stderr, .. }) => Err(ProbackupError::Failed {
            command,
            status,
            stderr,
        }),
        Err(Unfinished::TimedOut { stderr }) => Err(ProbackupError::Timeout {
            command,
            limit,
            stderr,
        }),
        Err(Unfinished::Failed(source)) => Err(ProbackupError::Run { command, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::catalog::fixtures;

    const LONG: Duration = Duration::from_secs(30);

    /// Creates a shell script that stands in for pg_probackup: it prints a version, and
    /// runs `body` for `show`.
    ///
    /// Another process writes it: if this one held the file open for writing while a
    /// parallel test forks, running it would fail (ETXTBSY).
    fn stand_in(dir: &Path, name: &str, version: &str, body: &str) -> PathBuf {
        let path = dir.join(name);
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script = format!(
            "#!/bin/sh\n# A stand-in for pg_probackup, for tests.\n\
             if [ \"$1\" = version ]; then echo '{version}'; exit; fi\n{body}\n"
        );
        let mut stdin = install.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        assert!(install.wait().unwrap().success());
        path
    }

    const VERSION: &str = "pg_probackup15 2.5.16 (PostgreSQL 15.20)";

    fn instance(dir: &Path) -> Instance {
        fs::create_dir_all(dir.join("backups/main")).unwrap();
        crate::catalog::Catalog::open(dir)
            .unwrap()
            .instance("main")
            .unwrap()
    }

    fn find(path: &Path) -> Result<Probackup, ProbackupError> {
        Probackup::find(Some(path), &[]).map(Option::unwrap)
    }

    #[test]
    fn recorded_output_gives_what_the_control_files_give() {
        for name in fixtures::ALL {
            let unpacked = fixtures::unpack_metadata(name);
            let instance = fixtures::main_instance(&unpacked);
            let json = unpacked.path().join("show.json");
            fs::write(&json, fixtures::recorded(name, "show.json")).unwrap();
            let version = fixtures::recorded(name, "version.txt");
            let body = format!(
                "[ \"$*\" = 'show -B {} --instance=main --format=json --log-level-file=off' ] \
                 && exec cat '{}'; echo \"wrong arguments: $*\" >&2; exit 1",
                instance.catalog,
                json.display()
            );
            let program = stand_in(unpacked.path(), "pg_probackup", version.trim(), &body);
            let probackup = find(&program).unwrap();
            assert_eq!(probackup.version(), ProgramVersion::new(2, 5, 16));
            let shown = probackup.show(&instance, LONG).unwrap();
            assert_eq!(shown, instance.backups().unwrap(), "{name}");
        }
    }

    #[test]
    fn the_search_goes_from_the_plain_name_to_the_packaged_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().as_os_str());
        assert_eq!(Probackup::find_in(None, &[15, 17], path).unwrap(), None);

        let found = |majors: &[u32]| {
            let found = Probackup::find_in(None, majors, path).unwrap().unwrap();
            found
                .path()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        stand_in(dir.path(), "pg_probackup-17", VERSION, "");
        assert_eq!(found(&[15, 17]), "pg_probackup-17");
        stand_in(dir.path(), "pg_probackup-15", VERSION, "");
        assert_eq!(found(&[15, 17]), "pg_probackup-15");
        stand_in(dir.path(), "pg_probackup", VERSION, "");
        assert_eq!(found(&[15, 17]), "pg_probackup");
    }

    #[test]
    fn a_missing_or_foreign_or_old_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(&dir.path().join("nothing")).unwrap_err();
        assert!(matches!(error, ProbackupError::NotFound { .. }), "{error}");

        let other = stand_in(dir.path(), "other", "hello", "");
        let error = find(&other).unwrap_err();
        assert!(
            matches!(error, ProbackupError::UnknownVersion { .. }),
            "{error}"
        );

        for version in ["2.4.17", "3.0.1"] {
            let line = format!("pg_probackup {version} (PostgreSQL 15.1)");
            let error = find(&stand_in(dir.path(), "old", &line, "")).unwrap_err();
            assert!(error.to_string().contains(version), "{error}");
            assert!(matches!(error, ProbackupError::UnsupportedVersion { .. }));
        }
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let dir = tempfile::tempdir().unwrap();
        let body = "echo 'ERROR: no access' >&2; exit 1";
        let program = find(&stand_in(dir.path(), "p", VERSION, body)).unwrap();
        let error = program
            .show(&instance(dir.path()), LONG)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--instance=main --format=json"), "{error}");
        assert!(error.contains("exit status: 1"), "{error}");
        assert!(error.ends_with("it said:\nERROR: no access"), "{error}");
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let program = find(&stand_in(dir.path(), "p", VERSION, "echo hello")).unwrap();
        let error = program.show(&instance(dir.path()), LONG).unwrap_err();
        assert!(matches!(error, ProbackupError::BadJson { .. }), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let start_child = "echo 'WARNING: waiting' >&2; sleep 1000 & echo $! > \"$3/pid\"";
        // In the second case the program itself has exited, but its child keeps the
        // output open.
        for then in ["wait", "exit 0"] {
            let dir = tempfile::tempdir().unwrap();
            let body = format!("{start_child}; {then}");
            let program = find(&stand_in(dir.path(), "p", VERSION, &body)).unwrap();
            let started = Instant::now();
            let error = program
                .show(&instance(dir.path()), Duration::from_millis(700))
                .unwrap_err();
            assert!(started.elapsed() < Duration::from_secs(10));
            let message = error.to_string();
            assert!(message.contains("did not finish within 0.7 s"), "{message}");
            assert!(message.ends_with("WARNING: waiting"), "{message}");

            let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
            let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
            let gone = || fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
            while !gone() {
                assert!(started.elapsed() < LONG, "the child's child lives on");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn much_output_on_both_pipes_does_not_dead_lock() {
        let dir = tempfile::tempdir().unwrap();
        let body = "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; \
                    head -c 3000000 /dev/zero | tr '\\0' ' '; echo '[]'; \
                    echo 'the last word' >&2";
        let program = find(&stand_in(dir.path(), "p", VERSION, body)).unwrap();
        assert_eq!(program.show(&instance(dir.path()), LONG).unwrap(), []);

        let failing = format!("{body}; exit 3");
        let program = find(&stand_in(dir.path(), "q", VERSION, &failing)).unwrap();
        match program.show(&instance(dir.path()), LONG).unwrap_err() {
            ProbackupError::Failed { stderr, .. } => {
                assert_eq!(stderr.len(), STDERR_KEPT);
                assert!(stderr.ends_with("the last word\n"));
            }
            other => panic!("{other}"),
        }
    }
}
