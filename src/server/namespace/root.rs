//! The root directory that the server sees: an in-memory file system into which
//! everything it needs is bind-mounted.
//!
//! Nothing else of the host is there, so nothing else can be changed, read or
//! connected to: a socket on a read-only mount would still accept connections.
//! Absolute paths from the WAL resolve to nothing.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::system::{Forbid, attach, detached, forbid, in_step};
use super::{Enclosure, Memory, Opened};
use crate::server::user::OsUser;
use crate::untrusted::{hold, identity};

/// Directories that every server can read if the host has them: programs, libraries,
/// their configuration, and Debian's dictionaries.
const SYSTEM: [&str; 9] = [
    "/bin",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/sbin",
    "/usr",
    "/var/cache/postgresql",
];

/// The devices that programs expect. None of them is hardware of this host.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// First mount point of the new root: nothing that is bound into the root comes from
/// there, and every Linux has it.
const STAGE: &str = "/proc";

/// Location of the host's root in the meantime.
const HOST: &str = "/.host";

const NONE: Option<&str> = None;

/// Returns whether every server can read `path`.
#[must_use]
pub fn shows(path: &Path) -> bool {
    SYSTEM.iter().any(|dir| path.starts_with(dir))
}

/// Limits of an in-memory directory of ours. Tablespace links are redirected into the
/// mount, so there is rarely much in it; whatever is in it uses the host's memory.
/// Empty files use some, too.
const SMALL: &str = "size=4m,nr_inodes=4096";

/// Limit of files in the directories where the server may create what it likes.
const FILES: u32 = 1 << 16;

/// Mount flags of our in-memory file systems. Nothing can run from them.
const CLOSED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// What is at a path of the new root.
enum Kind {
    /// An empty directory for the server.
    Cover,
    /// A detached mount of a file or directory of the host. Of those that can be
    /// written to, only the clone's data directory can run programs: a library may be
    /// in it.
    Host(OwnedFd, Forbid),
}

/// Sets up the server's root in this mount namespace. `user` owns the covered
/// directories; the server can look up the names of `users`.
///
/// # Errors
/// If the system refuses a step; the error names it.
pub fn enter(enclosure: &Enclosure, user: Option<&OsUser>, users: &[OsUser]) -> io::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).map_err(in_step("make the mounts private"))?;
    let items = items(enclosure)?;
    memory(Path::new(STAGE), &format!("mode=0755,{SMALL}"))
        .map_err(in_step("mount a root directory"))?;
    let host = Path::new(STAGE).join(HOST.trim_start_matches('/'));
    make_dir(&host, 0o755)?;
    pivot_root(STAGE, &host).map_err(in_step("change the root directory"))?;
    chdir("/")?;

    make_dir(Path::new("/proc"), 0o755)?;
    mount(Some("proc"), "/proc", Some("proc"), CLOSED, NONE).map_err(in_step("mount /proc"))?;
    let Memory { tmp, shm } = enclosure.memory;
    for (dir, size) in [("/tmp", tmp), ("/var/tmp", tmp), ("/dev/shm", shm)] {
        let dir = Path::new(dir);
        make_dir(dir, 0o755)?;
        memory(dir, &format!("mode=1777,size={size},nr_inodes={FILES}"))
            .map_err(in_step(dir.display()))?;
    }
    make_dir(Path::new("/run"), 0o755)?;
    symlink("../run", "/var/run")?;
    devices()?;
    for (path, kind) in items {
        match kind {
            Kind::Host(mount, forbidden) => lay(&mount, forbidden, &path)?,
            Kind::Cover => cover(&path, user)?,
        }
    }
    name_users(users)?;
    umount2(HOST, MntFlags::MNT_DETACH).map_err(in_step("leave the host's files"))?;
    fs::remove_dir(HOST)
}

/// Returns everything that is mounted into the root, each directory before its
/// contents. Their sources are resolved here, while they still can be. At the same
/// path, the later item wins: a clone may be where production was.
fn items(enclosure: &Enclosure) -> io::Result<Vec<(PathBuf, Kind)>> {
    let mut items = Vec::new();
    for path in &enclosure.cover {
        items.push((path.clone(), Kind::Cover));
    }
    let mut add = |path: &Path, file: &OwnedFd, forbidden| {
        let mount = detached(file).map_err(in_step(path.display()))?;
        items.push((path.to_owned(), Kind::Host(mount, forbidden)));
        Ok::<(), io::Error>(())
    };
    let system = SYSTEM.iter().map(Path::new).filter(|dir| dir.exists());
    for path in system.chain(enclosure.show.iter().map(PathBuf::as_path)) {
        let held = hold(path).map_err(in_step(path.display()))?;
        add(path, &held, Forbid::WRITING)?;
    }
    let read = enclosure.read.iter().map(|file| (file, Forbid::WRITING));
    let write = enclosure.write.iter().map(|dir| (dir, Forbid::PROGRAMS));
    let data = enclosure.data.iter().map(|dir| (dir, Forbid::RIGHTS));
    for (Opened { path, file }, forbidden) in read.chain(write).chain(data) {
        add(path, file, forbidden)?;
    }
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(items)
}

