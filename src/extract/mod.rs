//! Gets data out of a backup: a throw-away clone at a moment, one pg_dump or
//! query against it, and gone. The result is there whole or not at all.

mod database;
mod output;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::profile::{Action, Plan};
use crate::server::{Output, Server, Tool, query};
use crate::session::{Account, Job, Live, SessionError, Signals, Up, WATCH, job_place};
use crate::untrusted::Kind;
use output::Place;

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
        options: Vec<String>,
        /// How it is written.
        format: Format,
    },
    /// The answer to a query.
    Query {
        /// The query.
        sql: String,
        /// Whether it is written as CSV; else as psql shows it.
        csv: bool,
    },
}

impl What {
    fn is_directory(&self) -> bool {
        let directory = Format::Directory;
        matches!(self, Self::Dump { format, .. } if *format == directory)
    }
}

/// Where a result goes.
#[derive(Debug)]
pub enum Destination {
    /// A file or a directory that is there whole or not at all; absolute.
    Path(PathBuf),
    /// Standard output, or what else is open already, as it comes.
    Opened(File),
}

/// One extraction.
pub struct Extract<'a> {
    /// The checked profile.
    pub plan: &'a Plan,
    /// Its path.
    pub profile: Option<&'a Path>,
    /// The signals that break it off.
    pub signals: &'a Signals,
    /// The database; `None` is the one that has the tables.
    pub database: Option<String>,
    /// What is got from it.
    pub what: What,
    /// Where it goes.
    pub output: Destination,
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
        let place = self.open_output()?;
        let mut plan = self.plan.clone();
        let (point, held) = job_place(&plan.target, "extract")?;
        plan.throw_away(point);
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = true;
        let mut job = ExtractJob {
            extract: self,
            place: place.as_ref(),
            database: String::new(),
            done: Extracted::default(),
        };
        (self.progress)("starting PostgreSQL", 0);
        Up {
            plan: &plan,
            read_only: false,
            profile: self.profile,
            signals: self.signals,
            detached: false,
        }
        .run(Some(held), &mut job)?;
        Ok(job.done)
    }

    /// Before anything is mounted: whether the result could be put there.
    fn open_output(&self) -> Result<Option<Place>, SessionError> {
        let is_directory = self.what.is_directory();
        let output = match &self.output {
            Destination::Path(output) => output,
            Destination::Opened(_) if is_directory => {
                return Err(SessionError::Usage {
                    message: "a directory cannot be written to standard output; name one with -o, \
                              or choose another format"
                        .to_owned(),
                });
            }
            Destination::Opened(_) => return Ok(None),
        };
        let usage = |why: &str| SessionError::Usage {
            message: format!("{} is there already; {why}", output.display()),
        };
        let io = |action| move |error| SessionError::io(action, output, error);
        let place = Place::open(output).map_err(io("write"))?;
        match place.occupant().map_err(io("look at"))? {
            None => {}
            Some(kind) if kind == Kind::Directory || is_directory => {
                return Err(usage("choose another name"));
            }
            Some(_) if !self.replace => return Err(usage("give --force to replace it")),
            Some(_) => {}
        }
        // Only tried; dropped, it is gone.
        match is_directory {
            true => place.directory().map(drop),
            false => place.file().map(drop),
        }
        .map_err(io("write"))?;
        Ok(Some(place))
    }

    fn write_error(&self, error: io::Error) -> SessionError {
        let output = match &self.output {
            Destination::Path(output) => output,
            Destination::Opened(_) => Path::new("-"),
        };
        SessionError::io("write", output, error)
    }
}

struct ExtractJob<'a> {
    extract: &'a Extract<'a>,
    /// `None` is standard output.
    place: Option<&'a Place>,
    /// The database, once it is known.
    database: String,
    done: Extracted,
}

impl Job for ExtractJob<'_> {
    fn ready(&mut self, live: &Live<'_>) -> Result<(), SessionError> {
        let extract = self.extract;
        self.done.backup = live.summary().backup;
        self.done.recovered = live.replayed().and_then(|replay| replay.time.clone());
        self.database = database::find(live, extract)?;
        match &extract.what {
            What::Query { sql, csv: true } => self.csv(live, sql)?,
            What::Query { sql, csv: false } => self.table(live, sql)?,
            What::Dump {
                tables,
                options,
                format,
            } => {
                let mut arguments = options.clone();
                arguments.extend(tables.iter().map(|table| format!("--table={table}")));
                arguments.push(format.option().to_owned());
                match format {
                    Format::Directory => self.dump_directory(live, arguments)?,
                    Format::Plain | Format::Custom => self.dump_file(live, arguments)?,
                }
            }
        }
        Ok(())
    }

    fn ending(&mut self, account: &Account) {
        self.done.diff_bytes = account.diff_bytes;
        self.done.read_bytes = account.backup_bytes;
    }
}

