//! The merged, read-only view of a chain: exactly what `pg_probackup restore`
//! of its target would write, but for restore's own edits.
//!
//! Opening an [`Image`] reads the content lists and nothing else. Where the
//! pages of a segment are stored is found out when the segment is first
//! needed, and kept in a cache of bounded size.
//!
//! ```text
//! view      the image: its names, kinds, modes
//! layers    the chain's content lists, read
//! tree      the target's content list -> directories, files, symbolic links
//! segment   a data file's pages: which layer has which block
//! read      blocks -> stored records -> decoded and checked pages
//! loss      what pg_probackup's own restore would lose of it
//! check     everything that can be checked of a file, for verification
//! stored    the files of the catalog, by its store, and files that are stored whole
//! ```
//! The rules are those of `restore_chain`, `restore_data_file` and
//! `restore_non_data_file` in pg_probackup's restore.c and data.c.

mod check;
mod counters;
mod error;
mod fingerprint;
mod layers;
mod loss;
mod read;
mod segment;
mod stored;
mod tree;
mod view;

pub use check::{CheckItem, CheckSink, Checked};
pub use counters::{Counter, ImageCounters};
pub use error::{BadPage, ImageError, PageFault};
pub use loss::{RestoreLoss, RestoreLosses};
pub use tree::{NodeId, NodeKind};
pub use view::{Image, ImageOptions};
