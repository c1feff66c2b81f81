//! Reads `postgresql.conf` and `postgresql.auto.conf` as PostgreSQL does, but leaves
//! out, and reports, what cannot work on this host.

pub(super) mod line;
mod source;
mod trial;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::server::error::ServerError;
use crate::server::settings::list::split;
use line::Line;
pub use source::{Host, InClone, LIMIT, Source, normal};

/// The file that ALTER SYSTEM writes. Its settings override those of all others.
pub const AUTO_CONF: &str = "postgresql.auto.conf";

/// PostgreSQL's own limit on includes within includes.
const MAX_DEPTH: u32 = 10;

/// Maximum number of files and directories that are looked up. PostgreSQL gives up on
/// a file that includes itself; following every include would never end.
const MAX_READS: u32 = 1000;

/// Maximum number of omissions that are reported.
const MOST_TOLD: usize = 1000;

/// A setting in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Its value. Not every old file is UTF-8.
    bytes: Vec<u8>,
    /// The same as text.
    text: String,
    file: PathBuf,
    line: usize,
}

impl Entry {
    fn without(&self, name: &str, reason: String) -> LeftOut {
        LeftOut {
            name: Some(name.to_owned()),
            text: format!("{name} = '{}'", self.text),
            file: self.file.clone(),
            line: self.line,
            reason,
        }
    }
}

/// The settings of a file and its includes, by name; the last one counts.
type Entries = BTreeMap<String, Entry>;

/// A line of the backup's configuration that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LeftOut {
    /// The setting's name, in lower case; absent if no setting can be read from the
    /// line.
    pub name: Option<String>,
    /// The line's text.
    pub text: String,
    /// Its file; a relative path is relative to the data directory.
    pub file: PathBuf,
    /// The line number, from 1.
    pub line: usize,
    /// Why it is left out.
    pub reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(
            f,
            "{} ({file}, line {}): {}",
            self.text, self.line, self.reason
        )
    }
}

/// The settings in the configuration files of a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// Those of `postgresql.conf`.
    main: Entries,
    /// Those of `postgresql.auto.conf`, which `ALTER SYSTEM` writes. They take
    /// precedence.
    auto: Entries,
    /// Whether the server can use `postgresql.auto.conf` as it is. It reads the one
    /// in the data directory, whatever its `config_file` is.
    auto_is_right: bool,
    /// Files and directories that were looked up, including the data directory's own,
    /// whether or not they exist.
    pub named: Vec<PathBuf>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// Whether the data directory has a `postgresql.conf`; Debian keeps it
    /// elsewhere.
    pub has_main_file: bool,
    /// The data directory.
    root: PathBuf,
}

impl Conf {
    /// Reads both files of a data directory, in PostgreSQL's order; either may
    /// be missing. What PostgreSQL would refuse is left out.
    ///
    /// # Errors
    /// If a file exists but cannot be read, or there are too many.
    pub fn read_from(source: &dyn Source, data_directory: &Path) -> Result<Self, ServerError> {
        let mut reader = Reader::new(source, data_directory);
        let has_main_file = reader
            .read_file(&data_directory.join("postgresql.conf"), 0)?
            .is_ok();
        let main = std::mem::take(&mut reader.entries);
        reader.is_plain = true;
        // This file may be missing.
        let _ = reader.read_file(&data_directory.join(AUTO_CONF), 0)?;
        Ok(Self {
            main,
            auto: reader.entries,
            auto_is_right: reader.is_plain,
            named: reader.named,
            left_out: reader.left_out,
            has_main_file,
            root: data_directory.to_owned(),
        })
    }

