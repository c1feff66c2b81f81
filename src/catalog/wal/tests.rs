//! Tests with the real archives of the fixtures.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::*;
use crate::catalog::fixtures;
use crate::pg::Lsn;
use crate::pg::wal::scan::{End, RecordProblem};

/// An unpacked archive, and a directory to fetch into.
struct Sample {
    _unpacked: TempDir,
    archive: WalArchive,
    pg_wal: TempDir,
}

impl Sample {
    fn new(fixture: &str) -> Self {
        let unpacked = fixtures::unpack_wal(fixture);
        let archive = WalArchive::open(&fixtures::main_instance(&unpacked)).unwrap();
        Self {
            _unpacked: unpacked,
            archive,
            pg_wal: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.archive.dir.join(name)
    }

    fn destination(&self) -> PathBuf {
        self.pg_wal.path().join("RECOVERYXLOG")
    }

    fn fetch(&self, name: &str) -> Result<Fetched, WalError> {
        let _ = fs::remove_file(self.destination());
        let fetched = self.archive.fetch(name, &self.destination());
        let is_there = self.destination().exists();
        assert_eq!(is_there, matches!(fetched, Ok(Fetched::Delivered)));
        assert!(!self.pg_wal.path().join("RECOVERYXLOG.pbkfs").exists());
        fetched
    }

    /// The error message of a fetch, as shown to a user.
    fn failure(&self, name: &str) -> String {
        let error = self.fetch(name).unwrap_err();
        let source = std::error::Error::source(&error);
        format!(
            "{error}: {}",
            source.map_or(String::new(), ToString::to_string)
        )
    }

    fn content(&self, name: &str) -> Vec<u8> {
        assert_eq!(self.fetch(name).unwrap(), Fetched::Delivered);
        fs::read(self.destination()).unwrap()
    }

    /// Inverts one byte of a stored file.
    fn flip(&self, name: &str, at: u64) {
        let path = self.path(name);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }

    fn unpack_segment(&self, name: &str) {
        let content = self.content(name);
        fs::write(self.path(name), content).unwrap();
        fs::remove_file(self.path(&format!("{name}.gz"))).unwrap();
    }

    fn id(&self, name: &str) -> SegmentId {
        SegmentId::parse(name, self.archive.size).unwrap()
    }
}

fn gunzip(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap())
        .read_to_end(&mut content)
        .unwrap();
    content
}

fn gzip(path: &Path, content: &[u8]) {
    let file = fs::File::create(path).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap();
}

const MIDDLE: &str = "00000001000000000000004D";
const LAST: &str = "000000010000000000000061";

#[test]
fn every_segment_of_real_archives_is_fetched_and_whole() {
    for (fixture, compressed, count) in [("pg15-chain", true, 36), ("pg17-chain", false, 9)] {
        let sample = Sample::new(fixture);
        let listing = sample.archive.list().unwrap();
        let [timeline] = listing.timelines.as_slice() else {
            panic!("{listing:?}");
        };
        assert_eq!(timeline.segments.len(), count);
        let (first, last) = timeline.range().unwrap();
        for number in first.number..=last.number {
            let id = SegmentId {
                timeline: 1,
                number,
            };
            let name = sample.archive.name(id);
            let stored = match compressed {
                true => gunzip(&sample.path(&format!("{name}.gz"))),
                false => fs::read(sample.path(&name)).unwrap(),
            };
            assert!(sample.content(&name) == stored, "{name}");
            let end = sample.archive.scan(id).unwrap().end();
            assert!(!matches!(end, Some(End::Damaged { .. })), "{name}: {end:?}");
        }
    }
}

