//! What a data directory consists of, and where each part of it belongs: below PGDATA,
//! or in the directory of a tablespace.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::escape::value;
use crate::image::{Image, NodeId, NodeKind, TABLESPACES};
use crate::overlay::Ino;
use crate::session::SessionError;

/// Where PostgreSQL has the links to tablespaces.
pub(super) const LINKS: &str = "pg_tblspc";

/// A directory that is created as a whole: PGDATA, or that of a tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The tablespace's OID; `None` for PGDATA.
    pub oid: Option<u32>,
    /// The directory on the host that was backed up; empty for PGDATA.
    pub old: PathBuf,
    /// The directory to create, by absolute path.
    pub to: PathBuf,
}

/// A place below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The root's index.
    pub root: usize,
    /// The path below it; empty for the root itself.
    pub path: PathBuf,
}

/// A directory or a file, with its permissions.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its place.
    pub spot: Spot,
    /// Its permission bits.
    pub mode: u32,
}

/// Where a file of a clone has its content.
#[derive(Debug, Clone)]
pub enum Own {
    /// In the clone's tree.
    Tree(Ino),
    /// In the WAL directory outside the tree, at this path.
    Wal(PathBuf),
}

/// Everything that a data directory consists of.
#[derive(Debug)]
pub struct Layout {
    /// PGDATA first, then the tablespaces.
    pub roots: Vec<Root>,
    /// The directories, each after the one that contains it; the roots are included.
    pub dirs: Vec<Item>,
    /// The links to tablespaces, and the directories they lead to.
    pub links: Vec<(Spot, PathBuf)>,
    /// The files of the image, by their node.
    pub files: HashMap<NodeId, Item>,
    /// The files with content of a clone's own.
    pub own: Vec<(Own, Item)>,
}

/// The tablespaces of a cluster: their OIDs, and the directories they had.
pub struct Spaces(BTreeMap<u32, PathBuf>);

impl Spaces {
    /// Returns those of a backup.
    pub fn of(image: &Image) -> Self {
        let spaces = image.tablespaces().iter();
        Self(
            spaces
                .map(|space| (space.oid, space.path.clone()))
                .collect(),
        )
    }

    /// Adds one that a clone created, by the name of its directory.
    pub fn add(&mut self, name: &OsStr) {
        if let Some(oid) = name.to_str().and_then(|name| name.parse().ok()) {
            self.0.entry(oid).or_default();
        }
    }
}

impl Layout {
    /// Lays out an image below `to`, with tablespaces mapped from their old directories
    /// to new ones. A tablespace that is not mapped is put beside `to`.
    ///
    /// # Errors
    /// If the mapping names a directory that is no tablespace's, or if two directories
    /// would contain each other.
    pub fn of(
        image: &Image,
        to: &Path,
        mapping: &[(PathBuf, PathBuf)],
    ) -> Result<Self, SessionError> {
        let (mut layout, by_oid) = Self::empty(Spaces::of(image), to, mapping)?;
        layout.add(image, &by_oid);
        Ok(layout)
    }

    /// Returns where PGDATA is to be.
    pub fn pgdata(&self) -> &Path {
        self.to(0)
    }

    /// Returns where a root is to be; an empty path for one that does not exist.
    pub fn to(&self, root: usize) -> &Path {
        self.roots.get(root).map_or(Path::new(""), |root| &root.to)
    }

    /// Creates a layout of nothing but its roots, and the roots' indexes by the names of
    /// their links.
    pub(super) fn empty(
        spaces: Spaces,
        to: &Path,
        mapping: &[(PathBuf, PathBuf)],
    ) -> Result<(Self, HashMap<OsString, usize>), SessionError> {
        let roots = roots(spaces, to, mapping)?;
        let by_oid = (0..)
            .zip(&roots)
            .filter_map(|(index, root)| Some((root.oid?.to_string().into(), index)))
            .collect();
        let layout = Self {
            roots,
            dirs: Vec::new(),
            links: Vec::new(),
            files: HashMap::new(),
            own: Vec::new(),
        };
        Ok((layout, by_oid))
    }

