//! What goes wrong, one fault per line of a file:
//!
//! ```text
//! latency 20            every request takes that many milliseconds longer
//! rate 100000000        all bodies together pass at so many bytes per second
//! status 503 3          every third request fails with that status
//! status 404 1 KEY      every one for a key that contains KEY
//! cut 3                 the connection ends in the middle of every third body
//! short 3               every third body is complete, and too short
//! wrong 3 KEY           a byte of every third body is another one, once for each object
//! etag KEY              the object has changed
//! redirect              every request is sent to itself
//! hang 3                every third request is never answered
//! down                  every connection is closed at once
//! ```

use std::fs;
use std::path::Path;

#[derive(Debug, Default, Clone)]
pub struct Faults {
    pub latency: u64,
    pub rate: u64,
    pub down: bool,
    pub redirect: bool,
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    kind: String,
    number: u64,
    every: u64,
    key: String,
}

impl Faults {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut faults = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap_or_default().to_owned();
            let words: Vec<&str> = words.collect();
            let number = |at: usize| {
                words
                    .get(at)
                    .and_then(|word| word.parse().ok())
                    .unwrap_or(1)
            };
            let key = |at: usize| {
                words
                    .get(at)
                    .map(|word| (*word).to_owned())
                    .unwrap_or_default()
            };
            match &*kind {
                "latency" => faults.latency = number(0),
                "rate" => faults.rate = number(0),
                "down" => faults.down = true,
                "redirect" => faults.redirect = true,
                "status" => faults.lines.push(Line {
                    kind,
                    number: number(0),
                    every: number(1),
                    key: key(2),
                }),
                "etag" => faults.lines.push(Line {
                    kind,
                    number: 0,
                    every: 1,
                    key: key(0),
                }),
                _ => faults.lines.push(Line {
                    kind,
                    number: 0,
                    every: number(0),
                    key: key(1),
                }),
            }
        }
        faults
    }

    /// Whether a fault of this kind hits the request of that number and path; its number.
    pub fn hits(&self, kind: &str, request: u64, path: &str) -> Option<u64> {
        let hits = |line: &&Line| {
            line.kind == kind && request % line.every.max(1) == 0 && path.contains(&line.key)
        };
        self.lines.iter().find(hits).map(|line| line.number)
    }
}