/// The same numbers as `pg_probackup show --archive` printed.
#[test]
fn the_listing_agrees_with_pg_probackup() {
    for fixture in [
        "pg15-chain",
        "pg15-debian",
        "pg15-hazards",
        "pg15-ptrack",
        "pg17-chain",
        "pg18-chain",
    ] {
        let sample = Sample::new(fixture);
        let shown: serde_json::Value =
            serde_json::from_str(&fixtures::recorded(fixture, "show-archive.json")).unwrap();
        let shown = shown[0]["timelines"].as_array().unwrap();
        let listed = sample.archive.list().unwrap().timelines;
        assert_eq!(listed.len(), shown.len(), "{fixture}");
        for (listed, shown) in listed.iter().zip(shown) {
            assert_eq!(shown["tli"], listed.number);
            let (first, last) = listed.range().unwrap();
            assert_eq!(shown["min-segno"], sample.archive.name(first));
            assert_eq!(shown["max-segno"], sample.archive.name(last));
            assert_eq!(shown["n-segments"], listed.files());
            assert_eq!(shown["size"], listed.stored());
            assert!(listed.gaps().is_empty());
        }
    }
}

/// `show --archive` walks over the files, and lists the timelines that have any.
#[test]
fn files_are_counted_as_pg_probackup_counts_them() {
    let sample = Sample::new("pg15-chain");
    let before = sample.archive.list().unwrap().timelines.remove(0);
    let content = sample.content(MIDDLE);
    fs::write(sample.path(MIDDLE), &content).unwrap();
    fs::write(sample.path("00000003.history"), "1\t0/5D00000\tby hand\n").unwrap();
    let branched = "00000004.history";
    fs::write(sample.path(branched), "1\t0/5D00000\tby hand\n").unwrap();
    fs::write(sample.path("00000004000000000000005D.partial"), "").unwrap();
    let listed = sample.archive.list().unwrap().timelines;
    let has_wal: Vec<_> = listed.iter().map(|t| (t.number, t.has_wal())).collect();
    assert_eq!(has_wal, [(1, true), (3, false), (4, true)]);
    assert_eq!(listed[0].files(), before.files() + 1);
    assert_eq!(listed[0].segments.len(), before.segments.len());
    assert_eq!(listed[0].stored(), before.stored() + content.len() as u64);
}

#[test]
fn a_damaged_compressed_segment_is_never_delivered() {
    let sample = Sample::new("pg15-chain");
    let gz = format!("{MIDDLE}.gz");
    let good = fs::read(sample.path(&gz)).unwrap();
    for cut in [0, 5, 1000, good.len() / 2, good.len() - 1] {
        fs::write(sample.path(&gz), &good[..cut]).unwrap();
        let message = sample.failure(MIDDLE);
        assert!(
            message.contains(&format!("{gz} is damaged")),
            "{cut}: {message}"
        );
    }
    fs::write(sample.path(&gz), &good).unwrap();
    sample.flip(&gz, good.len() as u64 / 2);
    assert!(sample.failure(MIDDLE).contains(&gz));

    // Gzip's content is intact, but is not that of a segment.
    let content = |change: &dyn Fn(&mut Vec<u8>)| {
        fs::write(sample.path(&gz), &good).unwrap();
        let mut content = gunzip(&sample.path(&gz));
        change(&mut content);
        gzip(&sample.path(&gz), &content);
        sample.failure(MIDDLE)
    };
    let message = content(&|bytes| bytes.truncate(bytes.len() - 8192));
    assert!(
        message.contains("has 1040384 bytes, but a segment has 1048576"),
        "{message}"
    );
    let message = content(&|bytes| bytes.push(0));
    assert!(message.contains("it has too many bytes"), "{message}");
    let message = content(&|bytes| bytes[24] ^= 1);
    assert!(message.contains("comes from the cluster"), "{message}");
    let other = gunzip(&sample.path("00000001000000000000004E.gz"));
    let message = content(&|bytes| bytes.clone_from(&other));
    assert!(
        message.contains("WAL from 0/4E00000 instead of 0/4D00000"),
        "{message}"
    );
}

