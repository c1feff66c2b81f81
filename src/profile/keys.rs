//! The one list of keys that a profile may have.
//!
//! Defaults, the check for unknown keys, `config/full.toml`'s test and the
//! manual page all read this table; a test holds that it and
//! [`Profile`](super::Profile) name the same keys.

/// What stands in for a key that nobody set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// This value, in the form that `--set` takes.
    Value(&'static str),
    /// Something worked out when it is needed, described for people.
    Derived(&'static str),
    /// Nothing: the profile has to set it.
    Required,
}

/// How the text of an environment variable or a `--set` becomes a TOML value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Always a string.
    Text,
    /// A path; a relative one starts at the directory of its file.
    Path,
    /// An integer, if it looks like one.
    Integer,
    /// A number, if it looks like one.
    Number,
    /// A boolean, if it looks like one.
    Flag,
    /// A whole table of names and values.
    Table,
    /// A list of names, in text separated by commas; a boolean where the key
    /// takes one, too.
    List,
    /// Several tables, `[[..]]` in a file; text cannot set them.
    Tables,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key with its sections, dotted.
    pub path: &'static str,
    /// How text becomes its value.
    pub kind: Kind,
    /// The values it takes, for people.
    pub values: &'static str,
    /// What it is when nobody sets it.
    pub default: Default,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// A value it takes, as TOML.
    pub example: &'static str,
}

/// The key under which every PostgreSQL setting is a key of its own.
pub const SETTINGS: &str = "postgres.settings";

