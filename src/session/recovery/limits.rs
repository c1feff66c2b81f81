//! The limits that must be at least as high as the primary's during recovery, however
//! much they were raised after the backup.
//!
//! When PostgreSQL replays a change of one of them, it writes the primary's five values
//! to its control file, and only then checks whether its own are sufficient
//! (`xlog_redo`, case `XLOG_PARAMETER_CHANGE`). If not, it pauses there, or exits if
//! nobody can connect yet, and names only one of them. The control file has all of
//! them, so a single further start lets the server continue from there. Reading all WAL
//! beforehand would cost everyone what few need.

use std::collections::BTreeMap;

use crate::pg::control::ControlFile;
use crate::server::{Conf, ServerError, Setting};
use crate::session::SessionError;

/// The maximum number of times that the limits are raised for one recovery. Whoever
/// wrote the WAL may have raised them one at a time, again and again.
const MOST: usize = 64;

/// A function that reads one of the primary's values from a control file.
type OfPrimary = fn(&ControlFile) -> i32;

/// The five settings.
const LIMITS: [(&str, OfPrimary); 5] = [
    ("max_connections", |control| control.max_connections),
    ("max_worker_processes", |control| {
        control.max_worker_processes
    }),
    ("max_wal_senders", |control| control.max_wal_senders),
    ("max_prepared_transactions", |control| {
        control.max_prepared_xacts
    }),
    ("max_locks_per_transaction", |control| {
        control.max_locks_per_xact
    }),
];

/// Returns the minimum values that a recovery is started with: the primary's, or those
/// of the backup's configuration if they are already higher and the user sets nothing.
#[must_use]
pub fn least(
    control: &ControlFile,
    conf: &Conf,
    user: &BTreeMap<String, String>,
) -> Vec<(&'static str, i32)> {
    let configured = |name: &str| match user.contains_key(name) {
        true => None,
        false => conf.get(name)?.trim().parse().ok(),
    };
    let least = |(name, of): (&'static str, OfPrimary)| {
        let primary = of(control);
        (name, primary.max(configured(name).unwrap_or(primary)))
    };
    LIMITS.into_iter().map(least).collect()
}

/// Calls `run` with these settings, and again with higher limits as long as the server
/// that it waits for stops because the WAL demands more. `control` reads the clone's
/// control file after the server has exited.
///
/// # Errors
/// If `run` fails; [`SessionError::Interrupted`] if a signal asked for the end in between.
pub fn with_demanded<T>(
    settings: &mut [Setting],
    user: &BTreeMap<String, String>,
    control: impl Fn() -> Result<ControlFile, SessionError>,
    interrupted: &dyn Fn() -> bool,
    mut run: impl FnMut(&[Setting]) -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    let mut left = MOST;
    loop {
        let outcome = run(settings);
        let has_stopped = matches!(
            outcome,
            Err(SessionError::Server(
                ServerError::Died { .. } | ServerError::Paused { .. }
            ))
        );
        if !has_stopped || left == 0 {
            return outcome;
        }
        let raised = match control() {
            Ok(control) => raise(settings, &control),
            // The server's own error says more.
            Err(_) => Vec::new(),
        };
        if raised.is_empty() {
            return outcome;
        }
        if interrupted() {
            return Err(SessionError::Interrupted);
        }
        left -= 1;
        log(&raised);
        tell_overruled(user, &raised);
    }
}

/// Raises the settings that are lower than on the primary, and returns them.
fn raise(settings: &mut [Setting], control: &ControlFile) -> Vec<Setting> {
    let mut raised = Vec::new();
    for (name, of) in LIMITS {
        let primary = of(control);
        let is_lower = |value: &str| value.parse().is_ok_and(|value: i32| value < primary);
        for setting in settings.iter_mut().filter(|setting| setting.name == name) {
            if is_lower(&setting.value) {
                setting.value = primary.to_string();
                raised.push(setting.clone());
            }
        }
    }
    raised
}

fn log(raised: &[Setting]) {
    let values = raised.iter().map(|s| format!("{} to {}", s.name, s.value));
    let values: Vec<String> = values.collect();
    tracing::info!(
        "the primary raised {} after the backup; continuing the recovery with that",
        values.join(", ")
    );
}

/// Warns about each of the user's settings that is too low for the recovery.
pub fn tell_overruled(user: &BTreeMap<String, String>, settings: &[Setting]) {
    for (name, primary) in overruled(user, settings) {
        tracing::warn!(
            "postgres.settings.{name} is lower than the primary's, so recovery would stop; the \
             clone has {primary}"
        );
    }
}

