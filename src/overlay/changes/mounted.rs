//! The changes of an overlay in use.

use std::collections::BTreeMap;

use super::change::Change;
use super::survey::changes;
use crate::diff::{ContentRecord, HeldContent, InodeKind, Records};
use crate::overlay::content::Content;
use crate::overlay::error::OverlayError;
use crate::overlay::lower::Lower;
use crate::overlay::state::Overlay;
use crate::overlay::tree::Ino;

impl<L: Lower> Overlay<L> {
    /// Returns the changes so far, committed or not.
    ///
    /// # Errors
    /// If the diff fails.
    pub fn changes(&self) -> Result<Vec<Change>, OverlayError> {
        match &self.diff {
            Some(diff) => Ok(changes(&self.records()?, Some(&self.lower), diff.root())),
            None => Ok(Vec::new()),
        }
    }

    /// Returns how many blocks of the backup's files the diff replaces.
    ///
    /// # Errors
    /// If the diff fails.
    pub fn diff_blocks(&self) -> Result<u64, OverlayError> {
        if self.is_read_only() {
            return Ok(0);
        }
        let contents = self.held()?;
        Ok(contents.values().map(|(_, blocks)| blocks).sum())
    }

    fn records(&self) -> Result<Records, OverlayError> {
        let mut records = Records::of(self.tree().namespace());
        let saved = self.diff()?.store().saved()?;
        let whole = |ino| {
            let stat = self.content_stat(Ino(ino))?;
            Ok::<_, OverlayError>((stat.len, stat.mtime_ns))
        };
        for (ino, content) in self.held()? {
            let held = HeldContent::of(content, saved.get(&ino), || whole(ino))?;
            records.contents.insert(ino, held);
        }
        // The clone's own files have content from the start, but a record only after
        // the next commit.
        for (ino, inode) in &records.inodes {
            let own = Ino(*ino).node().is_none() && inode.kind == InodeKind::File;
            if own && !records.contents.contains_key(ino) {
                let content = (ContentRecord::Whole { origin: None }, 0);
                let held = HeldContent::of(content, None, || whole(*ino))?;
                records.contents.insert(*ino, held);
            }
        }
        Ok(records)
    }

    /// Returns the contents in the store, overridden by those in use.
    fn held(&self) -> Result<BTreeMap<u64, (ContentRecord, u64)>, OverlayError> {
        let stored = self.diff()?.store().contents()?;
        let mut contents: BTreeMap<_, _> = stored
            .into_iter()
            .map(|(ino, record, blocks)| (ino, (record, blocks)))
            .collect();
        let in_use: Vec<_> = self.files().values().cloned().collect();
        for file in in_use {
            let content = file.content();
            let origin = |node| self.lower.path(node);
            match (&*content, file.ino.node()) {
                (Content::Blocks(blocks), Some(node)) => {
                    let record = blocks.record(origin(node));
                    contents.insert(file.ino.0, (record, blocks.count()));
                }
                (Content::Whole(whole), node) if !whole.is_pristine()? => {
                    let origin = node.map(origin);
                    contents.insert(file.ino.0, (ContentRecord::Whole { origin }, 0));
                }
                _ => {}
            }
        }
        let tree = self.tree();
        contents.retain(|ino, _| !tree.is_dead(Ino(*ino)));
        Ok(contents)
    }
}
