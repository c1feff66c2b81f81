//! The section `[storage]`: how a catalog in a bucket is read.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::profile::error::ProfileError;
use crate::profile::values::{ByteSize, Seconds};

/// The most connections that may be asked for.
const CONNECTIONS: usize = 256;

/// The sizes that a Part may have, in bytes.
const PARTS: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;

section! {
    /// The keys of the section `[storage]`, for a catalog that is a URL. Credentials are
    /// not among them: they come from the environment (AWS_*, GOOGLE_*, AZURE_*) or from a
    /// service account.
    pub struct StoragePlan {
        /// Server of the bucket, as a URL.
        ///
        /// Default: that of the environment (AWS_ENDPOINT_URL), else the provider's
        #[schemars(title = "URL", example = &"https://s3.example.org")]
        pub endpoint: Option<String>,

        /// Region of the bucket.
        ///
        /// Default: that of the environment (AWS_REGION), else us-east-1
        #[schemars(title = "name", example = &"eu-central-1")]
        pub region: Option<String>,

        /// Whether to read from a server without encryption: over http.
        #[schemars(example = true)]
        pub allow_http: bool = false,

        /// Whether the bucket's name is part of the URL's path rather than of the host's name.
        #[schemars(example = false)]
        pub path_style: bool = true,

        /// Largest amount that one request fetches, from 64kB to 64MB.
        #[schemars(example = &"4MB")]
        pub part_size: ByteSize = ByteSize::megabytes(1),

        /// Largest number of requests at a time, up to 256.
        #[schemars(title = "1 or more", example = 32)]
        pub connections: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15),

        /// Time for which a request that fails is repeated. A third of it is the time limit of
        /// each attempt.
        #[schemars(example = 300)]
        pub timeout: Seconds = Seconds::new(60),

        /// Directory of a cache on disk, which all clones and jobs of this host may share.
        ///
        /// Default: none; only memory is used, up to half of cache_size
        #[schemars(extend("format" = "path"), example = "/var/cache/pbkfs")]
        pub cache_dir: Option<PathBuf>,

        /// Size of the cache on disk. What was not used for longest is removed first.
        #[schemars(example = &"100GB")]
        pub cache_limit: ByteSize = ByteSize::megabytes(10 << 10),
    }
}

impl StoragePlan {
    /// Returns what another pbkfs needs to reach the same catalog, as arguments of `--set`.
    #[must_use]
    pub fn sets(&self) -> Vec<String> {
        let default = Self::default();
        let text = |key: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            Some(format!("storage.{key}={value}"))
        };
        let flag = |key: &str, value: bool, default: bool| {
            (value != default).then(|| format!("storage.{key}={value}"))
        };
        [
            text("endpoint", &self.endpoint),
            text("region", &self.region),
            flag("allow_http", self.allow_http, default.allow_http),
            flag("path_style", self.path_style, default.path_style),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Checks what the types do not.
    pub(in crate::profile) fn check(&self) -> Result<(), ProfileError> {
        if !PARTS.contains(&self.part_size.0) {
            let reason = format!("expected 64kB to 64MB, not {} bytes", self.part_size.0);
            return Err(ProfileError::wrong("storage.part_size", reason));
        }
        if self.connections.get() > CONNECTIONS {
            let reason = format!("expected 1 to {CONNECTIONS}, not {}", self.connections);
            return Err(ProfileError::wrong("storage.connections", reason));
        }
        self.endpoint.as_deref().map_or(Ok(()), |endpoint| {
            check_endpoint(endpoint, self.allow_http)
                .map_err(|reason| ProfileError::wrong("storage.endpoint", reason))
        })
    }
}

/// Checks the URL of a server. The reason does not repeat it, because it may have a
/// password.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), &'static str> {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    match scheme {
        "https" => {}
        "http" if allow_http => {}
        "http" => {
            return Err("http is not encrypted: use https, or set storage.allow_http = true");
        }
        _ => return Err("expected a URL that begins with https://"),
    }
    if rest.is_empty() || rest.starts_with('/') {
        return Err("the URL names no host");
    }
    match rest.contains('@') {
        true => Err(
            "the URL contains credentials: give them in the environment, as \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(plan: &StoragePlan) -> String {
        plan.check().unwrap_err().to_string()
    }

    #[test]
    fn an_endpoint_is_a_url_without_secrets() {
        let with = |endpoint: &str, allow_http| StoragePlan {
            endpoint: Some(endpoint.to_owned()),
            allow_http,
            ..StoragePlan::default()
        };
        StoragePlan::default().check().unwrap();
        with("https://s3.example.org:9000", false).check().unwrap();
        with("http://127.0.0.1:9000", true).check().unwrap();
        for (endpoint, said) in [
            ("http://h", "allow_http"),
            ("s3.example.org", "https://"),
            ("https:///x", "no host"),
            ("https://key:secret@h", "credentials"),
        ] {
            let reason = reason(&with(endpoint, false));
            assert!(reason.contains(said), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn amounts_have_bounds() {
        let part = StoragePlan {
            part_size: ByteSize(1000),
            ..StoragePlan::default()
        };
        assert!(reason(&part).contains("64kB to 64MB"));
        let many = StoragePlan {
            connections: NonZeroUsize::MAX,
            ..StoragePlan::default()
        };
        assert!(reason(&many).contains("1 to 256"));
    }
}
