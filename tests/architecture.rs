//! The rules of `ARCHITECTURE.md` that the compiler does not enforce.
//!
//! Sources are read as text. Comments, and everything below a file's `#[cfg(test)]`,
//! are ignored.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/circles.rs"]
mod circles;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Each module, and the modules that it may use besides itself and
/// [`FOR_ALL`].
const MAY_USE: &[(&str, &[&str])] = &[
    ("cache", &[]),
    ("descriptors", &[]),
    ("escape", &[]),
    ("causes", &[]),
    ("clock", &[]),
    ("exposition", &[]),
    ("figures", &[]),
    ("parallel", &[]),
    ("program", &[]),
    ("untrusted", &[]),
    ("pg", &[]),
    ("catalog", &["pg"]),
    ("chain", &["catalog", "pg"]),
    ("image", &["chain", "catalog", "pg"]),
    ("diff", &["pg"]),
    ("overlay", &["diff", "image", "pg"]),
    ("fuse", &["overlay", "diff"]),
    ("server", &["pg"]),
    ("profile", &["catalog", "pg"]),
    (
        "session",
        &[
            "server", "profile", "fuse", "overlay", "diff", "image", "chain", "catalog", "pg",
        ],
    ),
    (
        "verify",
        &[
            "session", "server", "profile", "overlay", "image", "chain", "catalog", "pg",
        ],
    ),
    ("extract", &["session", "server", "profile"]),
    (
        "materialize",
        &[
            "session", "server", "profile", "overlay", "diff", "image", "pg",
        ],
    ),
    (
        "promote",
        &[
            "materialize",
            "session",
            "server",
            "profile",
            "overlay",
            "diff",
            "image",
        ],
    ),
    (
        "cli",
        &[
            "verify",
            "extract",
            "materialize",
            "promote",
            "session",
            "server",
            "profile",
            "fuse",
            "overlay",
            "diff",
            "image",
            "chain",
            "catalog",
            "pg",
        ],
    ),
    (
        "internals",
        &["session", "server", "profile", "overlay", "diff", "catalog"],
    ),
    ("lib", &["cli"]),
    ("main", &[]),
];

/// Modules that every module may use, and that use only each other.
const FOR_ALL: &[&str] = &[
    "cache",
    "causes",
    "descriptors",
    "escape",
    "clock",
    "exposition",
    "figures",
    "parallel",
    "program",
    "untrusted",
];

/// Crates, each with the only places that may name it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("fuser::", &["fuse/"]),
    ("clap::", &["cli/", "profile/"]),
    ("clap_mangen::", &["cli/generate"]),
    ("clap_complete::", &["cli/generate"]),
    ("indicatif::", &["cli/"]),
    ("redb::", &["diff/"]),
    ("sd_notify::", &["cli/clone/stay.rs"]),
    ("tracing_subscriber::", &["cli/"]),
    ("signal_hook::", &["session/"]),
    ("postgres::", &["server/"]),
    ("ureq::", &["verify/ping.rs"]),
    ("object_store::", &["catalog/store/remote/source/"]),
    ("rustls::", &["catalog/store/remote/source/"]),
    ("tokio::", &["catalog/store/remote/"]),
];

/// The only places that start processes.
const STARTERS: &[&str] = &[
    "program.rs",
    "server/",
    "session/",
    "fuse/",
    "cli/clone/background.rs",
    "cli/catalog/wal_get.rs",
    "catalog/probackup",
];

/// Files that may be longer than [`LINES`] without their tests, and why.
const LONG: &[(&str, &str)] = &[(
    "fuse/adapter.rs",
    "one `impl Filesystem`, which Rust does not allow to be split",
)];

/// Maximum number of lines of a file, without its tests.
const LINES: usize = 400;

/// A source file without its tests and comments.
struct Source {
    /// Its path below `src`.
    path: PathBuf,
    code: String,
    /// Number of lines before its tests, including comments.
    lines: usize,
}

impl Source {
    fn read(path: &Path) -> Source {
        let text = fs::read_to_string(path).unwrap();
        let before_tests = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let code = before_tests
            .lines()
            .map(|line| line.split("//").next().unwrap())
            .collect::<Vec<_>>()
            .join("\n");
        Source {
            path: path.strip_prefix(src()).unwrap().to_owned(),
            code,
            lines: before_tests.lines().count(),
        }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Returns the top-level module that contains the file.
    fn module(&self) -> &str {
        let first = self.path.iter().next().unwrap().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Returns whether the whole file is tests: it is in a directory `tests`, or has
    /// that name.
    fn is_tests(&self) -> bool {
        self.path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs" || part == "fixtures.rs")
    }
}

fn src() -> PathBuf {
    Path::new(ROOT).join("src")
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, into: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(Source::read(&path));
            }
        }
    }
    let mut sources = Vec::new();
    walk(&src(), &mut sources);
    sources.retain(|source| !source.is_tests());
    assert!(sources.len() > 50, "the sources have moved");
    sources
}

