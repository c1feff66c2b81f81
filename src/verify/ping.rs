//! The ping URL, used as in <https://healthchecks.io/docs/signaling_failures/>:
//! `URL/start`, then `URL/EXIT-CODE` with the end of the report.

use std::thread;
use std::time::Duration;

/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Number of attempts, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of bytes of a report that are sent.
const TAIL: usize = 10_000;

/// Notifies the URL. A failure is logged, and has no other effect.
pub fn ping(url: &str, what: &str, report: &str) {
    let place = format!("{}/{what}", url.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .user_agent(concat!("pbkfs/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    for attempt in 1..=TRIES {
        match agent.post(&place).send(tail(report)) {
            Ok(_) => return,
            // A URL may be a secret, so it is not logged.
            Err(error) => tracing::warn!("the ping \"{what}\" failed (attempt {attempt}): {error}"),
        }
        if attempt < TRIES {
            thread::sleep(PAUSE);
        }
    }
}

fn tail(report: &str) -> &str {
    let mut from = report.len().saturating_sub(TAIL);
    while !report.is_char_boundary(from) {
        from += 1;
    }
    report.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_report_is_whole_characters() {
        assert_eq!(tail("short"), "short");
        let long = "é".repeat(TAIL);
        assert!(tail(&long).len() <= TAIL && tail(&long).chars().all(|c| c == 'é'));
        let odd = format!("x{long}y");
        assert!(tail(&odd).ends_with('y'));
    }
}
