//! Proves that a backup restores: every page of it straight from the catalog,
//! then a throw-away clone that recovers and answers, then whatever else the
//! profile asks for.
//!
//! ```text
//! wanted         what a run is done with
//! run            one backup after the other
//! pages          every page and stored file, in parallel, without a mount
//! job            what is done about one backup, and when
//! checks/        queries, pg_amcheck, pg_dump and commands against the clone
//! restore        what pg_probackup's own restore would lose
//! verdict/       what each failure says: bad, or could not tell
//! backup_report  what was found of one backup
//! report/        the one document, and its forms
//! history/       what was verified when, and what is known of each backup by that
//! ping           a URL that is told
//! ```

mod backup_report;
mod checks;
mod history;
mod job;
mod pages;
mod ping;
mod report;
mod restore;
mod run;
mod verdict;
mod wanted;

pub use backup_report::LossReport;
pub use history::History;
pub use ping::ping;
pub use report::{Document, html, human, prometheus};
pub use restore::restore_losses;
pub use verdict::Verdict;
pub use verdict::findings::{FINDINGS, consequence};
pub use wanted::Verify;
