//! Finding the database of the clone that has what is wanted.

use super::asking::{server, settle, wait};
use super::wanted::{Extract, What};
use crate::escape::value;
use crate::server::{Output, Tool, query};
use crate::session::{Live, SessionError};

/// The database that every cluster has, unless somebody has dropped it.
const DEFAULT: &str = "postgres";

/// Returns the database to extract from: the one that was named, or the only
/// one with the tables.
///
/// # Errors
/// Returns [`SessionError::Usage`] if there is none of that name or several have the
/// tables, and [`SessionError::Extract`] if none has them.
pub fn find(live: &Live<'_>, extract: &Extract<'_>) -> Result<String, SessionError> {
    let tables = match &extract.what {
        What::Dump { tables, .. } => &tables[..],
        What::Query { .. } => &[],
    };
    if let (None, []) = (&extract.database, tables) {
        return Ok(DEFAULT.to_owned());
    }
    let there = all(live, extract)?;
    match &extract.database {
        Some(name) if there.contains(name) => Ok(name.clone()),
        Some(name) => Err(SessionError::usage(format!(
            "the backup has no database {} that accepts connections; it has {}",
            value(name),
            listed(&there)
        ))),
        None => with_tables(live, extract, there, tables),
    }
}

fn with_tables(
    live: &Live<'_>,
    extract: &Extract<'_>,
    there: Vec<String>,
    tables: &[String],
) -> Result<String, SessionError> {
    let mut with = Vec::new();
    for name in &there {
        if has_tables(live, extract, name, tables)? {
            with.push(name.clone());
        }
    }
    match with.len() {
        0 => Err(SessionError::Extract {
            what: "looking for the tables",
            said: format!(
                "no database has all of {}; the databases are {}",
                listed(tables),
                listed(&there)
            ),
        }),
        1 => Ok(with.remove(0)),
        _ => Err(SessionError::usage(format!(
            "several databases have {}: {}; choose one with --database",
            listed(tables),
            listed(&with)
        ))),
    }
}

/// Asks pg_dump itself, because the patterns are its own.
fn has_tables(
    live: &Live<'_>,
    extract: &Extract<'_>,
    name: &str,
    tables: &[String],
) -> Result<bool, SessionError> {
    let mut arguments = vec!["--schema-only".to_owned(), "--strict-names".to_owned()];
    arguments.extend(tables.iter().map(|table| format!("--table={table}")));
    let server = server(live)?;
    let mut tool = Tool::postgres(&server, "pg_dump", name, &arguments, Output::Nowhere)?;
    drop(server);
    wait(live, extract, &|| 0, || Ok(tool.try_wait()?.then_some(())))?;
    let ended = tool.finish()?;
    if !ended.status.success() {
        tracing::debug!(database = name, "pg_dump said: {}", ended.said);
    }
    Ok(ended.status.success())
}

/// Returns the databases that accept connections.
fn all(live: &Live<'_>, extract: &Extract<'_>) -> Result<Vec<String>, SessionError> {
    // Use JSON, because a name may contain anything.
    let sql = "select json_agg(datname order by datname) from pg_database where datallowconn";
    let query = query::text(&*server(live)?, DEFAULT, sql.to_owned(), None);
    let failed = |said: String| SessionError::Extract {
        what: "listing the databases",
        said,
    };
    match wait(live, extract, &|| 0, || Ok(query.poll()))? {
        Ok((text, _)) => serde_json::from_str(&text).map_err(|e| failed(e.to_string())),
        Err(error) => {
            settle(live)?;
            Err(failed(error.to_string()))
        }
    }
}

fn listed(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(value).collect();
    names.join(", ")
}
