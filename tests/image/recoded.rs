//! Data files as written by other versions of pg_probackup, or with other codecs,
//! than in the fixtures: one file of a real backup is rewritten.

use std::fs;

use pbkfs::catalog::encode::{DataFileWriter, PageEncoder};
use pbkfs::catalog::{CompressAlg, ProgramVersion};
use pbkfs::image::{Image, ImageOptions};
use pbkfs::pg::{BLOCK_SIZE, BlockNumber};

use crate::fixture::{Fixture, chain_of, content, field, largest_data_file, node};

const FULL: &str = "TOW7FV";

/// Returns a data file's bytes as the given version and codec would store them.
fn stored(content: &[u8], alg: CompressAlg, version: ProgramVersion) -> Vec<u8> {
    let mut encoder = PageEncoder::new(alg, 1);
    let mut bytes = Vec::new();
    let mut writer = DataFileWriter::new(&mut bytes, &mut encoder, 0, version);
    for (block, page) in (0..).zip(content.as_chunks::<BLOCK_SIZE>().0) {
        writer.push(BlockNumber(block), page).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn reads_back(alg: CompressAlg, version: &str) {
    let fixture = Fixture::unpack("pg15-hazards");
    let version: ProgramVersion = version.parse().unwrap();
    let (path, _) = largest_data_file(&fixture, FULL);
    let image = fixture.image(FULL);
    let expected = content(&image, node(&image, &path));

    let bytes = stored(&expected, alg, version);
    fs::write(
        fixture.backup_dir(FULL).join("database").join(&path),
        &bytes,
    )
    .unwrap();
    let size = bytes.len();
    fixture.edit_list(FULL, |line| {
        Some(match field(line, "path") == path {
            true => format!(
                r#"{{"path":"{path}", "size":"{size}", "mode":"33152", "is_datafile":"1", "crc":"0", "compress_alg":"{alg}"}}"#
            ),
            false => line.to_owned(),
        })
    });
    let mut backups = fixture.metadata();
    for backup in &mut backups {
        backup.program_version = version;
    }
    let chain = chain_of(&backups, FULL);
    let image = Image::open(&chain, &ImageOptions::default()).unwrap();
    assert!(
        content(&image, node(&image, &path)) == expected,
        "{alg} {version}"
    );
    let decoded = image.counters().pages(alg).get();
    assert!(decoded > 0 && image.counters().errors.get() == 0);
}

#[test]
fn pages_in_every_codec() {
    for alg in [
        CompressAlg::None,
        CompressAlg::Zlib,
        CompressAlg::Pglz,
        CompressAlg::Lz4,
        CompressAlg::Zstd,
    ] {
        reads_back(alg, "2.5.16");
    }
}

#[test]
fn records_that_are_padded() {
    reads_back(CompressAlg::Zlib, "2.2.7");
    reads_back(CompressAlg::Pglz, "2.0.22");
}