#[test]
fn a_flipped_byte_of_a_plain_segment_is_found_in_its_records() {
    let sample = Sample::new("pg15-chain");
    sample.unpack_segment(MIDDLE);
    let good = fs::read(sample.path(MIDDLE)).unwrap();
    assert_eq!(sample.content(MIDDLE), good);
    for at in [500_000, 8192 * 20 + 3, 8192 * 40 + 8] {
        sample.flip(MIDDLE, at);
        let error = sample.fetch(MIDDLE).unwrap_err();
        assert!(matches!(error, WalError::Record { .. }), "{at}: {error}");
        assert!(error.to_string().contains(MIDDLE));
        fs::write(sample.path(MIDDLE), &good).unwrap();
    }
    fs::write(sample.path(MIDDLE), &good[..good.len() - 1]).unwrap();
    let error = sample.fetch(MIDDLE).unwrap_err();
    assert!(matches!(error, WalError::Length { .. }), "{error}");

    // The last one may have been archived before it was full.
    sample.unpack_segment(LAST);
    sample.flip(LAST, 8192 * 20 + 8);
    assert_eq!(sample.fetch(LAST).unwrap(), Fetched::Delivered);
}

#[test]
fn a_missing_segment_ends_the_wal_only_where_it_ends() {
    let sample = Sample::new("pg15-chain");
    let after_last = "000000010000000000000062";
    assert_eq!(sample.fetch(after_last).unwrap(), Fetched::Missing);
    assert_eq!(sample.fetch("00000002.history").unwrap(), Fetched::Missing);
    assert_eq!(
        sample.fetch("000000020000000000000061").unwrap(),
        Fetched::Missing
    );

    let stored = sample.path(&format!("{MIDDLE}.gz"));
    let content = sample.content(MIDDLE);
    let aside = sample.pg_wal.path().join("aside");
    fs::rename(&stored, &aside).unwrap();
    let message = sample.failure(MIDDLE);
    assert!(
        message.contains(&format!("{MIDDLE} is missing")),
        "{message}"
    );
    assert!(
        message.contains("recovery cannot get past the gap"),
        "{message}"
    );
    let timeline = &sample.archive.list().unwrap().timelines[0];
    let gap = Gap {
        first: sample.id(MIDDLE),
        last: sample.id(MIDDLE),
    };
    assert_eq!(timeline.gaps(), [gap]);

    // A STREAM backup brings its own; a recycled one does not help.
    let local = sample.pg_wal.path().join(MIDDLE);
    fs::write(&local, &content).unwrap();
    assert_eq!(sample.fetch(MIDDLE).unwrap(), Fetched::Missing);
    let other = gunzip(&sample.path("00000001000000000000004E.gz"));
    fs::write(&local, other).unwrap();
    assert!(sample.failure(MIDDLE).contains("is missing"));

    // If the whole archive is missing, a missing file does not mark its end, either.
    let gone = sample.archive.dir.with_file_name("gone");
    fs::rename(&sample.archive.dir, gone).unwrap();
    for name in [MIDDLE, after_last, "00000002.history"] {
        let error = sample.fetch(name).unwrap_err();
        assert!(matches!(error, WalError::List { .. }), "{name}: {error}");
    }
}

#[test]
fn a_timeline_that_was_left_behind_a_missing_segment_shows_the_gap() {
    let sample = Sample::new("pg15-chain");
    let history = "1\t0/6300100\tno recovery target specified\n";
    fs::write(sample.path("00000002.history"), history).unwrap();
    assert_eq!(sample.content("00000002.history"), history.as_bytes());
    let message = sample.failure("000000010000000000000062");
    assert!(message.contains("continues with timeline 2"), "{message}");
    assert_eq!(
        sample.fetch("000000010000000000000063").unwrap(),
        Fetched::Missing
    );
    assert_eq!(sample.archive.newest_timeline(1).unwrap(), 2);
    let parent = sample.archive.list().unwrap().timelines[1].history.parent();
    assert_eq!(parent.map(|p| p.timeline), Some(1));
}