/// Every key, in the order of the manual page and of `config/full.toml`.
pub const KEYS: &[Key] = &[
    Key {
        path: "catalog",
        kind: Kind::Path,
        values: "path",
        default: Default::Required,
        help: "The pg_probackup catalog, its -B",
        example: "\"/srv/backup\"",
    },
    Key {
        path: "instance",
        kind: Kind::Text,
        values: "name",
        default: Default::Required,
        help: "The instance within the catalog, pg_probackup's --instance",
        example: "\"main\"",
    },
    Key {
        path: "backup",
        kind: Kind::Text,
        values: "\"latest\" or a backup id",
        default: Default::Value("latest"),
        help: "Which backup to show; \"latest\" is the newest that can be restored, and with a \
               recovery target the newest before that",
        example: "\"SBOL8S\"",
    },
    Key {
        path: "target",
        kind: Kind::Path,
        values: "path",
        default: Default::Required,
        help: "The mount point, which becomes PostgreSQL's data directory",
        example: "\"/srv/clone/main\"",
    },
    Key {
        path: "diff_dir",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("a temporary directory, deleted on exit"),
        help: "Where everything is kept that the clone writes",
        example: "\"/srv/clone/main.diff\"",
    },
    Key {
        path: "pg_probackup",
        kind: Kind::Path,
        values: "path or command name",
        default: Default::Derived("pg_probackup, then pg_probackup-MAJOR, from PATH"),
        help: "The pg_probackup program to ask about the catalog",
        example: "\"/usr/bin/pg_probackup-15\"",
    },
    Key {
        path: "metadata",
        kind: Kind::Text,
        values: "\"auto\", \"pg_probackup\" or \"native\"",
        default: Default::Value("auto"),
        help: "Who reads the catalog: pg_probackup, pbkfs itself, or whichever can",
        example: "\"native\"",
    },
    Key {
        path: "metadata_timeout",
        kind: Kind::Integer,
        values: "seconds",
        default: Default::Value("60"),
        help: "How long pg_probackup may take to answer",
        example: "60",
    },
    Key {
        path: "lock_backups",
        kind: Kind::Flag,
        values: "\"auto\", true or false",
        default: Default::Value("auto"),
        help: "Lock the backups against pg_probackup's delete and merge; \"auto\" only \
               warns where the catalog cannot be written",
        example: "true",
    },
    Key {
        path: "verify_checksums",
        kind: Kind::Flag,
        values: "true or false",
        default: Default::Value("true"),
        help: "Check the checksum of every page that is read, where the cluster has them",
        example: "false",
    },
    Key {
        path: "cache_size",
        kind: Kind::Integer,
        values: "bytes, or text such as \"256MB\"",
        default: Default::Value("256MB"),
        help: "Memory for the page indexes of the files last read, a few bytes a page",
        example: "\"1GB\"",
    },
    Key {
        path: "fuse.threads",
        kind: Kind::Integer,
        values: "1 or more",
        default: Default::Derived("as many as there are processors"),
        help: "Threads that answer the kernel's requests",
        example: "4",
    },
    Key {
        path: "fuse.passthrough",
        kind: Kind::Flag,
        values: "\"auto\" or false",
        default: Default::Value("auto"),
        help: "Let the kernel read and write new files without pbkfs, where it can \
               (root, Linux 6.9) and is the faster for it: without a server, or where that \
               writes its WAL through the mount",
        example: "false",
    },
    Key {
        path: "postgres.launch",
        kind: Kind::Flag,
        values: "true or false",
        default: Default::Value("true"),
        help: "Start PostgreSQL on the mount; false only mounts",
        example: "false",
    },
    Key {
        path: "postgres.bin_dir",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("found by the backup's major version"),
        help: "The directory that holds the postgres program",
        example: "\"/usr/lib/postgresql/15/bin\"",
    },
    Key {
        path: "postgres.port",
        kind: Kind::Integer,
        values: "1 to 65535",
        default: Default::Derived("a free one"),
        help: "PostgreSQL's port, which also names its socket",
        example: "5433",
    },
    Key {
        path: "postgres.user",
        kind: Kind::Text,
        values: "operating system user",
        default: Default::Value("postgres"),
        help: "Whom to run PostgreSQL as when pbkfs is root",
        example: "\"postgres\"",
    },
    Key {
        path: "postgres.role",
        kind: Kind::Text,
        values: "database role",
        default: Default::Value("postgres"),
        help: "The role that pbkfs connects as, normally the cluster's first superuser",
        example: "\"postgres\"",
    },
    Key {
        path: SETTINGS,
        kind: Kind::Table,
        values: "table of text, numbers and booleans",
        default: Default::Derived("none"),
        help: "PostgreSQL settings for the clone; what keeps it from production takes fence.allow",
        example: "{ shared_buffers = \"256MB\", work_mem = \"64MB\" }",
    },
    Key {
        path: "postgres.start_timeout",
        kind: Kind::Integer,
        values: "seconds",
        default: Default::Value("300"),
        help: "How long PostgreSQL may take, recovery included, until it answers a query",
        example: "300",
    },
    Key {
        path: "postgres.stop_timeout",
        kind: Kind::Integer,
        values: "seconds",
        default: Default::Value("60"),
        help: "How long a stop may take before a harsher one follows",
        example: "60",
    },
    Key {
        path: "postgres.socket_dir",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("a directory of pbkfs's own"),
        help: "Where PostgreSQL puts its socket",
        example: "\"/run/pbkfs\"",
    },
    Key {
        path: "recovery.target",
        kind: Kind::Text,
        values: "\"immediate\" or \"latest\"",
        default: Default::Derived(
            "\"immediate\" for an ARCHIVE backup; a STREAM backup needs no archive",
        ),
        help: "Replay the catalog's WAL archive until the backup is consistent, or all of it; \
               at most one of target, time, lsn, xid and name may be set",
        example: "\"latest\"",
    },
    Key {
        path: "recovery.time",
        kind: Kind::Text,
        values: "date, time and offset from UTC",
        default: Default::Derived("none"),
        help: "Replay the archive up to that time; text, or a date and time as TOML has them",
        example: "\"2026-11-22 14:32:00+00\"",
    },
    Key {
        path: "recovery.lsn",
        kind: Kind::Text,
        values: "position in the WAL",
        default: Default::Derived("none"),
        help: "Replay the archive up to that position",
        example: "\"0/4C037C8\"",
    },
    Key {
        path: "recovery.xid",
        kind: Kind::Integer,
        values: "transaction id",
        default: Default::Derived("none"),
        help: "Replay the archive until that transaction has ended",
        example: "1271",
    },
    Key {
        path: "recovery.name",
        kind: Kind::Text,
        values: "name of a restore point",
        default: Default::Derived("none"),
        help: "Replay the archive up to that restore point (pg_create_restore_point), the first \
               of that name behind the backup",
        example: "\"before_migration\"",
    },
    Key {
        path: "recovery.inclusive",
        kind: Kind::Flag,
        values: "true or false",
        default: Default::Value("true"),
        help: "Whether what stands right at the time, lsn or xid is replayed as well",
        example: "false",
    },
    Key {
        path: "recovery.timeline",
        kind: Kind::Text,
        values: "\"current\", \"latest\" or a number",
        default: Default::Value("current"),
        help: "Which timeline to follow: the backup's own, the newest of the archive, or that one",
        example: "\"latest\"",
    },
    Key {
        path: "recovery.action",
        kind: Kind::Text,
        values: "\"promote\", \"pause\" or \"shutdown\"",
        default: Default::Value("promote"),
        help: "What to do at the target: become writable, stay read-only there, or end",
        example: "\"pause\"",
    },
    Key {
        path: "recovery.restore_command",
        kind: Kind::Text,
        values: "shell command with %f and %p",
        default: Default::Derived("pbkfs wal-get, which reads the catalog's archive"),
        help: "The command that PostgreSQL fetches WAL with",
        example: "\"cp /srv/wal/%f %p\"",
    },
    Key {
        path: "recovery.prefetch",
        kind: Kind::Integer,
        values: "bytes, or text such as \"64MB\"",
        default: Default::Value("64MB"),
        help: "How much WAL may be fetched ahead of PostgreSQL; 0 fetches none",
        example: "\"256MB\"",
    },
    Key {
        path: "fence.level",
        kind: Kind::Text,
        values: "\"auto\" or \"settings\"",
        default: Default::Value("auto"),
        help: "What the fence is made of: settings, and namespaces around the server where the \
               host permits them, or settings only",
        example: "\"settings\"",
    },
    Key {
        path: "fence.require",
        kind: Kind::Text,
        values: "\"settings\" or \"namespace\"",
        default: Default::Value("settings"),
        help: "What the fence has to be made of; where the host does not permit namespaces, \
               \"namespace\" makes that an error",
        example: "\"namespace\"",
    },
    Key {
        path: "fence.network",
        kind: Kind::Text,
        values: "\"none\" or \"host\"",
        default: Default::Value("none"),
        help: "Which network the server is in: none but a loopback device of its own (the socket \
               works all the same), or the host's",
        example: "\"host\"",
    },
    Key {
        path: "fence.allow",
        kind: Kind::List,
        values: "list of names of settings",
        default: Default::Value(""),
        help: "The fence's settings that postgres.settings may change all the same",
        example: "[\"listen_addresses\"]",
    },
    Key {
        path: "fence.expose",
        kind: Kind::List,
        values: "list of absolute paths",
        default: Default::Value(""),
        help: "Files and directories of the host that the server may read besides programs, \
               libraries and /etc",
        example: "[\"/opt\"]",
    },
    Key {
        path: "fence.memory",
        kind: Kind::Integer,
        values: "bytes, or text such as \"4GB\"",
        default: Default::Derived("no limit"),
        help: "How much memory the server and the page cache for it may take (cgroup v2)",
        example: "\"4GB\"",
    },
    Key {
        path: "fence.cpus",
        kind: Kind::Number,
        values: "number of processors, with a fraction if need be",
        default: Default::Derived("no limit"),
        help: "How many processors' time the server may take (cgroup v2)",
        example: "1.5",
    },
    Key {
        path: "fence.processes",
        kind: Kind::Integer,
        values: "number of processes",
        default: Default::Derived("2048, where they can be limited"),
        help: "How many processes and threads the server may have, with all that it starts \
               (cgroup v2; in an ordinary user's namespaces, Linux 5.14)",
        example: "512",
    },
    Key {
        path: "fence.tmp_size",
        kind: Kind::Integer,
        values: "bytes, or text such as \"256MB\"",
        default: Default::Value("256MB"),
        help: "How large the clone's own /tmp is, and its /var/tmp; both are in memory. A server \
               that has \"No space left on device\" for a file there needs more",
        example: "\"1GB\"",
    },
    Key {
        path: "fence.shm_size",
        kind: Kind::Integer,
        values: "bytes, or text such as \"1GB\"",
        default: Default::Value("1GB"),
        help: "How large the clone's own /dev/shm is, where its parallel workers share memory: \
               a hash join takes up to work_mem times hash_mem_multiplier for each of them. A server \
               that has \"No space left on device\" for a shared memory segment needs more",
        example: "\"4GB\"",
    },
    Key {
        path: "fence.nice",
        kind: Kind::Integer,
        values: "0 to 19",
        default: Default::Value("0"),
        help: "How far the server steps back behind other processes",
        example: "10",
    },
    Key {
        path: "fence.ionice",
        kind: Kind::Text,
        values: "\"normal\" or \"idle\"",
        default: Default::Value("normal"),
        help: "Whether the disks serve the server like everybody, or when nobody else wants them",
        example: "\"idle\"",
    },
    Key {
        path: "verify.backup",
        kind: Kind::Text,
        values: "\"latest\", a backup id, \"oldest-unverified\" or \"all\"",
        default: Default::Derived("the profile's backup"),
        help: "Which backups pbkfs verify proves; \"oldest-unverified\" is the one whose last \
               verification is longest ago, so that many nights get through a catalog",
        example: "\"oldest-unverified\"",
    },
    Key {
        path: "verify.pages",
        kind: Kind::Flag,
        values: "true or false",
        default: Default::Value("true"),
        help: "Read every page and file that a restore would read: decoding, page checksums, \
               page headers and stored checksums",
        example: "false",
    },
    Key {
        path: "verify.start",
        kind: Kind::Flag,
        values: "true or false",
        default: Default::Value("true"),
        help: "Start PostgreSQL on it, recover to the target and have it answer; the checks below \
               need that",
        example: "false",
    },
    Key {
        path: "verify.known_bad",
        kind: Kind::Text,
        values: "\"fail\" or \"report\"",
        default: Default::Value("fail"),
        help: "What a backup does that an earlier run found bad, and none has proved since: it \
               makes each run exit with 1, or is reported only",
        example: "\"report\"",
    },
    Key {
        path: "verify.restore",
        kind: Kind::Text,
        values: "\"pbkfs\" or \"pg_probackup\"",
        default: Default::Value("pbkfs"),
        help: "By whose restore the backup has to come back whole. Of a newer backup on a PAGE or \
               PTRACK backup of pg_probackup 2.2.7 or older, pg_probackup's own restore may lose \
               what came after a truncation, without a word. pbkfs shows all of it, and reports \
               what restore would lose; with \"pg_probackup\" such a backup is bad",
        example: "\"pg_probackup\"",
    },
    Key {
        path: "verify.amcheck",
        kind: Kind::List,
        values: "true, false or a list of databases",
        default: Default::Value("false"),
        help: "Compare tables and indexes with pg_amcheck, in all databases or in these",
        example: "[\"shop\"]",
    },
    Key {
        path: "verify.dump",
        kind: Kind::List,
        values: "true, false or a list of databases",
        default: Default::Value("false"),
        help: "Read everything with pg_dump, of all databases or of these",
        example: "[\"shop\"]",
    },
    Key {
        path: "verify.dump_dir",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("nowhere: what is read is thrown away"),
        help: "Where the dumps are kept, each as DATABASE.dump in pg_dump's custom format",
        example: "\"/srv/dumps/main\"",
    },
    Key {
        path: "verify.sql",
        kind: Kind::Tables,
        values: "[[verify.sql]] sections with name, database, query, expect and timeout",
        default: Default::Derived("none"),
        help: "Queries, and what each has to answer: text as psql -At prints it, a condition on \
               a number (\"> 0\") or on how old a time is (\"age < 1 day\"); without expect, \
               an answer is enough",
        example: "[{ name = \"orders\", database = \"shop\", query = \"select max(at) from orders\", expect = \"age < 1 day\" }]",
    },
    Key {
        path: "verify.command",
        kind: Kind::Tables,
        values: "[[verify.command]] sections with name, run and timeout",
        default: Default::Derived("none"),
        help: "Commands for the shell, run as PostgreSQL's user with PGHOST, PGPORT, PGUSER, \
               PGDATABASE and PGDATA set; one that fails has found the backup bad, one that \
               exits with 3 could not tell",
        example: "[{ name = \"own\", run = \"/usr/local/bin/check-shop\" }]",
    },
    Key {
        path: "verify.check_timeout",
        kind: Kind::Integer,
        values: "seconds",
        default: Default::Derived("what verify.timeout leaves"),
        help: "How long each check may take; a section of verify.sql or verify.command may set \
               its own timeout",
        example: "3600",
    },
    Key {
        path: "verify.timeout",
        kind: Kind::Integer,
        values: "seconds",
        default: Default::Value("86400"),
        help: "How long all that is done about one backup may take; out of time is \"could not \
               tell\"",
        example: "14400",
    },
    Key {
        path: "verify.state_dir",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived(
            "/var/lib/pbkfs for root, else $XDG_STATE_HOME/pbkfs or ~/.local/state/pbkfs",
        ),
        help: "Where the history of verifications is kept",
        example: "\"/var/lib/pbkfs\"",
    },
    Key {
        path: "verify.prometheus",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("none"),
        help: "The file that gets the result for node_exporter's textfile collector",
        example: "\"/var/lib/prometheus/node-exporter/pbkfs_main.prom\"",
    },
    Key {
        path: "verify.html",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("none"),
        help: "The file that gets the result as one HTML page, with the profile's history",
        example: "\"/var/www/reports/main.html\"",
    },
    Key {
        path: "verify.ping",
        kind: Kind::Text,
        values: "URL",
        default: Default::Derived("none"),
        help: "Asked for at URL/start when a verification begins, and at URL/EXIT-CODE when it \
               ends, with the end of the report; what becomes of that changes no verdict",
        example: "\"https://hc-ping.com/3c1169a0-7b4d-4cbb-8ff5-4f7a1d3f0f5e\"",
    },
    Key {
        path: "log.level",
        kind: Kind::Text,
        values: "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        default: Default::Value("info"),
        help: "How much pbkfs logs",
        example: "\"debug\"",
    },
    Key {
        path: "log.format",
        kind: Kind::Text,
        values: "\"human\" or \"json\"",
        default: Default::Value("human"),
        help: "How a log line looks: for people, or one JSON object a line",
        example: "\"json\"",
    },
    Key {
        path: "log.destination",
        kind: Kind::Text,
        values: "\"stderr\", \"journald\" or \"file\"",
        default: Default::Derived("\"file\" if log.file is set, else \"stderr\""),
        help: "Where log lines go; with \"stderr\", an up --detach logs to the session's own \
               pbkfs.log",
        example: "\"journald\"",
    },
    Key {
        path: "log.file",
        kind: Kind::Path,
        values: "path",
        default: Default::Derived("none"),
        help: "The log file: a link to that of the day, which has the date behind its name; \
               regular files beside it whose names begin with its name count as old ones",
        example: "\"/var/log/pbkfs/main.log\"",
    },
    Key {
        path: "log.keep",
        kind: Kind::Integer,
        values: "1 or more",
        default: Default::Value("7"),
        help: "How many days' log files are kept",
        example: "30",
    },
];

