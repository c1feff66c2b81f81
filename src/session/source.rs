//! Opening the catalog that a plan names.

use nix::unistd::geteuid;

use crate::catalog::store::remote::{CacheOptions, RemoteOptions, RemoteStore};
use crate::catalog::{Catalog, Location};
use crate::profile::{ByteSize, Plan, StoragePlan};
use crate::session::SessionError;

/// Memory for what a command fetches that reads everything once.
const ONCE: ByteSize = ByteSize::megabytes(64);

/// Opens a plan's catalog.
///
/// # Errors
/// If it cannot be read, or is no catalog.
pub fn open_plan(plan: &Plan) -> Result<Catalog, SessionError> {
    open(&plan.catalog, &plan.storage, fetched_memory(plan))
}

/// Opens a catalog to look something up in it, or to read one file.
///
/// # Errors
/// If it cannot be read, or is no catalog.
pub fn open_catalog(location: &Location, storage: &StoragePlan) -> Result<Catalog, SessionError> {
    open(location, storage, ONCE)
}

/// Opens a catalog; one over the network keeps up to `memory` of what it has fetched. All
/// that this process opens with the same settings share one store.
fn open(
    location: &Location,
    storage: &StoragePlan,
    memory: ByteSize,
) -> Result<Catalog, SessionError> {
    let address = match location {
        Location::Directory(path) => return Ok(Catalog::open(path)?),
        Location::Remote(address) => address,
    };
    let mut options = RemoteOptions::default();
    options.endpoint.clone_from(&storage.endpoint);
    options.region.clone_from(&storage.region);
    options.allow_http = storage.allow_http;
    options.path_style = storage.path_style;
    options.part_size = storage.part_size.0;
    options.connections = storage.connections.get();
    options.timeout = storage.timeout.0;
    options.memory = memory.0;
    options.cache = storage.cache_dir.clone().map(|dir| CacheOptions {
        dir,
        limit: storage.cache_limit.0,
    });
    let store = RemoteStore::shared(address, &options)
        .map_err(|error| SessionError::io("prepare access to", &location.name(), error))?;
    Ok(Catalog::through(location.clone(), store)?)
}

/// Returns how much of `cache_size` is for page indexes: all of it, unless what is fetched
/// needs a part.
pub fn index_memory(plan: &Plan) -> ByteSize {
    match plan.catalog {
        Location::Directory(_) => plan.cache_size,
        Location::Remote(_) => ByteSize(plan.cache_size.0 - fetched_memory(plan).0),
    }
}

fn fetched_memory(plan: &Plan) -> ByteSize {
    ByteSize(plan.cache_size.0 / 2)
}

/// Whether a session serves the archive of this catalog to its server: the server's user
/// may not be able to open the files, or the server has no network to reach them.
pub fn serves_archive(catalog: &Location) -> bool {
    geteuid().is_root() || matches!(catalog, Location::Remote(_))
}