impl ExtractJob<'_> {
    /// Has `write` write the result into a file, which it gets with what tells
    /// how many bytes are there so far, and gives that file its name.
    fn write_file(
        &mut self,
        write: impl FnOnce(&Self, File, &dyn Fn() -> u64) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let extract = self.extract;
        let io = |error| extract.write_error(error);
        if let Destination::Opened(output) = &extract.output {
            return write(self, output.try_clone().map_err(io)?, &|| 0);
        }
        let Some(place) = self.place else {
            return Err(io(io::ErrorKind::NotFound.into()));
        };
        let mut new = place.file().map_err(io)?;
        let output = new.file().try_clone().map_err(io)?;
        let written = new.file().try_clone().map_err(io)?;
        let bytes = || written.metadata().map_or(0, |meta| meta.len());
        write(self, output, &bytes)?;
        self.done.bytes = bytes();
        new.finish().map_err(io)
    }

    /// pg_dump runs as the server's user, so it gets what it writes to open: a
    /// file of ours.
    fn dump_file(&mut self, live: &Live<'_>, arguments: Vec<String>) -> Result<(), SessionError> {
        self.write_file(|job, output, bytes| {
            job.run_dump(live, arguments, Output::To(output), bytes)
        })
    }

    /// It makes a directory by itself, in one that is the server's until it is
    /// done.
    fn dump_directory(
        &mut self,
        live: &Live<'_>,
        mut arguments: Vec<String>,
    ) -> Result<(), SessionError> {
        let extract = self.extract;
        let io = |error| extract.write_error(error);
        let Some(place) = self.place else {
            return Err(io(io::ErrorKind::NotADirectory.into()));
        };
        let part = place.directory().map_err(io)?;
        arguments.push(format!("--file={}", part.inner().display()));
        part.admit(server(live)?.config().run_as.as_ref())
            .map_err(io)?;
        self.run_dump(live, arguments, Output::Kept, &|| part.bytes())?;
        self.done.bytes = part.bytes();
        part.finish().map_err(io)
    }

    fn run_dump(
        &self,
        live: &Live<'_>,
        arguments: Vec<String>,
        output: Output,
        bytes: &dyn Fn() -> u64,
    ) -> Result<(), SessionError> {
        self.run_tool(live, "pg_dump", &arguments, output, bytes)
    }

    fn run_tool(
        &self,
        live: &Live<'_>,
        name: &'static str,
        arguments: &[String],
        output: Output,
        bytes: &dyn Fn() -> u64,
    ) -> Result<(), SessionError> {
        let server = server(live)?;
        let mut tool = Tool::postgres(&server, name, &self.database, arguments, output)?;
        drop(server);
        wait(live, self.extract, bytes, || {
            Ok(tool.try_wait()?.then_some(()))
        })?;
        let ended = tool.finish()?;
        if !ended.status.success() {
            settle(live)?;
            return Err(SessionError::Extract {
                what: name,
                said: self::server(live)?.explain(ended.said),
            });
        }
        Ok(())
    }

    /// The answer as people read it, by psql.
    fn table(&mut self, live: &Live<'_>, sql: &str) -> Result<(), SessionError> {
        let arguments = [
            "--no-psqlrc".to_owned(),
            "--pset=pager=off".to_owned(),
            format!("--command={sql}"),
        ];
        self.write_file(|job, output, bytes| {
            job.run_tool(live, "psql", &arguments, Output::To(output), bytes)
        })
    }

    fn csv(&mut self, live: &Live<'_>, sql: &str) -> Result<(), SessionError> {
        self.write_file(|job, output, bytes| {
            let query = {
                let server = server(live)?;
                query::csv(&server, &job.database, sql, io::BufWriter::new(output))
            };
            if let Err(error) = wait(live, job.extract, bytes, || Ok(query.poll()))? {
                settle(live)?;
                return Err(SessionError::Extract {
                    what: "the query",
                    said: server(live)?.explain(error.to_string()),
                });
            }
            Ok(())
        })
    }
}

fn server<'a>(live: &'a Live<'_>) -> Result<std::cell::Ref<'a, Server>, SessionError> {
    live.server().ok_or(SessionError::Interrupted)
}

/// Waits until `done` has something, while the clone goes on.
fn wait<T>(
    live: &Live<'_>,
    extract: &Extract<'_>,
    bytes: &dyn Fn() -> u64,
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
        (extract.progress)("extracting", bytes());
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
