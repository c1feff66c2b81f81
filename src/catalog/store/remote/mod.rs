//! A catalog in a bucket, read over the network.
//!
//! ```text
//! store.rs      lists, reads small files, opens files; callers wait in their own threads
//! object.rs     which version of each file is in use
//! file.rs       an open file
//! parts/        what was fetched, what is on its way, what is fetched ahead
//! disk/         a cache that outlives the process, and is shared with others
//! requests.rs   how many requests at a time, and which are repeated
//! source/       one attempt of a request, by protocol
//! ```
//!
//! The runtime on which requests are made belongs to the store. Nothing above it knows of
//! it.

mod counters;
mod disk;
mod fault;
mod file;
mod object;
mod options;
mod parts;
mod requests;
mod source;
mod store;

pub use counters::Traffic;
pub use fault::Fault;
pub use options::{CacheOptions, RemoteOptions};
pub use store::RemoteStore;
