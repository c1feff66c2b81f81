//! The merged, read-only view of a chain: exactly what `pg_probackup restore` of its
//! target would write, except for restore's own edits.
//!
//! Opening an [`Image`] reads only the content lists. The locations of a segment's pages
//! are determined when the segment is first needed, and kept in a cache of bounded size.
//!
//! ```text
//! view      the image: its names, kinds, modes
//! layers    the chain's content lists in memory
//! tree      the target's content list -> directories, files, symbolic links
//! segment   a data file's pages: which layer has which block
//! read      blocks -> stored records -> decoded and checked pages
//! loss      what pg_probackup's own restore would lose
//! check     thorough checks of a file, for verification
//! stored    access to stored files, and to files that are stored whole
//! ```
//! The rules are those of `restore_chain`, `restore_data_file` and
//! `restore_non_data_file` in pg_probackup's restore.c and data.c.

mod check;
mod copies;
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

pub use check::{Batch, CheckItem, CheckSink, Checked, CheckedFiles, Content, check_each};
pub use counters::{Counter, ImageCounters};
pub use error::{BadPage, ImageError, PageFault};
pub use loss::{RestoreLoss, RestoreLosses};
pub use tree::{NodeId, NodeKind, TABLESPACES};
pub use view::{Image, ImageOptions};
