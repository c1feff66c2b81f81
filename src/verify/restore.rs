//! What pg_probackup's own restore would lose although the backup has it. This makes
//! a backup bad only if it is to be restored that way (`verify.restore`), because
//! what pbkfs shows is right.

use super::backup_report::LossReport;
use super::verdict::{Verdict, of_image};
use crate::causes::sentence;
use crate::chain::Chain;
use crate::image::{Image, ImageError, ImageOptions};
use crate::profile::RestoreBy;

/// Returns what a restore of a chain's target would lose, and the errors for files
/// for which this cannot be determined. Reads nothing if the versions of the backups
/// rule out any loss.
///
/// # Errors
/// If the chain's file lists cannot be read.
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

/// Returns what would be lost, and the outcome of the check; `None` if backups are
/// not restored that way.
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