/// Returns the modules that follow `crate::` in some code, including those in braces:
/// `crate::{a, b::c}` names a and b.
fn used_modules(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut modules = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            modules.insert(word(rest));
            continue;
        };
        let mut depth = 0_i32;
        let mut item_begins = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item_begins = true,
                c if item_begins && c.is_alphabetic() => {
                    modules.insert(word(&list[at..]));
                    item_begins = false;
                }
                _ => {}
            }
        }
    }
    modules
}

#[test]
fn paths_are_read_with_braces_and_without() {
    let code = "use crate::{a, b::{c, d},\n  e};\nfn f() { crate::g::h() }";
    let expected = ["a", "b", "e", "g"].map(str::to_owned);
    assert_eq!(used_modules(code), BTreeSet::from(expected));
}

#[test]
fn modules_use_each_other_in_one_direction() {
    // Each list names only modules listed above it, so the table itself has no cycle.
    let mut known = BTreeSet::new();
    for (module, may_use) in MAY_USE {
        for used in *may_use {
            assert!(
                known.contains(used),
                "the table lets {module} use {used} too early"
            );
        }
        known.insert(*module);
    }
    for source in sources() {
        let module = source.module();
        let (_, may_use) = MAY_USE
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{module} is not in the table"));
        for used in used_modules(&source.code) {
            assert!(
                used == module || FOR_ALL.contains(&&*used) || may_use.contains(&used.as_str()),
                "src/{} uses crate::{used}, which {module} may not",
                source.name()
            );
        }
    }
}

