//! Creates the seeds of all targets: `corpus CATALOGS CONFIG INTO`. The arguments are
//! the directory with the unpacked bundled catalogs, the directory of the sample
//! profiles, and the directory that gets one subdirectory per target.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pbkfs::catalog::CompressAlg;
use pbkfs::catalog::content::FileEntry;
use pbkfs::catalog::pages::{PageIndex, RECORD_HEADER};
use pbkfs::internals::catalog::content_list;
use pbkfs::internals::diff::{Binding, ContentRecord, HeldBlocks, InodeKind, InodeRecord};

/// Maximum size of a seed in bytes: enough for every kind of content, and fast.
const MOST: usize = 20_000;

/// Maximum number of seeds from one kind of file in one backup.
const EACH: usize = 12;

/// The directory for the seeds.
struct Corpus {
    into: PathBuf,
    made: usize,
}

impl Corpus {
    /// Adds a seed, truncated if it is too long.
    fn add(&mut self, target: &str, bytes: &[u8]) {
        let dir = self.into.join(target);
        fs::create_dir_all(&dir).expect("a directory for the target");
        let bytes = bytes.get(..MOST).unwrap_or(bytes);
        fs::write(dir.join(format!("seed-{:05}", self.made)), bytes).expect("room for a seed");
        self.made += 1;
    }

    /// Adds a seed, preceded by the byte with which its target chooses.
    fn add_with(&mut self, target: &str, choice: u8, bytes: &[u8]) {
        self.add(target, &[&[choice], bytes].concat());
    }
}

fn main() {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [catalogs, config, into] = &arguments[..] else {
        eprintln!("usage: corpus CATALOGS CONFIG INTO");
        std::process::exit(2);
    };
    let mut corpus = Corpus {
        into: into.clone(),
        made: 0,
    };
    for catalog in entries(catalogs) {
        for backup in entries(&catalog.join("catalog/backups/main")) {
            match backup.is_dir() {
                true => of_backup(&backup, &mut corpus),
                false => corpus.add("backup_control", &read(&backup)),
            }
        }
        for wal in entries(&catalog.join("catalog/wal/main"))
            .into_iter()
            .take(EACH)
        {
            of_wal(&wal, &mut corpus);
        }
    }
    for profile in entries(config) {
        corpus.add("profile", &read(&profile));
    }
    of_diff(&mut corpus);
    by_hand(&mut corpus);
    println!("{} seeds", corpus.made);
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file of a bundled catalog")
}

fn of_backup(dir: &Path, corpus: &mut Corpus) {
    corpus.add("backup_control", &read(&dir.join("backup.control")));
    let text = read(&dir.join("backup_content.control"));
    corpus.add("content_list", &text);
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    for (at, line) in lines.enumerate().filter(|(at, _)| at % 101 == 0).take(EACH) {
        corpus.add("content_list", line);
        corpus.add_with("wal_names", at as u8, line);
    }
    let list = content_list(&text, dir).expect("a sound list");
    let stored = list
        .iter()
        .filter(|entry| entry.is_datafile && entry.size > 0);
    let stored: Vec<_> = stored.collect();
    let step = (stored.len() / EACH).max(1);
    for entry in stored.into_iter().step_by(step) {
        of_data_file(dir, &entry, corpus);
    }
    for name in ["postgresql.conf", "postgresql.auto.conf"] {
        if let Ok(bytes) = fs::read(dir.join("database").join(name)) {
            corpus.add("server_conf", &bytes);
        }
    }
    if let Ok(bytes) = fs::read(dir.join("database/global/pg_control")) {
        corpus.add("pg_control", &bytes[..400]);
    }
    for wal in entries(&dir.join("database/pg_wal")).into_iter().take(3) {
        of_wal(&wal, corpus);
    }
}