/// Attaches a detached mount at a path, with its restrictions.
fn lay(mount: &OwnedFd, forbidden: Forbid, path: &Path) -> io::Result<()> {
    make_place(path, identity(mount)?.is_directory)?;
    forbid(mount, forbidden)
        .and_then(|()| attach(mount, path))
        .map_err(in_step(path.display()))
}

/// Creates a directory or a file at a path, if there is none, as a mount point.
fn make_place(path: &Path, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return make_dir(path, 0o755);
    }
    if path.exists() {
        return Ok(());
    }
    make_dir(path.parent().unwrap_or(Path::new("/")), 0o755)?;
    File::create(path).map_err(in_step(path.display()))?;
    Ok(())
}

fn cover(path: &Path, user: Option<&OsUser>) -> io::Result<()> {
    match make_dir(path, 0o755) {
        Ok(()) => {}
        // The path is missing from a directory that is shown, or is behind a link.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let owner = user.map_or_else(String::new, |user| {
        format!(",uid={},gid={}", user.uid, user.gid)
    });
    memory(path, &format!("mode=0700,{SMALL}{owner}")).map_err(in_step(path.display()))
}

fn memory(path: &Path, options: &str) -> nix::Result<()> {
    mount(Some("pbkfs"), path, Some("tmpfs"), CLOSED, Some(options))
}

fn devices() -> io::Result<()> {
    for name in DEVICES {
        let (path, source) = (Path::new("/dev"), Path::new(HOST).join("dev"));
        let (path, source) = (path.join(name), source.join(name));
        // The host may have no terminal.
        if source.exists() {
            make_place(&path, false)?;
            mount(Some(&source), &path, NONE, MsFlags::MS_BIND, NONE)
                .map_err(in_step(path.display()))?;
        }
    }
    for (name, target) in [
        ("fd", ""),
        ("stdin", "/0"),
        ("stdout", "/1"),
        ("stderr", "/2"),
    ] {
        symlink(
            format!("/proc/self/fd{target}"),
            Path::new("/dev").join(name),
        )?;
    }
    Ok(())
}

/// Adds `users` to `/etc/passwd`: no directory service can be reached in here, and
/// the `peer` method needs the names of the users that connect.
fn name_users(users: &[OsUser]) -> io::Result<()> {
    const FILE: &str = "/etc/passwd";
    const OURS: &str = "/.passwd";
    let known = fs::read_to_string(FILE)?;
    let Some(text) = with_users(&known, users) else {
        return Ok(());
    };
    fs::write(OURS, text)?;
    mount(Some(OURS), FILE, NONE, MsFlags::MS_BIND, NONE).map_err(in_step(FILE))
}

/// Returns the text of `passwd` with the missing users added, or `None` if none is
/// missing.
fn with_users(known: &str, users: &[OsUser]) -> Option<String> {
    let is_known = |user: &&OsUser| {
        let mut names = known.lines().filter_map(|line| line.split(':').next());
        names.any(|name| name == user.name)
    };
    let mut text = known.trim_end().to_owned();
    for user in users.iter().filter(|user| !is_known(user)) {
        text.push_str(&format!(
            "\n{}:x:{}:{}::/:/bin/sh",
            user.name, user.uid, user.gid
        ));
    }
    text.push('\n');
    (text.len() > known.trim_end().len() + 1).then_some(text)
}

/// Creates a directory and its parents, but never through a link: a link in the
/// clone's own files can point anywhere, including to the host.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if path.ancestors().any(Path::is_symlink) {
        return Err(in_step(path.display())(Errno::ENOTDIR));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_directory_service_get_a_line() {
        let root = OsUser::find("root").unwrap();
        let ann = OsUser {
            name: "ann".to_owned(),
            ..root.clone()
        };
        let known = "root:x:0:0:root:/root:/bin/sh\nannabel:x:7:7::/:/bin/sh\n";
        assert_eq!(with_users(known, std::slice::from_ref(&root)), None);
        let text = with_users(known, &[root, ann]).unwrap();
        assert_eq!(text, format!("{known}ann:x:0:0::/:/bin/sh\n"));
    }
}
