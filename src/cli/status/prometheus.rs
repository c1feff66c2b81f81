//! Sessions as metrics in Prometheus' text exposition format: one prefix,
//! base units, each family together below its HELP and TYPE, no time stamps.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::session::{METRICS, MetricKind, Status};

const PREFIX: &str = "pbkfs_";

/// The text, with a newline at the end.
pub fn text(sessions: &[Status]) -> String {
    let mut text = String::new();
    family(&mut text, "build_info", MetricKind::Gauge, "Always 1.");
    let version = env!("CARGO_PKG_VERSION");
    sample(&mut text, "build_info", &[("version", version)], 1);
    of_each(
        &mut text,
        "session_state",
        "1, labelled with what the session is doing.",
        sessions,
        |session| Some((Some(("state", session.word)), 1)),
    );
    of_each(
        &mut text,
        "session_start_timestamp_seconds",
        "When the session began.",
        sessions,
        |session| {
            let since = OffsetDateTime::parse(&session.state.since, &Rfc3339).ok()?;
            Some((None, u64::try_from(since.unix_timestamp()).ok()?))
        },
    );
    of_each(
        &mut text,
        "diff_bytes",
        "Bytes that the diff takes on disk.",
        sessions,
        |session| Some((None, session.diff_bytes?)),
    );
    counters(&mut text, sessions);
    text
}

fn counters(text: &mut String, sessions: &[Status]) {
    let mut last = "";
    for metric in METRICS {
        if metric.family != last {
            family(text, metric.family, metric.kind, metric.help);
            last = metric.family;
        }
        for session in sessions {
            let counts = session.counters.as_ref();
            if let Some(count) = counts.and_then(|counts| counts.get(metric.key)) {
                sample_of(text, metric.family, session, metric.label, *count);
            }
        }
    }
}

type Label<'a> = (&'a str, &'a str);

fn of_each<'a>(
    text: &mut String,
    name: &str,
    help: &str,
    sessions: &'a [Status],
    value: impl Fn(&'a Status) -> Option<(Option<Label<'a>>, u64)>,
) {
    family(text, name, MetricKind::Gauge, help);
    for session in sessions {
        if let Some((label, value)) = value(session) {
            sample_of(text, name, session, label, value);
        }
    }
}

fn family(text: &mut String, name: &str, kind: MetricKind, help: &str) {
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    };
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}");
    let _ = writeln!(text, "# TYPE {PREFIX}{name} {kind}");
}

fn sample_of(
    text: &mut String,
    name: &str,
    session: &Status,
    label: Option<Label<'_>>,
    value: u64,
) {
    let state = &session.state;
    let target = state.target.to_string_lossy();
    let mut labels = vec![
        ("target", &*target),
        ("instance", &state.instance),
        ("backup", &state.backup),
    ];
    labels.extend(label);
    sample(text, name, &labels, value);
}

fn sample(text: &mut String, name: &str, labels: &[Label<'_>], value: u64) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    let _ = writeln!(text, "{PREFIX}{name}{{{}}} {value}", labels.join(","));
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = String::new();
        sample(&mut text, "x", &[("target", "/a\"b\\c\nd")], 5);
        assert_eq!(text, "pbkfs_x{target=\"/a\\\"b\\\\c\\nd\"} 5\n");
    }
}
