//! The data files, `data/INODE`, behind traits so that a test can take their
//! place and lose power.

mod dir;
mod file;
mod kept;
mod time;
mod unmade;

pub use dir::DirStorage;
pub(super) use dir::{inode_of_name, inodes_in};
pub use file::{DataFile, DataStat, Storage};
pub use time::{now_ns, system_time, time_ns};

/// The mode of the directory and of its files: they are pbkfs's alone.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
