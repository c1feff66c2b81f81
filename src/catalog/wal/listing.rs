//! An archive's contents: timelines, their segments, and gaps.

use std::collections::BTreeMap;

use super::{Form, WalArchive, WalError};
use crate::pg::wal::segment::history_timeline;
use crate::pg::wal::{History, SegmentId};
use crate::untrusted::{Kind, Refused};

/// All timelines of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by number, ascending.
    pub timelines: Vec<Timeline>,
}

/// One timeline of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Its number.
    pub number: u32,
    /// Its ancestors.
    pub history: History,
    /// Its whole segments, by number.
    pub segments: BTreeMap<u64, Segment>,
    /// Its segments of which only the beginning was archived, by number.
    pub partial: BTreeMap<u64, Segment>,
}

/// A segment as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The format; if there are two files, that of the one that is fetched.
    pub form: Form,
    /// Number of its files: a plain and a compressed one may coexist.
    pub files: usize,
    /// Size of all its files in the archive, in bytes.
    pub stored: u64,
    /// Whether the size of the fetched file is possible for a segment: the segment size
    /// or, if compressed, more than zero.
    pub fits: bool,
}

/// Missing segments between existing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing segment.
    pub first: SegmentId,
    /// The last missing segment.
    pub last: SegmentId,
}

impl Timeline {
    /// Returns its first and last whole segments.
    #[must_use]
    pub fn range(&self) -> Option<(SegmentId, SegmentId)> {
        let (first, _) = self.segments.first_key_value()?;
        let (last, _) = self.segments.last_key_value()?;
        Some((self.id(*first), self.id(*last)))
    }

    /// Returns the gaps between whole segments, ascending.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let after = self.segments.keys().skip(1);
        self.segments
            .keys()
            .zip(after)
            .filter(|(before, after)| after.saturating_sub(**before) > 1)
            .map(|(before, after)| Gap {
                first: self.id(before.saturating_add(1)),
                last: self.id(after.saturating_sub(1)),
            })
            .collect()
    }

    /// Returns the segments of which only the beginning exists.
    pub fn partial_ids(&self) -> impl Iterator<Item = SegmentId> {
        let alone = |number: &&u64| !self.segments.contains_key(number);
        self.partial
            .keys()
            .filter(alone)
            .map(|number| self.id(*number))
    }

    /// Whether the archive has any of its WAL. A history may have been archived alone, or
    /// may have outlived the WAL.
    #[must_use]
    pub fn has_wal(&self) -> bool {
        !self.segments.is_empty() || !self.partial.is_empty()
    }

    /// Returns the number of files of its whole segments, which is what pg_probackup
    /// counts.
    #[must_use]
    pub fn files(&self) -> usize {
        self.segments.values().map(|segment| segment.files).sum()
    }

    /// Returns the whole segments whose files cannot be what their names indicate.
    pub fn broken_ids(&self) -> impl Iterator<Item = SegmentId> {
        let broken = self.segments.iter().filter(|(_, segment)| !segment.fits);
        broken.map(|(number, _)| self.id(*number))
    }

    /// Returns the size in bytes of its whole segments in the archive.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let sizes = self.segments.values().map(|segment| segment.stored);
        sizes.fold(0, u64::saturating_add)
    }

    fn id(&self, number: u64) -> SegmentId {
        SegmentId {
            timeline: self.number,
            number,
        }
    }
}

impl WalArchive {
    /// Lists the archive.
    ///
    /// # Errors
    /// If the directory or a history cannot be read. Files that disappear in the meantime
    /// (retention deletes old ones) are omitted, and so is anything with a segment's name
    /// that is not a file.
    pub fn list(&self) -> Result<Listing, WalError> {
        let mut found: BTreeMap<u32, Timeline> = BTreeMap::new();
        let entries = self
            .files
            .entries()
            .map_err(|source| self.list_error(source))?;
        for entry in entries {
            let Some(name) = entry.name.to_str() else {
                continue;
            };
            if let Some(timeline) = history_timeline(name) {
                self.timeline(&mut found, timeline)?;
                continue;
            }
            let Some((id, form)) = Form::of(name, self.size) else {
                continue;
            };
            if entry.kind != Kind::File {
                let reason = Refused::Is(entry.kind);
                let path = self.dir.join(name);
                tracing::warn!("{} in the WAL archive is ignored: {reason}", path.display());
                continue;
            }
            let length = entry.length;
            let timeline = self.timeline(&mut found, id.timeline)?;
            let segments = match form.is_partial() {
                true => &mut timeline.partial,
                false => &mut timeline.segments,
            };
            let fits = match form {
                Form::Plain => length == self.size.bytes(),
                _ => length > 0,
            };
            let segment = segments.entry(id.number).or_insert(Segment {
                form,
                files: 0,
                stored: 0,
                fits,
            });
            segment.files += 1;
            if form < segment.form {
                (segment.form, segment.fits) = (form, fits);
            }
            segment.stored = segment.stored.saturating_add(length);
        }
        Ok(Listing {
            timelines: found.into_values().collect(),
        })
    }

    fn timeline<'a>(
        &self,
        found: &'a mut BTreeMap<u32, Timeline>,
        number: u32,
    ) -> Result<&'a mut Timeline, WalError> {
        use std::collections::btree_map::Entry;
        Ok(match found.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Timeline {
                number,
                history: self.history(number)?,
                segments: BTreeMap::new(),
                partial: BTreeMap::new(),
            }),
        })
    }

    /// Checks that a missing segment is after the end of the archive.
    ///
    /// PostgreSQL takes "not in the archive" as the end of the WAL. If a later segment of
    /// the timeline exists, or another timeline branched off after it, recovery would end
    /// at the wrong point.
    ///
    /// # Errors
    /// [`WalError::Gap`] if the segment is not after the end. Also if the archive cannot
    /// be listed, as when the whole archive is missing.
    pub fn check_end(&self, missing: SegmentId) -> Result<(), WalError> {
        let gap = |later| {
            Err(WalError::Gap {
                dir: self.dir.clone(),
                segment: self.name(missing),
                later,
            })
        };
        let names = self.names()?;
        let segments = names.iter().filter_map(|name| Form::of(name, self.size));
        let later = segments
            .map(|(id, _)| id)
            .filter(|id| id.timeline == missing.timeline && *id > missing);
        if let Some(next) = later.min() {
            return gap(self.name(next));
        }
        for timeline in names.iter().filter_map(|name| history_timeline(name)) {
            let ancestors = self.history(timeline)?.ancestors;
            let left = ancestors.iter().find(|a| a.timeline == missing.timeline);
            // The segment in which the timeline was left may exist only on the new
            // timeline, those before it only here.
            let last = left.map(|a| SegmentId::containing(a.end, a.timeline, self.size));
            if last > Some(missing) {
                return gap(format!("timeline {timeline}"));
            }
        }
        Ok(())
    }
}
