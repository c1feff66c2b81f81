//! The backup: what is stored of the cluster, and its metadata.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use pbkfs::catalog::content::{ContentList, FileEntry};
use pbkfs::catalog::encode::{
    DataFileWriter, HeaderMapWriter, PageEncoder, write_content_line, write_control,
};
use pbkfs::catalog::{
    Backup, BackupId, BackupMode, BackupStatus, Catalog, CompressAlg, Instance, ProgramVersion,
};
use pbkfs::pg::page::PageHeader;
use pbkfs::pg::{BLOCK_SIZE, BlockNumber, Lsn};
use time::OffsetDateTime;

use super::source::{Cluster, Found};
use super::{Failure, named, read};

/// The version whose format is written.
const VERSION: ProgramVersion = ProgramVersion::new(2, 5, 16);

/// The size that pg_probackup counts for a directory.
const DIRECTORY_BYTES: u64 = 4096;

const TABLESPACE_MAP: &str = "tablespace_map";

/// Settings of a backup.
pub struct Settings {
    pub mode: BackupMode,
    pub compress_alg: CompressAlg,
    pub compress_level: i32,
}

/// Opens the instance, or creates it if missing; it must belong to this cluster.
pub fn open_instance(root: &Path, name: &str, cluster: &Cluster) -> Result<Instance, Failure> {
    let dir = root.join("backups").join(name);
    let conf = dir.join("pg_probackup.conf");
    let system = cluster.control.system_identifier;
    if !conf.exists() {
        fs::create_dir_all(&dir).map_err(|e| named("create", &dir, &e))?;
        let wal = root.join("wal").join(name);
        fs::create_dir_all(&wal).map_err(|e| named("create", &wal, &e))?;
        let text = format!(
            "# Backup instance information\npgdata = {}\nsystem-identifier = {system}\n\
             xlog-seg-size = {}\n",
            cluster.pgdata.display(),
            cluster.control.wal_segment_size
        );
        fs::write(&conf, text).map_err(|e| named("write", &conf, &e))?;
    }
    let instance = Catalog::open(root)?.instance(name)?;
    match instance.config.system_identifier {
        Some(other) if other != system => {
            Err(format!("the instance {name} belongs to another cluster, {other}").into())
        }
        _ => Ok(instance),
    }
}

/// Creates one backup.
pub fn store(
    cluster: &Cluster,
    instance: &Instance,
    settings: &Settings,
) -> Result<Backup, Failure> {
    let newest = instance.backups()?.into_iter().next();
    let parent = match (settings.mode, &newest) {
        (BackupMode::Full, _) => None,
        (_, Some(newest)) => Some(Parent::read(newest)?),
        (_, None) => return Err("an incremental backup needs a parent backup".into()),
    };
    let mut backup = describe(cluster, instance, settings, newest.as_ref());
    backup.parent = parent.as_ref().map(|parent| parent.backup.id.clone());
    fs::create_dir(&backup.dir).map_err(|e| named("create", &backup.dir, &e))?;

    let database = backup.dir.join("database");
    fs::create_dir(&database).map_err(|e| named("create", &database, &e))?;
    // Parents come before their children.
    for found in cluster.files.iter().filter(|found| found.is_directory()) {
        let path = database.join(&found.path);
        fs::create_dir(&path).map_err(|e| named("create", &path, &e))?;
    }
    let map_path = backup.header_map().name();
    let map = File::create(&map_path).map_err(|e| named("create", &map_path, &e))?;
    let writer = Writer {
        cluster,
        backup: &backup,
        parent,
        header_map: Mutex::new(HeaderMapWriter::new(BufWriter::new(map))),
    };
    let mut entries = writer.all()?;
    let header_map = writer
        .header_map
        .into_inner()
        .map_err(|_| "a thread died")?;
    header_map
        .finish()
        .map_err(|e| named("write", &map_path, &e))?;
    let map = tablespace_map(cluster);
    if !map.is_empty() {
        let path = backup.file(TABLESPACE_MAP).name();
        fs::write(&path, &map).map_err(|e| named("write", &path, &e))?;
        entries.push(FileEntry {
            mode: 0o100_644,
            size: map.len() as i64,
            crc: crc32c::crc32c(map.as_bytes()),
            ..entry_of(TABLESPACE_MAP)
        });
    }
    finish(&mut backup, &entries)?;
    Ok(backup)
}

