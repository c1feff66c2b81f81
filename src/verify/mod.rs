//! Proves that a backup restores: reads every page straight from the catalog, then
//! starts a throw-away clone that has to recover and answer, then does whatever else
//! the profile asks for.
//!
//! ```text
//! wanted         the input of a run
//! run            one backup after the other
//! good_copies    intact copies, in other backups, of what is damaged in one
//! job            the work on one backup
//! checks/        queries, pg_amcheck, pg_dump and commands against the clone
//! restore        what pg_probackup's own restore would lose
//! verdict/       what each failure means: bad, or could not tell
//! backup_report  the findings on one backup
//! report/        the one document, and the reports made from it
//! history/       what was verified when, and what that says about each backup
//! ping           a URL that is notified
//! ```

mod backup_report;
mod checks;
mod good_copies;
mod history;
mod job;
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
