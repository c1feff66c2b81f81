//! Where a catalog is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a catalog is: in a directory of this host, or elsewhere.
///
/// ```
/// use pbkfs::catalog::Location;
///
/// let bucket: Location = "s3://backups/pg".parse()?;
/// assert!(bucket.directory().is_none());
/// assert_eq!(bucket.to_string(), "s3://backups/pg");
/// assert_eq!("/srv/backup".parse(), Ok(Location::Directory("/srv/backup".into())));
/// # Ok::<(), pbkfs::catalog::InvalidLocation>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A directory of this host: the path that pg_probackup takes as `-B`.
    Directory(PathBuf),
    /// A bucket.
    Remote(Address),
}

/// A catalog that is not on this host, as named by a URL. It never has a password, a
/// query or a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// How it is reached.
    pub scheme: Scheme,
    /// The bucket or the container.
    pub bucket: String,
    /// The catalog's path in it, without slashes at its ends.
    pub path: String,
}

/// How a bucket is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Amazon S3, or a server that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::S3, Self::Gs, Self::Az];

    /// Returns the scheme as in a URL, without the colon.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// A URL that names no catalog. It does not repeat the URL, which may have a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// Another scheme.
    #[error("a catalog's URL begins with s3://, gs:// or az://; a directory is named by its path")]
    Scheme,
    /// No bucket or container.
    #[error("the URL names no bucket")]
    Bucket,
    /// A user, or a password.
    #[error(
        "the URL contains credentials; give them in the environment, as AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    Credentials,
    /// A port.
    #[error("the URL has a port; a server and its port are named by storage.endpoint")]
    Port,
    /// A path with empty or relative parts, with control characters, a query or a
    /// fragment.
    #[error("the URL's path may not contain \"?\", \"#\", empty or relative parts")]
    Path,
}

impl Location {
    /// Reads a location that a user gave: a URL if it looks like one, and otherwise a
    /// path.
    ///
    /// # Errors
    /// If it is a URL that names no catalog.
    pub fn new(given: &Path) -> Result<Self, InvalidLocation> {
        match given.to_str() {
            Some(text) if is_url(text) => text.parse().map(Self::Remote),
            _ => Ok(Self::Directory(given.to_owned())),
        }
    }

    /// Returns its path, if it is a directory of this host.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Remote(_) => None,
        }
    }

    /// Returns the path or the URL, as the beginning of the names of the files in it.
    #[must_use]
    pub fn name(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Remote(address) => address.to_string().into(),
        }
    }
}

/// Whether this is a URL rather than a path.
#[must_use]
pub fn is_url(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once("://") else {
        return false;
    };
    let mut bytes = scheme.bytes();
    let is_first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    is_first && bytes.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

impl Default for Location {
    /// The empty path, which names nothing.
    fn default() -> Self {
        Self::Directory(PathBuf::new())
    }
}

impl From<&str> for Location {
    /// Takes the text for a path.
    fn from(path: &str) -> Self {
        Self::Directory(path.into())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Remote(address) => address.fmt(f),
        }
    }
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        Self::new(Path::new(text))
    }
}

impl FromStr for Address {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidLocation::Scheme)?;
        let scheme = (Scheme::ALL.into_iter())
            .find(|known| known.word().eq_ignore_ascii_case(scheme))
            .ok_or(InvalidLocation::Scheme)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(InvalidLocation::Credentials);
        }
        let is_known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match authority.contains(':') {
            true => return Err(InvalidLocation::Port),
            false if authority.is_empty() || !authority.chars().all(is_known) => {
                return Err(InvalidLocation::Bucket);
            }
            false => {}
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !path.split('/').all(is_part) {
            return Err(InvalidLocation::Path);
        }
        Ok(Self {
            scheme,
            bucket: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Whether this may be one part of a path in a URL.
fn is_part(part: &str) -> bool {
    let is_bad = |c: char| c.is_control() || matches!(c, '?' | '#');
    !matches!(part, "" | "." | "..") && !part.contains(is_bad)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.word(), self.bucket)?;
        match self.path.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_catalog_elsewhere() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("S3://bucket/a/b c/", "s3://bucket/a/b c"),
            ("gs://my-bucket/pg", "gs://my-bucket/pg"),
            ("az://container/pg", "az://container/pg"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(location.name(), Path::new(shown));
            assert_eq!(location.directory(), None);
            assert_eq!(shown.parse(), Ok(location));
        }
        let Ok(Location::Remote(address)) = "s3://b/srv/a".parse() else {
            panic!("it is not remote")
        };
        assert_eq!((&*address.bucket, &*address.path), ("b", "srv/a"));
    }

    #[test]
    fn a_url_that_names_no_catalog_is_refused() {
        use InvalidLocation::{Bucket, Credentials, Path, Port, Scheme};
        for (text, error) in [
            ("http://h/x", Scheme),
            ("file:///srv/backup", Scheme),
            ("ssh://h/srv/backup", Scheme),
            ("s3:///x", Bucket),
            ("s3://b;c/x", Bucket),
            ("s3://key:secret@bucket/x", Credentials),
            ("s3://key@bucket/x", Credentials),
            ("s3://localhost:9000/bucket", Port),
            ("s3://b/a//b", Path),
            ("s3://b/../c", Path),
            ("s3://b/a?versionId=1", Path),
            ("s3://b/a\nb", Path),
        ] {
            assert_eq!(text.parse::<Location>(), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn everything_else_is_a_path() {
        for text in ["/srv/backup", "srv", "a:b", "://x", "/a://b", "1s3://b"] {
            let location = Location::new(std::path::Path::new(text)).unwrap();
            assert_eq!(location.directory(), Some(std::path::Path::new(text)));
            assert_eq!(text.parse(), Ok(location));
        }
    }
}
