//! Tests of the overlay as a whole, over a small image in memory.

#![allow(clippy::unwrap_used)]

mod attributes;
mod changes;
mod cost;
mod disk;
mod full;
mod hostile;
mod model;
mod moved;
mod operations;
mod power;
mod support;
mod threads;
