//! Sessions as metrics for Prometheus: base units, no timestamps.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::exposition::{Kind, Label, Text};
use crate::session::{METRICS, MetricKind, Status};

/// Returns the text, with a newline at the end.
pub fn text(sessions: &[Status]) -> String {
    let mut text = Text::new();
    of_each(
        &mut text,
        "session_state",
        "1, labelled with the state of the session.",
        sessions,
        |session| Some((Some(("state", session.condition.word())), 1)),
    );
    of_each(
        &mut text,
        "session_start_timestamp_seconds",
        "Start time of the session.",
        sessions,
        |session| {
            let since = OffsetDateTime::parse(&session.state.since, &Rfc3339).ok()?;
            Some((None, u64::try_from(since.unix_timestamp()).ok()?))
        },
    );
    of_each(
        &mut text,
        "diff_bytes",
        "Size of the diff on disk in bytes.",
        sessions,
        |session| Some((None, session.diff_bytes?)),
    );
    counters(&mut text, sessions);
    text.finish()
}

fn counters(text: &mut Text, sessions: &[Status]) {
    let mut last = "";
    for metric in METRICS {
        if metric.family != last {
            let kind = match metric.kind {
                MetricKind::Counter => Kind::Counter,
                MetricKind::Gauge => Kind::Gauge,
            };
            text.family(metric.family, kind, metric.help);
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

fn of_each<'a>(
    text: &mut Text,
    name: &str,
    help: &str,
    sessions: &'a [Status],
    value: impl Fn(&'a Status) -> Option<(Option<Label<'a>>, u64)>,
) {
    text.family(name, Kind::Gauge, help);
    for session in sessions {
        if let Some((label, value)) = value(session) {
            sample_of(text, name, session, label, value);
        }
    }
}

fn sample_of(text: &mut Text, name: &str, session: &Status, label: Option<Label<'_>>, value: u64) {
    let state = &session.state;
    let target = state.target.to_string_lossy();
    let mut labels = vec![
        ("target", &*target),
        ("instance", &state.instance),
        ("backup", &state.backup),
    ];
    labels.extend(label);
    text.sample(name, &labels, value);
}
