//! pg_amcheck, and which of its findings this host explains: an index that is sorted
//! by another version of its collation than the one installed here.
//!
//! A cluster's system catalogs record the versions with which its collations and
//! databases were created. The collation of a database, which its columns have unless
//! they name another, is recorded there since PostgreSQL 15; for 14, the version of
//! the same locale in `pg_collation` is used.

use std::time::Instant;

use serde::Deserialize;

use super::{Checks, OWN, Outcome, PROVED, Stop};
use crate::server::{Output, QueryError, Tool};
use crate::session::SessionError;
use crate::verify::backup_report::CollationReport;
use crate::verify::verdict::words::Found;
use crate::verify::verdict::{Verdict, of_broken, of_text};

/// A collation whose version differs on this host: one line of the query's answer.
#[derive(Debug, Deserialize)]
struct Differing {
    collation: String,
    recorded: String,
    here: Option<String>,
    /// Schema and name of each index.
    indexes: Vec<(String, String)>,
}

/// Lists the collations whose version differs here, with the indexes that are sorted
/// by them. An index depends on the collations of its columns, including those inside
/// the columns' types. An expression or partial index also depends on those of the
/// table's columns that it uses.
const INDEXES: &str = "\
with used as (
  select i.indexrelid as index, sorts
  from pg_index i
  join pg_class x on x.oid = i.indexrelid
  join pg_am m on m.oid = x.relam and m.amname = 'btree',
  lateral (
    select unnest(i.indcollation)
    union select d.refobjid from pg_depend d
      where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
        and d.refclassid = 'pg_collation'::regclass
    union select a.attcollation from pg_attribute a join pg_depend d on d.refobjsubid = a.attnum
      where a.attrelid = i.indrelid and (i.indexprs is not null or i.indpred is not null)
        and d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
        and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid
    union select r.rngcollation from pg_attribute a join pg_range r on r.rngtypid = a.atttypid
      where a.attrelid = i.indexrelid
    union select f.attcollation from pg_attribute a
      join pg_type t on t.oid = a.atttypid and t.typrelid <> 0
      join pg_attribute f on f.attrelid = t.typrelid
      where a.attrelid = i.indexrelid
  ) a(sorts) where sorts <> 0
), versions as (
  select c.oid, c.oid::regcollation::text as name, c.collversion as recorded,
    pg_collation_actual_version(c.oid) as here
  from pg_collation c
  where c.oid in (select sorts from used) and c.collversion is not null
  union all (OF_DATABASE)
)
select json_build_object('collation', v.name, 'recorded', v.recorded, 'here', v.here, 'indexes', (
  select coalesce(json_agg(json_build_array(n.nspname, x.relname)), '[]')
  from (select distinct index from used where sorts = v.oid) u
  join pg_class x on x.oid = u.index join pg_namespace n on n.oid = x.relnamespace))
from versions v where v.recorded is distinct from v.here order by v.name";

/// The version of the database's own collation, whose OID is 100.
const OF_DATABASE: &str = "\
  select 100, coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', d.datcollate),
    d.datcollversion, pg_database_collation_actual_version(d.oid)
  from pg_database d where d.datname = current_database() and d.datcollversion is not null";

/// The same before PostgreSQL 15.
const OF_DATABASE_14: &str = "\
  select 100, d.datcollate::text, c.collversion, pg_collation_actual_version(c.oid)
  from pg_database d join pg_collation c on c.collprovider = 'c' and c.collcollate = d.datcollate
  where d.datname = current_database() and c.collversion is not null limit 1";

impl Checks<'_> {
    /// Runs pg_amcheck, which exits with 2 if it has found something.
    pub(super) fn amcheck(&self, database: &str, until: Option<Instant>) -> Result<Outcome, Stop> {
        let arguments = ["--install-missing", "--heapallindexed", "--no-strict-names"];
        let tool = Tool::postgres(
            &*self.server()?,
            "pg_amcheck",
            database,
            &arguments,
            Output::Kept,
        )?;
        let ended = self.finish(tool, until)?;
        if ended.status.success() {
            return Ok(PROVED);
        }
        let counts = self.live.counts();
        if ended.status.code() != Some(2) {
            return Ok((of_text(&ended.said, &counts), Some(ended.said)));
        }
        let indexes = self.otherwise_sorted.get(database).into_iter().flatten();
        let found = Found::read(&ended.said).without_order_of(database, indexes);
        let verdict = match found.has_findings() {
            true => of_broken(found.text(), &counts),
            false => Verdict::CouldNotTell,
        };
        let said = match verdict {
            Verdict::CouldNotTell if !found.has_findings() => format!(
                "indexes are not in this host's sort order, and the collation of each has another \
                 version here; a host with production's version can tell whether they are intact, \
                 while this host would need REINDEX\n{}",
                ended.said
            ),
            _ => ended.said,
        };
        Ok((verdict, Some(said)))
    }

    /// Finds, in all databases, the collations whose version differs here and the
    /// indexes that are sorted by them. If this cannot be determined, every finding
    /// counts.
    pub(super) fn collations(&mut self) -> Result<(), SessionError> {
        let databases = match self.every_database() {
            Ok(Ok(names)) => names,
            Ok(Err(error)) => {
                tracing::warn!("the databases cannot be listed: {error}");
                return Ok(());
            }
            Err(Stop::TimedOut) => return Ok(()),
            Err(Stop::Session(error)) => return Err(error),
        };
        for database in databases {
            match self.differing(&database) {
                Ok(Ok(differing)) => self.take(&database, differing),
                Ok(Err(error)) => {
                    tracing::warn!(
                        "the versions of {database}'s collations cannot be read: {error}"
                    );
                }
                Err(Stop::TimedOut) => return Ok(()),
                Err(Stop::Session(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn differing(&self, database: &str) -> Result<Result<Vec<Differing>, QueryError>, Stop> {
        let of_database = match self.server()?.config().binaries.major {
            ..=14 => OF_DATABASE_14,
            _ => OF_DATABASE,
        };
        let sql = INDEXES.replace("OF_DATABASE", of_database);
        let answer = self.text(database, sql, None, Some(Instant::now() + OWN))?;
        Ok(answer.map(|(lines, _)| {
            let lines = lines.lines().map(serde_json::from_str);
            lines.filter_map(Result::ok).collect()
        }))
    }

    fn take(&mut self, database: &str, differing: Vec<Differing>) {
        for Differing {
            collation,
            recorded,
            here,
            indexes,
        } in differing
        {
            self.report.collations.push(CollationReport {
                database: database.to_owned(),
                collation,
                recorded,
                here,
                indexes: indexes.len(),
            });
            let known = self.otherwise_sorted.entry(database.to_owned());
            known.or_default().extend(indexes);
        }
    }
}
