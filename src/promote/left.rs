//! What an interrupted cut-over has left.

use std::path::Path;

use super::cut_over::is_in_place;
use crate::causes::sentence;
use crate::diff::{Diff, Promotion};
use crate::materialize::Staging;
use crate::session::{PromoteError, SessionError};

/// What became of an earlier promotion of a diff.
pub enum Earlier {
    /// There was none, or it was undone: the clone is as it was.
    None,
    /// It is complete.
    Complete(Promotion),
}

/// Completes or undoes what an interrupted cut-over has left. If the directory had its
/// name already, only the record was missing.
///
/// # Errors
/// If the diff is in use, or if what was begun cannot be removed.
pub fn settle(dir: &Path) -> Result<Earlier, SessionError> {
    let Some(mut promotion) = Promotion::read(dir)? else {
        return Ok(Earlier::None);
    };
    if promotion.complete {
        return Ok(Earlier::Complete(promotion));
    }
    if is_in_place(&promotion) {
        let forgotten = Staging::forget(&promotion.to);
        forgotten.map_err(|e| SessionError::io("remove the journal of", &promotion.to, e))?;
        promotion.complete = true;
        Diff::amend_promotion(dir, Some(&promotion))?;
        return Ok(Earlier::Complete(promotion));
    }
    Staging::abandon(&promotion.to).map_err(|error| PromoteError::CutOver {
        to: promotion.to.clone(),
        reason: format!(
            "what an interrupted cut-over left beside it cannot be removed: {}",
            sentence(&error)
        ),
    })?;
    Diff::amend_promotion(dir, None)?;
    Ok(Earlier::None)
}
