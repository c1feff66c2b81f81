//! What a remote catalog is read through: a protocol's requests, one attempt each.

mod bucket;
mod http;

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;

use super::fault::Fault;
use crate::catalog::store::Entry;

pub use bucket::Bucket;

/// A request that was made and not answered yet.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// The requests that a protocol knows. Paths are relative to the catalog's root, without
/// slashes at their ends. No request is repeated here.
pub trait Source: Debug + Send + Sync {
    /// Lists a directory. Where there are no directories, one without files does not
    /// exist.
    fn list<'a>(&'a self, dir: &'a str) -> Answer<'a, Vec<Entry>>;

    /// Fetches a range of a file, as far as the file has it.
    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>, wish: Wish) -> Answer<'a, Fetched>;
}

/// What identifies the content of a file: as long as it is the same, so is the content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// On which condition a range is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// None.
    Any,
    /// Only of this version: any other one, and none, is [`Fault::Changed`].
    Only(Version),
    /// Only if it is not this version, of which everything is known.
    Unless(Version),
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It still is the version that the wish named.
    Unchanged,
    /// The bytes from the beginning of the range, as far as the file has them.
    Bytes {
        /// The bytes.
        bytes: Bytes,
        /// The length of the whole file.
        length: u64,
        /// Its version.
        version: Version,
    },
}
