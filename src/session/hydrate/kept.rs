//! `DIFF/.pbkfs-catalog`: of the catalog, what a session reads before its diff, kept in a
//! diff that has everything else. With it, the clone no longer needs the catalog.
//!
//! It is a catalog of one instance with one chain: the control files, the content lists,
//! and the small files that are not relations. All larger files are missing.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::catalog::content::ContentList;
use crate::catalog::store::StorePath;
use crate::catalog::{Backup, BackupId, BackupRef, Catalog, Instance};
use crate::chain::Chain;
use crate::diff::{Binding, CATALOG_DIR, Diff};
use crate::image::ImageError;
use crate::profile::Plan;
use crate::session::SessionError;
use crate::untrusted::{Dir, found};

/// The largest file that is kept: a tablespace map may have this size.
const LARGEST: u64 = 1 << 20;

/// Number of bytes copied at a time.
const STEP: usize = 1 << 20;

/// Keeps what a session reads of the catalog before its diff.
///
/// # Errors
/// If a file cannot be read or written; then nothing is kept.
pub fn keep(diff: &Diff, instance: &Instance, chain: &Chain) -> Result<(), SessionError> {
    let io = |error| SessionError::io("keep the catalog in", diff.root(), error);
    let root = diff.begin_catalog()?;
    let dir = below(&root, Path::new("backups")).map_err(io)?;
    let dir = below(&dir, Path::new(&instance.name)).map_err(io)?;
    let conf = "pg_probackup.conf";
    if found(instance.place.join(conf).open())
        .map_err(io)?
        .is_some()
    {
        copy(&instance.place.join(conf), &dir, OsStr::new(conf)).map_err(io)?;
    }
    for backup in chain.layers() {
        let dir = below(&dir, Path::new(&backup.id.0)).map_err(io)?;
        keep_backup(backup, &dir)?;
    }
    Ok(diff.put_catalog()?)
}

fn keep_backup(backup: &Backup, dir: &Dir) -> Result<(), SessionError> {
    let io = |error| SessionError::io("keep a copy of", &backup.dir, error);
    for name in ["backup.control", "backup_content.control"] {
        copy(&backup.place.join(name), dir, OsStr::new(name)).map_err(io)?;
    }
    let list = ContentList::read(backup).map_err(|source| ImageError::Content {
        backup: backup.id.clone(),
        source,
    })?;
    let small = list.iter().filter(|entry| {
        let is_file = !entry.is_directory() && !entry.is_datafile;
        let size = u64::try_from(entry.size).unwrap_or(0);
        is_file && (1..=LARGEST).contains(&size) && entry.external_dir_num == 0
    });
    for entry in small {
        let path = Path::new("database").join(OsStr::from_bytes(entry.path));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        let place = entry.place_in(backup);
        let parent = below(dir, parent).map_err(io)?;
        copy(&place, &parent, name).map_err(io)?;
    }
    Ok(())
}

/// Opens a directory below another one, and creates what is missing of it.
fn below(dir: &Dir, path: &Path) -> io::Result<Dir> {
    let mut inner = dir.dir(".")?;
    for part in path.components() {
        match part {
            Component::Normal(name) => inner = inner.dir_or_new(name, 0o700)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(inner)
}

fn copy(from: &StorePath, dir: &Dir, name: &OsStr) -> io::Result<()> {
    let source = from.open()?;
    let mut copy = dir.create(name, 0o600)?;
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    loop {
        let count = source.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(());
        }
        copy.write_all(buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
}

/// Returns the instance and the chain that a plan's diff keeps, if it has everything of
/// the backup that the plan wants.
///
/// # Errors
/// If what it keeps cannot be read.
pub fn find(plan: &Plan) -> Result<Option<(Instance, Chain)>, SessionError> {
    let Some(dir) = &plan.diff_dir else {
        return Ok(None);
    };
    let Some(binding) = Binding::read(dir)? else {
        return Ok(None);
    };
    let id = BackupId(binding.backup.clone());
    let is_wanted = match &plan.backup {
        BackupRef::Latest => true,
        BackupRef::Id(wanted) => *wanted == id,
    };
    if binding.instance != plan.instance || !is_wanted {
        return Ok(None);
    }
    open(dir, &binding)
}

/// Returns what the diff in `dir` keeps; `None` if it does not have all of its backup.
///
/// # Errors
/// If what it keeps cannot be read.
pub fn open(dir: &Path, binding: &Binding) -> Result<Option<(Instance, Chain)>, SessionError> {
    let root = dir.join(CATALOG_DIR);
    // Anybody may have made the diff. A store follows links to backups and their
    // instance, so these are looked at first.
    let opened = (|| {
        let backups = Dir::open(dir)?.dir(CATALOG_DIR)?.dir("backups")?;
        let instance = backups.dir(&binding.instance)?;
        binding
            .chain
            .iter()
            .try_for_each(|id| instance.dir(id).map(drop))
    })();
    if found(opened)
        .map_err(|e| SessionError::io("open", &root, e))?
        .is_none()
    {
        return Ok(None);
    }
    let instance = Catalog::open(&root)?.instance(&binding.instance)?;
    let id = BackupId(binding.backup.clone());
    let chain = Chain::resolve(&instance.name, &instance.backups()?, &BackupRef::Id(id))?;
    Ok(Some((instance, chain)))
}