    /// Returns the value of a setting, by its lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let entry = self.auto.get(name).or_else(|| self.main.get(name));
        entry.map(|entry| entry.text.as_str())
    }

    /// Returns the settings of `postgresql.conf` and its includes, as one file.
    #[must_use]
    pub fn main_file(&self) -> Vec<u8> {
        lines(&self.main)
    }

    /// Returns the settings that `ALTER SYSTEM` made, as one file, if the one in the
    /// data directory would keep the server from starting.
    #[must_use]
    pub fn new_auto_file(&self) -> Option<Vec<u8>> {
        (!self.auto_is_right).then(|| lines(&self.auto))
    }

    /// Logs in one line what is left out.
    pub fn tell_left_out(&self) {
        /// Number of omissions that are listed one by one.
        const EACH: usize = 20;
        let (first, more) = self.left_out.split_at(self.left_out.len().min(EACH));
        let mut told: Vec<String> = first.iter().map(LeftOut::to_string).collect();
        match more.len() {
            0 => {}
            more => told.push(format!("and {more} more")),
        }
        if !told.is_empty() {
            tracing::warn!(
                "the server does without parts of the configuration that cannot work here: {}",
                told.join("; ")
            );
        }
    }

    /// Returns whether a path, with no link resolved, is inside the data directory.
    #[must_use]
    pub fn is_inside(&self, path: &Path) -> bool {
        let has_root = !self.root.as_os_str().is_empty();
        has_root && normal(path).starts_with(&self.root)
    }

    /// Returns the directories that the server would create its sockets in.
    #[must_use]
    pub fn socket_dirs(&self) -> Vec<PathBuf> {
        let list = self.get("unix_socket_directories").unwrap_or_default();
        split(list).into_iter().map(PathBuf::from).collect()
    }
}

fn lines(entries: &Entries) -> Vec<u8> {
    let lines = entries.iter();
    lines
        .flat_map(|(name, entry)| line::write(name, &entry.bytes))
        .collect()
}

/// The position of a line.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a Path,
    line: usize,
}

/// The reader of a file and everything it includes.
struct Reader<'a> {
    source: &'a dyn Source,
    root: &'a Path,
    entries: Entries,
    named: Vec<PathBuf>,
    left_out: Vec<LeftOut>,
    /// Whether nothing was included, and nothing left out.
    is_plain: bool,
    /// Number of files and directories that were looked up.
    reads: u32,
}

/// What was read, or why it cannot be included.
type Found<T> = Result<T, Lack>;

