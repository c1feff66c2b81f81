//! Timeline histories, the files `TTTTTTTT.history` (`readTimeLineHistory`,
//! src/backend/access/transam/timeline.c).
//!
//! There is one line per ancestor, oldest first: its timeline, the position where the
//! next one branched off, and a reason for human readers, separated by whitespace. `#`
//! starts a comment. Timeline 1 has no history.

use crate::pg::Lsn;

/// One ancestor of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub timeline: u32,
    /// The position where the next timeline branched off; the ancestor's WAL from there
    /// on is not part of this history.
    pub end: Lsn,
}

/// A timeline's ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The timeline.
    pub timeline: u32,
    /// Its ancestors, oldest first; the last is its parent.
    pub ancestors: Vec<HistoryEntry>,
}

/// An invalid line of a history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a timeline and the position where it ended, in ascending order")]
pub struct HistoryError {
    /// The line number, counted from 1.
    pub line: usize,
}

impl History {
    /// Parses the history file of `timeline`.
    ///
    /// # Errors
    /// If a line lacks a timeline or a position, or if its timeline is not greater than
    /// that of the line before and less than `timeline` itself.
    pub fn parse(timeline: u32, text: &str) -> Result<Self, HistoryError> {
        let mut ancestors: Vec<HistoryEntry> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let after = ancestors.last().map_or(0, |entry| entry.timeline);
            let entry = parse_line(line)
                .filter(|entry| entry.timeline > after && entry.timeline < timeline)
                .ok_or(HistoryError { line: index + 1 })?;
            ancestors.push(entry);
        }
        Ok(Self {
            timeline,
            ancestors,
        })
    }

    /// Returns the history of a timeline that has no file: it has no ancestors.
    #[must_use]
    pub fn without_ancestors(timeline: u32) -> Self {
        Self {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Returns the parent timeline, and the position where this one branched off.
    #[must_use]
    pub fn parent(&self) -> Option<HistoryEntry> {
        self.ancestors.last().copied()
    }

    /// Returns the timeline that provides this history's WAL at `lsn`.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> u32 {
        self.ancestors
            .iter()
            .find(|entry| lsn < entry.end)
            .map_or(self.timeline, |entry| entry.timeline)
    }
}

fn parse_line(line: &str) -> Option<HistoryEntry> {
    let mut words = line.split_whitespace();
    Some(HistoryEntry {
        timeline: words.next()?.parse().ok()?,
        end: words.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_and_who_holds_which_wal() {
        let text = "# comment\n1\t0/3000000\tno recovery target specified\n\n3\t1/A0\tbefore x\n";
        let history = History::parse(4, text).unwrap();
        assert_eq!(history.parent().unwrap().timeline, 3);
        for (lsn, timeline) in [(0, 1), (0x2FF_FFFF, 1), (0x300_0000, 3), (1 << 33, 4)] {
            assert_eq!(history.timeline_at(Lsn(lsn)), timeline, "{lsn:x}");
        }
        assert_eq!(History::without_ancestors(1).timeline_at(Lsn(5)), 1);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (text, line) in [
            ("x\t0/0\n", 1),
            ("1\t0/1\n1\t0/2\n", 2),
            ("\n1\n", 2),
            ("5\t0/1\n", 1),
            ("1\tnowhere\n", 1),
        ] {
            assert_eq!(
                History::parse(4, text),
                Err(HistoryError { line }),
                "{text}"
            );
        }
    }
}
