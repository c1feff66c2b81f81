//! The data files, `data/INODE`, behind traits so that a test can replace them and
//! simulate a power loss.

mod dir;
mod file;
mod kept;
mod time;
mod unmade;

pub use dir::DirStorage;
pub(super) use dir::{inode_of_name, inodes_in};
pub use file::{DataFile, DataStat, Storage};
pub use time::{now_ns, system_time, time_ns};

/// The mode of the directory and of its files: only pbkfs's user has access.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
