//! How a remote catalog is read.

use std::path::PathBuf;
use std::time::Duration;

/// How a remote catalog is read. Credentials are no part of it: they are taken from where
/// other programs take them, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RemoteOptions {
    /// The URL of the server, for a bucket that is not its provider's own.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the server may be asked without encryption.
    pub allow_http: bool,
    /// Whether the bucket's name is in the URL's path, not in the host's name.
    pub path_style: bool,
    /// The largest number of bytes fetched by one request.
    pub part_size: u64,
    /// The largest number of requests at a time.
    pub connections: usize,
    /// How long a request is repeated until it succeeds.
    pub timeout: Duration,
    /// Memory for what was fetched, in bytes.
    pub memory: u64,
    /// The cache on disk.
    pub cache: Option<CacheOptions>,
}

/// A cache on disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheOptions {
    /// Its directory, which may serve any number of processes.
    pub dir: PathBuf,
    /// Its size in bytes.
    pub limit: u64,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            allow_http: false,
            path_style: true,
            part_size: 1 << 20,
            connections: 16,
            timeout: Duration::from_secs(60),
            memory: 128 << 20,
            cache: None,
        }
    }
}