/// Why a file is not included.
enum Lack {
    NotThere,
    Other(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotThere => "it does not exist",
            Self::Other(reason) => reason,
        })
    }
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn Source, root: &'a Path) -> Self {
        Self {
            source,
            root,
            entries: Entries::new(),
            named: Vec::new(),
            left_out: Vec::new(),
            is_plain: true,
            reads: 0,
        }
    }

    fn read_file(&mut self, path: &Path, depth: u32) -> Result<Found<()>, ServerError> {
        self.count(path)?;
        let bytes = match found(path, self.source.read(path))? {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Err(reason)),
        };
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let at = At { file: path, line };
            match line::parse(bytes) {
                Line::Empty => {}
                Line::Wrong => {
                    let text = String::from_utf8_lossy(bytes).trim().to_owned();
                    let reason = "PostgreSQL rejects it as a syntax error".to_owned();
                    self.leave_out(at, None, text, reason);
                }
                Line::Setting(name, value) => self.take(at, name, value, depth)?,
            }
        }
        Ok(Ok(()))
    }

    fn take(
        &mut self,
        at: At<'_>,
        name: String,
        bytes: Vec<u8>,
        depth: u32,
    ) -> Result<(), ServerError> {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !matches!(
            name.as_str(),
            "include" | "include_if_exists" | "include_dir"
        ) {
            let entry = Entry {
                bytes,
                text,
                file: self.shown(at.file),
                line: at.line,
            };
            self.entries.insert(name, entry);
            return Ok(());
        }
        self.is_plain = false;
        let included = at.file.parent().unwrap_or(Path::new("/")).join(&text);
        let found = match name.as_str() {
            _ if depth >= MAX_DEPTH => Err(Lack::Other("it is nested too deeply".to_owned())),
            "include_dir" => self.read_dir(&included, depth + 1)?,
            _ => self.read_file(&included, depth + 1)?,
        };
        match found {
            Ok(()) => {}
            Err(Lack::NotThere) if name == "include_if_exists" => {}
            Err(lack) => {
                let text = format!("{name} '{text}'");
                self.leave_out(at, Some(name), text, lack.to_string());
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, at: At<'_>, name: Option<String>, text: String, reason: String) {
        self.is_plain = false;
        if self.left_out.len() < MOST_TOLD {
            self.left_out.push(LeftOut {
                name,
                text,
                file: self.shown(at.file),
                line: at.line,
                reason,
            });
        }
    }

    /// Returns a file's path for people: relative to the data directory, if it is
    /// inside.
    fn shown(&self, file: &Path) -> PathBuf {
        file.strip_prefix(self.root).unwrap_or(file).to_owned()
    }

    /// Counts a file or directory that is about to be read, whether or not it exists.
    fn count(&mut self, path: &Path) -> Result<(), ServerError> {
        self.reads += 1;
        match self.reads > MAX_READS {
            true => Err(ServerError::Read {
                path: path.to_owned(),
                source: io::Error::other("the configuration includes too many files"),
            }),
            false => {
                self.named.push(path.to_owned());
                Ok(())
            }
        }
    }

    /// Reads the `*.conf` files of a directory, except hidden ones, in the order of
    /// their names.
    fn read_dir(&mut self, dir: &Path, depth: u32) -> Result<Found<()>, ServerError> {
        self.count(dir)?;
        let names = match found(dir, self.source.names(dir))? {
            Ok(names) => names,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut files = Vec::new();
        for name in names {
            let text = name.to_string_lossy();
            if text.ends_with(".conf") && !text.starts_with('.') {
                files.push(dir.join(&name));
            }
        }
        files.sort();
        for file in files {
            if let Err(lack) = self.read_file(&file, depth)? {
                return Ok(Err(Lack::Other(format!("{}: {lack}", file.display()))));
            }
        }
        Ok(Ok(()))
    }
}

/// Returns what was read, or why it is left out; any other error is returned as an
/// error.
fn found<T>(path: &Path, read: io::Result<T>) -> Result<Found<T>, ServerError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(error) => match error.kind() {
            NotFound | NotADirectory => Ok(Err(Lack::NotThere)),
            PermissionDenied if error.get_ref().is_some() => {
                Ok(Err(Lack::Other(error.to_string())))
            }
            PermissionDenied => {
                let reason = "the server's user has no permission to read it";
                Ok(Err(Lack::Other(reason.to_owned())))
            }
            _ => Err(ServerError::Read {
                path: path.to_owned(),
                source: error,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(dir: &Path) -> Result<Conf, ServerError> {
        Conf::read_from(&Host::default(), dir)
    }

    #[test]
    fn the_last_value_wins_over_files_and_includes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        write(
            "postgresql.conf",
            "a = 1\nb = 1\nc = 1\nd = 1\ninclude_dir 'conf.d'\nA = 2\n\
             include = '/nonexistent/x.conf'\ninclude_if_exists 'nope'",
        );
        write("conf.d/1.conf", "b = 2\nc = 2\n");
        write("conf.d/2.conf", "c = 3\n");
        write("conf.d/.hidden.conf", "c = 9\n");
        write("conf.d/other", "c = 9\n");
        write("postgresql.auto.conf", "d = '4'\n");
        let conf = read(dir.path()).unwrap();
        let get = |name| conf.get(name).unwrap_or_default();
        assert_eq!(
            (get("a"), get("b"), get("c"), get("d")),
            ("2", "2", "3", "4")
        );
        assert!(conf.has_main_file);
        let told: Vec<String> = conf.left_out.iter().map(LeftOut::to_string).collect();
        assert_eq!(
            told,
            ["include '/nonexistent/x.conf' (postgresql.conf, line 7): it does not exist"]
        );
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        let text = "a = 1\ninclude 'postgresql.conf'\na = 2\n";
        fs::write(dir.path().join("postgresql.conf"), text).unwrap();
        assert_eq!(read(dir.path()).unwrap().get("a"), Some("2"));
    }

    #[test]
    fn files_that_are_not_there_are_looked_for_so_often_only() {
        let dir = tempfile::tempdir().unwrap();
        for include in ["include 'none'\n", "include_dir 'none'\n"] {
            fs::write(dir.path().join("postgresql.conf"), include.repeat(2000)).unwrap();
            assert!(
                read(dir.path())
                    .unwrap_err()
                    .to_string()
                    .contains("too many")
            );
        }
    }

    #[test]
    fn files_need_not_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let conf = read(dir.path()).unwrap();
        assert!(!conf.has_main_file && conf.left_out.is_empty() && conf.main_file().is_empty());
    }
}
