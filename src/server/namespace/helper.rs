//! The process that creates the namespaces and stays beside the server. It is
//! single-threaded.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork, getegid, geteuid, getppid};

use super::calls::Filters;
use super::opened::{Inherited, replaced};
use super::system::{self, in_step};
use super::{Enclosure, HelperAnswer, Opened, Spec, root};
use crate::server::limits::counted_in_namespaces;
use crate::server::spawn::{become_child, follow};
use crate::server::user::OsUser;

/// How long a server may take to shut down after its owner has exited, in seconds. An
/// immediate shutdown gives the server's own children five.
const SERVER_GRACE: u32 = 10;

/// The message of the process inside once the root is set up.
const MADE: &[u8] = b"made";

/// Runs the hidden subcommand: reads a [`Spec`] from standard input, sets everything
/// up, starts the server, and stays until it exits. Returns the exit code; if a
/// signal killed the server, this process ends by the same signal.
///
/// # Errors
/// If standard input or output cannot be used, or a system call fails.
pub fn run() -> io::Result<i32> {
    let owner = getppid();
    let watched = watched();
    watched.thread_block()?;
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let spec: Spec = serde_json::from_slice(&text)?;
    let (command, processes) = (spec.command.clone(), spec.enclosure.processes);
    let (filters, (init, user)) = match set_up(spec, owner) {
        Ok(inside) => inside,
        Err(error) => {
            say(&match replaced(&error) {
                Some(path) => HelperAnswer::Replaced(path.to_owned()),
                None => HelperAnswer::Refused(error.to_string()),
            })?;
            return Ok(0);
        }
    };
    let Some((program, arguments)) = command else {
        say(&HelperAnswer::Possible)?;
        end(init);
        return Ok(0);
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    // The log. The pipe on standard output is for the one answer.
    command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    become_child(&mut command, user);
    confine(&mut command, filters, processes);
    let mut server = match command.spawn() {
        Ok(server) => server,
        Err(error) => {
            end(init);
            say(&HelperAnswer::Failed(error.to_string()))?;
            return Ok(0);
        }
    };
    // If the owner was killed before it could be told, the server runs already, and gets
    // the time to shut down that it would get later.
    let told = say(&HelperAnswer::Started(server.id()));
    let status = supervise(&mut server, &watched, owner, init);
    end(init);
    told?;
    follow(status?)
}

/// Closes what is not needed, and sets up everything but the server: the filters, and
/// what [`enclose`] returns.
fn set_up(spec: Spec, owner: Pid) -> io::Result<(Filters, (Pid, Option<OsUser>))> {
    let opened = spec.read.iter().chain(&spec.write).chain(&spec.data);
    let opened = opened.map(Inherited::number);
    // `hold` stays open until this process and process 1 inside exit.
    system::close_inherited(opened.chain(spec.hold)).map_err(in_step("close_range"))?;
    let filters = Filters::new().map_err(in_step("filter system calls"))?;
    Ok((filters, enclose(spec, owner)?))
}

/// Adds the last steps that a child takes before it becomes the server.
fn confine(command: &mut Command, filters: Filters, processes: Option<u32>) {
    let processes = processes.filter(|_| counted_in_namespaces());
    let last = move || -> io::Result<()> {
        if let Some(processes) = processes.map(u64::from) {
            setrlimit(Resource::RLIMIT_NPROC, processes, processes)?;
        }
        prctl::set_no_new_privs()?;
        filters.install()
    };
    // SAFETY: the closure makes system calls, and neither allocates nor locks.
    unsafe {
        command.pre_exec(last);
    }
}

/// Returns the signals to wait for: those that stop a server or make it reload its
/// configuration, SIGCHLD when it exits, and SIGALRM when patience has run out.
fn watched() -> SigSet {
    SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGALRM,
        Signal::SIGCHLD,
    ])
}

