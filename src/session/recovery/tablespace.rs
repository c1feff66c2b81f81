//! Tablespaces that the WAL creates and that the backup does not know.
//!
//! Recovery itself would look for the directory that was there on production's host,
//! and empty it. In namespaces there is none, so recovery fails; it is then started
//! again with an empty directory there.

use std::path::PathBuf;

use crate::server::{Enclosure, LogTail, ServerError};
use crate::session::SessionError;

/// The maximum number of such tablespaces. Each costs a recovery from the beginning,
/// and whoever wrote the WAL may have put any number into it.
const MOST: usize = 64;

/// Calls `run`, and again with one more directory as long as the server fails at a
/// tablespace that it has no directory for.
///
/// # Errors
/// If `run` fails; [`ServerError::TooManyTablespaces`]; [`SessionError::Interrupted`]
/// if a signal asked for the end in between.
pub fn with_places<T>(
    mut enclosure: Option<Enclosure>,
    interrupted: &dyn Fn() -> bool,
    mut run: impl FnMut(Option<Enclosure>) -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    let mut made = 0;
    loop {
        let outcome = run(enclosure.clone());
        let missing = match (&outcome, &enclosure) {
            (Err(SessionError::Server(ServerError::Died { log, .. })), Some(enclosure)) => {
                refused(log).filter(|path| !enclosure.cover.contains(path))
            }
            _ => None,
        };
        let (Some(path), Some(enclosure)) = (missing, &mut enclosure) else {
            return outcome;
        };
        if interrupted() {
            return Err(SessionError::Interrupted);
        }
        if made == MOST {
            return Err(ServerError::TooManyTablespaces { limit: MOST }.into());
        }
        made += 1;
        tracing::info!(
            "the WAL creates a tablespace at {}; recovering again, with an empty directory there",
            path.display()
        );
        enclosure.cover.push(path);
    }
}

/// Returns the path of a tablespace that recovery could not create, from the log of the
/// server that failed because of it. `CONTEXT` is translated, but not the record's name
/// and content (`tblspc_desc`, `tblspc_identify` in tblspcdesc.c):
///
/// ```text
/// CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 "/srv/ts"
/// ```
fn refused(log: &LogTail) -> Option<PathBuf> {
    let record = |line: &String| {
        let (_, record) = line.split_once(" Tablespace/CREATE: ")?;
        let (_, path) = record.split_once(" \"")?;
        Some(PathBuf::from(path.strip_suffix('"')?))
    };
    let path = log.lines.iter().rev().find_map(record)?;
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn the_log_names_the_tablespace_that_recovery_ended_at() {
        let log = |lines: &[&str]| LogTail {
            path: PathBuf::new(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let path = refused(&log(&[
            "FATAL:  directory \"/srv/a \"b\"\" does not exist",
            "HINT:  Create this directory for the tablespace before restarting the server.",
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 \"/srv/a \"b\"\"",
            "LOG:  startup process (PID 25) exited with exit code 1",
        ]));
        assert_eq!(path, Some(PathBuf::from("/srv/a \"b\"")));
        for other in [
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/DROP: 16400",
            "CONTEXT:  WAL redo at 0/3000100 for Tablespace/CREATE: 16400 \"\"",
            "Tablespace/CREATE",
        ] {
            assert_eq!(refused(&log(&[other])), None, "{other}");
        }
    }
    fn died_at(place: &str) -> SessionError {
        let line = format!("CONTEXT:  WAL redo at 0/1 for Tablespace/CREATE: 1 \"{place}\"");
        let log = LogTail {
            path: PathBuf::new(),
            lines: vec![line],
        };
        let status = ExitStatus::from_raw(1 << 8);
        ServerError::Died { status, log }.into()
    }

    /// Returns how often a server is started that fails at another place each time, up
    /// to `places` of them, and the error in the end.
    fn started(
        places: usize,
        interrupted: &dyn Fn(usize) -> bool,
    ) -> (usize, Option<SessionError>) {
        let starts = Cell::new(0);
        let enclosure = Some(Enclosure::default());
        let outcome = with_places(enclosure, &|| interrupted(starts.get()), |enclosure| {
            let covered = enclosure.unwrap().cover.len();
            assert_eq!(covered, starts.replace(starts.get() + 1));
            match covered < places {
                true => Err(died_at(&format!("/srv/{covered}"))),
                false => Ok(()),
            }
        });
        (starts.get(), outcome.err())
    }

    #[test]
    fn wal_that_makes_tablespaces_without_end_is_given_up() {
        let (starts, error) = started(MOST, &|_| false);
        assert!(error.is_none() && starts == MOST + 1, "{starts} {error:?}");
        let (starts, error) = started(usize::MAX, &|_| false);
        let expected = SessionError::Server(ServerError::TooManyTablespaces { limit: MOST });
        assert_eq!(error.unwrap().to_string(), expected.to_string());
        assert_eq!(starts, MOST + 1);
    }

    #[test]
    fn a_signal_ends_the_starts() {
        let (starts, error) = started(usize::MAX, &|starts| starts == 3);
        assert!(
            matches!(error, Some(SessionError::Interrupted)),
            "{error:?}"
        );
        assert_eq!(starts, 3);
    }

    #[test]
    fn the_same_place_is_not_made_twice() {
        let mut starts = 0;
        let outcome = with_places(Some(Enclosure::default()), &|| false, |_| {
            starts += 1;
            Err::<(), _>(died_at("/srv/a"))
        });
        let died = |error| matches!(error, SessionError::Server(ServerError::Died { .. }));
        assert!(outcome.is_err_and(died));
        assert_eq!(starts, 2);
    }
}