/// The key with that dotted path. Any name under `postgres.settings` is a key.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| {
        key.path == path
            || key.kind == Kind::Table
                && path
                    .strip_prefix(key.path)
                    .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Whether keys lie below that dotted path.
#[must_use]
pub fn is_section(path: &str) -> bool {
    sections().any(|section| section == path)
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter_map(|key| key.path.rsplit_once('.'))
        .map(|(section, _)| section)
}

/// The known key or section that looks most like `path`, if any does.
///
/// A key's last part counts nearly as much as the whole of it, so that `port`
/// at the top of a file leads to `postgres.port`.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.6;
    const LAST_PART_WEIGHT: f64 = 0.95;
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(known, path);
        let part = strsim::normalized_damerau_levenshtein(&last(known), &last(path));
        whole.max(part * LAST_PART_WEIGHT)
    };
    KEYS.iter()
        .map(|key| key.path)
        .chain(sections())
        .map(|known| (known, likeness(known)))
        .filter(|(_, likeness)| *likeness >= ALIKE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(known, _)| known)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::profile::layers::parse;
    use crate::profile::raw::tests::every_key;

    #[test]
    fn table_and_profile_name_the_same_keys() {
        fn leaves(prefix: &str, value: &serde_json::Value, into: &mut BTreeSet<String>) {
            match value {
                serde_json::Value::Object(map) if prefix != SETTINGS => {
                    for (name, value) in map {
                        let path = if prefix.is_empty() {
                            name.clone()
                        } else {
                            format!("{prefix}.{name}")
                        };
                        leaves(&path, value, into);
                    }
                }
                _ => {
                    into.insert(prefix.to_owned());
                }
            }
        }
        let mut fields = BTreeSet::new();
        leaves("", &serde_json::to_value(every_key()).unwrap(), &mut fields);
        let table: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(fields, table);
        assert_eq!(table.len(), KEYS.len(), "a key stands in the table twice");
    }

    #[test]
    fn every_example_is_accepted() {
        for key in KEYS {
            let text = format!("{} = {}\n", key.path, key.example);
            let profile = parse(&text, "/p/example.toml".as_ref());
            assert!(profile.is_ok(), "{text}{profile:?}");
        }
    }

    #[test]
    fn nearest_finds_typos_and_lost_sections() {
        assert_eq!(nearest("catalogue"), Some("catalog"));
        assert_eq!(nearest("diffdir"), Some("diff_dir"));
        assert_eq!(nearest("postgres.prot"), Some("postgres.port"));
        assert_eq!(nearest("port"), Some("postgres.port"));
        assert_eq!(nearest("postgrse"), Some("postgres"));
        assert_eq!(nearest("zzzzzz"), None);
    }

    #[test]
    fn postgresql_settings_are_keys_of_any_name() {
        assert!(find("postgres.settings.work_mem").is_some());
        assert!(find("postgres.settings").is_some());
        assert!(find("postgres.settingsX").is_none());
        assert!(find("postgres").is_none());
    }
}
