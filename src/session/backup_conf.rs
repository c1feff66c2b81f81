//! A backup's configuration, read without a mount.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::SessionError;
use crate::image::{Image, ImageError, NodeKind};
use crate::overlay::OverlayError;
use crate::server::conf::{Host, LIMIT, Source, normal};
use crate::server::{Conf, OsUser};
use crate::untrusted::Refused;

/// Reads the configuration. Files that it includes from the host are read with the
/// permissions of the server's user.
///
/// # Errors
/// If one of its files cannot be read.
pub fn read(image: &Image, user: Option<&OsUser>) -> Result<Conf, SessionError> {
    let host = Host {
        rights: user.map(OsUser::rights),
    };
    let source = InImage { image, host };
    Conf::read_from(&source, Path::new("")).map_err(SessionError::conf)
}

/// The files of an image, by relative path; a file included by absolute path is the host's.
struct InImage<'a> {
    image: &'a Image,
    host: Host,
}

/// Wraps the error as the overlay does, so that both are unwrapped in the same way.
fn unread(error: ImageError) -> io::Error {
    io::Error::other(OverlayError::from(error))
}

impl Source for InImage<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path.is_absolute() {
            return self.host.read(path);
        }
        let image = self.image;
        let node = image.find(&normal(path)).ok_or(io::ErrorKind::NotFound)?;
        let length = image.len(node).map_err(unread)?;
        if length > LIMIT {
            return Err(Refused::TooLarge { limit: LIMIT }.into());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let read = image.read_at(node, 0, &mut bytes);
        bytes.truncate(read.map_err(unread)?);
        Ok(bytes)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        if dir.is_absolute() {
            return self.host.names(dir);
        }
        let image = self.image;
        let node = image.find(&normal(dir)).ok_or(io::ErrorKind::NotFound)?;
        if image.kind(node) != NodeKind::Directory {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = image.children(node);
        Ok(children.map(|node| image.name(node).to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_includes_become_plain() {
        let plain = |path| normal(Path::new(path));
        assert_eq!(plain("./a/../conf.d/x"), Path::new("conf.d/x"));
        assert_eq!(plain("../x"), Path::new("x"));
    }
}