/// Describes what is known before anything is stored. An ID stands for a second, so
/// the later of two backups in one second gets the ID of the next second.
fn describe(
    cluster: &Cluster,
    instance: &Instance,
    settings: &Settings,
    newest: Option<&Backup>,
) -> Backup {
    let second = time::Duration::SECOND;
    let now = OffsetDateTime::now_utc();
    let start_time = newest.map_or(now, |newest| now.max(newest.start_time + second));
    let id = BackupId::from_start_time(start_time);
    let control = &cluster.control;
    let files = cluster.files.iter().filter(|found| !found.is_wal());
    let pgdata_bytes = files.map(|found| match found.is_directory() {
        true => DIRECTORY_BYTES,
        false => found.length,
    });
    Backup {
        dir: instance.dir.join(&id.0),
        place: instance.place.join(&id.0),
        id,
        parent: None,
        mode: settings.mode,
        status: BackupStatus::Ok,
        stream: true,
        compress_alg: settings.compress_alg,
        compress_level: settings.compress_level,
        from_replica: false,
        block_size: control.block_size,
        xlog_block_size: control.block_size,
        checksums: control.data_checksum_version != 0,
        program_version: VERSION,
        server_version: cluster.version.clone(),
        timeline: control.timeline,
        start_lsn: control.checkpoint,
        stop_lsn: control.checkpoint,
        start_time,
        end_time: Some(start_time),
        recovery_time: Some(start_time),
        recovery_xid: 0,
        data_bytes: None,
        wal_bytes: None,
        uncompressed_bytes: None,
        pgdata_bytes: Some(pgdata_bytes.sum()),
        content_crc: None,
        note: None,
        tablespaces: cluster.tablespaces.clone(),
    }
}

/// Writes the content list and `backup.control`.
fn finish(backup: &mut Backup, entries: &[FileEntry<'_>]) -> Result<(), Failure> {
    let (mut data, mut wal, mut uncompressed) = (0, 0, 0);
    let mut list = Vec::new();
    for entry in entries {
        write_content_line(&mut list, entry)?;
        // A file that is not stored has a size of 0 or -1.
        let size = u64::try_from(entry.size).unwrap_or(0);
        if entry.is_directory() {
            data += DIRECTORY_BYTES;
            uncompressed += DIRECTORY_BYTES;
        } else if entry.path.starts_with(b"pg_wal/") && !entry.path.ends_with(b".history") {
            wal += size;
        } else if size > 0 {
            data += size;
            uncompressed += match u64::try_from(entry.full_size) {
                Ok(full) if full > 0 => full,
                _ => size,
            };
        }
    }
    backup.data_bytes = Some(data);
    backup.wal_bytes = Some(wal);
    backup.uncompressed_bytes = Some(uncompressed);
    backup.content_crc = Some(crc32c::crc32c(&list));
    let path = backup.content().name();
    fs::write(&path, list).map_err(|e| named("write", &path, &e))?;
    let path = backup.dir.join("backup.control");
    let mut control = Vec::new();
    write_control(&mut control, backup)?;
    fs::write(&path, control).map_err(|e| named("write", &path, &e))
}

/// Returns the lines `OID PATH`, as in PostgreSQL's own file of that name.
fn tablespace_map(cluster: &Cluster) -> String {
    let line = |t: &pbkfs::catalog::TablespaceMapping| format!("{} {}\n", t.oid, t.path.display());
    cluster.tablespaces.iter().map(line).collect()
}

/// The parent of an incremental backup.
struct Parent {
    backup: Backup,
    list: ContentList,
}

impl Parent {
    fn read(backup: &Backup) -> Result<Self, Failure> {
        Ok(Self {
            list: ContentList::read(backup)?,
            backup: backup.clone(),
        })
    }

    fn entry(&self, path: &str) -> Option<FileEntry<'_>> {
        let index = self.list.find(path.as_bytes(), 0)?;
        Some(self.list.entry(index))
    }
}

/// Stores the files of one backup, with as many threads as there are cores.
struct Writer<'a, 'b> {
    cluster: &'a Cluster,
    backup: &'b Backup,
    parent: Option<Parent>,
    header_map: Mutex<HeaderMapWriter<BufWriter<File>>>,
}

