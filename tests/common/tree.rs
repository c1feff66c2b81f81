//! Comparison of file trees: with what restore wrote, and with their own earlier
//! state.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::process::{OsUser, run};

/// Time limit for a walk over a whole data directory.
const WALK: Duration = Duration::from_secs(120);

/// The files and directories of a data directory, as `pg_probackup restore` wrote
/// them or as a mount shows them. Links are followed, so a tablespace's files are
/// listed under `pg_tblspc/OID/`.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, String>);

impl Manifest {
    /// Reads `oracle/ID.manifest`: kind, mode, size, sha256 and path, separated by tabs.
    pub fn read(path: &Path) -> Manifest {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| {
            let (facts, name) = line.rsplit_once('\t').expect("five columns");
            (name.to_owned(), facts.to_owned())
        });
        Manifest(lines.collect())
    }

    /// Walks `root` as `user`. Programs run by that user do it, because a mount made
    /// by that user is closed even to root.
    pub fn walk(root: &Path, user: &OsUser) -> Manifest {
        let find = |arguments: &[&str]| {
            let mut command = user.command("find");
            command
                .current_dir(root)
                .args(["-L", ".", "-mindepth", "1"])
                .args(arguments);
            run(&mut command, WALK).expect_ok()
        };
        let found = find(&["-printf", "%y\t%m\t%s\t%P\n"]);
        let sums = find(&["-type", "f", "-exec", "sha256sum", "{}", "+"]);
        let sums: BTreeMap<&str, &str> = sums
            .lines()
            .map(|line| line.split_once("  ./").expect("sha256sum's output format"))
            .map(|(sum, name)| (name, sum))
            .collect();

        let mut entries = BTreeMap::new();
        for line in found.lines() {
            let [kind, mode, size, name]: [&str; 4] = line
                .split('\t')
                .collect::<Vec<_>>()
                .try_into()
                .expect("four columns");
            let facts = match kind {
                "d" => format!("d\t{mode}\t-\t-"),
                _ => format!("{kind}\t{mode}\t{size}\t{}", sums.get(name).unwrap_or(&"-")),
            };
            entries.insert(name.to_owned(), facts);
        }
        Manifest(entries)
    }

    /// Excludes `name` from the comparison.
    pub fn without(mut self, name: &str) -> Manifest {
        self.0.remove(name);
        self
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Fails and names every path that is not the same in both. `what` says whose they
    /// are.
    #[track_caller]
    pub fn assert_same(&self, actual: &Manifest, what: &str) {
        let differences = differences(&self.0, &actual.0);
        assert!(
            differences.is_empty(),
            "{what}: {} of {} entries differ:\n{}",
            differences.len(),
            self.len(),
            differences.join("\n")
        );
    }
}

/// Everything about a tree that a program could have changed: names, kinds,
/// owners, modes, link targets, and the files' sizes, times and contents.
///
/// The times of directories are excluded: pg_probackup's restore creates and removes
/// a lock file in a backup's directory, which changes them.
#[derive(PartialEq, Eq, Clone)]
pub struct Listing(BTreeMap<String, String>);

impl Listing {
    pub fn of(root: &Path) -> Listing {
        let mut entries = BTreeMap::new();
        list(root, Path::new(""), &mut entries);
        Listing(entries)
    }

    /// Fails and names every path that differs, unless `root` is still as listed.
    #[track_caller]
    pub fn assert_unchanged(&self, root: &Path) {
        let differences = differences(&self.0, &Listing::of(root).0);
        assert!(
            differences.is_empty(),
            "{} was changed:\n{}",
            root.display(),
            differences.join("\n")
        );
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.0.len())
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, facts)| writeln!(f, "{name}  ({facts})"))
    }
}

fn list(root: &Path, inside: &Path, entries: &mut BTreeMap<String, String>) {
    let path = root.join(inside);
    let meta = fs::symlink_metadata(&path).unwrap();
    let common = format!("mode {:o} owner {}:{}", meta.mode(), meta.uid(), meta.gid());
    let facts = if meta.is_file() {
        let (size, seconds, nanos) = (meta.size(), meta.mtime(), meta.mtime_nsec());
        format!(
            "{common} size {size} mtime {seconds}.{nanos:09} sha256 {}",
            sha256(&path)
        )
    } else if meta.is_symlink() {
        format!("{common} -> {}", fs::read_link(&path).unwrap().display())
    } else {
        common
    };
    entries.insert(inside.display().to_string(), facts);
    if meta.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            list(root, &inside.join(entry.unwrap().file_name()), entries);
        }
    }
}

fn sha256(path: &Path) -> String {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path).unwrap(), &mut HashWriter(&mut hasher)).unwrap();
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An adapter with which [`io::copy`] feeds a hash.
struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn differences(
    wanted: &BTreeMap<String, String>,
    actual: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, facts) in wanted {
        match actual.get(name) {
            None => lines.push(format!("missing:   {name}  ({facts})")),
            Some(found) if found != facts => {
                lines.push(format!(
                    "different: {name}\n    wanted {facts}\n    found  {found}"
                ));
            }
            Some(_) => {}
        }
    }
    let extra = actual
        .iter()
        .filter(|(name, _)| !wanted.contains_key(*name));
    lines.extend(extra.map(|(name, facts)| format!("unexpected: {name}  ({facts})")));
    lines
}
