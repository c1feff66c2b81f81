//! What each kind of finding says, for people: the table of the manual page. A test
//! holds it and [`super`] together.

use super::Verdict::{self, Bad, CouldNotTell, PagesRight, Proved};

/// A kind of finding.
#[derive(Debug, Clone, Copy)]
pub struct Finding {
    /// What was found.
    pub what: &'static str,
    /// Why that is evidence, or none.
    pub why: &'static str,
    /// What it says.
    pub verdict: Verdict,
}

/// Every kind, the best first.
pub const FINDINGS: &[Finding] = &[
    Finding {
        what: "everything that the profile asks for is right",
        why: "all of it was done",
        verdict: Proved,
    },
    Finding {
        what: "the pages are right, by --pages, and the profile asks for more",
        why: "the rest was not looked at",
        verdict: PagesRight,
    },
    Finding {
        what: "a file may not be read, the catalog is not there at all, or a disk fails",
        why: "it may be well: another user, or another day, can tell",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the backup is being made, merged or deleted",
        why: "it may be well in a moment",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the archive lacks WAL behind the backup, on the way to the target",
        why: "it may be elsewhere",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the disk or the memory is full, a signal ended the server, time was up",
        why: "the host is at fault",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a query fails for any reason but broken data",
        why: "the query may be wrong, or its table never was there",
        verdict: CouldNotTell,
    },
    Finding {
        what: "pg_amcheck finds the order of an index wrong that has a collation of another \
               version on this host",
        why: "another version may sort in another way; the report names the collations",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a command exits with 3, 126 or 127, or a signal ends it",
        why: "it says so itself, or did not run",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a page, a list or a header map is not what was written",
        why: "its checksum or its form is wrong",
        verdict: Bad,
    },
    Finding {
        what: "a file of the backup is missing, cut off, or something else than a file",
        why: "what it held is lost",
        verdict: Bad,
    },
    Finding {
        what: "WAL that the backup itself needs, from its start to its stop, is missing",
        why: "pg_probackup validate says the same",
        verdict: Bad,
    },
    Finding {
        what: "a segment of WAL that is read is damaged",
        why: "its form or its records are wrong",
        verdict: Bad,
    },
    Finding {
        what: "pg_probackup calls it ERROR, CORRUPT or ORPHAN, or its parent is gone",
        why: "pg_probackup itself does not restore it",
        verdict: Bad,
    },
    Finding {
        what: "PostgreSQL says that its files are broken",
        why: "its own words, where neither mount nor log speak of a fault of the host",
        verdict: Bad,
    },
    Finding {
        what: "a query fails with an error of class XX or 58",
        why: "so PostgreSQL reports broken data and files that it cannot read",
        verdict: Bad,
    },
    Finding {
        what: "an answer is not the one that the profile expects, or pg_amcheck finds something",
        why: "that is what was asked",
        verdict: Bad,
    },
    Finding {
        what: "a command exits with any other number but 0",
        why: "that is its word",
        verdict: Bad,
    },
];

/// What a verdict does besides: exit code and metrics.
#[must_use]
pub fn consequence(verdict: Verdict) -> &'static str {
    match verdict {
        Proved => {
            "exit code 0; pbkfs_verify_success 1, pbkfs_verify_last_success_timestamp_seconds is set"
        }
        PagesRight => "exit code 0; pbkfs_verify_success 0, and no proof in the history",
        CouldNotTell => "exit code 3; pbkfs_verify_exit_code 3",
        Bad => {
            "exit code 1; pbkfs_verify_exit_code 1, and pbkfs_verify_backup_bad 1 for the backup until it is \
             proved or gone"
        }
    }
}