impl<'a> Writer<'a, '_> {
    fn all(&self) -> Result<Vec<FileEntry<'a>>, Failure> {
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let work = || -> Result<Vec<FileEntry<'a>>, Failure> {
            let backup = self.backup;
            let mut encoder = PageEncoder::new(backup.compress_alg, backup.compress_level);
            let mut entries = Vec::new();
            while let Some(found) = self.cluster.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                entries.push(self.one(found, &mut encoder)?);
            }
            Ok(entries)
        };
        let parts: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join()).collect()
        });
        let mut entries = Vec::new();
        for part in parts {
            entries.extend(part.map_err(|_| "a thread died")??);
        }
        Ok(entries)
    }

    fn one(&self, found: &'a Found, encoder: &mut PageEncoder) -> Result<FileEntry<'a>, Failure> {
        let entry = FileEntry {
            mode: found.mode,
            db_oid: found.database(),
            is_datafile: found.is_paged(),
            segno: found.relation.map_or(0, |relation| relation.segno),
            ..entry_of(&found.path)
        };
        match () {
            () if found.is_directory() || found.length == 0 => Ok(entry),
            () if found.is_paged() => self.pages(found, entry, encoder),
            () => self.whole(found, entry),
        }
    }

    /// Stores a file as it is.
    fn whole(&self, found: &Found, entry: FileEntry<'a>) -> Result<FileEntry<'a>, Failure> {
        let bytes = read(&found.source)?;
        let size = bytes.len() as i64;
        let crc = match found.path.as_str() {
            "global/pg_control" => self.cluster.control.crc,
            _ => crc32c::crc32c(&bytes),
        };
        let before = self.parent.as_ref().and_then(|p| p.entry(&found.path));
        let is_unchanged = before.is_some_and(|before| {
            let length = match before.size {
                -1 => before.full_size,
                size => size,
            };
            (before.crc, length) == (crc, size)
        });
        // Like pg_probackup, which trusts no checksum for this file.
        if is_unchanged && !found.path.ends_with("/pg_filenode.map") {
            return Ok(FileEntry {
                size: -1,
                crc,
                full_size: size,
                ..entry
            });
        }
        let path = self.backup.file(&found.path).name();
        fs::write(&path, bytes).map_err(|e| named("write", &path, &e))?;
        Ok(FileEntry { size, crc, ..entry })
    }

    /// Stores a data file: all of its pages, or those that changed.
    fn pages(
        &self,
        found: &Found,
        entry: FileEntry<'a>,
        encoder: &mut PageEncoder,
    ) -> Result<FileEntry<'a>, Failure> {
        let fail = |e: io::Error| named("read", &found.source, &e);
        let parent = self.parent.as_ref();
        // Pages of a new file may be older than the parent if they were copied;
        // those of an unlogged relation have no meaningful LSN.
        let is_known = |parent: &&Parent| parent.entry(&found.path).is_some();
        let since = parent
            .filter(is_known)
            .filter(|_| !self.cluster.is_unlogged(found));
        let since = since.map_or(Lsn(0), |parent| parent.backup.start_lsn);
        let mut source = File::open(&found.source).map_err(fail)?;
        let path = self.backup.file(&found.path).name();
        let output = File::create(&path).map_err(|e| named("create", &path, &e))?;
        let output = BufWriter::with_capacity(1 << 20, output);
        let mut writer = DataFileWriter::new(output, encoder, entry.segno, VERSION);
        let mut pages = vec![0; 128 * BLOCK_SIZE];
        let mut n_blocks = 0;
        loop {
            let length = fill(&mut source, &mut pages).map_err(fail)?;
            for page in pages[..length].as_chunks::<BLOCK_SIZE>().0 {
                let lsn = PageHeader::of(page).lsn();
                // A page without an LSN may have changed unnoticed.
                if lsn >= since || lsn == Lsn(0) {
                    let pushed = writer.push(BlockNumber(n_blocks), page);
                    pushed.map_err(|e| named("write", &path, &e))?;
                }
                n_blocks += 1;
            }
            if length < pages.len() {
                break;
            }
        }
        let stored = writer.finish().map_err(|e| named("write", &path, &e))?;
        let entry = FileEntry { n_blocks, ..entry };
        if stored.count == 0 {
            fs::remove_file(&path).map_err(|e| named("remove", &path, &e))?;
            return Ok(FileEntry { size: -1, ..entry });
        }
        let part = {
            let mut map = self.header_map.lock().map_err(|_| "a thread died")?;
            map.append(&stored.headers)?
        };
        Ok(FileEntry {
            size: i64::try_from(stored.length)?,
            crc: stored.crc,
            compress_alg: self.backup.compress_alg,
            full_size: i64::from(stored.count) * BLOCK_SIZE as i64,
            n_headers: stored.count,
            hdr_crc: part.crc,
            hdr_off: part.offset,
            hdr_size: part.size,
            ..entry
        })
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(source: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

/// Returns the entry of an empty file with that path.
fn entry_of(path: &str) -> FileEntry<'_> {
    FileEntry {
        path: path.as_bytes(),
        ..FileEntry::default()
    }
}