#[test]
fn forms_are_tried_in_pg_probackups_order() {
    let sample = Sample::new("pg15-chain");
    let whole = sample.content(LAST);
    fs::remove_file(sample.path(&format!("{LAST}.gz"))).unwrap();
    let beginning = &whole[..16 << 10];

    fs::write(sample.path(&format!("{LAST}.partial")), beginning).unwrap();
    let mut extended = beginning.to_vec();
    extended.resize(whole.len(), 0);
    assert!(sample.content(LAST) == extended);

    let mut marked = beginning.to_vec();
    marked.truncate(8192);
    gzip(&sample.path(&format!("{LAST}.gz.partial")), &marked);
    marked.resize(whole.len(), 0);
    assert!(sample.content(LAST) == marked);

    fs::write(sample.path(LAST), &whole).unwrap();
    assert!(sample.content(LAST) == whole);
    fs::write(sample.path(&format!("{LAST}.gz")), b"no gzip").unwrap();
    assert!(sample.failure(LAST).contains(".gz is damaged"));
    // A file that is being archived is not available yet.
    fs::write(sample.path("000000010000000000000062.gz.part"), b"").unwrap();
    assert_eq!(
        sample.fetch("000000010000000000000062").unwrap(),
        Fetched::Missing
    );
}

#[test]
fn other_names_are_refused() {
    let sample = Sample::new("pg15-chain");
    let backup = "00000001000000000000003F.00000028.backup";
    assert!(sample.content(backup).starts_with(b"START WAL LOCATION"));
    for name in [
        "",
        "../main/x",
        "RECOVERYXLOG",
        "00000001000000000000004D.gz",
    ] {
        let error = sample.fetch(name).unwrap_err();
        assert!(matches!(error, WalError::Name { .. }), "{name}: {error}");
    }
}

#[test]
fn the_size_comes_from_the_first_segment_if_the_configuration_is_silent() {
    let unpacked = fixtures::unpack_wal("pg17-chain");
    let mut instance = fixtures::main_instance(&unpacked);
    instance.config.wal_segment_size = None;
    let archive = WalArchive::open(&instance).unwrap();
    assert_eq!(archive.segment_size().bytes(), 16 << 20);
    instance.config.wal_segment_size = Some(12345);
    let error = WalArchive::open(&instance).unwrap_err();
    assert!(matches!(error, WalError::SegmentSize { .. }), "{error}");
}

#[test]
fn segments_fetched_ahead_are_bounded_and_checked() {
    let sample = Sample::new("pg15-chain");
    let dir = tempfile::tempdir().unwrap();
    let prefetch = Prefetch::new(dir.path(), 3 << 20, &sample.archive);
    let id = sample.id("00000001000000000000004B");
    let names = || {
        let mut names = ArchiveFiles::names(&fixtures::place(dir.path())).unwrap();
        names.sort();
        names.retain(|name| name != "lock");
        names
    };
    fs::write(dir.path().join("000000010000000000000040"), "old").unwrap();
    fs::write(dir.path().join("00000001000000000000004C.pbkfs"), "begun").unwrap();
    assert!(prefetch.wants_more(&sample.archive, id));
    prefetch.fill(&sample.archive, id).unwrap();
    assert_eq!(
        names(),
        [
            "00000001000000000000004C",
            MIDDLE,
            "00000001000000000000004E"
        ]
    );
    assert!(!prefetch.wants_more(&sample.archive, id));

    let content = sample.content(MIDDLE);
    let taken = prefetch.take(&sample.archive, sample.id(MIDDLE), &sample.destination());
    assert_eq!(taken.unwrap(), Fetched::Delivered);
    assert_eq!(fs::read(sample.destination()).unwrap(), content);
    assert_eq!(names().len(), 2);

    // Whatever has happened to one, it is not delivered.
    let next = sample.id("00000001000000000000004E");
    fs::write(dir.path().join(sample.archive.name(next)), &content).unwrap();
    let taken = prefetch.take(&sample.archive, next, &sample.destination());
    assert_eq!(taken.unwrap(), Fetched::Missing);

    // Nothing is prefetched past a damaged segment or past the end.
    sample.flip("00000001000000000000004F.gz", 5000);
    prefetch.fill(&sample.archive, id.next()).unwrap();
    assert_eq!(names(), [MIDDLE, "00000001000000000000004E"]);
    prefetch.fill(&sample.archive, sample.id(LAST)).unwrap();
    assert_eq!(names(), [""; 0]);
}