#[test]
fn crates_stay_where_they_belong() {
    for source in sources() {
        for (name, places) in ONLY_IN {
            let names_it = source.code.match_indices(name).any(|(at, _)| {
                // `tokio_postgres::` is not `postgres::`, `self::postgres::` not the crate.
                let before = source.code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            assert!(
                !names_it || places.iter().any(|place| source.name().starts_with(place)),
                "src/{} names {name}, which only {places:?} may",
                source.name()
            );
        }
    }
}

#[test]
fn processes_are_started_in_few_places() {
    for source in sources() {
        // The standard library's `Command`, however it is imported.
        let starts = source
            .code
            .lines()
            .any(|line| line.contains("process::") && line.contains("Command"));
        assert!(
            !starts
                || STARTERS
                    .iter()
                    .any(|place| source.name().starts_with(place)),
            "src/{} starts processes; only {STARTERS:?} may",
            source.name()
        );
    }
}

#[test]
fn no_file_is_long() {
    let sources = sources();
    let too_long: Vec<String> = sources
        .iter()
        .filter(|source| source.lines > LINES)
        .filter(|source| LONG.iter().all(|(name, _)| *name != source.name()))
        .map(|source| format!("src/{} has {}", source.name(), source.lines))
        .collect();
    assert!(
        too_long.is_empty(),
        "a file has at most {LINES} lines without tests, but {}",
        too_long.join(", ")
    );
    for (name, why) in LONG {
        let long = |source: &&Source| source.name() == *name && source.lines > LINES;
        assert!(
            sources.iter().any(|source| long(&source)),
            "src/{name} no longer needs an exception ({why})"
        );
    }
}

#[test]
fn every_dependency_is_accounted_for() {
    let manifest: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text
        .split_once("\n## Dependencies\n")
        .expect("ARCHITECTURE.md has a section on dependencies");
    let section = section.split("\n## ").next().unwrap();
    let listed: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .flat_map(|line| {
            line.split(':')
                .next()
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .collect();
    let mut used = BTreeSet::new();
    for table in ["dependencies", "dev-dependencies"] {
        for name in manifest[table].as_table().unwrap().keys() {
            assert!(
                listed.contains(name.as_str()),
                "ARCHITECTURE.md does not say what {name} is for"
            );
            used.insert(name.as_str());
        }
    }
    for name in listed {
        assert!(
            used.contains(name),
            "ARCHITECTURE.md names {name}, which is not used"
        );
    }
}

/// The modules of the library, besides those that all may use. Everything else
/// belongs to the program, and so do the paths that start with an entry of
/// `ONLY_WITH_IT`.
const LIBRARY: &[&str] = &["pg", "catalog", "chain", "image"];

const ONLY_WITH_IT: &[&str] = &["catalog/probackup/", "catalog/encode/", "exposition.rs"];

/// Building the library without the program builds no unneeded dependency.
#[test]
fn the_library_has_only_the_dependencies_that_it_needs() {
    let manifest: toml::Table = fs::read_to_string(Path::new(ROOT).join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let is_optional = |what: &toml::Value| {
        let optional = what.get("optional").and_then(toml::Value::as_bool);
        optional.unwrap_or(false)
    };
    let sources = sources();
    let library: Vec<&Source> = sources
        .iter()
        .filter(|source| {
            let module = source.module();
            let is_programs = |place: &&str| source.name().starts_with(place);
            (LIBRARY.contains(&module) || FOR_ALL.contains(&module))
                && !ONLY_WITH_IT.iter().any(is_programs)
        })
        .collect();
    for (name, what) in manifest["dependencies"].as_table().unwrap() {
        let path = format!("{}::", name.replace('-', "_"));
        let user = library.iter().find(|source| source.code.contains(&path));
        assert!(
            is_optional(what) || user.is_some(),
            "only the program needs {name}: make it optional, and a part of the feature cli"
        );
    }
}

/// Calls that open, create, rename or remove a file by path.
const BY_PATH: &[&str] = &[
    "File::open",
    "File::create",
    "File::options",
    "OpenOptions",
    "DirBuilder",
    "fs::read(",
    "fs::read_to_string(",
    "fs::read_dir(",
    "fs::write(",
    "fs::copy(",
    "fs::rename(",
    "fs::remove_",
    "fs::create_dir",
    "fs::set_permissions(",
    "fs::hard_link(",
    "fs::symlink(",
    "chown(",
    "openat(",
    "symlinkat(",
    "unistd::truncate",
];

/// The only places that do so, on paths that no other user can write to, and why. All
/// others use `untrusted`.
const OPENERS: &[(&str, &str)] = &[
    ("untrusted/", "all others go through it"),
    (
        "server/namespace/",
        "the server's root, in its own mount namespace",
    ),
    ("server/limits.rs", "control groups, below /sys/fs/cgroup"),
    (
        "session/fence/limits.rs",
        "the directory of a control group",
    ),
    ("server/tool/keeper.rs", "/proc"),
    ("session/place/state.rs", "/proc"),
    ("session/place/mounts.rs", "/proc"),
    ("session/outside/occupants.rs", "/proc"),
    (
        "session/place/lasting.rs",
        "creates a directory, then checks its owner",
    ),
    (
        "session/place/socket.rs",
        "a socket in the session's directory, which others cannot enter",
    ),
    (
        "verify/history/mod.rs",
        "creates the directories that the profile names",
    ),
    (
        "catalog/store/remote/disk/mod.rs",
        "creates the directory that the profile names, then checks its owner",
    ),
    (
        "profile/layers.rs",
        "the profile, which the user names and which may be a pipe",
    ),
    ("fuse/mod.rs", "/sys"),
    ("fuse/point.rs", "/dev/fuse"),
    (
        "cli/generate.rs",
        "creates the directory that the user names",
    ),
    ("cli/clone/stay.rs", "/dev/null"),
];

/// The only places in the library's core that use files at all: the store's own, the
/// few others that write (locks in the catalog, segments where PostgreSQL wants
/// them), and the read-only view of an archive, which only a directory can have.
const CATALOG_OPENERS: &[&str] = &[
    "catalog/store/",
    "catalog/lock",
    "catalog/wal/fetch",
    "catalog/wal/prefetch",
    "catalog/wal/files",
];

#[test]
fn what_others_can_write_is_opened_by_one_module() {
    let sources = sources();
    let by_path = |source: &Source| {
        // With an open file, it is none of these.
        let code = source.code.replace("fchown(", "");
        let found = BY_PATH.iter().find(|way| code.contains(**way));
        found.copied()
    };
    for source in &sources {
        let is_known = OPENERS
            .iter()
            .any(|(place, _)| source.name().starts_with(place));
        if let Some(way) = by_path(source).filter(|_| !is_known) {
            panic!(
                "src/{} has {way}: use crate::untrusted to open what others can write",
                source.name()
            );
        }
    }
    for (place, why) in OPENERS {
        let mut there = sources.iter().filter(|s| s.name().starts_with(place));
        assert!(
            there.any(|source| by_path(source).is_some()),
            "src/{place} no longer opens anything by path ({why})"
        );
    }
}

#[test]
fn a_catalog_is_read_by_its_store() {
    for source in sources() {
        let name = source.name();
        let is_core = ["catalog", "chain", "image"].contains(&source.module());
        let opens = [
            "untrusted::Dir",
            "untrusted::read",
            "Dir::open",
            "Dir::of_file",
        ];
        let way = opens.iter().find(|way| source.code.contains(**way));
        let is_opener = CATALOG_OPENERS.iter().any(|place| name.starts_with(place));
        assert!(
            !is_core || is_opener || way.is_none(),
            "src/{name} has {way:?}: only catalog/store reads a catalog"
        );
        // Modules above the catalog open other things, but none of its paths.
        let of_catalog = [
            "catalog",
            "wal_dir()",
            "backup.dir",
            "instance.dir",
            "layer.dir",
        ];
        let line = source.code.lines().find(|line| {
            opens.iter().any(|way| line.contains(way))
                && of_catalog.iter().any(|word| line.contains(word))
        });
        assert!(
            is_core || line.is_none(),
            "src/{name} opens a path of a catalog: {line:?}"
        );
    }
}

/// A verdict depends on typed values. The only texts it depends on are PostgreSQL's,
/// in a separate table.
#[test]
fn a_verdict_goes_by_no_words_of_ours() {
    let compares = [
        "contains(\"",
        "contains(&",
        "starts_with(",
        "ends_with(",
        "strip_prefix(",
        "split_once(",
        "matches(",
        "downcast",
        "sentence(",
        "== \"",
    ];
    let verdict = sources()
        .into_iter()
        .find(|source| source.name() == "verify/verdict/mod.rs")
        .unwrap();
    let way = compares.iter().find(|way| verdict.code.contains(**way));
    assert!(way.is_none(), "src/verify/verdict/mod.rs has {way:?}");
    // The same goes for the code that passes errors to it.
    for source in sources() {
        let is_session = ["session", "overlay"].contains(&source.module());
        let downcasts = source.code.contains("downcast_ref");
        assert!(
            !is_session || !downcasts,
            "src/{} downcasts to recover an erased type",
            source.name()
        );
    }
}

/// The tests do not build the fuzzer's crate, so nothing else would notice.
#[test]
fn every_fuzz_target_is_built_and_described() {
    let dir = Path::new(ROOT).join("tests/fuzz");
    let manifest: toml::Table = fs::read_to_string(dir.join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let built: BTreeSet<String> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["path"].as_str().unwrap().to_owned())
        .collect();
    let readme = fs::read_to_string(dir.join("README.md")).unwrap();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(dir.join("fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            readme.contains(&format!("| `{name}` |")),
            "tests/fuzz/README.md does not say what {name} reads"
        );
        there.insert(format!("fuzz_targets/{name}.rs"));
    }
    assert_eq!(built, there, "tests/fuzz/Cargo.toml names other targets");
}

/// The only places that write to standard output and standard error. Anything printed
/// elsewhere would bypass the escaping of outside text.
const PRINTERS: &[(&str, &str)] = &[
    ("cli/output.rs", "the output for people and scripts"),
    ("cli/log/sink.rs", "the log"),
    (
        "session/recovery/meter.rs",
        "the progress line, escaped there",
    ),
    ("session/locks/helper.rs", "a helper's answers, in JSON"),
    ("server/namespace/helper.rs", "a helper's answer, in JSON"),
];

#[test]
fn few_places_print() {
    let ways = [
        "print!(",
        "println!(",
        "eprint!(",
        "eprintln!(",
        "dbg!(",
        "stdout()",
        "stderr()",
        "STDOUT_FILENO",
        "STDERR_FILENO",
        "/dev/std",
        "/dev/tty",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
    ];
    for source in sources() {
        let code: String = source.code.split_whitespace().collect();
        // Configuring a child's streams, or redirecting them to a log, is not
        // printing.
        let code = ["Stdio::", "dup2_stdout(", "dup2_stderr(", "use_stderr()"]
            .iter()
            .fold(code, |code, other| code.replace(other, ""));
        let prints = ways.iter().find(|way| code.contains(*way));
        let may_print = PRINTERS.iter().any(|(place, _)| source.name() == *place);
        assert!(
            prints.is_none() || may_print,
            "src/{} prints with {}; only cli/output.rs may",
            source.name(),
            prints.unwrap_or(&"")
        );
    }
}

/// The text names locations, which must follow any file that is moved.
#[test]
fn the_places_that_the_text_names_are_there() {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let is_place = |word: &&str| {
        let is_path = word.trim_end_matches('/').contains('/') && !word.contains(' ');
        is_path && (word.ends_with(".rs") || word.ends_with('/'))
    };
    let mut named = 0;
    for place in text.split('`').skip(1).step_by(2).filter(is_place) {
        let below = [src(), PathBuf::from(ROOT)];
        let is_there = below.iter().any(|dir| dir.join(place).exists());
        let is_elsewhere = place.starts_with('/') || place.starts_with('.');
        assert!(is_there || is_elsewhere, "ARCHITECTURE.md names {place}");
        named += 1;
    }
    assert!(named > 20, "{named}");
}
