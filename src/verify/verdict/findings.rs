//! What each kind of finding means, for people: the table of the manual page. A test
//! keeps this and [`super`] consistent.

use super::Verdict::{self, Bad, CouldNotTell, PagesRight, Proved};

/// A kind of finding.
#[derive(Debug, Clone, Copy)]
pub struct Finding {
    /// What was found.
    pub what: &'static str,
    /// Why that is, or is not, evidence.
    pub why: &'static str,
    /// The verdict.
    pub verdict: Verdict,
}

/// Every kind of finding, the best first.
pub const FINDINGS: &[Finding] = &[
    Finding {
        what: "everything that the profile asks for is right",
        why: "all of it was checked",
        verdict: Proved,
    },
    Finding {
        what: "the pages are intact, but the profile requires more checks than --pages",
        why: "the rest was not checked",
        verdict: PagesRight,
    },
    Finding {
        what: "permission to read a file is denied, the catalog is missing altogether, or a disk \
               fails",
        why: "the backup may be intact: another user, or another day, can tell",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the backup is being created, merged or deleted",
        why: "it may be intact in a moment",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the archive lacks WAL between the backup and the target",
        why: "it may be elsewhere",
        verdict: CouldNotTell,
    },
    Finding {
        what: "the disk or the memory is full, a signal ended the server, or time ran out",
        why: "the host is at fault",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a query fails for any reason other than broken data",
        why: "the query may be wrong, or its table may never have existed",
        verdict: CouldNotTell,
    },
    Finding {
        what: "pg_amcheck finds an index out of order whose collation has another version on this \
               host",
        why: "another version may sort differently; the report names the collations",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a command exits with 3, 126 or 127, or a signal ends it",
        why: "with 3 it says so itself; otherwise it did not run to its end",
        verdict: CouldNotTell,
    },
    Finding {
        what: "a page, a file list or a header map is not what was written",
        why: "its checksum or its format is wrong",
        verdict: Bad,
    },
    Finding {
        what: "a file of the backup is missing or truncated, or is not a file",
        why: "its contents are lost",
        verdict: Bad,
    },
    Finding {
        what: "WAL that the backup itself needs, from its start to its stop, is missing",
        why: "pg_probackup validate says the same",
        verdict: Bad,
    },
    Finding {
        what: "a WAL segment that is read is damaged",
        why: "its format or its records are wrong",
        verdict: Bad,
    },
    Finding {
        what: "pg_probackup gives it the status ERROR, CORRUPT or ORPHAN, or its parent is \
               missing",
        why: "pg_probackup itself does not restore it",
        verdict: Bad,
    },
    Finding {
        what: "PostgreSQL reports that its files are broken",
        why: "its own messages are the evidence, unless the mount or the log shows a fault of the \
              host",
        verdict: Bad,
    },
    Finding {
        what: "a query fails with an error of class XX or 58",
        why: "PostgreSQL uses these classes for broken data and for files that it cannot read",
        verdict: Bad,
    },
    Finding {
        what: "an answer is not what the profile expects, or pg_amcheck finds something",
        why: "that is what was checked",
        verdict: Bad,
    },
    Finding {
        what: "a command exits with any other status except 0",
        why: "that is its verdict",
        verdict: Bad,
    },
];

/// Returns the consequences of a verdict: exit code and metrics.
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
