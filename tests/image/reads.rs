//! Reads of any offset and length, and other facts about an image.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use pbkfs::catalog::CompressAlg;
use pbkfs::image::{Image, ImageError, ImageOptions, NodeId, NodeKind};
use pbkfs::pg::control::{ClusterState, ControlFile, WalLevel};
use pbkfs::pg::page::{self, PageHeader, PageVerdict};
use pbkfs::pg::relation::{Fork, RelationFile, Tablespace};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

use crate::fixture::{Fixture, content, files, node};

/// A reproducible random number generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}

fn paged_files(image: &Image) -> Vec<NodeId> {
    let mut paged = files(image);
    paged.retain(|&node| image.is_paged(node) && image.len(node).unwrap() > 0);
    paged
}

#[test]
fn any_part_of_a_file_is_what_the_whole_has_there() {
    let fixture = Fixture::unpack("pg15-chain");
    let image = fixture.image("TOW7K6");
    let mut numbers = Numbers(1);
    let mut chosen = files(&image);
    chosen.sort_by_key(|&node| std::cmp::Reverse(image.len(node).unwrap()));
    chosen.truncate(25);
    for node in chosen {
        let whole = content(&image, node);
        for _ in 0..60 {
            let offset = numbers.below(whole.len() + 5000);
            let length = match numbers.below(3) {
                0 => numbers.below(300),
                1 => numbers.below(30_000),
                _ => numbers.below(400_000),
            };
            let mut part = vec![0x5A; length];
            let count = image.read_at(node, offset as u64, &mut part).unwrap();
            let end = whole.len().min(offset + length);
            let expected = whole.get(offset..end).unwrap_or_default();
            assert_eq!(&part[..count], expected, "{:?}", image.path(node));
        }
        assert_eq!(image.read_at(node, u64::MAX, &mut [0; 10]).unwrap(), 0);
    }
}

#[test]
fn the_cache_may_be_tiny_and_shared() {
    let fixture = Fixture::unpack("pg15-hazards");
    let options = ImageOptions {
        index_cache_bytes: 1,
        ..ImageOptions::default()
    };
    let tiny = Arc::new(Image::open(&fixture.chain("TOW7GA"), &options).unwrap());
    let roomy = fixture.image("TOW7GA");
    let paged = paged_files(&roomy);
    let expected: Vec<_> = paged.iter().map(|&node| content(&roomy, node)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (&node, bytes) in paged.iter().zip(&expected) {
                    assert!(content(&tiny, node) == *bytes);
                }
            });
        }
    });
    let counters = roomy.counters();
    assert_eq!(counters.index_misses.get(), files_with_pages(&roomy));
    assert!(counters.index_hits.get() >= paged.len() as u64);
    assert!(counters.pages(CompressAlg::Zlib).get() > 1000);
    assert_eq!(counters.pages(CompressAlg::Pglz).get(), 0);
}

fn files_with_pages(image: &Image) -> u64 {
    let paged = files(image)
        .into_iter()
        .filter(|&node| image.is_paged(node));
    paged.count() as u64
}

