//! Processes that are about to fetch the same take turns, so that the second one finds it
//! in the cache. If that cannot be arranged, both fetch it.

use std::fs::File;
use std::io;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use tokio::time::sleep;

use super::key::Key;
use super::shelf::PIECES;
use super::{Disk, MARK, Pieces};

/// The longest pause between two looks at what another process fetches.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A turn. It ends when this is dropped; there is nothing in it if there is no lock.
#[derive(Debug)]
pub struct Turn {
    _lock: Option<File>,
}

impl Disk {
    /// Waits for the turn to fetch a piece; all of a shelf have one.
    pub async fn turn_of_piece(&self, pieces: Pieces<'_>, piece: u32) -> Turn {
        self.turn(self.key_of_part(pieces, piece / PIECES)).await
    }

    /// Waits for the turn to find out the version of a file.
    pub async fn turn_of_file(&self, path: &str) -> Turn {
        self.turn(self.key_of_file(path)).await
    }

    async fn turn(&self, key: Key) -> Turn {
        let mut pause = Duration::from_millis(1);
        loop {
            match self.try_lock(key) {
                Ok(None) => sleep(pause).await,
                locked => {
                    return Turn {
                        _lock: locked.ok().flatten(),
                    };
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Locks a byte of the mark for a key; `None` if another process has.
    fn try_lock(&self, key: Key) -> io::Result<Option<File>> {
        let file = self.dir.file_to_write(MARK)?;
        let place = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: key.number(),
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&place)) {
            Ok(_) => Ok(Some(file)),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
