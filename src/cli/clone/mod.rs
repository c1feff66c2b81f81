//! Commands that create, show and end a clone.

pub mod background;
pub mod cleanup;
pub mod diff;
pub mod down;
pub mod mount;
pub mod plan;
pub mod status;
pub mod stay;
pub mod unmount;
pub mod up;
pub mod which;
