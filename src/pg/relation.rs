//! Names of relation files: the relation, fork and segment that a path inside PGDATA
//! denotes.
//!
//! ```text
//! base/DB/NODE[_fork][.SEG]                                 default tablespace
//! global/NODE[_fork][.SEG]                                  shared catalogs
//! pg_tblspc/OID/PG_MAJOR_CATALOG/DB/NODE[_fork][.SEG]       any other
//! ```
//! The file name of a temporary relation has `tBACKEND_` before NODE. PostgreSQL builds
//! these names in `GetRelationPath` (src/common/relpath.c) and parses them in
//! `parse_filename_for_nontemp_relation` (src/backend/storage/file/reinit.c) and
//! `looks_like_temp_rel_name` (src/backend/storage/file/fd.c).

use std::ffi::OsStr;

use super::{AbsoluteBlock, BlockNumber};

/// The tablespace of a relation file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tablespace {
    /// `pg_default`, under `base/`.
    Default,
    /// `pg_global`, under `global/`.
    Global,
    /// Any other tablespace, under `pg_tblspc/OID/PG_MAJOR_CATALOG`.
    Oid {
        /// The tablespace's oid.
        oid: u32,
        /// The server's major version in the directory's name.
        major: u32,
        /// The catalog version in the directory's name.
        catalog: u32,
    },
}

/// A fork of a relation (`ForkNumber`, src/include/common/relpath.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The data itself.
    Main,
    /// Free space map, `_fsm`.
    FreeSpace,
    /// Visibility map, `_vm`.
    Visibility,
    /// An unlogged relation's empty state, `_init`.
    Init,
}

/// What the path of a segment file encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The tablespace.
    pub tablespace: Tablespace,
    /// The database's oid; 0 for the shared catalogs in `global/`.
    pub database: u32,
    /// The relation's file node.
    pub relfilenode: u32,
    /// The owning backend, if the relation is temporary.
    pub temp_backend: Option<u32>,
    /// The fork.
    pub fork: Fork,
    /// The segment's number within the fork, counted from 0.
    pub segno: u32,
}

impl RelationFile {
    /// Parses a path inside PGDATA; `None` if it does not name a relation file.
    #[must_use]
    pub fn parse(path: impl AsRef<OsStr>) -> Option<Self> {
        let path = path.as_ref().to_str()?;
        let (directory, name) = path.rsplit_once('/')?;
        let (tablespace, database) = parse_directory(directory)?;
        let (temp_backend, name) = match name.strip_prefix('t') {
            Some(rest) => {
                let (backend, rest) = rest.split_once('_')?;
                (Some(number(backend)?), rest)
            }
            None => (None, name),
        };
        let (name, segno) = match name.split_once('.') {
            // PostgreSQL never writes ".0": segment 0 has no suffix.
            Some((name, segno)) => (name, number(segno).filter(|&n| n > 0)?),
            None => (name, 0),
        };
        let (node, fork) = match name.split_once('_') {
            None => (name, Fork::Main),
            Some((node, "fsm")) => (node, Fork::FreeSpace),
            Some((node, "vm")) => (node, Fork::Visibility),
            Some((node, "init")) => (node, Fork::Init),
            Some(_) => return None,
        };
        Some(Self {
            tablespace,
            database,
            relfilenode: oid(node)?,
            temp_backend,
            fork,
            segno,
        })
    }

    /// Returns a block's number in the whole fork.
    #[must_use]
    pub fn absolute(&self, block: BlockNumber) -> AbsoluteBlock {
        block.absolute(self.segno)
    }
}

fn parse_directory(directory: &str) -> Option<(Tablespace, u32)> {
    let mut parts = directory.split('/');
    let place = match (parts.next()?, parts.next()) {
        ("global", None) => return Some((Tablespace::Global, 0)),
        ("base", Some(database)) => (Tablespace::Default, oid(database)?),
        ("pg_tblspc", Some(tablespace)) => {
            let (major, catalog) = parts.next()?.strip_prefix("PG_")?.split_once('_')?;
            let tablespace = Tablespace::Oid {
                oid: oid(tablespace)?,
                major: number(major)?,
                catalog: number(catalog)?,
            };
            (tablespace, oid(parts.next()?)?)
        }
        _ => return None,
    };
    parts.next().is_none().then_some(place)
}

/// Parses a number as PostgreSQL prints it: digits, no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    text.parse().ok().filter(|_| plain)
}

/// Parses a number that can be an oid: 0 is `InvalidOid`.
fn oid(text: &str) -> Option<u32> {
    number(text).filter(|&n| n != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(database: u32, relfilenode: u32, fork: Fork, segno: u32) -> RelationFile {
        RelationFile {
            tablespace: Tablespace::Default,
            database,
            relfilenode,
            temp_backend: None,
            fork,
            segno,
        }
    }

    #[test]
    fn default_tablespace_forks_and_segments() {
        let cases = [
            ("base/5/2619", plain(5, 2619, Fork::Main, 0)),
            ("base/5/2619.1", plain(5, 2619, Fork::Main, 1)),
            ("base/5/2619_fsm", plain(5, 2619, Fork::FreeSpace, 0)),
            ("base/5/2619_vm.12", plain(5, 2619, Fork::Visibility, 12)),
            ("base/5/2619_init", plain(5, 2619, Fork::Init, 0)),
            (
                "base/4294967295/4294967295.32767",
                plain(u32::MAX, u32::MAX, Fork::Main, 32767),
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(RelationFile::parse(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn other_places() {
        let shared = RelationFile::parse("global/1262").unwrap();
        assert_eq!(
            (shared.tablespace, shared.database),
            (Tablespace::Global, 0)
        );
        let moved = RelationFile::parse("pg_tblspc/16384/PG_15_202209061/16385/16412.2").unwrap();
        let place = Tablespace::Oid {
            oid: 16384,
            major: 15,
            catalog: 202_209_061,
        };
        assert_eq!((moved.tablespace, moved.segno), (place, 2));
        let temporary = RelationFile::parse("base/5/t3_16400_vm").unwrap();
        assert_eq!(temporary.temp_backend, Some(3));
        assert_eq!(temporary.relfilenode, 16400);
    }

    #[test]
    fn absolute_blocks_count_from_the_forks_start() {
        let file = RelationFile::parse("base/5/16400.2").unwrap();
        assert_eq!(file.absolute(BlockNumber(7)), AbsoluteBlock(262_151));
    }

    #[test]
    fn anything_else_is_no_relation_file() {
        let names = [
            "",
            "2619",
            "base/2619",
            "base/5/",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/02619",
            "base/5/+2619",
            "base/5/2619.0",
            "base/5/2619.",
            "base/5/2619.01",
            "base/5/2619_foo",
            "base/5/2619.1_fsm",
            "base/5/4294967296",
            "base/5/0",
            "base/0/2619",
            "base/5/t_16400",
            "base/5/6/2619",
            "global/pg_control",
            "global/1/1262",
            "pg_tblspc/16384/PG_15_202209061/16412",
            "pg_tblspc/16384/15_202209061/16385/16412",
            "pg_wal/000000010000000000000001",
        ];
        for name in names {
            assert_eq!(RelationFile::parse(name), None, "{name}");
        }
    }
}
