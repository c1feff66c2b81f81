//! What pg_probackup's own restore would lose of a backup that has it. That
//! makes a backup bad only for who restores by it (`verify.restore`), since what
//! pbkfs shows is right.

use super::backup_report::LossReport;
use super::verdict::{Verdict, of_image};
use crate::causes::sentence;
use crate::chain::Chain;
use crate::image::{Image, ImageError, ImageOptions};
use crate::profile::RestoreBy;

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
