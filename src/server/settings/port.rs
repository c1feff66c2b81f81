//! Choosing a port, which also names the server's socket.

use std::io;
use std::net::{Ipv4Addr, TcpListener, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::server::error::ServerError;

/// The first port that is tried if none is wanted: the one after PostgreSQL's
/// default, which production may use on the same machine.
const FIRST: u16 = 5433;

/// Maximum size of a socket's path, in bytes: `sun_path` has 108, including the final
/// NUL.
const PATH_LIMIT: usize = 107;

/// Returns the socket's path for a port.
#[must_use]
pub fn socket_path(socket_dir: &Path, port: u16) -> PathBuf {
    socket_dir.join(format!(".s.PGSQL.{port}"))
}

/// Returns the `wanted` port or, without one, the first free port from 5433 on that
/// is not in `avoid` (each socket directory has its own ports, but people tell clones
/// apart by them). A wanted port is checked on TCP only for the `listen_addresses` of
/// the server.
///
/// # Errors
/// If the wanted port is in use, none is free, or the socket's path is too long.
pub fn choose(
    wanted: Option<u16>,
    socket_dir: &Path,
    listen_addresses: &str,
    avoid: &[u16],
) -> Result<u16, ServerError> {
    let port = match wanted {
        Some(port) => match taken(port, socket_dir, listen_addresses) {
            Some(by) => return Err(ServerError::PortTaken { port, by }),
            None => port,
        },
        None => (FIRST..=u16::MAX)
            .find(|port| {
                let is_free_tcp = !avoid.contains(port)
                    && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
                is_free_tcp && taken(*port, socket_dir, listen_addresses).is_none()
            })
            .ok_or(ServerError::NoFreePort { first: FIRST })?,
    };
    let path = socket_path(socket_dir, port);
    let length = path.as_os_str().as_bytes().len();
    if length > PATH_LIMIT {
        return Err(ServerError::SocketPathTooLong {
            path,
            length,
            limit: PATH_LIMIT,
        });
    }
    Ok(port)
}

/// Returns what already listens there.
fn taken(port: u16, socket_dir: &Path, listen_addresses: &str) -> Option<String> {
    let socket = socket_path(socket_dir, port);
    // A socket that a killed server left behind refuses the connection; PostgreSQL
    // removes it.
    match UnixStream::connect(&socket) {
        Ok(_) => return Some(format!("a server listens on {}", socket.display())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(format!("another user's server uses {}", socket.display()));
        }
        Err(_) => {}
    }
    listen_addresses
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .find_map(|host| {
            let host = if host == "*" { "0.0.0.0" } else { host };
            // PostgreSQL itself reports a name that cannot be resolved.
            let addresses = (host, port).to_socket_addrs().ok()?;
            addresses.into_iter().find_map(|address| {
                let error = TcpListener::bind(address).err()?;
                (error.kind() == io::ErrorKind::AddrInUse)
                    .then(|| format!("another program listens on {address}"))
            })
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_taken_tcp_port_matters_only_if_the_server_listens() {
        let dir = tempfile::tempdir().unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        assert_eq!(choose(Some(port), dir.path(), "", &[]).unwrap(), port);
        for listen in ["127.0.0.1", "*", " localhost , 127.0.0.1"] {
            let error = choose(Some(port), dir.path(), listen, &[]).unwrap_err();
            assert!(
                matches!(error, ServerError::PortTaken { .. }),
                "{listen}: {error}"
            );
        }
    }

    #[test]
    fn a_live_socket_is_taken_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path(), FIRST);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(choose(Some(FIRST), dir.path(), "", &[]).is_err());
        assert!(choose(None, dir.path(), "", &[]).unwrap() > FIRST);
        drop(listener);
        assert!(path.exists());
        assert_eq!(choose(Some(FIRST), dir.path(), "", &[]).unwrap(), FIRST);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let long = PathBuf::from(format!("/{}", "d".repeat(100)));
        let error = choose(Some(5433), &long, "", &[]).unwrap_err().to_string();
        assert!(
            error.contains("107") && error.contains("postgres.socket_dir"),
            "{error}"
        );
    }
}
