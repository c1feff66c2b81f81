//! Pieces, and runs of them.

use std::sync::Arc;

use bytes::Bytes;

use super::flight::Flight;
use crate::catalog::store::remote::disk::{PIECE, Pieces};
use crate::catalog::store::remote::fault::Fault;
use crate::catalog::store::remote::object::Object;

/// Names a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    object: u64,
    piece: u32,
}

/// Consecutive pieces.
#[derive(Debug, Clone)]
pub struct Run {
    pub first: u32,
    pub pieces: Vec<Arc<[u8]>>,
}

/// What a reader has of a piece: the bytes, or the prospect of them.
pub enum Held {
    Ready(Arc<[u8]>),
    Flying(Arc<Flight<Arc<Run>>>),
}

impl Run {
    /// Cuts bytes from the beginning of a piece on. A last piece that is not complete is
    /// left out.
    pub fn new(object: &Object, first: u32, bytes: &Bytes) -> Self {
        let pieces = (first..).zip(bytes.chunks(PIECE as usize));
        let complete = pieces.filter(|(piece, bytes)| {
            let end = u64::from(*piece) * PIECE + bytes.len() as u64;
            bytes.len() as u64 == PIECE || end == object.length
        });
        Self {
            first,
            pieces: complete.map(|(_, bytes)| Arc::from(bytes)).collect(),
        }
    }
}

impl Held {
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Ready(_) => true,
            Self::Flying(flight) => flight.has_landed(),
        }
    }

    pub fn wait(&self, piece: u32) -> Result<Arc<[u8]>, Fault> {
        let flight = match self {
            Self::Ready(bytes) => return Ok(Arc::clone(bytes)),
            Self::Flying(flight) => flight,
        };
        let run = flight.wait()?;
        let at = piece.checked_sub(run.first).map(|at| at as usize);
        let found = at.and_then(|at| run.pieces.get(at));
        // A source that answers with fewer bytes than there are is refused before.
        found.map(Arc::clone).ok_or(Fault::Changed)
    }
}

impl Object {
    pub fn key(&self, piece: u32) -> Key {
        Key {
            object: self.id,
            piece,
        }
    }

    /// Returns what names its pieces on disk.
    pub fn on_disk(&self) -> Pieces<'_> {
        Pieces {
            path: &self.path,
            version: &self.version,
        }
    }

    /// Returns the number of its pieces.
    pub fn pieces(&self) -> u32 {
        match self.length {
            0 => 0,
            length => piece_of(length - 1) + 1,
        }
    }
}

/// Returns the number of the piece at an offset. No file of a catalog has 2^48 bytes; of
/// one that claims to, the end cannot be read.
pub fn piece_of(offset: u64) -> u32 {
    u32::try_from(offset / PIECE).unwrap_or(u32::MAX - 1)
}