#[test]
fn reach_ends_at_the_last_record_and_at_the_last_transaction() {
    let sample = Sample::new("pg15-chain");
    let start: Lsn = "0/4A00028".parse().unwrap();
    let reach = sample.archive.reach(start, 1).unwrap();
    let (first, last) = reach.segments.unwrap();
    assert_eq!(sample.archive.name(first), "00000001000000000000004A");
    assert_eq!(sample.archive.name(last), LAST);
    assert_eq!(reach.missing, None);
    let wal_end = sample.archive.end_of(&reach).unwrap();
    let end = wal_end.lsn.unwrap();
    assert!(end > "0/6100168".parse().unwrap() && end <= last.end(sample.archive.size));
    // The last commit of the archive: after the last restore point
    // (07:31:25), before the last backup's end (07:31:48).
    let text = wal_end.time.unwrap().to_offset().unwrap().to_string();
    assert!(text.starts_with("2026-11-22 7:31:"), "{text}");
    // This is its record; a checkpoint of that backup follows it.
    let ended = wal_end.last_ended.unwrap();
    assert!(Some(ended.time) == wal_end.time && ended.lsn < end);
    assert!(wal_end.clock > wal_end.time, "{wal_end:?}");

    fs::remove_file(sample.path(&format!("{MIDDLE}.gz"))).unwrap();
    let reach = sample.archive.reach(start, 1).unwrap();
    assert_eq!(reach.missing, Some(sample.id(MIDDLE)));
    let (_, last) = reach.segments.unwrap();
    assert_eq!(sample.archive.name(last), "00000001000000000000004C");

    let too_old = sample
        .archive
        .reach("0/2B00028".parse().unwrap(), 1)
        .unwrap();
    assert_eq!(too_old.segments, None);
    assert!(too_old.missing.is_some());
}

#[test]
fn reach_leads_over_the_switch_to_another_timeline() {
    let sample = Sample::new("pg15-chain");
    let start: Lsn = "0/4A00028".parse().unwrap();
    let switch = "0/4D00100";
    let history = format!("1\t{switch}\tbefore a mistake\n");
    fs::write(sample.path("00000002.history"), history).unwrap();
    let reach = || sample.archive.reach(start, 2).unwrap();
    let last = |reach: &Reach| sample.archive.name(reach.segments.unwrap().1);

    // Nothing of the new one is archived yet: up to the switch, and no further.
    let before = reach();
    assert_eq!((last(&before).as_str(), before.missing), (MIDDLE, None));
    let end = sample.archive.end_of(&before).unwrap().lsn.unwrap();
    assert!(end <= switch.parse().unwrap(), "{end}");

    // What was archived of the new one shows that there was more.
    let [first, second] = ["00000002000000000000004D", "00000002000000000000004E"];
    fs::write(sample.path(second), "").unwrap();
    let gap = reach();
    assert_eq!(last(&gap), "00000001000000000000004C");
    assert_eq!(gap.missing, Some(sample.id(first)));

    fs::write(sample.path(first), "").unwrap();
    let whole = reach();
    assert_eq!((last(&whole).as_str(), whole.missing), (second, None));
}