    fn add(&mut self, image: &Image, by_oid: &HashMap<OsString, usize>) {
        // A worklist rather than recursion: a damaged list can nest without end.
        let mut left = vec![Image::ROOT];
        while let Some(node) = left.pop() {
            let Some(spot) = spot_of(&image.path(node), by_oid) else {
                left.extend(image.children(node));
                continue;
            };
            let mode = image.mode(node);
            match image.kind(node) {
                NodeKind::Directory => {
                    self.dirs.push(Item { spot, mode });
                    left.extend(image.children(node));
                }
                NodeKind::File => {
                    self.files.insert(node, Item { spot, mode });
                }
                NodeKind::Symlink => {
                    let root = by_oid.get(image.name(node)).copied();
                    if let Some(root) = root.and_then(|root| self.roots.get(root)) {
                        self.links.push((spot, root.to.clone()));
                    }
                }
            }
        }
    }
}

/// Returns where a path of the image belongs; `None` for the image's own directories.
pub(super) fn spot_of(path: &Path, by_oid: &HashMap<OsString, usize>) -> Option<Spot> {
    if Path::new(TABLESPACES).starts_with(path) && !path.as_os_str().is_empty() {
        return None;
    }
    let Ok(below) = path.strip_prefix(TABLESPACES) else {
        let path = path.to_owned();
        return Some(Spot { root: 0, path });
    };
    let mut parts = below.components();
    let oid = parts.next()?;
    let root = *by_oid.get(oid.as_os_str())?;
    let path = parts.as_path().to_owned();
    Some(Spot { root, path })
}

fn roots(
    spaces: Spaces,
    to: &Path,
    mapping: &[(PathBuf, PathBuf)],
) -> Result<Vec<Root>, SessionError> {
    for (old, _) in mapping {
        if !spaces.0.values().any(|path| path == old) {
            let known: Vec<_> = spaces.0.values().map(|path| value(path)).collect();
            let known = match known.is_empty() {
                true => "it has none".to_owned(),
                false => format!("it has {}", known.join(", ")),
            };
            return Err(SessionError::usage(format!(
                "the backup has no tablespace in {}; {known}",
                value(old)
            )));
        }
    }
    let pgdata = Root {
        oid: None,
        old: PathBuf::new(),
        to: to.to_owned(),
    };
    let mut roots = vec![pgdata];
    for (oid, old) in spaces.0 {
        let mapped = mapping.iter().find(|(mapped, _)| *mapped == old);
        let to = mapped.map_or_else(|| beside(to, oid), |(_, new)| new.clone());
        let oid = Some(oid);
        roots.push(Root { oid, old, to });
    }
    for (index, root) in roots.iter().enumerate() {
        let is_in = |(at, other): &(usize, &Root)| *at != index && other.to.starts_with(&root.to);
        if let Some((_, inner)) = roots.iter().enumerate().find(is_in) {
            return Err(SessionError::usage(format!(
                "{} and {} would contain each other; map the tablespaces to separate directories",
                value(&root.to),
                value(&inner.to)
            )));
        }
    }
    Ok(roots)
}

/// Returns where a tablespace goes that is not mapped.
fn beside(to: &Path, oid: u32) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{LINKS}-{oid}"));
    to.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_place() {
        let by_oid = HashMap::from([("16399".into(), 1)]);
        let spot = |path: &str| {
            spot_of(Path::new(path), &by_oid)
                .map(|spot| (spot.root, spot.path.display().to_string()))
        };
        assert_eq!(spot(""), Some((0, String::new())));
        assert_eq!(spot("base/1/2"), Some((0, "base/1/2".to_owned())));
        assert_eq!(
            spot("pg_tblspc/16399"),
            Some((0, "pg_tblspc/16399".to_owned()))
        );
        assert_eq!(spot(".pbkfs"), None);
        assert_eq!(spot(".pbkfs/tblspc"), None);
        assert_eq!(spot(".pbkfs/tblspc/16399"), Some((1, String::new())));
        assert_eq!(
            spot(".pbkfs/tblspc/16399/PG_15/5/1"),
            Some((1, "PG_15/5/1".to_owned()))
        );
        assert_eq!(
            beside(Path::new("/srv/main"), 7),
            Path::new("/srv/main-pg_tblspc-7")
        );
    }
}
