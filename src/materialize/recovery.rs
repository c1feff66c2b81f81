//! The settings by which the directory recovers when its server starts, as
//! `pg_probackup restore` writes them (`update_recovery_options` in its restore.c):
//! `postgresql.auto.conf` loses all recovery settings of before, and gets those of the
//! wanted target together with an empty `recovery.signal`.

use time::OffsetDateTime;

use super::staging::io_error;
use crate::profile::{MomentText, Plan};
use crate::server::conf::AUTO_CONF;
use crate::session::{
    RECOVERY_SIGNAL, Recovery, Resolved, SessionError, find_probackup, path_text, quote_word,
    restore_command_of,
};
use crate::untrusted::{Dir, SMALL, found};

/// Permissions of both, as the server gives them.
const MODE: u32 = 0o600;

/// Writes the recovery settings that a plan calls for. Returns whether the directory
/// recovers from the WAL archive.
///
/// # Errors
/// If the archive does not reach the target, or if a file cannot be read or written.
pub fn write(
    dir: &Dir,
    plan: &Plan,
    resolved: &Resolved,
    owner: Option<(u32, u32)>,
) -> Result<bool, SessionError> {
    let recovery = Recovery::plan(plan, resolved)?;
    let path = dir.path().join(AUTO_CONF);
    let before = found(dir.read(AUTO_CONF, SMALL)).map_err(io_error("read", &path))?;
    let mut text = without_recovery(&before.unwrap_or_default());
    let now = OffsetDateTime::now_utc();
    let now = MomentText(now.replace_nanosecond(0).unwrap_or(now));
    let id = &resolved.chain.target().id;
    let title =
        format!("\n# recovery settings added by pbkfs materialize of backup {id} at '{now}'\n");
    text.extend(title.bytes());
    if let Some(recovery) = &recovery {
        for (name, value) in settings(recovery, plan)? {
            let value = value.replace('\'', "''");
            text.extend(format!("{name} = '{value}'\n").bytes());
        }
    }
    dir.replace(AUTO_CONF, &text, MODE, owner)
        .map_err(io_error("write", &path))?;
    let signal = match recovery.is_some() {
        true => dir.replace(RECOVERY_SIGNAL, b"", MODE, owner),
        false => dir.remove_file(RECOVERY_SIGNAL),
    };
    signal.map_err(io_error("write", &dir.path().join(RECOVERY_SIGNAL)))?;
    Ok(recovery.is_some())
}

/// Removes the lines that restore removes.
fn without_recovery(text: &[u8]) -> Vec<u8> {
    let has = |line: &[u8], word: &str| memchr::memmem::find(line, word.as_bytes()).is_some();
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| {
        let is_recovery = has(line, "restore_command") || has(line, "recovery_target");
        let is_included = has(line, "include") && has(line, "probackup_recovery.conf");
        !(is_recovery || is_included)
    });
    let mut kept: Vec<u8> = kept.flatten().copied().collect();
    if kept.last().is_some_and(|last| *last != b'\n') {
        kept.push(b'\n');
    }
    kept
}

/// Returns the settings in the order in which restore writes them. Without a target, an
/// ARCHIVE backup is recovered to the end of its archive, as by restore.
fn settings(recovery: &Recovery, plan: &Plan) -> Result<Vec<(String, String)>, SessionError> {
    let is_written = |(name, value): &(String, String)| match name.as_str() {
        "hot_standby" => false,
        "recovery_target" | "recovery_target_inclusive" => {
            recovery.is_explicit && !value.is_empty()
        }
        _ => true,
    };
    let mut settings: Vec<_> = recovery.settings().into_iter().filter(is_written).collect();
    let command = match recovery.foreign_command() {
        Some(command) => command.to_owned(),
        None => restore_command(plan)?,
    };
    settings.push(("restore_command".to_owned(), command));
    Ok(settings)
}

/// Returns the command that fetches WAL from the catalog: pg_probackup's own, as
/// restore writes it, or that of pbkfs if pg_probackup is not installed or cannot reach
/// the catalog.
fn restore_command(plan: &Plan) -> Result<String, SessionError> {
    let (Some(catalog), Some(probackup)) = (plan.catalog.directory(), find_probackup(plan)?) else {
        let sets = plan.storage.sets();
        let options = sets.iter().flat_map(|set| ["--set", set]);
        return restore_command_of(&plan.catalog, &plan.instance, &options.collect::<Vec<_>>());
    };
    Ok(format!(
        "{} archive-get -B {} --instance {} --wal-file-path=%p --wal-file-name=%f",
        quote_word(path_text(probackup.path())?),
        quote_word(path_text(catalog)?),
        quote_word(&plan.instance)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_settings_of_before_are_removed() {
        let before = b"# a comment\nwork_mem = '8MB'\nrestore_command = 'cp /a/%f %p'\n\
            recovery_target_time = 'yesterday'\ninclude 'probackup_recovery.conf'\n\
            include 'other.conf'\nport = 5433";
        let after = "# a comment\nwork_mem = '8MB'\ninclude 'other.conf'\nport = 5433\n";
        assert_eq!(String::from_utf8(without_recovery(before)).unwrap(), after);
        assert_eq!(without_recovery(b""), b"");
    }
}
