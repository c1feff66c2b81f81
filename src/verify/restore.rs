//! What pg_probackup's own restore would lose of a backup that has it. That
//! makes a backup bad only for who restores by it (`verify.restore`), since what
//! pbkfs shows is right.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::report::BackupReport;
use super::verdict::{Verdict, of_image};
use crate::causes::sentence;
use crate::chain::Chain;
use crate::escape::line;
use crate::image::{Image, ImageError, ImageOptions, RestoreLoss};
use crate::profile::RestoreBy;

/// Files that the report for people names.
const SHOWN: usize = 10;

/// A file that restore would cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LossReport {
    /// The file inside the data directory.
    pub path: String,
    /// The first block that is lost, within the file.
    pub first_block: u32,
    /// The blocks from there to the file's end.
    pub blocks: u32,
    /// The backup whose note of a truncation is taken for a newer one.
    pub marked_in: String,
    /// All that as a sentence, with what to do.
    pub message: String,
}

impl LossReport {
    fn of(loss: &RestoreLoss) -> Self {
        Self {
            path: loss.path.display().to_string(),
            first_block: loss.first_block.0,
            blocks: loss.blocks,
            marked_in: loss.marked_in.to_string(),
            message: loss.to_string(),
        }
    }
}

/// What restore of a chain's target would lose, and why that cannot be told of
/// some files. Reads nothing where the versions of the backups rule it out.
///
/// # Errors
/// The chain's lists cannot be read.
pub fn restore_losses(chain: &Chain) -> Result<(Vec<LossReport>, Vec<ImageError>), ImageError> {
    if chain.restore_risk().is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    let image = Image::open(chain, &ImageOptions::default())?;
    let found = image.restore_losses();
    let losses = found.files.iter().map(LossReport::of).collect();
    Ok((losses, found.untold))
}

/// The outcome of a check: its verdict and the first error.
type Outcome = (Verdict, Option<String>);

/// What would be lost, and what that says to who restores so; `None` if that is
/// nobody.
pub(super) fn look(chain: &Chain, by: RestoreBy) -> (Vec<LossReport>, Option<Outcome>) {
    let (losses, untold) = match restore_losses(chain) {
        Ok(found) => found,
        Err(error) => (Vec::new(), vec![error]),
    };
    let outcome = match (losses.first(), untold.first()) {
        (Some(loss), _) => (Verdict::Bad, Some(loss.message.clone())),
        (None, Some(error)) => (
            of_image(error).max(Verdict::CouldNotTell),
            Some(sentence(error)),
        ),
        (None, None) => (Verdict::Proved, None),
    };
    (losses, (by == RestoreBy::PgProbackup).then_some(outcome))
}

/// The lines of the report for people.
pub(super) fn losses(text: &mut String, report: &BackupReport) {
    for loss in report.restore_losses.iter().take(SHOWN) {
        let _ = writeln!(text, "  {}", line(&loss.message));
    }
    if let Some(more) = report.restore_losses.len().checked_sub(SHOWN)
        && more > 0
    {
        let _ = writeln!(text, "  and {more} more files; --json names them");
    }
}