fn of_data_file(dir: &Path, entry: &FileEntry<'_>, corpus: &mut Corpus) {
    let path = std::str::from_utf8(entry.path).expect("a plain name");
    corpus.add_with("wal_names", 0, path.as_bytes());
    let data = read(&dir.join("database").join(path));
    corpus.add_with("records", 0, &data);
    if let Ok(map) = File::open(dir.join("page_header_map")) {
        let mut stream = vec![0; entry.hdr_size as usize];
        map.read_exact_at(&mut stream, entry.hdr_off)
            .expect("a sound map");
        corpus.add_with("header_map", (entry.n_headers as u8) & !1, &stream);
        let mut entries = vec![0; (entry.n_headers as usize + 1) * 24];
        let mut inflate = libdeflater::Decompressor::new();
        if inflate.zlib_decompress(&stream, &mut entries).is_ok() {
            // Whole entries, including the last one as it is.
            let cut = entries.len().min(MOST / 2 / 24 * 24);
            corpus.add_with("header_map", 1, &entries[..cut]);
        }
        let Ok(index) = PageIndex::from_header_map(&map, entry) else {
            return;
        };
        if let Some(place) = index.records().place(0) {
            let record = &data[place.start as usize..place.end as usize];
            let choice = match entry.compress_alg {
                CompressAlg::Zlib => 0,
                CompressAlg::Pglz => 1,
                CompressAlg::Lz4 => 2,
                CompressAlg::Zstd => 3,
                CompressAlg::None => 4,
            };
            corpus.add_with("codecs", choice, &record[RECORD_HEADER..]);
            corpus.add_with("codecs", choice | 0x80, &record[RECORD_HEADER..]);
        }
    }
}

fn of_wal(path: &Path, corpus: &mut Corpus) {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    corpus.add_with("wal_names", 0, name.as_bytes());
    if path.is_dir() {
        return;
    }
    let mut bytes = Vec::new();
    let file = File::open(path).expect("a file of a bundled catalog");
    match name.ends_with(".gz") {
        true => flate2::read::GzDecoder::new(file).read_to_end(&mut bytes),
        false => (&file).read_to_end(&mut bytes),
    }
    .expect("a sound file");
    match bytes.len() >= 1 << 20 {
        true => corpus.add_with("wal_pages", 0, &bytes),
        false => corpus.add_with("wal_names", 9, &bytes),
    }
}

/// Adds records as the diff writes them.
fn of_diff(corpus: &mut Corpus) {
    let inode = InodeRecord {
        kind: InodeKind::Symlink,
        mode: 0o777,
        uid: 0,
        gid: 0,
        nlink: 1,
        atime_ns: None,
        mtime_ns: 1,
        ctime_ns: -1,
        link: Some(b"pg_wal".to_vec()),
    };
    let blocks = ContentRecord::Blocks {
        origin: "base/5/2619".into(),
        size: 16384,
        base_len: 8192,
        mtime_ns: 1,
    };
    let whole = ContentRecord::Whole {
        origin: Some("base/5/2619".into()),
    };
    let binding = Binding {
        version: 1,
        catalog: "/c".into(),
        instance: "main".into(),
        system_identifier: Some(7),
        backup: "TOW7P0".into(),
        chain: vec!["TOW7OQ".into(), "TOW7P0".into()],
        image: "00ff".into(),
    };
    let held = HeldBlocks {
        data: (0..3000).step_by(7).collect(),
        small: roaring::RoaringBitmap::from_sorted_iter(3000..3100).expect("sorted"),
    };
    corpus.add_with(
        "diff_records",
        0,
        &serde_json::to_vec(&inode).expect("plain data"),
    );
    for content in [blocks, whole] {
        let json = serde_json::to_vec(&content).expect("plain data");
        corpus.add_with("diff_records", 1, &json);
    }
    corpus.add_with(
        "diff_records",
        2,
        &serde_json::to_vec(&binding).expect("plain data"),
    );
    corpus.add_with(
        "diff_records",
        3,
        &held.encode().expect("a buffer takes all"),
    );
    corpus.add_with("diff_records", 4, &[0, 0, 2, 0, 1, 2, 100, 0, 1, 0, 7]);
}

/// Adds what none of the bundled catalogs contains.
fn by_hand(corpus: &mut Corpus) {
    corpus.add_with(
        "wal_names",
        4,
        b"1\t0/3000000\tno recovery target specified\n\n3\t1/A0\tx\n",
    );
    corpus.add_with("wal_names", 0, b"00000002.history");
    corpus.add(
        "server_conf",
        b"include 'a'\ninclude_dir 'd'\ninclude_if_exists = 'x'\nport = '\\101'\n",
    );
    let mut page = [0; pbkfs::pg::BLOCK_SIZE];
    page[3000..3100].fill(7);
    for (choice, alg) in [
        (2, CompressAlg::Lz4),
        (3, CompressAlg::Zstd),
        (1, CompressAlg::Pglz),
    ] {
        let mut encoder = pbkfs::catalog::encode::PageEncoder::new(alg, 1);
        corpus.add_with("codecs", choice, encoder.encode(&page));
    }
}
