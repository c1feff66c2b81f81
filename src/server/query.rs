//! Queries against a clone. Each has its own thread and connection, because the
//! client has no timeout for a server that does not respond.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;

use postgres::error::SqlState;
use postgres::{CancelToken, Config, Error, NoTls, SimpleQueryMessage};

use crate::server::error::{message, missing_locale};
use crate::server::process::Server;

/// Why a query returned no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server refused the query, or failed.
    #[error("{}", message(.0))]
    Server(#[from] Error),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Write(#[from] io::Error),
    /// The thread exited without an answer.
    #[error("the query was not finished")]
    Lost,
}

/// What the error of a failed query is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The database, schema or table does not exist.
    Missing,
    /// Data or files that PostgreSQL finds broken, or cannot read.
    Broken,
    /// Anything else; see the error's text.
    Other,
}

impl QueryError {
    /// Classifies the error by PostgreSQL's error code
    /// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    #[must_use]
    pub fn about(&self) -> About {
        let code = match self {
            // PostgreSQL reports a missing locale as an internal error.
            Self::Server(error) if missing_locale(error).is_some() => None,
            Self::Server(error) => error.code(),
            Self::Write(_) | Self::Lost => None,
        };
        let missing = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_DATABASE,
            SqlState::INVALID_SCHEMA_NAME,
        ];
        match code {
            Some(code) if missing.contains(code) => About::Missing,
            Some(code) if is_of_class(code, "XX") || is_of_class(code, "58") => About::Broken,
            _ => About::Other,
        }
    }
}

/// Returns whether a code is of a class: XX has internal errors, including corrupted
/// data; 58 has errors of files.
fn is_of_class(code: &SqlState, class: &str) -> bool {
    code.code().starts_with(class)
}

/// A query in progress.
pub struct Query<T> {
    answer: Receiver<Result<T, QueryError>>,
    cancel: Receiver<CancelToken>,
}

impl<T: Send + 'static> Query<T> {
    fn start(
        server: &Server,
        database: &str,
        ask: impl FnOnce(&mut postgres::Client) -> Result<T, QueryError> + Send + 'static,
    ) -> Self {
        let mut config = server.client_config();
        config.dbname(database);
        let (sender, answer) = mpsc::channel();
        let (token, cancel) = mpsc::channel();
        thread::spawn(move || {
            let work = |config: Config| {
                let mut client = config.connect(NoTls)?;
                let _ = token.send(client.cancel_token());
                ask(&mut client)
            };
            // The receiver is dropped if the wait was abandoned.
            let _ = sender.send(work(config));
        });
        Self { answer, cancel }
    }

    /// Returns the answer once it has arrived.
    #[must_use]
    pub fn poll(&self) -> Option<Result<T, QueryError>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(QueryError::Lost)),
        }
    }
}

impl<T> Drop for Query<T> {
    /// Cancels the query if it is still running.
    fn drop(&mut self) {
        if let Ok(token) = self.cancel.try_recv() {
            let _ = token.cancel_query(NoTls);
        }
    }
}

/// Runs a query and returns its rows as `psql -At` prints them. A condition, if
/// given, is then evaluated: SQL with that text as its parameter `$1`, and the second
/// string of the pair as `$2`.
#[must_use]
pub fn text(
    server: &Server,
    database: &str,
    sql: String,
    condition: Option<(String, String)>,
) -> Query<(String, Option<bool>)> {
    Query::start(server, database, move |client| {
        let text = rows(&client.simple_query(&sql)?);
        let fits = match condition {
            None => None,
            Some((condition, value)) => {
                let row = client.query_one(&condition, &[&text, &value])?;
                row.try_get::<_, Option<bool>>(0)?.or(Some(false))
            }
        };
        Ok((text, fits))
    })
}

/// Writes the result of `COPY (sql) TO STDOUT` to `output`, as CSV with a header;
/// returns the number of bytes.
#[must_use]
pub fn csv(
    server: &Server,
    database: &str,
    sql: &str,
    mut output: impl Write + Send + 'static,
) -> Query<u64> {
    let sql = sql.trim().trim_end_matches(';').to_owned();
    Query::start(server, database, move |client| {
        let copy = format!("COPY ({sql}\n) TO STDOUT (FORMAT csv, HEADER)");
        let mut reader = client.copy_out(&copy)?;
        let bytes = io::copy(&mut reader, &mut output).map_err(told)?;
        output.flush()?;
        Ok(bytes)
    })
}

/// Unwraps an error of the server, which `io::copy` reports as a read error.
fn told(error: io::Error) -> QueryError {
    if !error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        return error.into();
    }
    match error.into_inner().map(|inner| inner.downcast::<Error>()) {
        Some(Ok(error)) => QueryError::Server(*error),
        _ => QueryError::Lost,
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> String {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|at| row.get(at).unwrap_or_default());
            Some(values.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    });
    rows.collect::<Vec<_>>().join("\n")
}
