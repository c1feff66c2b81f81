//! The image of real catalogs, compared with what `pg_probackup restore` wrote.
//!
//! `postgres/fixtures/NAME/` holds a catalog created by a real PostgreSQL and the
//! real pg_probackup, and for each of its backups a manifest of the restored files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod check;
mod damage;
mod encoded;
mod fixture;
mod old;
mod oracle;
mod reads;
mod recoded;
