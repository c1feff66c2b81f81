//! The session's owner as a server of WAL: it opens files of the WAL archive for its
//! server's restore_command, `pbkfs wal-get --session SOCKET`. So the user that
//! PostgreSQL runs as needs no access to the catalog, which often only root and the
//! backup user can read.
//!
//! The socket is `wal.sock` in the session's directory; root and the server's
//! user may ask. One line of JSON each way, then the connection ends:
//!
//! ```text
//! > "describe"        the archive's directory, segment size and cluster
//! > "names"           the names of its files
//! > {"open": NAME}    the file itself, as a descriptor for reading only
//! < {"ok": ...}   or   {"error": {"errno": N or null, "refused": what is not
//!                      opened, or null, "reason": "..."}}
//! ```
//! The client reads, decompresses and checks the files itself. The owner only has to
//! open files, and it never passes on any but an archive's.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::catalog::store::{Sequential, StoreFile};
use crate::catalog::wal::{ArchiveFiles, Description, WalArchive};
use crate::server::OsUser;
use crate::server::namespace::read_only_view;
use crate::session::SessionError;
use crate::session::context::Context;
use crate::session::place::socket::{
    self, Answer, MAX_REQUEST, Service, check_peer, encode, left, read_line, timed_out,
};
use crate::session::source;
use crate::session::steps::needs::ServerNeeds;
use crate::untrusted::{Dir, Refused, path_of, refused};

/// The time that a client has for its request, and for receiving the answer.
/// Recovery ends if a client gets no answer, so this is generous, whatever
/// else the host is doing.
const CLIENT_TIME: Duration = Duration::from_secs(20);

/// How long a client waits for the owner, which may have to wait for a disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum size in bytes of an answer that a client accepts: the names of 30 million files.
const MAX_ANSWER: usize = 1 << 30;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    Describe,
    Names,
    Open(String),
}

/// An [`io::Error`] in transit.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    errno: Option<i32>,
    /// Why a file that is there is not opened.
    refused: Option<Refused>,
    reason: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            errno: errno(&error),
            refused: refused(&error),
            reason: error.to_string(),
        }
    }
}

/// Returns the system's number for an error; also for that of a store without the
/// system's files, if it says that there is no file.
fn errno(error: &io::Error) -> Option<i32> {
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    (error.raw_os_error()).or(is_missing.then_some(nix::libc::ENOENT))
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match (failure.errno, failure.refused) {
            (Some(errno), _) => Self::from_raw_os_error(errno),
            (None, Some(refused)) => refused.into(),
            (None, None) => Self::other(failure.reason),
        }
    }
}

/// Serves the archive's files to a server that cannot open them itself.
///
/// # Errors
/// If the socket or the view of the archive cannot be created.
pub fn serve_session(context: &mut Context<'_>, needs: &ServerNeeds) -> Result<(), SessionError> {
    let (recovery, catalog) = (needs.recovery.as_ref(), &context.plan.catalog);
    let archive = recovery
        .filter(|_| source::serves_archive(catalog))
        .and_then(Recovery::served_archive);
    let Some(archive) = archive else {
        return Ok(());
    };
    // A server in namespaces could write through a descriptor that it gets for reading,
    // if its user may write to the file.
    let dir = archive.dir();
    let is_here = needs.level.is_namespace() && catalog.directory().is_some();
    let view = is_here.then(|| read_only_view(dir));
    let view = view.transpose();
    let view = view.map_err(|e| SessionError::io("create a read-only view of", dir, e))?;
    let (socket, run_as) = (context.progress.place().wal_socket(), needs.run_as.as_ref());
    let service = serve(&socket, archive.clone(), view, run_as)?;
    context.undo.push("the WAL archive's socket", move || {
        service.stop();
        Ok(())
    });
    Ok(())
}

/// Serves `archive` on a socket to root and to the server's user, which is this
/// process's if `user` is `None`. If there is a `view` of its directory, the
/// files are opened in that.
///
/// # Errors
/// If the socket cannot be created.
pub fn serve(
    path: &Path,
    archive: WalArchive,
    view: Option<OwnedFd>,
    user: Option<&OsUser>,
) -> Result<Service, SessionError> {
    let asker = user.map_or(geteuid(), |user| user.uid);
    let attend = move |client: &UnixStream| {
        check_peer(client, &[asker])?;
        match &view {
            Some(view) => attend(client, &archive, Some(&path_of(view))),
            None => attend(client, &archive, None),
        }
    };
    let service = Service::start(path, "archive", attend)
        .map_err(|e| SessionError::io("serve the WAL archive on", path, e))?;
    if let Some(user) = user {
        give_socket(path, user).map_err(|e| SessionError::io("give the server", path, e))?;
    }
    Ok(service)
}