#[test]
fn a_broken_chain_of_records_is_an_end() {
    let sample = Sample::new("pg15-chain");
    sample.unpack_segment(MIDDLE);
    sample.flip(MIDDLE, 8192 * 30 + 2);
    let end = sample.archive.scan(sample.id(MIDDLE)).unwrap().end();
    let Some(End::Damaged { problem, .. }) = end else {
        panic!("{end:?}");
    };
    assert!(matches!(problem, RecordProblem::Page(_)), "{problem}");
}

#[test]
fn what_is_no_file_is_neither_listed_nor_fetched() {
    use crate::untrusted::{Kind, Refused, refused};
    use nix::sys::stat::Mode;
    let sample = Sample::new("pg15-chain");
    let stored = sample.path(&format!("{MIDDLE}.gz"));
    let aside = sample.pg_wal.path().join("aside");
    fs::rename(&stored, &aside).unwrap();
    let ways: [(Kind, &dyn Fn()); 3] = [
        (Kind::Symlink, &|| {
            std::os::unix::fs::symlink(&aside, &stored).unwrap();
        }),
        (Kind::Fifo, &|| {
            nix::unistd::mkfifo(&stored, Mode::S_IRWXU).unwrap();
        }),
        (Kind::Directory, &|| fs::create_dir(&stored).unwrap()),
    ];
    for (kind, put) in ways {
        put();
        let error = sample.fetch(MIDDLE).unwrap_err();
        let WalError::Read { path, source } = &error else {
            panic!("{error}");
        };
        assert_eq!((path, refused(source)), (&stored, Some(Refused::Is(kind))));
        let gaps = sample.archive.list().unwrap().timelines[0].gaps();
        assert_eq!(gaps[0].first, sample.id(MIDDLE));
        fs::remove_dir(&stored)
            .or_else(|_| fs::remove_file(&stored))
            .unwrap();
    }
    // The archive itself may be located elsewhere.
    fs::rename(&aside, &stored).unwrap();
    let dir = sample.archive.dir.clone();
    fs::rename(&dir, dir.with_file_name("moved")).unwrap();
    std::os::unix::fs::symlink("moved", &dir).unwrap();
    assert_eq!(sample.fetch(MIDDLE).unwrap(), Fetched::Delivered);
}

#[test]
fn a_history_without_end_is_not_read() {
    let sample = Sample::new("pg15-chain");
    let history = fs::File::create(sample.path("00000002.history")).unwrap();
    history.set_len(1 << 40).unwrap();
    assert!(
        sample
            .failure("00000002.history")
            .contains("larger than 256 KiB")
    );
    assert!(sample.archive.list().is_err());
}

#[test]
fn what_is_fetched_goes_through_no_link() {
    let sample = Sample::new("pg15-chain");
    let precious = sample.pg_wal.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let link = |name: &str| {
        let path = sample.pg_wal.path().join(name);
        std::os::unix::fs::symlink(&precious, path).unwrap();
    };
    link("RECOVERYXLOG.pbkfs");
    link("RECOVERYXLOG");
    let fetched = sample.archive.fetch(MIDDLE, &sample.destination());
    assert_eq!(fetched.unwrap(), Fetched::Delivered);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    let meta = fs::symlink_metadata(sample.destination()).unwrap();
    assert!(meta.is_file() && meta.len() == 1 << 20);
    assert!(!sample.pg_wal.path().join("RECOVERYXLOG.pbkfs").exists());

    // Neither the prefetched segments nor the lock beside them.
    let ahead = tempfile::tempdir().unwrap();
    let prefetch = Prefetch::new(ahead.path(), 3 << 20, &sample.archive);
    let put = |name: &str| {
        std::os::unix::fs::symlink(&precious, ahead.path().join(name)).unwrap();
    };
    put(MIDDLE);
    let taken = prefetch.take(&sample.archive, sample.id(MIDDLE), &sample.destination());
    assert_eq!(taken.unwrap(), Fetched::Missing);
    put("lock");
    assert!(prefetch.fill(&sample.archive, sample.id(MIDDLE)).is_err());
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}
