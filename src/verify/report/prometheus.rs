//! A verification as metrics for node_exporter's textfile collector: gauges, because
//! the job is one-shot, and no timestamps. A backup's id is a label of one family
//! only, which shows the bad backups; a series ends when its backup is gone.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Document;
use crate::exposition::{Kind, Text};
use crate::verify::backup_report::BackupReport;
use crate::verify::history::standing::Standing;
use crate::verify::verdict::Verdict;

/// Returns the text. `last_success` is when this profile last proved a backup before
/// this run, in seconds since 1970.
#[must_use]
pub fn prometheus(document: &Document, last_success: Option<i64>) -> String {
    let mut text = Text::new();
    let labels = [
        ("profile", document.profile.as_str()),
        ("instance", document.instance.as_str()),
    ];
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(&format!("verify_{name}"), Kind::Gauge, help);
            text.sample(&format!("verify_{name}"), &labels, value);
        }
    };
    let is_proved = document.verdict == Verdict::Proved;
    let run = seconds(&document.started);
    let last_success = match is_proved {
        true => run,
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        false => last_success.map(|at| at as f64),
    };
    let sum = |of: fn(&BackupReport) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
        let total = document.backups.iter().map(of).sum::<u64>() as f64;
        Some(total)
    };
    let newest = document.backups.last();
    gauge(
        "success",
        "Whether everything that was verified was proved.",
        Some(f64::from(u8::from(is_proved))),
    );
    gauge(
        "exit_code",
        "Exit status of the run: 0 right, 1 bad, 3 could not tell.",
        Some(f64::from(document.exit_code)),
    );
    gauge(
        "last_run_timestamp_seconds",
        "Start time of the last verification.",
        run,
    );
    gauge(
        "last_success_timestamp_seconds",
        "Start time of the last verification that proved its backup.",
        last_success,
    );
    gauge(
        "backup_end_timestamp_seconds",
        "End time of the backup that was verified.",
        newest.and_then(|report| seconds(report.backup_end.as_deref()?)),
    );
    gauge(
        "recovered_timestamp_seconds",
        "Time to which the clone was recovered.",
        newest.and_then(|report| seconds(report.recovered_time.as_deref()?)),
    );
    gauge(
        "read_bytes",
        "Stored bytes read to check the pages.",
        sum(|r| r.read_bytes),
    );
    gauge(
        "diff_bytes",
        "Bytes written by the clones.",
        sum(|r| r.diff_bytes),
    );
    gauge(
        "oldest_proof_timestamp_seconds",
        "Start time of the oldest verification by which a backup is proved.",
        (document.standing.oldest_proof.as_deref()).and_then(seconds),
    );
    several(&mut text, document, &labels);
    standing(&mut text, &document.standing, &labels);
    text.finish()
}

/// Adds what is known about all backups of the instance, whichever profile found it.
fn standing(text: &mut Text, standing: &Standing, labels: &[(&str, &str)]) {
    let name = "verify_backups";
    text.family(
        name,
        Kind::Gauge,
        "Backups of the instance, by what is known about them.",
    );
    for (state, count) in [
        ("proved", standing.proved),
        ("bad", standing.bad.len()),
        ("unproved", standing.unproved),
    ] {
        #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
        text.sample(name, &[labels, &[("state", state)]].concat(), count as f64);
    }
    let name = "verify_backup_bad";
    text.family(
        name,
        Kind::Gauge,
        "Whether a backup was found bad and has not been proved since.",
    );
    for (backup, verdict) in &standing.each {
        let labels = [labels, &[("backup", backup.as_str())]].concat();
        let is_bad = *verdict == Verdict::Bad;
        text.sample(name, &labels, f64::from(u8::from(is_bad)));
    }
}

/// Adds the families with a label for each phase and each check.
fn several(text: &mut Text, document: &Document, labels: &[(&str, &str)]) {
    let name = "verify_duration_seconds";
    text.family(name, Kind::Gauge, "Duration of each phase.");
    let mut phases: Vec<(&str, f64)> = Vec::new();
    for phase in document.backups.iter().flat_map(|report| &report.phases) {
        match phases.iter_mut().find(|(name, _)| *name == phase.name) {
            Some((_, seconds)) => *seconds += phase.seconds,
            None => phases.push((phase.name, phase.seconds)),
        }
    }
    phases.push(("all", document.seconds));
    for (phase, seconds) in phases {
        text.sample(name, &[labels, &[("phase", phase)]].concat(), seconds);
    }
    let name = "verify_check_success";
    text.family(
        name,
        Kind::Gauge,
        "Whether each check found everything right.",
    );
    let mut checks: Vec<(String, bool)> = Vec::new();
    for check in document.backups.iter().flat_map(|report| &report.checks) {
        let (label, is_right) = (check.label(), check.verdict == Verdict::Proved);
        match checks.iter_mut().find(|(known, _)| *known == label) {
            Some((_, all)) => *all &= is_right,
            None => checks.push((label, is_right)),
        }
    }
    for (check, is_right) in checks {
        let labels = [labels, &[("check", check.as_str())]].concat();
        text.sample(name, &labels, f64::from(u8::from(is_right)));
    }
}

/// Returns the seconds since 1970 of a time in the format of RFC 3339 or PostgreSQL.
fn seconds(text: &str) -> Option<f64> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| Some(text.parse::<crate::profile::MomentText>().ok()?.0))?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
    Some(time.unix_timestamp() as f64)
}