fn say(answer: &HelperAnswer) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, answer)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Creates the namespaces and, in them, process 1, which sets up the root. Returns
/// its pid, and the user to run the server as.
fn enclose(spec: Spec, owner: Pid) -> io::Result<(Pid, Option<OsUser>)> {
    // The users may no longer be found in there.
    let user = spec.user.as_deref().map(OsUser::find).transpose();
    let user = user.map_err(io::Error::other)?;
    let mut users = vec![OsUser::current().map_err(io::Error::other)?];
    users.extend(user.clone());
    umask(Mode::from_bits_truncate(0o022));
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWNET, spec.enclosure.private_network);
    match geteuid().is_root() {
        true => unshare(flags).map_err(in_step("unshare"))?,
        false => unshare_as_user(flags)?,
    }
    // What is opened here is closed in this process and in the one inside before any
    // program of the clone runs.
    let mut enclosure = spec.enclosure;
    enclosure.read = reopened(spec.read)?;
    enclosure.write = reopened(spec.write)?;
    enclosure.data = spec.data.map(Inherited::reopen).transpose()?;
    // A change of credentials may have cleared it.
    prctl::set_pdeathsig(Signal::SIGQUIT)?;
    if getppid() != owner {
        return Err(nix::Error::ESRCH.into());
    }
    let (mut ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process is single-threaded, so the child may call anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            be_init(enclosure, user.as_ref(), &users, theirs)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut said = Vec::new();
            ours.read_to_end(&mut said)?;
            if said == MADE {
                return Ok((child, user));
            }
            end(child);
            let reason = String::from_utf8_lossy(&said).into_owned();
            Err(io::Error::other(reason))
        }
    }
}

fn reopened(inherited: Vec<Inherited>) -> io::Result<Vec<Opened>> {
    inherited.into_iter().map(Inherited::reopen).collect()
}

/// Does the same for an unprivileged user, who may do so in a user namespace, and
/// stays the same user there.
fn unshare_as_user(flags: CloneFlags) -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(flags | CloneFlags::CLONE_NEWUSER).map_err(|errno| {
        let step = match errno {
            Errno::ENOSPC => "unshare, as an unprivileged user (see user.max_user_namespaces)",
            _ => "unshare, as an unprivileged user",
        };
        in_step(step)(errno)
    })?;
    let map = || -> io::Result<()> {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    };
    map().map_err(in_step("map the user"))
}

/// Runs as process 1 inside: sets up the root, reports it, and reaps whatever exits
/// in here. When it exits, so does everything else inside.
fn be_init(
    enclosure: Enclosure,
    user: Option<&OsUser>,
    users: &[OsUser],
    mut outside: UnixStream,
) -> ! {
    let made = || -> io::Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        root::enter(&enclosure, user, users)?;
        if enclosure.private_network {
            system::raise_loopback().map_err(in_step("raise the loopback device"))?;
        }
        // It has privileges in here that the server lacks.
        Ok(prctl::set_dumpable(false)?)
    };
    let made = made();
    drop(enclosure);
    let said = match made {
        Ok(()) => outside.write_all(MADE),
        Err(error) => outside.write_all(error.to_string().as_bytes()),
    };
    if said.is_err() {
        std::process::exit(1);
    }
    drop(outside);
    let ended = SigSet::from(Signal::SIGCHLD);
    loop {
        let _ = ended.wait();
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

/// Waits until the server exits, and forwards the signals meant for it. When the
/// owner exits, the kernel sends one too.
fn supervise(
    server: &mut Child,
    watched: &SigSet,
    owner: Pid,
    init: Pid,
) -> io::Result<ExitStatus> {
    let number = i32::try_from(server.id()).map_err(io::Error::other)?;
    loop {
        match watched.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = server.try_wait()? {
                    return Ok(status);
                }
            }
            Signal::SIGALRM => kill(init, Signal::SIGKILL)?,
            // Not reaped yet, so its pid is still its own.
            signal => kill(Pid::from_raw(number), signal)?,
        }
        if getppid() != owner {
            alarm::set(SERVER_GRACE);
        }
    }
}

/// Kills everything inside.
fn end(init: Pid) {
    // Its pid stays valid until it is reaped.
    let _ = kill(init, Signal::SIGKILL);
    let _ = waitpid(init, None);
}
