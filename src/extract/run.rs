//! One extraction: the clone, and what is done once it answers.

use std::fs::File;
use std::io;

use super::asking::{server, settle, wait};
use super::database;
use super::output::OutputPath;
use super::wanted::{Destination, Extract, Extracted, Format, What};
use crate::profile::Action;
use crate::server::{Output, Tool, query};
use crate::session::{Account, Job, Live, SessionError, Up, job_plan};
use crate::untrusted::Kind;

impl Extract<'_> {
    /// Runs the extraction.
    ///
    /// # Errors
    /// Returns [`SessionError::Extract`] if pg_dump or the query fails, and other
    /// errors if the session fails or the output cannot be written.
    pub fn run(&self) -> Result<Extracted, SessionError> {
        let place = self.open_output()?;
        let (mut plan, held) = job_plan(self.plan, "extract")?;
        plan.recovery.action = Action::Promote;
        plan.postgres.launch = true;
        let mut job = ExtractJob {
            extract: self,
            place: place.as_ref(),
            database: String::new(),
            done: Extracted::default(),
        };
        (self.progress)("starting PostgreSQL", 0);
        Up::of_job(&plan, self.profile, self.signals).run(Some(held), &mut job)?;
        Ok(job.done)
    }

    /// Checks, before anything is mounted, whether the result could be written.
    fn open_output(&self) -> Result<Option<OutputPath>, SessionError> {
        let is_directory = self.what.is_directory();
        let output = match &self.output {
            Destination::Path(output) => output,
            Destination::Opened(_) if is_directory => {
                return Err(SessionError::usage(
                    "a directory cannot be written to standard output; name one with -o, or \
                     choose another format",
                ));
            }
            Destination::Opened(_) => return Ok(None),
        };
        let usage = |why: &str| SessionError::Usage {
            message: format!("{} already exists; {why}", output.display()),
        };
        let io = |action| move |error| SessionError::io(action, output, error);
        let place = OutputPath::open(output).map_err(io("write"))?;
        match place.occupant().map_err(io("check"))? {
            None => {}
            Some(kind) if kind == Kind::Directory || is_directory => {
                return Err(usage("choose another name"));
            }
            Some(_) if !self.replace => return Err(usage("use --force to replace it")),
            Some(_) => {}
        }
        // This is only a trial: it is removed when dropped.
        match is_directory {
            true => place.directory().map(drop),
            false => place.file().map(drop),
        }
        .map_err(io("write"))?;
        Ok(Some(place))
    }
}

struct ExtractJob<'a> {
    extract: &'a Extract<'a>,
    /// `None` for standard output.
    place: Option<&'a OutputPath>,
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
                    Format::Plain | Format::Custom => {
                        self.run_into_file(live, "pg_dump", &arguments)?;
                    }
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
    /// Has `write` write the result into a new file, which it gets along
    /// with a function that counts the bytes written so far, and renames
    /// that file to its final name.
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

    /// Runs a program that writes to a file. It runs as the server's user, so it is given
    /// one that we have opened.
    fn run_into_file(
        &mut self,
        live: &Live<'_>,
        name: &'static str,
        arguments: &[String],
    ) -> Result<(), SessionError> {
        self.write_file(|job, output, bytes| {
            job.run_tool(live, name, arguments, Output::To(output), bytes)
        })
    }

    /// Dumps to a directory. pg_dump creates it itself, inside one that is the server's
    /// until the dump is done.
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
        self.run_tool(live, "pg_dump", &arguments, Output::Kept, &|| part.bytes())?;
        self.done.bytes = part.bytes();
        part.finish().map_err(io)
    }

    fn run_tool(
        &self,
        live: &Live<'_>,
        name: &'static str,
        arguments: &[String],
        output: Output,
        bytes: &dyn Fn() -> u64,
    ) -> Result<(), SessionError> {
        let mut tool = Tool::postgres(&*server(live)?, name, &self.database, arguments, output)?;
        wait(live, self.extract, bytes, || {
            Ok(tool.try_wait()?.then_some(()))
        })?;
        let ended = tool.finish()?;
        if !ended.status.success() {
            settle(live)?;
            return Err(SessionError::Extract {
                what: name,
                said: server(live)?.explain(ended.said),
            });
        }
        Ok(())
    }

    /// Writes the result as psql shows it to people.
    fn table(&mut self, live: &Live<'_>, sql: &str) -> Result<(), SessionError> {
        let arguments = [
            "--no-psqlrc".to_owned(),
            "--pset=pager=off".to_owned(),
            format!("--command={sql}"),
        ];
        self.run_into_file(live, "psql", &arguments)
    }

    fn csv(&mut self, live: &Live<'_>, sql: &str) -> Result<(), SessionError> {
        self.write_file(|job, output, bytes| {
            let output = io::BufWriter::new(output);
            let query = query::csv(&*server(live)?, &job.database, sql, output);
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
