//! fuser's requests, one call of the overlay each.
//!
//! The kernel may cache everything. Only requests through this mount change the tree,
//! so entries and attributes are valid for a day, and pages are kept across a reopen.
//! There are two exceptions: names that do not exist in the hidden directory, where
//! tablespaces appear without a request, and the pages of passed-through files, which
//! belong to the diff's file system.
//!
//! Requests without a method here (extended attributes, flush) get `ENOSYS` from fuser,
//! and the kernel stops sending them. Otherwise each write would cost a round trip for
//! the capability attribute.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::backing::BackingTable;
use super::convert::{fallocate_mode, file_attr, file_type, no_entry, time_change};
use super::errno::{errno, is_fault};
use super::faults::{FaultLimit, Verdict};
use super::handles::DirHandles;
use crate::causes::sentence;
use crate::diff::InodeKind;
use crate::overlay::{Attr, AttrChange, Ino, Lower, Overlay, OverlayError, RenameMode, SeekKind};

const TTL: Duration = Duration::from_secs(86_400);
const GENERATION: Generation = Generation(0);

/// The number of background requests that the kernel may have in flight: read-ahead
/// and, with write-back caching, writes.
const MAX_BACKGROUND: u16 = 64;

thread_local! {
    /// Each request thread's buffer for reads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// See the module's documentation.
pub struct Adapter<L> {
    overlay: Arc<Overlay<L>>,
    /// Whether passthrough is requested; after `init`, whether it is active.
    passthrough: Arc<AtomicBool>,
    /// Whether the kernel caches writes, and so knows sizes and bytes that have not
    /// arrived here yet.
    writes_gather: bool,
    /// Whether reads, writes and syncs fail once such a write has failed.
    ends_with_loss: bool,
    backing: BackingTable,
    dirs: DirHandles,
    faults: FaultLimit,
    /// The span for log lines: requests arrive on fuser's own threads.
    span: tracing::Span,
}

impl<L: Lower> Adapter<L> {
    /// Creates an adapter for `overlay`. Whether a requested `passthrough` is granted
    /// is negotiated with the kernel when the mount starts.
    pub fn new(
        overlay: Arc<Overlay<L>>,
        passthrough: Arc<AtomicBool>,
        ends_with_loss: bool,
    ) -> Self {
        let backing = BackingTable::new(passthrough.load(Ordering::Acquire));
        Self {
            overlay,
            passthrough,
            writes_gather: false,
            ends_with_loss,
            backing,
            dirs: DirHandles::default(),
            faults: FaultLimit::new(Instant::now()),
            span: tracing::Span::current(),
        }
    }

    /// Returns the errno for a failed request. Faults are counted and logged only here.
    fn failed(&self, operation: &'static str, ino: Ino, error: &OverlayError) -> Errno {
        let _span = self.span.enter();
        if is_fault(error) {
            self.overlay.counters().errors.of(error).add(1);
            self.log_fault(operation, ino, &sentence(error));
        } else {
            tracing::debug!(operation, ino = ino.0, "{error}");
        }
        errno(error)
    }

    fn log_fault(&self, operation: &'static str, ino: Ino, message: &str) {
        let Verdict::Log { suppressed } = self.faults.judge(ino.0, message, Instant::now()) else {
            return;
        };
        if suppressed > 0 {
            tracing::error!("{suppressed} more failures like those above were not logged");
        }
        tracing::error!(operation, ino = ino.0, "{message}");
    }

    /// Whether file content can no longer be trusted. After a cached write has failed,
    /// the kernel may have dropped the page. A server would then read an older one, and
    /// could write it to its WAL, or finish a checkpoint.
    fn is_spoiled(&self) -> bool {
        self.ends_with_loss && self.overlay.has_lost_writes()
    }

    fn entry(
        &self,
        operation: &'static str,
        parent: Ino,
        made: Result<Attr, OverlayError>,
        reply: ReplyEntry,
    ) {
        match made {
            Ok(attr) => reply.entry(&TTL, &file_attr(&attr), GENERATION),
            Err(e) => reply.error(self.failed(operation, parent, &e)),
        }
    }

    /// Returns the backing id of a file opened with `flags`, if the kernel is to serve
    /// the file itself. A write with `O_DSYNC` is durable when it returns, and with
    /// passthrough no such write is seen here. So the file's existence, and the fact
    /// that its bytes are in the diff, are made durable at once.
    fn pass_through(
        &self,
        ino: Ino,
        flags: i32,
        register: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> Result<Option<Arc<BackingId>>, OverlayError> {
        let write = flags & nix::libc::O_ACCMODE != nix::libc::O_RDONLY;
        let found = || self.overlay.passthrough(ino, write);
        let id = self.backing.open(ino.0, found, register)?;
        if id.is_some()
            && flags & nix::libc::O_DSYNC != 0
            && let Err(e) = self.overlay.keep_copy(ino)
        {
            self.backing.release(ino.0);
            return Err(e);
        }
        if id.is_some() {
            self.overlay.counters().passthrough_opens.add(1);
        }
        Ok(id)
    }

    fn empty(
        &self,
        operation: &'static str,
        ino: Ino,
        done: Result<(), OverlayError>,
        reply: ReplyEmpty,
    ) {
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.failed(operation, ino, &e)),
        }
    }
}

