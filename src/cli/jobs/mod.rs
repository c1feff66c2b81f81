//! Commands that run once and are done.

pub mod extract;
pub mod progress;
pub mod verify;