/// Returns the limits that the user has set lower than `settings` has them.
fn overruled<'a>(
    user: &'a BTreeMap<String, String>,
    settings: &'a [Setting],
) -> impl Iterator<Item = (&'a str, i32)> {
    let is_limit = |setting: &&Setting| LIMITS.iter().any(|(name, _)| *name == setting.name);
    let limits = settings.iter().filter(is_limit);
    limits.filter_map(|setting| {
        let value: i32 = setting.value.parse().ok()?;
        let wanted: i32 = user.get(&setting.name)?.trim().parse().ok()?;
        (wanted < value).then_some((&*setting.name, value))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::server::{DecidedBy, LogTail};

    /// A control file with these values of the five, in the order of [`LIMITS`].
    fn control(values: [i32; 5]) -> ControlFile {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, value: i32| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(8, 1300);
        put(16, 5);
        put(172, 1);
        let places = [180, 184, 188, 192, 196];
        places
            .into_iter()
            .zip(values)
            .for_each(|(at, v)| put(at, v));
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
        ControlFile::parse(&bytes).unwrap()
    }

    fn settings(max_connections: &str) -> Vec<Setting> {
        let setting = |name: &str, value: &str| Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            reason: "",
            owner: DecidedBy::Fence,
        };
        vec![
            setting("work_mem", "1"),
            setting("max_connections", max_connections),
            setting("max_wal_senders", "10"),
        ]
    }

    fn user(max_connections: &str) -> BTreeMap<String, String> {
        [("max_connections".to_owned(), max_connections.to_owned())].into()
    }

    fn died() -> SessionError {
        ServerError::Died {
            status: ExitStatus::from_raw(1 << 8),
            log: LogTail::default(),
        }
        .into()
    }

    #[test]
    fn the_user_may_go_above_the_primary_and_below_the_configuration() {
        let conf = Conf::default();
        let control = control([30, 8, 10, 0, 64]);
        let least = least(&control, &conf, &BTreeMap::new());
        assert_eq!(least[0], ("max_connections", 30));
        assert_eq!(least[4], ("max_locks_per_transaction", 64));
        let overruled = |user| -> Vec<_> {
            let settings = settings("30");
            let found = super::overruled(&user, &settings);
            found
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        assert_eq!(overruled(user("20")), [("max_connections".to_owned(), 30)]);
        assert_eq!(overruled(user("30")), []);
        assert_eq!(overruled(BTreeMap::new()), []);
    }

    #[test]
    fn a_server_that_stops_at_a_limit_is_started_with_all_that_the_wal_demands() {
        let starts = Cell::new(0);
        let mut settings = settings("30");
        let outcome = with_demanded(
            &mut settings,
            &BTreeMap::new(),
            || Ok(control([200, 8, 50, 20, 128])),
            &|| false,
            |settings| {
                starts.set(starts.get() + 1);
                match settings[1].value == "200" && settings[2].value == "50" {
                    true => Ok(()),
                    false => Err(died()),
                }
            },
        );
        assert!(outcome.is_ok() && starts.get() == 2);
        assert_eq!(settings[0].value, "1");
    }

    /// Returns how often a server is started whose WAL raises a limit each time, and
    /// the error in the end.
    fn without_end(interrupted: &dyn Fn(i32) -> bool) -> (i32, SessionError) {
        let starts = Cell::new(0);
        let outcome = with_demanded(
            &mut settings("30"),
            &BTreeMap::new(),
            || Ok(control([100 + starts.get(), 8, 10, 0, 64])),
            &|| interrupted(starts.get()),
            |_| {
                starts.set(starts.get() + 1);
                Err::<(), _>(died())
            },
        );
        (starts.get(), outcome.unwrap_err())
    }

    #[test]
    fn it_ends_with_another_reason_a_signal_or_at_last() {
        let starts = Cell::new(0);
        let outcome = with_demanded(
            &mut settings("30"),
            &BTreeMap::new(),
            || Ok(control([30, 8, 10, 0, 64])),
            &|| false,
            |_| {
                starts.set(starts.get() + 1);
                Err::<(), _>(died())
            },
        );
        assert!(outcome.is_err() && starts.get() == 1);
        let (starts, error) = without_end(&|starts| starts == 3);
        assert!(starts == 3 && matches!(error, SessionError::Interrupted));
        let (starts, error) = without_end(&|_| false);
        assert_eq!(usize::try_from(starts).unwrap(), MOST + 1);
        assert!(matches!(error, SessionError::Server(_)), "{error}");
    }
}
