//! The checks that need the running clone.

mod amcheck;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::profile::{Databases, Expectation, Seconds, SqlCheck, VerifyPlan};
use crate::server::{About, Ended, Output, QueryError, ServerError, Tool, query};
use crate::session::{Live, SessionError, WATCH};
use crate::untrusted::{Dir, Replacement};
use crate::verify::backup_report::{BackupReport, Check, Damage};
use crate::verify::verdict::{Verdict, of_broken, of_faults, of_text};

/// Time limit of each of our own small queries.
const OWN: Duration = Duration::from_secs(60);

/// The result of one check: its verdict, and what is wrong.
type Outcome = (Verdict, Option<String>);

const PROVED: Outcome = (Verdict::Proved, None);

/// Why a wait ended without a result.
enum Stop {
    TimedOut,
    Session(SessionError),
}

impl From<ServerError> for Stop {
    fn from(error: ServerError) -> Self {
        Self::Session(error.into())
    }
}

/// Runs the checks of a plan, one after the other.
pub struct Checks<'a> {
    plan: &'a VerifyPlan,
    live: &'a Live<'a>,
    report: &'a mut BackupReport,
    /// Called with the current step.
    tell: &'a dyn Fn(&str),
    /// For each database, schema and name of the indexes that are sorted by a
    /// collation whose version differs on this host.
    otherwise_sorted: BTreeMap<String, Vec<(String, String)>>,
}

impl<'a> Checks<'a> {
    /// Creates the checks; none has been run yet.
    pub fn new(
        plan: &'a VerifyPlan,
        live: &'a Live<'a>,
        report: &'a mut BackupReport,
        tell: &'a dyn Fn(&str),
    ) -> Self {
        Self {
            plan,
            live,
            report,
            tell,
            otherwise_sorted: BTreeMap::new(),
        }
    }
}

