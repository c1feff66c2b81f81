//! The steps of a session's set-up. Each sets up one thing and registers its undoing;
//! their order is in `up.rs`.

pub mod layers;
pub mod mounting;
pub mod postgres;
pub mod resolve;
pub mod start;
pub mod target;
pub mod wal_dir;
