//! The stored form of a data file's pages: which pages exist and where ([`PageIndex`]),
//! and how each is compressed ([`PageCodec`]).

mod codec;
pub(super) mod index;
pub(super) mod pglz;

pub use codec::{CodecError, PageCodec};
pub use index::{PageIndex, PageIndexError, PageStamp, RECORD_HEADER, RecordError, Records};
pub use pglz::PglzError;
