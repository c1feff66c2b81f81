//! The image of every backup of every fixture is what restore wrote, name by name and
//! byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pbkfs::image::{Image, NodeId, NodeKind};
use sha2::{Digest, Sha256};

use crate::fixture::{Fixture, content};

/// The facts for each path: kind, mode, size and sha256, as in a manifest.
type Manifest = BTreeMap<String, String>;

fn expected(fixture: &Fixture, id: &str, stream: bool) -> Manifest {
    let text = fs::read_to_string(fixture.oracle(&format!("{id}.manifest"))).unwrap();
    text.lines()
        .map(|line| {
            let (facts, path) = line.rsplit_once('\t').unwrap();
            (path.to_owned(), facts.to_owned())
        })
        // Restore edits the first, and creates the second for an ARCHIVE backup.
        .filter(|(path, _)| path != "postgresql.auto.conf")
        .filter(|(path, _)| stream || path != "recovery.signal")
        .collect()
}

/// Walks an image as `find -L` would.
fn walk(image: &Image, directory: NodeId, prefix: &Path, found: &mut Manifest) {
    for child in image.children(directory) {
        let path = prefix.join(image.name(child));
        let shown = path.to_str().unwrap().to_owned();
        if matches!(shown.as_str(), ".pbkfs" | "postgresql.auto.conf") {
            continue;
        }
        let target = match image.symlink_target(child) {
            Some(link) => follow(image, directory, link),
            None => child,
        };
        let mode = image.mode(target);
        if image.kind(target) == NodeKind::Directory {
            found.insert(shown, format!("d\t{mode:o}\t-\t-"));
            walk(image, target, &path, found);
        } else {
            let bytes = content(image, target);
            let sum: String = Sha256::digest(&bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            found.insert(shown, format!("f\t{mode:o}\t{}\t{sum}", bytes.len()));
        }
    }
}

fn follow(image: &Image, directory: NodeId, link: &Path) -> NodeId {
    link.components().fold(directory, |at, part| {
        match part.as_os_str().to_str().unwrap() {
            ".." => image.parent(at),
            name => image.lookup(at, name.as_ref()).unwrap(),
        }
    })
}

fn is_as_restored(name: &'static str, count: usize) {
    let fixture = Fixture::unpack(name);
    let mut backups = fixture.backups();
    // A backup that restore loses data of has no manifest.
    backups.retain(|(id, _)| fixture.oracle(&format!("{id}.manifest")).exists());
    assert_eq!(backups.len(), count);
    for (id, stream) in backups {
        let image = fixture.image(&id);
        let mut found = Manifest::new();
        walk(&image, Image::ROOT, Path::new(""), &mut found);
        let expected = expected(&fixture, &id, stream);
        let differences: Vec<_> = expected
            .keys()
            .chain(found.keys())
            .filter(|path| expected.get(*path) != found.get(*path))
            .map(|path| format!("{path}: {:?} -> {:?}", expected.get(path), found.get(path)))
            .collect();
        assert!(differences.is_empty(), "{name} {id}: {differences:#?}");
        assert!(found.len() > 900, "{name} {id} has {} paths", found.len());
        assert_eq!(image.counters().errors.get(), 0);
    }
}

#[test]
fn pg15_chain() {
    is_as_restored("pg15-chain", 7);
}

#[test]
fn pg15_debian() {
    is_as_restored("pg15-debian", 2);
}

#[test]
fn pg15_hazards() {
    is_as_restored("pg15-hazards", 3);
}

#[test]
fn pg15_old() {
    is_as_restored("pg15-old", 2);
}

#[test]
fn pg15_ptrack() {
    is_as_restored("pg15-ptrack", 4);
}

#[test]
fn pg18_chain() {
    is_as_restored("pg18-chain", 4);
}

#[test]
fn pg17_chain() {
    is_as_restored("pg17-chain", 4);
}
