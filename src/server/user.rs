//! The operating system user that PostgreSQL runs as.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use crate::server::error::ServerError;
use crate::untrusted::Rights;

/// A user, with everything needed to become that user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// The login name, which PostgreSQL's `peer` method uses.
    pub name: String,
    /// The user id.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// All groups, the primary one among them.
    pub groups: Vec<Gid>,
}

impl OsUser {
    /// Looks a user up by name.
    ///
    /// # Errors
    /// If there is no such user, or the user database cannot be read.
    pub fn find(name: &str) -> Result<Self, ServerError> {
        let look_up = |errno: nix::Error| ServerError::LookUp {
            name: name.to_owned(),
            source: io::Error::from(errno),
        };
        let user = User::from_name(name)
            .map_err(look_up)?
            .ok_or_else(|| ServerError::NoUser {
                name: name.to_owned(),
            })?;
        let c_name = CString::new(name).map_err(|_| look_up(nix::Error::EINVAL))?;
        let groups = getgrouplist(&c_name, user.gid).map_err(look_up)?;
        Ok(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            groups,
        })
    }

    /// Returns the ids by which this user's access to files is decided.
    #[must_use]
    pub fn rights(&self) -> Rights {
        Rights {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            groups: self.groups.iter().map(|group| group.as_raw()).collect(),
        }
    }

    /// Returns the user of this process.
    ///
    /// # Errors
    /// If the process's user id has no name, or the user database cannot be read.
    pub fn current() -> Result<Self, ServerError> {
        let uid = geteuid();
        let user = User::from_uid(uid)
            .map_err(|errno| ServerError::LookUp {
                name: uid.to_string(),
                source: io::Error::from(errno),
            })?
            .ok_or_else(|| ServerError::NoUser {
                name: uid.to_string(),
            })?;
        Self::find(&user.name)
    }

    /// Returns the user to run PostgreSQL as: `name` if this process is root, else
    /// none, because only root can become another user.
    ///
    /// # Errors
    /// As for [`OsUser::find`]; also if `name` is root.
    pub fn for_server(name: &str) -> Result<Option<Self>, ServerError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let user = Self::find(name)?;
        if user.uid.is_root() {
            return Err(ServerError::RootUser {
                name: name.to_owned(),
            });
        }
        Ok(Some(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let root = OsUser::find("root").unwrap();
        assert!(root.uid.is_root() && root.groups.contains(&root.gid));
        assert!(matches!(
            OsUser::find("no such user"),
            Err(ServerError::NoUser { .. })
        ));
        assert_eq!(OsUser::current().unwrap().uid, geteuid());
    }
}
