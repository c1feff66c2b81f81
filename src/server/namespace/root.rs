//! The root directory that the server sees: a file system in memory, into
//! which what it needs is bound.
//!
//! Nothing else of the host is there, so nothing else can be changed, read or
//! connected to: a socket's file on a read-only mount would still take
//! connections, and absolute paths out of the WAL lead nowhere.

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

/// What every server gets to read, where the host has it: programs,
/// libraries, their configuration, and Debian's dictionaries.
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

/// The devices that programs expect. None of them is of this host.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Where the new root is mounted at first: nothing that is bound into it comes
/// from there, and it is on every Linux.
const STAGE: &str = "/proc";

/// Where the host's root is in the meantime.
const HOST: &str = "/.host";

const NONE: Option<&str> = None;

/// Whether a server reads `path` anyway.
#[must_use]
pub fn shows(path: &Path) -> bool {
    SYSTEM.iter().any(|dir| path.starts_with(dir))
}

/// What is in a directory of ours. The link of a tablespace is led into the
/// mount, so little ever is; where more can be, it is the host's memory. Files
/// without bytes take some, too.
const SMALL: &str = "size=4m,nr_inodes=4096";

/// How many files there can be where the server may put what it likes.
const FILES: u32 = 1 << 16;

/// What no file system of ours in memory is good for. Nothing runs from there.
const CLOSED: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// What lies at a path of the new root.
enum Kind {
    /// An empty directory of the server's.
    Cover,
    /// A detached mount of something of the host's. Of what can be written,
    /// programs may run from the clone's files only: a library may be among them.
    Host(OwnedFd, Forbid),
}

/// Makes the root of this mount namespace the server's. `user` owns what is
/// covered; the server can look up the names of `users`.
///
/// # Errors
/// What the system refused, with the step.
pub fn enter(enclosure: &Enclosure, user: Option<&OsUser>, users: &[OsUser]) -> io::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).map_err(in_step("make the mounts private"))?;
    let items = items(enclosure)?;
    let options = format!("mode=0755,{SMALL}");
    mount(
        Some("pbkfs"),
        STAGE,
        Some("tmpfs"),
        CLOSED,
        Some(options.as_str()),
    )
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
        memory(dir, &format!("mode=1777,size={size},nr_inodes={FILES}"))?;
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

/// Everything that is laid into the root, a directory before what is in it,
/// with what it leads to resolved while it can be. At the same path, the later
/// wins: a clone may stand where production stood.
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

/// Lays a detached mount at a path.
fn lay(mount: &OwnedFd, forbidden: Forbid, path: &Path) -> io::Result<()> {
    make_place(path, identity(mount)?.is_directory)?;
    forbid(mount, forbidden)
        .and_then(|()| attach(mount, path))
        .map_err(in_step(path.display()))
}

/// Has a directory or a file at a path, on which one can be laid.
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
        // In a directory that is shown, and not there; or behind a link.
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
    memory(path, &format!("mode=0700,{SMALL}{owner}"))
}

fn memory(path: &Path, options: &str) -> io::Result<()> {
    mount(Some("pbkfs"), path, Some("tmpfs"), CLOSED, Some(options))
        .map_err(in_step(path.display()))
}

fn devices() -> io::Result<()> {
    for name in DEVICES {
        let (path, source) = (Path::new("/dev"), Path::new(HOST).join("dev"));
        let (path, source) = (path.join(name), source.join(name));
        // There need not be a terminal.
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

/// Whoever asks a directory service for users reaches none in here, and the
/// `peer` method needs the names of those who connect.
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

/// The text of `passwd` with those users that are not in it, if any are.
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

/// Makes a directory and those above it, but none by way of a link: one in the
/// clone's own files can lead anywhere, to the host as well.
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
