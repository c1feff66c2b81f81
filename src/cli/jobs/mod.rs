//! Commands that run once and exit.

mod begin;
pub mod extract;
pub mod materialize;
pub mod progress;
pub mod promote;
pub mod verify;
