//! A hash that distinguishes images.

use super::layers::Layer;
use super::tree::{NodeKind, Tree};

/// Computes the FNV-1a hash of what [`Image::fingerprint`](super::Image::fingerprint)
/// covers. The hash is kept on disk, so it must not depend on a hasher that the standard
/// library may change.
pub(super) fn fingerprint(layers: &[Layer], tree: &Tree) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        // A length before each piece distinguishes "ab","c" from "a","bc".
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    };
    for layer in layers {
        add(layer.backup.id.0.as_bytes());
    }
    for node in tree.ids() {
        let parent = tree.node(node).parent.0.to_le_bytes();
        add(tree.name(node));
        add(&parent);
        add(&[match tree.node(node).kind {
            NodeKind::Directory => 0,
            NodeKind::File => 1,
            NodeKind::Symlink => 2,
        }]);
    }
    hash
}
