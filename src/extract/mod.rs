//! Gets data out of a backup: a throw-away clone at a moment, one pg_dump or
//! query against it, and gone. The result is there whole or not at all.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{getegid, geteuid};

use crate::atomic_file;
use crate::profile::{Action, Plan};
use crate::server::{Output, Server, Tool, files, query};
use crate::session::{Account, Job, Live, SessionError, Signals, Up, WATCH};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// SQL.
    Plain,
    /// pg_dump's custom format, for pg_restore.
    Custom,
    /// pg_dump's directory format.
    Directory,
}

impl Format {
    fn option(self) -> &'static str {
        match self {
            Self::Plain => "--format=plain",
            Self::Custom => "--format=custom",
            Self::Directory => "--format=directory",
        }
    }
}

/// What is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// What pg_dump gives with these options.
    Dump {
        /// Its patterns of tables; none is all of the database.
        tables: Vec<String>,
        /// Besides.
        options: Vec<&'static str>,
        /// How it is written.
        format: Format,
    },
    /// The answer to a query, as CSV.
    Query(String),
}

/// One extraction.
pub struct Extract<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// The database.
    pub database: String,
    /// What is got from it.
    pub what: What,
    /// Where it goes; absolute.
    pub output: PathBuf,
    /// Whether something that is there may be replaced.
    pub replace: bool,
    /// Told what is being done, and how many bytes there are so far.
    pub progress: &'a dyn Fn(&str, u64),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The backup.
    pub backup: String,
    /// Up to when the clone was recovered, if its log told.
    pub recovered: Option<String>,
    /// Bytes that the result has.
    pub bytes: u64,
    /// Bytes that the backup gave.
    pub read_bytes: u64,
    /// Bytes that the clone wrote.
    pub diff_bytes: u64,
}

impl Extract<'_> {
    /// Does it.
    ///
    /// # Errors
    /// Those of the session; [`SessionError::Extract`] if pg_dump or the query
    /// fails; the output cannot be written.
    pub fn run(&self) -> Result<Extracted, SessionError> {
        self.check_output()?;
        let mut plan = self.plan.clone();
        plan.throw_away();
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = true;
        let mut job = ExtractJob {
            extract: self,
            done: Extracted::default(),
        };
        (self.progress)("starting PostgreSQL", 0);
        let outcome = Up {
            plan: &plan,
            read_only: false,
            profile: self.profile,
            signals: self.signals,
            detached: false,
        }
        .run(&mut job);
        if outcome.is_err() {
            // Where it was put into its place already, there is none.
            remove_part(&self.output);
        }
        outcome?;
        Ok(job.done)
    }

    /// Before anything is mounted: whether the result could be put there.
    fn check_output(&self) -> Result<(), SessionError> {
        let usage = |message: String| Err(SessionError::Usage { message });
        let output = &self.output;
        let is_directory = matches!(
            self.what,
            What::Dump {
                format: Format::Directory,
                ..
            }
        );
        match fs::symlink_metadata(output) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SessionError::io("look at", output, error)),
            Ok(meta) if meta.is_dir() || is_directory => {
                return usage(format!(
                    "{} is there already; choose another name",
                    output.display()
                ));
            }
            Ok(_) if !self.replace => {
                return usage(format!(
                    "{} is there already; give --force to replace it",
                    output.display()
                ));
            }
            Ok(_) => {}
        }
        remove_part(output);
        if is_directory {
            return make_part_dir(output);
        }
        atomic_file::create(output, 0o600)
            .map(drop)
            .map_err(|error| SessionError::io("write", output, error))
    }
}

struct ExtractJob<'a> {
    extract: &'a Extract<'a>,
    done: Extracted,
}

impl Job for ExtractJob<'_> {
    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError> {
        let extract = self.extract;
        self.done.backup = live.told().backup;
        self.done.recovered = live.replayed().and_then(|replay| replay.time.clone());
        match &extract.what {
            What::Query(sql) => self.query(live, sql)?,
            What::Dump {
                tables,
                options,
                format,
            } => {
                let mut arguments = vec![format.option().to_owned()];
                arguments.extend(options.iter().map(|option| (*option).to_owned()));
                arguments.extend(tables.iter().map(|table| format!("--table={table}")));
                self.dump(live, arguments, *format)?;
            }
        }
        let output = &extract.output;
        self.done.bytes = size(&atomic_file::part_of(output));
        atomic_file::commit(output).map_err(|e| SessionError::io("write", output, e))
    }

    fn ending(&mut self, account: &Account) {
        self.done.diff_bytes = account.diff_bytes;
        self.done.read_bytes = account.backup_bytes;
    }
}

