//! The order of a materialization.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::clone::Source;
use super::files::{Writer, Written};
use super::layout::Layout;
use super::recovery;
use super::staging::{Staging, io_error};
use super::wanted::{Materialize, Materialized, PlacedTablespace};
use crate::diff::Binding;
use crate::escape::value;
use crate::figures::human_bytes;
use crate::image::Image;
use crate::overlay::Overlay;
use crate::server::conf::AUTO_CONF;
use crate::session::{
    Job, Live, MaterializeError, Needs, Resolved, SessionError, Then, Up, files_owner, job_plan,
    open_image,
};

/// The version of [`Materialized`] as a document.
const VERSION: u32 = 1;

impl Materialize<'_> {
    /// Writes the directory.
    ///
    /// # Errors
    /// Those of a session up to the lock; if the directory exists, if there is not
    /// enough room, if the backup is damaged or if a file cannot be written.
    pub fn run(&self) -> Result<Materialized, SessionError> {
        let begun = Instant::now();
        let diff = self.diff()?;
        let (mut plan, held) = job_plan(self.plan, "materialize")?;
        plan.diff_dir.clone_from(&diff);
        plan.postgres.launch = false;
        let mut job = MaterializeJob {
            wanted: self,
            done: Materialized {
                version: VERSION,
                diff,
                directory: self.to.clone(),
                ..Materialized::default()
            },
        };
        Up {
            read_only: job.done.diff.is_none(),
            ..Up::of_job(&plan, self.profile, self.signals)
        }
        .run(Some(held), &mut job)?;
        job.done.seconds = begun.elapsed().as_secs_f64();
        Ok(job.done)
    }

    /// Returns the profile's diff if a clone has used it.
    fn diff(&self) -> Result<Option<PathBuf>, SessionError> {
        let Some(dir) = self.plan.diff_dir.as_ref().filter(|_| !self.from_backup) else {
            return Ok(None);
        };
        let is_used = Binding::read(dir)?.is_some();
        if is_used && self.at_given {
            return Err(SessionError::usage(format!(
                "the clone in {} was recovered already; --at also needs --from-backup",
                value(dir)
            )));
        }
        Ok(is_used.then(|| dir.clone()))
    }
}

struct MaterializeJob<'a> {
    wanted: &'a Materialize<'a>,
    done: Materialized,
}

impl Job for MaterializeJob<'_> {
    fn needs(&self) -> Needs {
        Needs::Chain
    }

    fn locked(&mut self, resolved: &Resolved) -> Result<Then, SessionError> {
        if self.done.diff.is_some() {
            return Ok(Then::Mount);
        }
        let image = open_image(self.wanted.plan, &resolved.chain)?;
        let layout = Layout::of(&image, &self.wanted.to, &self.wanted.tablespaces)?;
        self.write(resolved, &image, &layout, None)?;
        Ok(Then::End)
    }

    fn opened(
        &mut self,
        resolved: &Resolved,
        overlay: &Overlay<Image>,
    ) -> Result<Then, SessionError> {
        let source = Source::open(overlay)?;
        let layout = source.lay_out(&self.wanted.to, &self.wanted.tablespaces)?;
        self.write(resolved, overlay.lower(), &layout, Some(&source))?;
        Ok(Then::End)
    }

    fn ready(&mut self, _: &Live<'_>) -> Result<(), SessionError> {
        Ok(())
    }
}

