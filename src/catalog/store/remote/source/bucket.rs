//! A bucket of an object store, through the crate `object_store`.
//!
//! Its own repetitions are turned off: a request is repeated, limited and counted in one
//! place for all sources (`requests.rs`).

use std::error::Error as _;
use std::ffi::OsString;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::HttpError;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig,
};

use super::http::{Answered, Connector};
use super::{Answer, Fetched, Source, Version, Wish};
use crate::catalog::location::{Address, Scheme};
use crate::catalog::store::remote::fault::Fault;
use crate::catalog::store::remote::options::RemoteOptions;
use crate::catalog::store::{Entry, Kind};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A catalog in a bucket.
#[derive(Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// The catalog's path in the bucket.
    prefix: String,
}

impl Bucket {
    /// Prepares access to a bucket; nothing is sent yet.
    pub fn new(address: &Address, options: &RemoteOptions) -> Result<Self, Fault> {
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            // Each request has a time limit of ours.
            .with_timeout_disabled()
            .with_allow_http(options.allow_http)
            .with_pool_max_idle_per_host(options.connections);
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let store = match address.scheme {
            Scheme::S3 => s3(address, options, client, retry),
            Scheme::Gs => gs(address, options, client, retry),
            Scheme::Az => az(address, options, client, retry),
        };
        Ok(Self {
            store: store.map_err(|error| fault(&error))?,
            prefix: address.path.clone(),
        })
    }

    /// Returns the key of a path in the catalog.
    fn key(&self, path: &str) -> Result<Path, Fault> {
        let joined = match (&*self.prefix, path) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        };
        // A name that no object can have does not exist.
        Path::parse(joined).map_err(|_| Fault::Missing)
    }

    async fn entries(&self, dir: &str) -> Result<Vec<Entry>, Fault> {
        let prefix = self.key(dir)?;
        let found = self.store.list_with_delimiter(Some(&prefix)).await;
        let found = found.map_err(|error| fault(&error))?;
        let entry = |path: &Path, kind, length| {
            let name = OsString::from(path.filename()?);
            Some(Entry { name, kind, length })
        };
        let dirs = found.common_prefixes.iter();
        let dirs = dirs.filter_map(|path| entry(path, Kind::Directory, 0));
        let files = (found.objects.iter())
            // The mark of an empty directory, as some programs leave it.
            .filter(|object| object.location != prefix)
            .filter_map(|object| entry(&object.location, Kind::File, object.size));
        let entries: Vec<Entry> = dirs.chain(files).collect();
        match entries.is_empty() {
            true => Err(Fault::Missing),
            false => Ok(entries),
        }
    }

    async fn get(&self, file: &str, range: Range<u64>, wish: Wish) -> Result<Fetched, Fault> {
        let key = self.key(file)?;
        let mut options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let is_pinned = matches!(wish, Wish::Only(_));
        match wish {
            Wish::Any => {}
            Wish::Only(Version(tag)) => options.if_match = Some(tag),
            Wish::Unless(Version(tag)) => options.if_none_match = Some(tag),
        }
        let got = match self.store.get_opts(&key, options).await {
            Ok(got) => got,
            Err(Error::NotModified { .. }) => return Ok(Fetched::Unchanged),
            Err(Error::Precondition { .. } | Error::NotFound { .. }) if is_pinned => {
                return Err(Fault::Changed);
            }
            Err(error) => return self.nothing_in_range(&key, range, fault(&error)).await,
        };
        let (length, version) = (got.meta.size, version(&got.meta)?);
        let bytes = got.bytes().await.map_err(|error| fault(&error))?;
        Ok(Fetched::Bytes {
            bytes,
            length,
            version,
        })
    }

    /// A range that begins behind the end of an object is refused, and that of an empty
    /// object always is. Whether it was that is found out by asking for the length.
    async fn nothing_in_range(
        &self,
        key: &Path,
        range: Range<u64>,
        refused: Fault,
    ) -> Result<Fetched, Fault> {
        if !matches!(refused, Fault::Refused(_)) {
            return Err(refused);
        }
        let Ok(meta) = self.store.head(key).await else {
            return Err(refused);
        };
        if meta.size > range.start {
            return Err(refused);
        }
        Ok(Fetched::Bytes {
            bytes: Bytes::new(),
            length: meta.size,
            version: version(&meta)?,
        })
    }
}

impl Source for Bucket {
    fn list<'a>(&'a self, dir: &'a str) -> Answer<'a, Vec<Entry>> {
        Box::pin(self.entries(dir))
    }

    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>, wish: Wish) -> Answer<'a, Fetched> {
        Box::pin(self.get(file, range, wish))
    }
}

fn version(meta: &object_store::ObjectMeta) -> Result<Version, Fault> {
    let tag = meta.e_tag.clone().map(Version);
    tag.ok_or_else(|| Fault::Refused("it gives no ETag, by which changes are noticed".to_owned()))
}

fn s3(
    address: &Address,
    options: &RemoteOptions,
    client: ClientOptions,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&address.bucket)
        .with_virtual_hosted_style_request(!options.path_style)
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    Ok(Arc::new(builder.build()?))
}

fn gs(
    address: &Address,
    options: &RemoteOptions,
    client: ClientOptions,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&address.bucket)
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    Ok(Arc::new(builder.build()?))
}

fn az(
    address: &Address,
    options: &RemoteOptions,
    client: ClientOptions,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&address.bucket)
        .with_client_options(client)
        .with_http_connector(Connector)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    Ok(Arc::new(builder.build()?))
}

/// Tells whether a failure may pass, and says why it happened, without URLs, which may be
/// signed.
fn fault(error: &Error) -> Fault {
    let answered = causes(error).find_map(|cause| cause.downcast_ref::<Answered>());
    match (error, answered) {
        (Error::NotFound { .. }, _) => Fault::Missing,
        (Error::Precondition { .. } | Error::NotModified { .. }, _) => Fault::Changed,
        (_, Some(answer)) if answer.is_denial() => Fault::Denied(answer.to_string()),
        (_, Some(answer)) if answer.may_pass() => Fault::Unreachable(answer.to_string()),
        (_, Some(answer)) => Fault::Refused(answer.to_string()),
        (_, None) if causes(error).any(|cause| cause.is::<HttpError>()) => {
            Fault::Unreachable(innermost(error))
        }
        (_, None) => Fault::Refused(innermost(error)),
    }
}

/// Returns the innermost cause: it says what happened, those around it what was attempted.
fn innermost(error: &Error) -> String {
    let last = causes(error).last().map(ToString::to_string);
    last.unwrap_or_else(|| error.to_string())
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}