impl Checks<'_> {
    /// Runs all checks. One that fails does not keep the others from being run.
    ///
    /// # Errors
    /// If the session ends during the checks.
    pub fn run(&mut self) -> Result<(), SessionError> {
        self.name_places()?;
        self.collations()?;
        let plan = self.plan;
        for check in &plan.sql {
            let limit = check.timeout.or(plan.check_timeout);
            self.one("sql", &check.name, limit, |this, until| {
                this.sql(check, until)
            })?;
        }
        for database in self.databases(&plan.amcheck, "amcheck")? {
            self.one("amcheck", &database, plan.check_timeout, |this, until| {
                this.amcheck(&database, until)
            })?;
        }
        for database in self.databases(&plan.dump, "dump")? {
            self.one("dump", &database, plan.check_timeout, |this, until| {
                this.dump(&database, until)
            })?;
        }
        for check in &plan.command {
            let limit = check.timeout.or(plan.check_timeout);
            self.one("command", &check.name, limit, |this, until| {
                let tool = Tool::shell(&*this.server()?, &check.run)?;
                Ok(of_command(&this.finish(tool, until)?))
            })?;
        }
        Ok(())
    }

    /// Runs one check, and records its result and duration.
    fn one(
        &mut self,
        kind: &'static str,
        name: &str,
        limit: Option<Seconds>,
        check: impl FnOnce(&Self, Option<Instant>) -> Result<Outcome, Stop>,
    ) -> Result<(), SessionError> {
        (self.tell)(&format!("{kind} {name}"));
        let limit = limit.map(|limit| limit.0);
        let begun = Instant::now();
        let outcome = check(self, limit.map(|limit| begun + limit));
        let mut ended = Ok(());
        let (verdict, error) = match outcome {
            Ok(outcome) => outcome,
            Err(Stop::TimedOut) => {
                let seconds = limit.unwrap_or_default().as_secs();
                let error = format!("it did not finish within {seconds} s");
                (Verdict::CouldNotTell, Some(error))
            }
            Err(Stop::Session(
                error @ (SessionError::Server(ServerError::Spawn { .. }) | SessionError::Io { .. }),
            )) => (Verdict::CouldNotTell, Some(error.to_string())),
            Err(Stop::Session(error)) => {
                ended = Err(error);
                let said = "the session ended during this check".to_owned();
                (Verdict::CouldNotTell, Some(said))
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        self.report.spend(kind, seconds);
        self.report.checks.push(Check {
            kind,
            name: name.to_owned(),
            verdict,
            seconds,
            error,
        });
        ended
    }

    fn server(&self) -> Result<std::cell::Ref<'_, crate::server::Server>, Stop> {
        self.live
            .server()
            .ok_or(Stop::Session(SessionError::Interrupted))
    }

    /// Waits until `done` returns something.
    fn wait<T>(
        &self,
        until: Option<Instant>,
        mut done: impl FnMut() -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(found) = done()? {
                // Lost writes may have made the result wrong.
                self.live.check_writes().map_err(Stop::Session)?;
                return Ok(found);
            }
            if !self.live.goes_on().map_err(Stop::Session)? {
                return Err(Stop::Session(SessionError::Interrupted));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Stop::TimedOut);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(WATCH);
        }
    }

    fn finish(&self, mut tool: Tool, until: Option<Instant>) -> Result<Ended, Stop> {
        self.wait(until, || Ok(tool.try_wait()?.then_some(())))?;
        let mut ended = tool.finish()?;
        if !ended.status.success() {
            self.settle()?;
            ended.said = self.server()?.explain(ended.said);
        }
        Ok(ended)
    }

    /// Waits a moment for the server's exit. A server that dies takes its clients
    /// with it; its own exit explains more than theirs, and may be noticed a moment
    /// later.
    fn settle(&self) -> Result<(), Stop> {
        let until = Instant::now() + Duration::from_millis(500);
        match self.wait(Some(until), || Ok(None::<()>)) {
            Err(Stop::TimedOut) | Ok(()) => Ok(()),
            Err(stop) => Err(stop),
        }
    }

    fn text(
        &self,
        database: &str,
        sql: String,
        condition: Option<(String, String)>,
        until: Option<Instant>,
    ) -> Result<Result<(String, Option<bool>), QueryError>, Stop> {
        let query = query::text(&*self.server()?, database, sql, condition);
        let answer = self.wait(until, || Ok(query.poll()))?;
        if answer.is_err() {
            self.settle()?;
        }
        Ok(answer)
    }

    fn sql(&self, check: &SqlCheck, until: Option<Instant>) -> Result<Outcome, Stop> {
        let condition = check.expect.as_ref().and_then(condition);
        let (text, fits) =
            match self.text(&check.database, check.query.clone(), condition, until)? {
                Ok(answer) => answer,
                Err(error) => {
                    let said = self.server()?.explain(error.to_string());
                    let said = format!("{said}\nwhile running: {}", check.query);
                    return Ok((self.of_query(&error), Some(said)));
                }
            };
        let is_right = match &check.expect {
            None => true,
            Some(Expectation::Text(expected)) => text == *expected,
            Some(_) => fits == Some(true),
        };
        if is_right {
            return Ok(PROVED);
        }
        let expected = check.expect.as_ref().map(ToString::to_string);
        let error = format!("expected {:?}, got {text:?}", expected.unwrap_or_default());
        Ok((Verdict::Bad, Some(error)))
    }

    /// Judges a failed query. Only an error about broken data is evidence: a query
    /// may be wrong, and a table that it names may never have existed.
    fn of_query(&self, error: &QueryError) -> Verdict {
        match error.about() {
            About::Broken => of_broken(&error.to_string(), &self.live.counts()),
            About::Missing | About::Other => of_faults(&self.live.counts()),
        }
    }

    fn dump(&self, database: &str, until: Option<Instant>) -> Result<Outcome, Stop> {
        let Some(dir) = &self.plan.dump_dir else {
            let output = Output::Nowhere;
            let tool = Tool::postgres(&*self.server()?, "pg_dump", database, NO_ARGUMENTS, output)?;
            return Ok(self.of_tool(&self.finish(tool, until)?));
        };
        let whole = dir.join(format!("{}.dump", database.replace('/', "_")));
        let io = |e| Stop::Session(SessionError::io("write", &whole, e));
        let (dir, name) = Dir::of_file(&whole).map_err(io)?;
        let mut new = Replacement::begin(&dir, name, 0o600).map_err(io)?;
        let output = Output::To(new.file().try_clone().map_err(io)?);
        let tool = Tool::postgres(&*self.server()?, "pg_dump", database, &["-Fc"], output)?;
        let ended = self.finish(tool, until)?;
        if ended.status.success() {
            new.finish().map_err(io)?;
        }
        Ok(self.of_tool(&ended))
    }

    fn of_tool(&self, ended: &Ended) -> Outcome {
        match ended.status.success() {
            true => PROVED,
            false => (
                of_text(&ended.said, &self.live.counts()),
                Some(ended.said.clone()),
            ),
        }
    }

    /// Returns the databases to check; a failure to list them is recorded as a
    /// check's.
    fn databases(
        &mut self,
        wanted: &Databases,
        kind: &'static str,
    ) -> Result<Vec<String>, SessionError> {
        match wanted {
            Databases::Named(names) => return Ok(names.clone()),
            Databases::Every(false) => return Ok(Vec::new()),
            Databases::Every(true) => {}
        }
        let error = match self.every_database() {
            Ok(Ok(names)) => return Ok(names),
            Ok(Err(error)) => error,
            Err(Stop::TimedOut) => QueryError::Lost,
            Err(Stop::Session(error)) => return Err(error),
        };
        let verdict = self.of_query(&error);
        self.one(kind, "", None, |_, _| {
            Ok((verdict, Some(error.to_string())))
        })?;
        Ok(Vec::new())
    }

    fn every_database(&self) -> Result<Result<Vec<String>, QueryError>, Stop> {
        let sql = "select datname from pg_database where datallowconn and datname <> 'template0' \
                   order by 1";
        let until = Some(Instant::now() + OWN);
        let answer = self.text("template1", sql.to_owned(), None, until)?;
        Ok(answer.map(|(names, _)| names.lines().map(str::to_owned).collect()))
    }

    /// Finds the names of the relations that bad places belong to.
    fn name_places(&mut self) -> Result<(), SessionError> {
        const NAMED: usize = 50;
        let mut places = std::mem::take(&mut self.report.damage);
        for place in places.iter_mut().take(NAMED) {
            match self.name_of(place) {
                Ok(name) => place.relation = name,
                Err(Stop::TimedOut) => break,
                Err(Stop::Session(error)) => {
                    self.report.damage = places;
                    return Err(error);
                }
            }
        }
        self.report.damage = places;
        Ok(())
    }

    fn name_of(&self, place: &Damage) -> Result<Option<String>, Stop> {
        let (Some(node), Some(database)) = (place.relfilenode, place.database) else {
            return Ok(None);
        };
        let until = Some(Instant::now() + OWN);
        let mut name = "postgres".to_owned();
        if database != 0 {
            let sql = format!("select datname from pg_database where oid = {database}");
            match self.text("template1", sql, None, until)? {
                Ok((found, _)) if !found.is_empty() => name = found,
                _ => return Ok(None),
            }
        }
        let tablespace = match place.path.as_deref().unwrap_or_default() {
            path if path.starts_with("global/") => "1664",
            path => match path.strip_prefix("pg_tblspc/") {
                Some(rest) => rest.split('/').next().unwrap_or("0"),
                None => "0",
            },
        };
        let sql = format!(
            "select c.oid::regclass || coalesce(' (of ' || t.oid::regclass || ')', '') \
             from pg_class c left join pg_class t on t.reltoastrelid = c.oid \
             where c.oid = pg_filenode_relation({tablespace}, {node})"
        );
        let answer = self.text(&name, sql, None, until)?;
        let found = answer
            .ok()
            .map(|(text, _)| text)
            .filter(|text| !text.is_empty());
        Ok(found.map(|relation| format!("{relation} in database {name}")))
    }
}

