//! Reading `postgresql.conf` and `postgresql.auto.conf`, as far as the fence
//! has to know what they say. The grammar is PostgreSQL's guc-file.l.

mod source;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ServerError;
use super::preload::split;
pub use source::{Host, InClone, LIMIT, Source, normal};

/// PostgreSQL's own limit on includes within includes.
const MAX_DEPTH: u32 = 10;

/// How many files and directories are looked for at most. PostgreSQL gives up at
/// a file that includes itself; read as often as it says so, it would never end.
const MAX_READS: u32 = 1000;

/// The values that the configuration files of a data directory give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    values: BTreeMap<String, String>,
    /// Files that were read, the data directory's own among them.
    pub files: Vec<PathBuf>,
    /// Files that are included but are not there, for example because they lie
    /// outside the data directory. PostgreSQL will not start without them.
    pub missing_includes: Vec<PathBuf>,
    /// Whether the data directory has a `postgresql.conf`; Debian keeps it
    /// elsewhere.
    pub has_main_file: bool,
    /// The data directory.
    root: PathBuf,
    /// How many files and directories were looked for.
    reads: u32,
}

impl Conf {
    /// Reads both files of a data directory, in PostgreSQL's order; either may
    /// be missing. Lines that PostgreSQL would refuse are passed over.
    ///
    /// # Errors
    /// A file is there but cannot be read; there are too many.
    pub fn read_from(source: &dyn Source, data_directory: &Path) -> Result<Self, ServerError> {
        let mut conf = Self {
            root: data_directory.to_owned(),
            ..Self::default()
        };
        let main = data_directory.join("postgresql.conf");
        conf.has_main_file = conf.read_file(source, &main, 0)?;
        conf.read_file(source, &data_directory.join("postgresql.auto.conf"), 0)?;
        Ok(conf)
    }

    /// The value of a setting, by its lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether a path leads into the data directory.
    #[must_use]
    pub fn is_inside(&self, path: &Path) -> bool {
        let has_root = !self.root.as_os_str().is_empty();
        has_root && normal(path).starts_with(&self.root)
    }

    /// The directories that the server would put its sockets into.
    #[must_use]
    pub fn socket_dirs(&self) -> Vec<PathBuf> {
        let list = self.get("unix_socket_directories").unwrap_or_default();
        split(list).into_iter().map(PathBuf::from).collect()
    }

    /// Gives whether the file was there.
    fn read_file(
        &mut self,
        source: &dyn Source,
        path: &Path,
        depth: u32,
    ) -> Result<bool, ServerError> {
        self.count(path)?;
        // Not every old file is UTF-8, and only ASCII matters here.
        let text = match source.read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(ServerError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        self.files.push(path.to_owned());
        for (name, value) in text.lines().filter_map(parse_line) {
            let included = || path.parent().unwrap_or(Path::new("/")).join(&value);
            match name.as_str() {
                "include" | "include_if_exists" if depth < MAX_DEPTH => {
                    let file = included();
                    if !self.read_file(source, &file, depth + 1)? && name == "include" {
                        self.missing_includes.push(file);
                    }
                }
                "include_dir" if depth < MAX_DEPTH => {
                    self.read_dir(source, &included(), depth + 1)?;
                }
                "include" | "include_if_exists" | "include_dir" => {}
                _ => {
                    self.values.insert(name, value);
                }
            }
        }
        Ok(true)
    }

    /// Counts a file or directory that is to be read, whether or not it is there.
    fn count(&mut self, path: &Path) -> Result<(), ServerError> {
        self.reads += 1;
        match self.reads > MAX_READS {
            true => Err(ServerError::Read {
                path: path.to_owned(),
                source: io::Error::other("the configuration includes too many files"),
            }),
            false => Ok(()),
        }
    }

    /// Reads the files `*.conf` of a directory that are not hidden, by name.
    fn read_dir(&mut self, source: &dyn Source, dir: &Path, depth: u32) -> Result<(), ServerError> {
        self.count(dir)?;
        let names = match source.names(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing_includes.push(dir.to_owned());
                return Ok(());
            }
            Err(source) => {
                return Err(ServerError::Read {
                    path: dir.to_owned(),
                    source,
                });
            }
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
            self.read_file(source, &file, depth)?;
        }
        Ok(())
    }
}

/// One line: `name value` or `name = value`, the name in lower case. `None`
/// for empty lines, comments and what is not valid.
fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let is_name =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$') || !c.is_ascii();
    let end = line.find(|c| !is_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').map_or(rest, str::trim_start);
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => rest
            .split(|c: char| c.is_whitespace() || c == '#')
            .next()?
            .to_owned(),
    };
    let is_quoted = rest.starts_with('\'');
    if name.is_empty() || value.is_empty() && !is_quoted {
        return None;
    }
    Some((name.to_ascii_lowercase(), value))
}

/// The text up to the closing quote; `''` and a backslash escape as in
/// PostgreSQL's `DeescapeQuotedString`. `None` if the quote is never closed.
fn unquote(quoted: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.next_if_eq(&'\'').is_some() => value.push('\''),
            '\'' => return Some(value),
            '\\' => value.push(match chars.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                first @ '0'..='7' => {
                    let mut code = first.to_digit(8)?;
                    for _ in 0..2 {
                        let Some(digit) = chars.next_if(|c| c.is_digit(8)) else {
                            break;
                        };
                        code = code * 8 + digit.to_digit(8)?;
                    }
                    char::from(u8::try_from(code & 0xFF).ok()?)
                }
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(dir: &Path) -> Result<Conf, ServerError> {
        Conf::read_from(&Host::default(), dir)
    }

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        for (line, name, value) in [
            ("port = 5432", "port", "5432"),
            ("  Port 5432 # comment", "port", "5432"),
            ("port=5432#x", "port", "5432"),
            ("a = 'it''s # here' # there", "a", "it's # here"),
            (r"a = 'tab\t\047 \\ \q'", "a", "tab\t' \\ q"),
            ("a = ''", "a", ""),
            (
                "pg_stat_statements.max = 100",
                "pg_stat_statements.max",
                "100",
            ),
        ] {
            assert_eq!(
                parse_line(line),
                Some((name.into(), value.into())),
                "{line}"
            );
        }
        for line in [
            "",
            "   ",
            "# port = 1",
            "port",
            "port =",
            "a = 'open",
            "= 5",
            "a = # c",
        ] {
            assert_eq!(parse_line(line), None, "{line}");
        }
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
        assert!(
            conf.missing_includes
                .contains(&PathBuf::from("/nonexistent/x.conf"))
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
        assert!(!conf.has_main_file && conf.files.is_empty() && conf.values.is_empty());
    }
}
