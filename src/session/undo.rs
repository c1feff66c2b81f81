//! The undo of each setup step, kept until the end.

use crate::session::SessionError;

type Step = Box<dyn FnOnce() -> Result<(), SessionError>>;

/// Undo steps, run in reverse order of registration: by [`Undo::run`], which returns
/// the first failure, or on drop.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// Registers the undo of a step that has just succeeded.
    pub fn push(
        &mut self,
        what: &'static str,
        step: impl FnOnce() -> Result<(), SessionError> + 'static,
    ) {
        self.steps.push((what, Box::new(step)));
    }

    /// Undoes everything. A step that fails is logged and does not keep the
    /// others from running.
    ///
    /// # Errors
    /// Returns the first failure.
    pub fn run(&mut self) -> Result<(), SessionError> {
        let mut first = Ok(());
        while let Some((what, step)) = self.steps.pop() {
            tracing::debug!("undoing: {what}");
            if let Err(error) = step() {
                tracing::error!("while undoing ({what}): {error}");
                first = first.and(Err(error));
            }
        }
        first
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Failures are logged; there is nobody left to return them to.
        let _ = self.run();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn steps_are_undone_in_reverse_and_all_of_them() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::default();
        for step in 1..=3 {
            let order = order.clone();
            undo.push("step", move || {
                order.borrow_mut().push(step);
                if step == 2 {
                    Err(SessionError::Interrupted)
                } else {
                    Ok(())
                }
            });
        }
        assert!(matches!(undo.run(), Err(SessionError::Interrupted)));
        drop(undo);
        assert_eq!(*order.borrow(), [3, 2, 1]);
    }
}