/// Gives the socket to the server's user. It is in the session's directory, which
/// is this user's alone.
fn give_socket(path: &Path, user: &OsUser) -> io::Result<()> {
    let (dir, name) = Dir::of_file(path)?;
    dir.give_name(name, user.uid.as_raw(), user.gid.as_raw())
}

fn attend(client: &UnixStream, archive: &WalArchive, view: Option<&Path>) -> io::Result<()> {
    let text = read_line(client, MAX_REQUEST, Instant::now() + CLIENT_TIME)?;
    let mut opened = None;
    let answer = match serde_json::from_slice(&text) {
        Ok(Request::Describe) => encode::<_, Failure>(Ok(archive.describe())),
        Ok(Request::Names) => encode(archive.listed().map_err(Failure::from)),
        Ok(Request::Open(name)) => encode(
            archive
                .open_for_another(view, &name)
                .map(|file| opened = Some(file))
                .map_err(Failure::from),
        ),
        Err(error) => encode::<(), _>(Err(Failure::from(io::Error::from(error)))),
    };
    let deadline = Instant::now() + CLIENT_TIME;
    match opened {
        None => socket::write_all(client, &answer, deadline),
        Some(file) => match file.descriptor() {
            Some(file) => send_with(client, &answer, file, deadline),
            None => match spooled(file) {
                // It took a while to fetch it.
                Ok(copy) => send_with(client, &answer, copy.as_fd(), Instant::now() + CLIENT_TIME),
                Err(error) => {
                    let answer = encode::<(), _>(Err(Failure::from(error)));
                    socket::write_all(client, &answer, deadline)
                }
            },
        },
    }
}