impl ExtractJob<'_> {
    /// pg_dump runs as the server's user, so it gets what it writes to open:
    /// a file of ours, or a directory that is the server's until it is done.
    fn dump(
        &self,
        live: &Live<'_>,
        mut arguments: Vec<String>,
        format: Format,
    ) -> Result<(), SessionError> {
        let extract = self.extract;
        let server = server(live)?;
        let part = atomic_file::part_of(&extract.output);
        let io = |action, error| SessionError::io(action, &part, error);
        let output = if format == Format::Directory {
            let dir = part.join(INNER);
            arguments.push(format!("--file={}", dir.display()));
            files::hand_over(&part, server.config().run_as.as_ref())?;
            Output::Kept
        } else {
            Output::To(atomic_file::create(&extract.output, 0o600).map_err(|e| io("write", e))?)
        };
        let mut tool = Tool::postgres(&server, "pg_dump", &extract.database, &arguments, output)?;
        drop(server);
        wait(live, extract, &part, || Ok(tool.try_wait()?.then_some(())))?;
        let ended = tool.finish()?;
        if !ended.status.success() {
            settle(live)?;
            return Err(SessionError::Extract {
                what: "pg_dump",
                said: ended.said,
            });
        }
        match format {
            Format::Directory => take_over(&extract.output).map_err(|e| io("take over", e)),
            Format::Plain | Format::Custom => Ok(()),
        }
    }

    fn query(&self, live: &Live<'_>, sql: &str) -> Result<(), SessionError> {
        let extract = self.extract;
        let part = atomic_file::part_of(&extract.output);
        let file = atomic_file::create(&extract.output, 0o600)
            .map_err(|error| SessionError::io("write", &part, error))?;
        let query = {
            let server = server(live)?;
            query::csv(&server, &extract.database, sql, io::BufWriter::new(file))
        };
        let answer = wait(live, extract, &part, || Ok(query.poll()))?;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                settle(live)?;
                let said = error.to_string();
                Err(SessionError::Extract {
                    what: "the query",
                    said,
                })
            }
        }
    }
}

fn server<'a>(live: &'a Live<'_>) -> Result<std::cell::Ref<'a, Server>, SessionError> {
    live.server().ok_or(SessionError::Interrupted)
}

/// Waits until `done` has something, while the clone goes on.
fn wait<T>(
    live: &Live<'_>,
    extract: &Extract<'_>,
    part: &Path,
    mut done: impl FnMut() -> Result<Option<T>, SessionError>,
) -> Result<T, SessionError> {
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = done()? {
            live.check_writes()?;
            return Ok(found);
        }
        if !live.goes_on()? {
            return Err(SessionError::Interrupted);
        }
        (extract.progress)("extracting", size(part));
        std::thread::sleep(pause);
        pause = (pause * 2).min(WATCH);
    }
}

/// A server that dies takes its clients with it, and its own end tells more.
fn settle(live: &Live<'_>) -> Result<(), SessionError> {
    for _ in 0..10 {
        live.goes_on()?;
        std::thread::sleep(WATCH);
    }
    Ok(())
}

/// pg_dump makes its directory itself, inside the part.
const INNER: &str = "dump";

fn make_part_dir(output: &Path) -> Result<(), SessionError> {
    let part = atomic_file::part_of(output);
    DirBuilder::new()
        .mode(0o700)
        .create(&part)
        .map_err(|error| SessionError::io("make the directory", &part, error))
}

/// What pg_dump wrote into its directory becomes the caller's, and the part
/// itself, without the directory around it.
fn take_over(output: &Path) -> io::Result<()> {
    let part = atomic_file::part_of(output);
    let inner = part.join(INNER);
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let own = |path: &Path| chown(path, Some(uid), Some(gid));
    for entry in fs::read_dir(&inner)? {
        let path = entry?.path();
        own(&path)?;
        fs::File::open(&path)?.sync_all()?;
        fs::rename(&path, part.join(path.file_name().unwrap_or_default()))?;
    }
    fs::remove_dir(&inner)?;
    own(&part)
}

/// Removes what was not finished: a file, or a directory of files, perhaps
/// with one more in it. Links are not followed.
fn remove_part(output: &Path) {
    fn remove(path: &Path, depth: u32) -> io::Result<()> {
        if depth == 0 || !fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_file(path);
        }
        for entry in fs::read_dir(path)? {
            remove(&entry?.path(), depth - 1)?;
        }
        fs::remove_dir(path)
    }
    let part = atomic_file::part_of(output);
    match remove(&part, 2) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} is left over: {error}", part.display());
        }
        _ => {}
    }
}

/// The bytes of a file, or of a directory's files.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}
