//! Unpacked fixtures, and images of their backups.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pbkfs::catalog::{Backup, BackupId, BackupRef, Catalog};
use pbkfs::chain::Chain;
use pbkfs::image::{Image, ImageError, ImageOptions, NodeId, NodeKind};
use tempfile::TempDir;

/// A fixture's catalog in a directory of its own, where it may be damaged.
pub struct Fixture {
    name: &'static str,
    dir: TempDir,
}

impl Fixture {
    /// Unpacks all but the WAL archive.
    pub fn unpack(name: &'static str) -> Self {
        Self::unpack_except(name, "catalog/wal/*/*")
    }

    /// Unpacks all but the databases' relations, which make up most of it.
    pub fn unpack_without_relations(name: &'static str) -> Self {
        Self::unpack_except(name, "*/database/base/*")
    }

    fn unpack_except(name: &'static str, excluded: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packed = File::open(bundled(name).join("catalog.tar.zst")).unwrap();
        let mut tar = Command::new("tar")
            .args(["--extract", "--no-same-owner", "--exclude", excluded])
            .arg("--directory")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        zstd::stream::copy_decode(packed, tar.stdin.take().unwrap()).unwrap();
        assert!(tar.wait().unwrap().success());
        Self { name, dir }
    }

    /// Returns the IDs of all backups, and whether each contains its WAL, oldest
    /// first.
    pub fn backups(&self) -> Vec<(String, bool)> {
        let text = fs::read_to_string(self.oracle("backups.txt")).unwrap();
        text.lines()
            .map(|line| {
                let id = line.split(' ').next().unwrap().to_owned();
                (id, line.contains("--stream"))
            })
            .collect()
    }

    pub fn oracle(&self, file: &str) -> PathBuf {
        bundled(self.name).join("oracle").join(file)
    }

    pub fn backup_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("catalog/backups/main").join(id)
    }

    /// Returns the backups as the catalog describes them now.
    pub fn metadata(&self) -> Vec<Backup> {
        let catalog = Catalog::open(&self.dir.path().join("catalog")).unwrap();
        catalog.instance("main").unwrap().backups().unwrap()
    }

    pub fn chain(&self, id: &str) -> Chain {
        chain_of(&self.metadata(), id)
    }

    pub fn try_image(&self, id: &str) -> Result<Image, ImageError> {
        Image::open(&self.chain(id), &ImageOptions::default())
    }

    pub fn image(&self, id: &str) -> Image {
        self.try_image(id).unwrap()
    }

    /// Rewrites a backup's content list line by line, and removes its checksum from
    /// `backup.control`.
    pub fn edit_list(&self, id: &str, edit: impl Fn(&str) -> Option<String>) {
        let path = self.backup_dir(id).join("backup_content.control");
        let lines = fs::read_to_string(&path).unwrap();
        let edited: String = lines
            .lines()
            .filter_map(edit)
            .map(|line| line + "\n")
            .collect();
        assert!(edited != lines, "the edit changes something");
        fs::write(&path, edited).unwrap();
        self.edit_control(id, "content-crc", None);
    }

    /// Replaces or removes a line of a backup's `backup.control`.
    pub fn edit_control(&self, id: &str, key: &str, line: Option<&str>) {
        let path = self.backup_dir(id).join("backup.control");
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().filter(|l| !l.starts_with(key)).collect();
        lines.extend(line);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
}

/// Returns the chain of a backup among those of its instance.
pub fn chain_of(backups: &[Backup], id: &str) -> Chain {
    let wanted = BackupRef::Id(BackupId(id.to_owned()));
    Chain::resolve("main", backups, &wanted).unwrap()
}

fn bundled(name: &str) -> PathBuf {
    let place = include!("../common/bundled.rs");
    place(name)
}

/// Returns all files of an image.
pub fn files(image: &Image) -> Vec<NodeId> {
    (0..image.node_count() as u32)
        .map(NodeId)
        .filter(|&node| image.kind(node) == NodeKind::File)
        .collect()
}

/// Returns a file of an image by its path.
pub fn node(image: &Image, path: &str) -> NodeId {
    image.find(Path::new(path)).expect(path)
}

/// Returns a file's whole content.
pub fn content(image: &Image, node: NodeId) -> Vec<u8> {
    let length = image.len(node).unwrap() as usize;
    // A little more than the file's size, to check that the end is found.
    let mut bytes = vec![0xA5; length + 100];
    assert_eq!(image.read_at(node, 0, &mut bytes).unwrap(), length);
    bytes.truncate(length);
    bytes
}

/// Returns the paged file in a backup's `base/` with the largest stored size, with
/// its line in the content list.
pub fn largest_data_file(fixture: &Fixture, id: &str) -> (String, String) {
    let mut list = String::new();
    File::open(fixture.backup_dir(id).join("backup_content.control"))
        .and_then(|mut file| file.read_to_string(&mut list))
        .unwrap();
    let size = |line: &str| field(line, "size").parse::<i64>().unwrap();
    let line = list
        .lines()
        .filter(|line| field(line, "is_datafile") == "1")
        .filter(|line| field(line, "path").starts_with("base/"))
        .max_by_key(|line| size(line))
        .unwrap();
    (field(line, "path").to_owned(), line.to_owned())
}

/// Returns the value of a key in a line of a content list.
pub fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("\"{key}\":\"")).expect(key);
    rest.split('"').next().unwrap()
}