const NO_ARGUMENTS: &[&str] = &[];

/// Judges a command by its exit status: 3 is "could not tell", as for pbkfs itself. A
/// command that cannot be run, or was killed, does not tell either.
fn of_command(ended: &Ended) -> Outcome {
    let how = match (ended.status.code(), ended.status.signal()) {
        (Some(0), _) => return PROVED,
        (Some(code), _) => format!("it exited with {code}"),
        (None, signal) => format!("signal {} ended it", signal.unwrap_or_default()),
    };
    let verdict = match ended.status.code() {
        Some(3 | 126 | 127) | None => Verdict::CouldNotTell,
        Some(_) => Verdict::Bad,
    };
    let said = format!("{how}: {}", ended.said);
    (verdict, Some(said.trim_end_matches([':', ' ']).to_owned()))
}

/// Returns a condition as SQL over the answer `$1` and the value `$2`.
fn condition(expected: &Expectation) -> Option<(String, String)> {
    let (sql, value) = match expected {
        Expectation::Text(_) => return None,
        Expectation::Number(is, value) => (
            format!("select $1::text::numeric {is} $2::text::numeric"),
            value,
        ),
        Expectation::Age(is, value) => (
            format!("select now() - nullif($1::text, '')::timestamptz {is} $2::text::interval"),
            value,
        ),
    };
    Some((sql, value.clone()))
}
