//! The image of a chain, and what is read from it before a server is started.

use std::io;
use std::path::Path;

use crate::chain::Chain;
use crate::diff::Binding;
use crate::image::{Image, ImageOptions};
use crate::pg::control::ControlFile;
use crate::profile::Plan;
use crate::session::{SessionError, source};

/// Opens the image of a chain.
pub fn open_image(plan: &Plan, chain: &Chain) -> Result<Image, SessionError> {
    let options = ImageOptions {
        verify_checksums: plan.verify_checksums,
        index_cache_bytes: usize::try_from(source::index_memory(plan).0).unwrap_or(usize::MAX),
    };
    Ok(Image::open(chain, &options)?)
}

/// Reads the backup's own `pg_control`.
pub fn control_file(image: &Image) -> Result<ControlFile, SessionError> {
    let path = Path::new("global/pg_control");
    let mut bytes = vec![0; 8192];
    let node = image.find(path).ok_or(io::ErrorKind::NotFound);
    let node = node.map_err(|e| SessionError::io("find in the backup", path, e.into()))?;
    let n = image.read_at(node, 0, &mut bytes)?;
    bytes.truncate(n);
    Ok(ControlFile::parse(&bytes)?)
}

/// Reads what the start of a server reads from the backup. In a diff that was used, the
/// clone's `backup_label` counts instead.
///
/// # Errors
/// If one of the files cannot be read.
pub fn check_files(plan: &Plan, image: &Image) -> Result<(), SessionError> {
    control_file(image)?;
    let bound = plan.diff_dir.as_deref().map(Binding::read).transpose()?;
    if let (None, Some(label)) = (bound.flatten(), image.find(Path::new("backup_label"))) {
        image.read_at(label, 0, &mut [0; 512])?;
    }
    Ok(())
}

/// Returns PostgreSQL's `TABLESPACE_VERSION_DIRECTORY`, such as `PG_15_202209061`.
pub fn tablespace_version_dir(image: &Image, chain: &Chain) -> Result<String, SessionError> {
    let control = control_file(image)?;
    let version = &chain.target().server_version;
    Ok(format!("PG_{version}_{}", control.catalog_version_no))
}