impl<L> Drop for Adapter<L> {
    fn drop(&mut self) {
        let suppressed = self.faults.untold();
        if suppressed > 0 {
            let _span = self.span.enter();
            tracing::error!("{suppressed} more failures like those above were not logged");
        }
    }
}

impl<L: Lower> Filesystem for Adapter<L> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wish = |config: &mut KernelConfig, flag| config.add_capabilities(flag).is_ok();
        wish(config, InitFlags::FUSE_PARALLEL_DIROPS);
        wish(config, InitFlags::FUSE_CACHE_SYMLINKS);
        wish(config, InitFlags::FUSE_ASYNC_DIO);
        // The kernel refuses passthrough and write-back caching together.
        let passthrough = self.passthrough.load(Ordering::Acquire)
            && wish(config, InitFlags::FUSE_PASSTHROUGH)
            // 2: the diff may itself be on a stacked file system.
            && config.set_max_stack_depth(2).is_ok();
        self.passthrough.store(passthrough, Ordering::Release);
        if !passthrough {
            self.backing.disable();
            self.writes_gather = wish(config, InitFlags::FUSE_WRITEBACK_CACHE);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        tracing::debug!(passthrough, "mounted");
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = Ino(parent.0);
        match self.overlay.lookup(parent, name) {
            Err(OverlayError::NotFound) if self.overlay.stays_absent(parent, name) => {
                reply.entry(&TTL, &no_entry(), GENERATION);
            }
            other => self.entry("lookup", parent, other, reply),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.overlay.attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(e) => reply.error(self.failed("getattr", Ino(ino.0), &e)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttrChange {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_change),
            mtime: mtime.map(time_change),
            ctime,
        };
        match self.overlay.set_attr(Ino(ino.0), &change) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(e) => reply.error(self.failed("setattr", Ino(ino.0), &e)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.overlay.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(e) => reply.error(self.failed("readlink", Ino(ino.0), &e)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        use nix::libc::{S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK};
        let parent = Ino(parent.0);
        let kind = match mode & S_IFMT {
            S_IFREG => InodeKind::File,
            S_IFIFO => InodeKind::Fifo,
            S_IFSOCK => InodeKind::Socket,
            _ => return reply.error(Errno::EPERM),
        };
        let made = self
            .overlay
            .make_node(parent, name, kind, mode, req.uid(), req.gid());
        self.entry("mknod", parent, made, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let parent = Ino(parent.0);
        let made = self
            .overlay
            .make_dir(parent, name, mode, req.uid(), req.gid());
        self.entry("mkdir", parent, made, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = Ino(parent.0);
        self.empty("unlink", parent, self.overlay.unlink(parent, name), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = Ino(parent.0);
        self.empty(
            "rmdir",
            parent,
            self.overlay.remove_dir(parent, name),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let parent = Ino(parent.0);
        let made = self
            .overlay
            .symlink(parent, name, target, req.uid(), req.gid());
        self.entry("symlink", parent, made, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let parent = Ino(parent.0);
        let mode = match flags {
            f if f.is_empty() => RenameMode::Replace,
            f if f == RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            f if f == RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let done = self
            .overlay
            .rename(parent, name, Ino(new_parent.0), new_name, mode);
        self.empty("rename", parent, done, reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let made = self.overlay.link(Ino(ino.0), Ino(new_parent.0), new_name);
        self.entry("link", Ino(ino.0), made, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let ino = Ino(ino.0);
        if let Err(e) = self.overlay.open(ino) {
            return reply.error(self.failed("open", ino, &e));
        }
        match self.pass_through(ino, flags.0, |fd| reply.open_backing(fd)) {
            Ok(Some(id)) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), &id),
            Ok(None) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(e) => {
                self.overlay.release(ino);
                reply.error(self.failed("open", ino, &e));
            }
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let parent = Ino(parent.0);
        let attr = match self
            .overlay
            .create(parent, name, mode, req.uid(), req.gid())
        {
            Ok(attr) => attr,
            Err(e) => return reply.error(self.failed("create", parent, &e)),
        };
        let (ino, file_attr, fh) = (attr.ino, file_attr(&attr), FileHandle(0));
        match self.pass_through(ino, flags, |fd| reply.open_backing(fd)) {
            Ok(Some(id)) => {
                let flags = FopenFlags::empty();
                reply.created_passthrough(&TTL, &file_attr, GENERATION, fh, flags, &id);
            }
            Ok(None) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&TTL, &file_attr, GENERATION, fh, flags);
            }
            Err(e) => {
                self.overlay.release(ino);
                reply.error(self.failed("create", parent, &e));
            }
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.is_spoiled() {
            return reply.error(Errno::EIO);
        }
        let size = size as usize;
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buf = buffer.get_mut(..size).unwrap_or_default();
            match self.overlay.read(Ino(ino.0), offset, buf) {
                Ok(n) => reply.data(buf.get(..n).unwrap_or_default()),
                Err(e) => reply.error(self.failed("read", Ino(ino.0), &e)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.is_spoiled() {
            return reply.error(Errno::EIO);
        }
        match self.overlay.write(Ino(ino.0), offset, data) {
            // Its length came from a u32 in the request.
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => {
                if self.writes_gather {
                    self.overlay.counters().lost_writes.add(1);
                }
                reply.error(self.failed("write", Ino(ino.0), &e));
            }
        }
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.backing.release(ino.0);
        self.overlay.release(Ino(ino.0));
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        if self.is_spoiled() {
            return reply.error(Errno::EIO);
        }
        let synced = self.overlay.sync_file(Ino(ino.0));
        self.empty("fsync", Ino(ino.0), synced, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.dirs.open()), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = || self.overlay.read_dir(Ino(ino.0));
        let listing = match self.dirs.listing(fh.0, offset, list) {
            Ok(listing) => listing,
            Err(e) => return reply.error(self.failed("readdir", Ino(ino.0), &e)),
        };
        for (index, entry) in (offset..).zip(listing.iter().skip(offset as usize)) {
            let kind = file_type(entry.kind);
            if reply.add(INodeNo(entry.ino.0), index + 1, kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.dirs.close(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.empty("fsyncdir", Ino(ino.0), self.overlay.sync_names(), reply);
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.overlay.statvfs() {
            Ok(Some(s)) => reply.statfs(
                s.blocks(),
                s.blocks_free(),
                s.blocks_available(),
                s.files(),
                s.files_free(),
                u32::try_from(s.block_size()).unwrap_or(u32::MAX),
                255,
                u32::try_from(s.fragment_size()).unwrap_or(u32::MAX),
            ),
            Ok(None) => reply.statfs(0, 0, 0, 0, 0, 8192, 255, 8192),
            Err(e) => reply.error(self.failed("statfs", Ino(ino.0), &e)),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = fallocate_mode(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let done = self.overlay.fallocate(Ino(ino.0), offset, length, mode);
        self.empty("fallocate", Ino(ino.0), done, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        if self.writes_gather {
            // What looks like a hole here may hold bytes that the kernel has yet to
            // write. After `ENOSYS` it does not ask again, and treats everything as
            // data.
            return reply.error(Errno::ENOSYS);
        }
        let kind = match whence {
            nix::libc::SEEK_DATA => SeekKind::Data,
            nix::libc::SEEK_HOLE => SeekKind::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let ino = Ino(ino.0);
        let found = if self.backing.serves(ino.0) {
            self.overlay.seek(ino, offset, kind)
        } else {
            // Only the kernel knows pages written through a mapping, as above.
            self.overlay.attr(ino).and_then(|attr| match kind {
                _ if offset >= attr.size => Err(OverlayError::NoSuchOffset),
                SeekKind::Data => Ok(offset),
                SeekKind::Hole => Ok(attr.size),
            })
        };
        match found.map(i64::try_from) {
            Ok(Ok(found)) => reply.offset(found),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(e) => reply.error(self.failed("lseek", ino, &e)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply is a u32; the caller asks again for the rest.
        let len = len.min(1 << 30);
        let from = (Ino(ino_in.0), offset_in);
        match self
            .overlay
            .copy_range(from, (Ino(ino_out.0), offset_out), len)
        {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(self.failed("copy_file_range", from.0, &e)),
        }
    }
}
