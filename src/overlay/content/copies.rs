//! Parked copies of base files: closed, unchanged, and kept for the next open.

use std::collections::HashMap;

use crate::diff::DataStat;
use crate::overlay::tree::Ino;

/// The parked copies, each with its data file's state. An entry is valid only while the
/// file's content is the image's.
#[derive(Debug, Default)]
pub struct Copies {
    pub(in crate::overlay) parked: HashMap<Ino, DataStat>,
    pub(in crate::overlay) bytes: u64,
}

impl Copies {
    pub fn take(&mut self, ino: Ino) -> Option<DataStat> {
        let stat = self.parked.remove(&ino)?;
        self.bytes = self.bytes.saturating_sub(stat.len);
        Some(stat)
    }

    pub fn park(&mut self, ino: Ino, stat: DataStat) {
        self.take(ino);
        self.bytes += stat.len;
        self.parked.insert(ino, stat);
    }
}