#[test]
fn every_page_bears_the_checksum_of_its_place() {
    let fixture = Fixture::unpack("pg15-chain");
    let image = fixture.image("TOW7K6");
    let mut pages = 0;
    for node in paged_files(&image) {
        let path = image.path(node);
        // A tablespace's path is different in the image.
        let relation = RelationFile::parse(&path);
        let segno = relation.map_or(0, |relation| relation.segno);
        let bytes = content(&image, node);
        let (whole, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        assert!(rest.is_empty());
        for (number, page) in (0..).zip(whole) {
            let verdict = page::verify(page, BlockNumber(number).absolute(segno));
            let sane = PageHeader::of(page).is_sane();
            assert_ne!(verdict == PageVerdict::Zero, sane, "{path:?} {number}");
            assert!(!matches!(verdict, PageVerdict::Mismatch { .. }));
            pages += 1;
        }
    }
    assert!(pages > 5000, "{pages}");
}

#[test]
fn the_tree_can_be_walked_both_ways() {
    let fixture = Fixture::unpack_without_relations("pg15-chain");
    let image = fixture.image("TOW7KQ");
    for number in 0..image.node_count() as u32 {
        let node = NodeId(number);
        let path = image.path(node);
        assert_eq!(image.find(&path), Some(node), "{path:?}");
        assert_eq!(image.lookup(image.parent(node), image.name(node)), {
            (node != Image::ROOT).then_some(node)
        });
        let children: Vec<_> = image.children(node).collect();
        assert!(children.is_sorted_by_key(|&child| image.name(child)));
        assert!(children.iter().all(|&child| image.parent(child) == node));
        assert!(children.is_empty() || image.kind(node) == NodeKind::Directory);
    }
    assert_eq!(image.path(Image::ROOT), Path::new(""));
    assert_eq!(image.mode(Image::ROOT), 0o700);
    assert_eq!(image.find(Path::new("tablespace_map")), None);
    assert_eq!(image.find(Path::new("database_map")), None);
    let nowhere = NodeId(u32::MAX);
    assert_eq!(image.kind(nowhere), NodeKind::Directory);
    assert!(matches!(
        image.len(nowhere),
        Err(ImageError::NotAFile { node }) if node == nowhere
    ));
    assert!(image.read_at(Image::ROOT, 0, &mut [0; 1]).is_err());
}

#[test]
fn a_tablespace_is_a_link_into_the_image() {
    let fixture = Fixture::unpack("pg15-chain");
    let image = fixture.image("TOW7J7");
    let link = node(&image, "pg_tblspc/16384");
    assert_eq!(image.kind(link), NodeKind::Symlink);
    let target = Path::new("../.pbkfs/tblspc/16384");
    assert_eq!(image.symlink_target(link), Some(target));
    let home = node(&image, ".pbkfs/tblspc/16384");
    assert_eq!(
        (image.kind(home), image.mode(home)),
        (NodeKind::Directory, 0o700)
    );
    assert_eq!(image.tablespaces()[0].oid, 16384);
    assert_eq!(image.symlink_target(home), None);
    // Its files are data files of PGDATA like any other.
    let table = node(&image, ".pbkfs/tblspc/16384/PG_15_202209061/16385/16412");
    assert!(image.is_paged(table));
    assert_eq!(image.len(table).unwrap(), 267 * 8192);

    let without = Fixture::unpack_without_relations("pg15-debian").image("TOW7OQ");
    assert_eq!(without.find(Path::new(".pbkfs")), None);
}

#[test]
fn ids_and_fingerprint_stay_from_mount_to_mount() {
    let fixture = Fixture::unpack_without_relations("pg15-hazards");
    let (one, again) = (fixture.image("TOW7GA"), fixture.image("TOW7GA"));
    assert_eq!(one.fingerprint(), again.fingerprint());
    for number in 0..one.node_count() as u32 {
        assert_eq!(one.path(NodeId(number)), again.path(NodeId(number)));
    }
    assert_ne!(one.fingerprint(), fixture.image("TOW7G5").fingerprint());
    // 2026-11-22 07:28:58, which is also encoded in the ID.
    let seconds = u64::from_str_radix("TOW7GA", 36).unwrap();
    let start = UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(one.timestamp(), start);
}

#[test]
fn pg_control_of_both_formats() {
    let fixtures = [
        ("pg15-chain", "TOW7J7", 1300, 202_209_061, 1 << 20, 1, 5),
        ("pg17-chain", "TOW7NP", 1700, 202_406_281, 16 << 20, 0, 0),
    ];
    // As pg_controldata prints them.
    let systems = [7_710_894_983_063_970_949, 7_710_895_680_086_323_659];
    for (expected, system) in fixtures.into_iter().zip(systems) {
        let (name, id, version, catalog, wal_segment, checksums, prepared) = expected;
        let fixture = Fixture::unpack_without_relations(name);
        let image = fixture.image(id);
        let bytes = content(&image, node(&image, "global/pg_control"));
        let control = ControlFile::parse(&bytes).unwrap();
        assert_eq!(control.pg_control_version, version);
        assert_eq!(control.catalog_version_no, catalog);
        assert_eq!(control.system_identifier, system);
        assert_eq!(control.state, ClusterState::InProduction);
        assert_eq!(control.timeline, 1);
        assert_eq!(control.wal_level, WalLevel::Replica);
        assert_eq!(control.max_connections, 100);
        assert_eq!(control.max_worker_processes, 8);
        assert_eq!(control.max_wal_senders, 10);
        assert_eq!(control.max_prepared_xacts, prepared);
        assert_eq!(control.max_locks_per_xact, 64);
        assert_eq!(control.block_size, 8192);
        assert_eq!(control.segment_blocks, 131_072);
        assert_eq!(control.wal_segment_size, wal_segment);
        assert_eq!(control.data_checksum_version, checksums);
    }
}

#[test]
fn relation_files_are_known_by_their_names() {
    let fixture = Fixture::unpack_without_relations("pg17-chain");
    for backup in fixture.metadata() {
        let list = pbkfs::catalog::content::ContentList::read(&backup).unwrap();
        for entry in list.iter().filter(|entry| entry.is_datafile) {
            let path = std::str::from_utf8(entry.path).unwrap();
            let relation = RelationFile::parse(path).expect(path);
            assert_eq!(relation.fork, Fork::Main, "{path}");
            assert_eq!(relation.segno, entry.segno, "{path}");
            let is_shared = relation.tablespace == Tablespace::Global;
            assert_eq!(relation.database == 0, is_shared, "{path}");
            assert!(is_shared || relation.database == entry.db_oid, "{path}");
        }
    }
}

/// A cluster created with `initdb -g`, whose directories and files the group can
/// read.
#[test]
fn the_root_has_the_clusters_group_access() {
    let fixture = Fixture::unpack_without_relations("pg15-hazards");
    let id = "TOW7FV";
    let image = fixture.image(id);
    assert_eq!(image.mode(Image::ROOT), 0o700);
    let others = ["16832", "33152"].map(|mode| format!("\"mode\":\"{mode}\""));
    let groups = ["16872", "33184"].map(|mode| format!("\"mode\":\"{mode}\""));
    fixture.edit_list(id, |line| {
        let line = line.replace(&others[0], &groups[0]);
        Some(line.replace(&others[1], &groups[1]))
    });
    let image = fixture.image(id);
    assert_eq!(image.mode(Image::ROOT), 0o750);
    for path in ["base", "pg_tblspc", ".pbkfs", ".pbkfs/tblspc/16384"] {
        assert_eq!(image.mode(node(&image, path)), 0o750, "{path}");
    }
    assert_eq!(image.mode(node(&image, "PG_VERSION")), 0o640);
}