impl MaterializeJob<'_> {
    fn write(
        &mut self,
        resolved: &Resolved,
        image: &Image,
        layout: &Layout,
        clone: Option<&Source<'_>>,
    ) -> Result<(), SessionError> {
        let wanted = self.wanted;
        let backup = resolved.chain.target().id.to_string();
        // A clone can be started between two runs, and then other files are complete.
        let identity = clone.is_none().then(|| image.fingerprint());
        let staging = Staging::open(layout, &backup, identity)?;
        if let Err(error) = check_room(image, layout, clone, &staging) {
            if staging.complete.is_empty() {
                let discarded = staging.discard();
                discarded.map_err(io_error("remove what was begun of", &wanted.to))?;
            }
            return Err(error);
        }
        let root = nix::unistd::geteuid().is_root();
        let owner = root.then(|| files_owner(wanted.plan)).transpose()?;
        let edited = image.find(Path::new(AUTO_CONF));
        let writer = Writer {
            image,
            layout,
            staging: &staging,
            clone,
            owner,
            edited: edited.filter(|_| clone.is_none()),
            links: false,
        };
        writer.directories()?;
        let written = self.files(&writer)?;
        if clone.is_none() {
            let pgdata = staging.root(0).map_err(io_error("open", &wanted.to))?;
            self.done.recovers = recovery::write(pgdata, wanted.plan, resolved, owner)?;
        }
        writer.open_roots()?;
        if wanted.sync {
            (wanted.progress)("syncing", 0, 0);
            staging.sync().map_err(io_error("sync", &wanted.to))?;
        }
        self.done.resumed_files = staging.complete.len() as u64;
        let finished = staging.finish(wanted.sync);
        finished.map_err(io_error("rename", &wanted.to))?;
        self.tell(layout, backup, &written);
        Ok(())
    }

    /// Writes the files. A damaged backup is refused only after all of it was read, so
    /// that all damage is known.
    fn files(&self, writer: &Writer<'_>) -> Result<Written, SessionError> {
        let wanted = self.wanted;
        let mut look = |read, total| {
            (wanted.progress)("writing", read, total);
            !wanted.signals.end_asked()
        };
        let mut written = writer.files(wanted.jobs, &mut look)?;
        let unfinished = || MaterializeError::Unfinished {
            directory: wanted.to.clone(),
            continues: writer.clone.is_none(),
        };
        if !written.found.complete {
            return Err(unfinished().into());
        }
        let damages = written.found.damages;
        if damages == 0 {
            let goes_on = || !wanted.signals.end_asked();
            return match writer.own_files(wanted.jobs, &goes_on, &mut written) {
                Ok(()) => Ok(written),
                Err(SessionError::Interrupted) => Err(unfinished().into()),
                Err(error) => Err(error),
            };
        }
        for error in written.found.damage.iter().skip(1) {
            tracing::error!("{error}");
        }
        Err(MaterializeError::Damaged {
            directory: wanted.to.clone(),
            more: damages - 1,
            first: Box::new(written.found.damage.swap_remove(0)),
        }
        .into())
    }

    fn tell(&mut self, layout: &Layout, backup: String, written: &Written) {
        let done = &mut self.done;
        done.backup = backup;
        done.tablespaces = PlacedTablespace::of(layout);
        done.files = written.files;
        done.bytes = written.bytes;
        done.read_bytes = written.found.checked.stored_bytes;
        done.pages = written.found.checked.pages;
    }
}

/// Refuses a backup that is known not to fit. What an interrupted run wrote counts as
/// free, because it is not written again.
fn check_room(
    image: &Image,
    layout: &Layout,
    clone: Option<&Source<'_>>,
    staging: &Staging,
) -> Result<(), SessionError> {
    let mut needed: HashMap<usize, u64> = HashMap::new();
    for (own, item) in &layout.own {
        let size = clone.map_or(Ok(0), |clone| clone.size(own, &item.spot.path))?;
        *needed.entry(item.spot.root).or_default() += size;
    }
    for (node, item) in &layout.files {
        if !staging.complete.contains(&node.0) {
            *needed.entry(item.spot.root).or_default() += image.listed_size(*node);
        }
    }
    // Several roots can be on one file system.
    let mut devices: HashMap<u64, (u64, u64, &Path)> = HashMap::new();
    for (index, root) in layout.roots.iter().enumerate() {
        let room = staging.room(index);
        let (device, free) = room.map_err(io_error("find the free space of", &root.to))?;
        let device = devices.entry(device).or_insert((0, free, &root.to));
        device.0 += needed.get(&index).copied().unwrap_or_default();
    }
    match devices.values().find(|(needed, free, _)| needed > free) {
        None => Ok(()),
        Some((needed, free, path)) => Err(SessionError::io(
            "write",
            path,
            io::Error::other(format!(
                "{} are needed and {} are free; choose a larger file system than that of {}",
                human_bytes(*needed),
                human_bytes(*free),
                value(path)
            )),
        )),
    }
}