/// Copies a file that is not on this host into memory, and returns a descriptor with which
/// it can only be read.
fn spooled(file: Box<dyn StoreFile>) -> io::Result<OwnedFd> {
    file.expect_sequential();
    let copy = File::from(memfd_create(
        "wal",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    io::copy(&mut Sequential::new(file), &mut &copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

/// Sends a short answer and a file in one message.
fn send_with(
    client: &UnixStream,
    answer: &[u8],
    file: BorrowedFd<'_>,
    deadline: Instant,
) -> io::Result<()> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    client.set_write_timeout(Some(left(deadline)?))?;
    let sent = sendmsg(
        client,
        &[IoSlice::new(answer)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map_err(|errno| timed_out(errno.into()))?;
    // The file was sent along with the first byte.
    socket::write_all(client, answer.get(sent..).unwrap_or_default(), deadline)
}

/// Opens the archive of a session, through its owner's socket.
///
/// # Errors
/// If the owner does not answer.
pub fn archive_of_session(socket: &Path) -> Result<WalArchive, SessionError> {
    let owner = Owner {
        socket: socket.to_owned(),
    };
    let (described, _) = owner
        .ask::<Description>(&Request::Describe)
        .map_err(|e| SessionError::io("query the session at", socket, e))?;
    Ok(WalArchive::served(described, Arc::new(owner))?)
}

/// The owner, as seen by a client.
#[derive(Debug)]
struct Owner {
    socket: PathBuf,
}

impl Owner {
    fn ask<T: DeserializeOwned>(&self, request: &Request) -> io::Result<(T, Option<OwnedFd>)> {
        let deadline = Instant::now() + PATIENCE;
        let owner = UnixStream::connect(&self.socket)?;
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        socket::write_all(&owner, &text, deadline)?;
        let (text, file) = receive(&owner, deadline)?;
        match serde_json::from_slice(&text)? {
            Answer::<T, Failure>::Ok(value) => Ok((value, file)),
            Answer::Error(failure) => Err(failure.into()),
        }
    }
}

impl ArchiveFiles for Owner {
    fn names(&self) -> io::Result<Vec<String>> {
        self.ask(&Request::Names).map(|(names, _)| names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StoreFile>> {
        let ((), file) = self.ask(&Request::Open(name.to_owned()))?;
        let file = file.map(File::from);
        let file = file.ok_or_else(|| io::Error::other("the session's owner sent no file"))?;
        Ok(Box::new(file))
    }
}

/// Reads to the end of the stream, and receives the file that comes with it.
fn receive(owner: &UnixStream, deadline: Instant) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut text, mut file) = (Vec::new(), None);
    let mut part = vec![0; 16 << 10];
    loop {
        owner.set_read_timeout(Some(left(deadline)?))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let count = match recvmsg(
            owner,
            &mut [IoSliceMut::new(&mut part)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(timed_out(errno.into())),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last().or(file);
            }
        }
        if count == 0 {
            return Ok((text, file));
        }
        text.extend_from_slice(part.get(..count).unwrap_or_default());
        if text.len() > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::catalog::fixtures;
    use crate::catalog::wal::{Fetched, WalError};

    const SEGMENT: &str = "00000001000000000000004D";
    const AFTER_LAST: &str = "000000010000000000000062";

    struct Sample {
        dir: TempDir,
        direct: WalArchive,
        service: Option<Service>,
        served: WalArchive,
    }

    impl Sample {
        fn new() -> Self {
            let dir = fixtures::unpack_wal("pg15-chain");
            let direct = WalArchive::open(&fixtures::main_instance(&dir)).unwrap();
            let socket = dir.path().join("wal.sock");
            let service = serve(&socket, direct.clone(), None, None).unwrap();
            let served = archive_of_session(&socket).unwrap();
            Self {
                dir,
                direct,
                service: Some(service),
                served,
            }
        }

        fn fetch(&self, archive: &WalArchive, name: &str) -> Result<Fetched, WalError> {
            let destination = self.dir.path().join("RECOVERYXLOG");
            let _ = fs::remove_file(&destination);
            archive.fetch(name, &destination)
        }

        fn content(&self, archive: &WalArchive, name: &str) -> Vec<u8> {
            assert_eq!(self.fetch(archive, name).unwrap(), Fetched::Delivered);
            fs::read(self.dir.path().join("RECOVERYXLOG")).unwrap()
        }

        fn stop(&mut self) {
            self.service.take().unwrap().stop();
        }

        fn put(&self, name: &str) -> PathBuf {
            self.direct.dir().join(name)
        }
    }

    #[test]
    fn what_is_served_is_what_is_there() {
        let mut sample = Sample::new();
        assert_eq!(sample.served.describe(), sample.direct.describe());
        let sorted = |archive: &WalArchive| {
            let mut names = archive.names().unwrap();
            names.sort();
            names
        };
        assert_eq!(sorted(&sample.served), sorted(&sample.direct));
        let served = sample.content(&sample.served, SEGMENT);
        assert_eq!(served, sample.content(&sample.direct, SEGMENT));
        // What does not exist is distinguished from what cannot be read,
        // as without the socket.
        let missing = sample.fetch(&sample.served, AFTER_LAST);
        assert_eq!(missing.unwrap(), Fetched::Missing);
        fs::remove_file(sample.put(&format!("{SEGMENT}.gz"))).unwrap();
        let gap = sample.fetch(&sample.served, SEGMENT).unwrap_err();
        assert!(matches!(gap, WalError::Gap { .. }), "{gap}");
        fs::rename(sample.direct.dir(), sample.dir.path().join("gone")).unwrap();
        let gone = sample.fetch(&sample.served, AFTER_LAST).unwrap_err();
        assert!(matches!(gone, WalError::List { .. }), "{gone}");

        sample.stop();
        let ended = sample.fetch(&sample.served, SEGMENT).unwrap_err();
        assert!(matches!(ended, WalError::Read { .. }), "{ended}");
    }

    #[test]
    fn nothing_but_the_archives_own_files_is_opened() {
        let mut sample = Sample::new();
        let secret = sample.dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, sample.put(AFTER_LAST)).unwrap();
        symlink(&secret, sample.put("00000002.history")).unwrap();
        fs::create_dir(sample.put("00000003.history")).unwrap();
        nix::unistd::mkfifo(
            &sample.put("00000004.history"),
            nix::sys::stat::Mode::S_IRUSR,
        )
        .unwrap();
        fs::write(sample.put("pg_probackup.conf"), "x").unwrap();
        let owner = Owner {
            socket: sample.dir.path().join("wal.sock"),
        };
        for name in [
            AFTER_LAST,
            "00000002.history",
            "00000003.history",
            "00000004.history",
            "pg_probackup.conf",
            "../secret",
            "../../secret",
            "/etc/passwd",
            "",
            "..",
        ] {
            let error = owner.open(name).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{name}: {error}");
            if name.ends_with(".history") {
                assert!(refused(&error).is_some(), "{name}: {error}");
            }
        }
        // The file that was passed can be read but not written.
        let file = owner.open(&format!("{SEGMENT}.gz")).unwrap();
        let descriptor = file.descriptor().unwrap().try_clone_to_owned().unwrap();
        let mut file = File::from(descriptor);
        assert!(file.write_all(b"x").is_err());
        assert!(file.read_to_end(&mut Vec::new()).unwrap() > 0);
        let mut client = UnixStream::connect(&owner.socket).unwrap();
        client.write_all(b"\"fire\"\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("{\"error\":"), "{answer}");
        sample.stop();
    }
}
