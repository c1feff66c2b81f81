//! The payload of one stored page.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pbkfs::catalog::pages::PageCodec;
use pbkfs::catalog::encode::PageEncoder;
use pbkfs::catalog::{CompressAlg, ProgramVersion};
use pbkfs::pg::page::{self, PageHeader};
use pbkfs::pg::{AbsoluteBlock, BLOCK_SIZE};
use pbkfs_fuzz::choice;

fuzz_target!(|bytes: &[u8]| {
    let (how, payload) = choice(bytes);
    let alg = match how % 5 {
        0 => CompressAlg::Zlib,
        1 => CompressAlg::Pglz,
        2 => CompressAlg::Lz4,
        3 => CompressAlg::Zstd,
        _ => CompressAlg::None,
    };
    let version = match how & 0x80 {
        0 => ProgramVersion::new(2, 5, 16),
        _ => ProgramVersion::new(2, 0, 22),
    };
    let mut page = [0; BLOCK_SIZE];
    if PageCodec::new(alg, version)
        .decode(payload, &mut page)
        .is_err()
    {
        return;
    }
    let header = PageHeader::of(&page);
    let _ = (
        header.is_sane(),
        page::verify(&page, AbsoluteBlock(u32::from(how))),
    );
    // The decoded page survives a round trip through our own encoder.
    let mut encoder = PageEncoder::new(alg, 1);
    let encoded = encoder.encode(&page);
    let mut again = [0; BLOCK_SIZE];
    let modern = PageCodec::new(alg, ProgramVersion::new(2, 5, 16));
    modern
        .decode(encoded, &mut again)
        .expect("it was just encoded");
    assert_eq!(page, again);
});
