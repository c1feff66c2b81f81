//! The operating system user that PostgreSQL runs as.

use std::ffi::CString;

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
        let user = known(name, User::from_name(name))?;
        let failed = look_up_error(name);
        let c_name = CString::new(name).map_err(|_| failed(nix::Error::EINVAL))?;
        let groups = getgrouplist(&c_name, user.gid).map_err(failed)?;
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
        let user = known(&uid.to_string(), User::from_uid(uid))?;
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

/// Returns the user that was looked up by this name or number, if there is one.
fn known(name: &str, found: nix::Result<Option<User>>) -> Result<User, ServerError> {
    let user = found.map_err(look_up_error(name))?;
    let name = name.to_owned();
    user.ok_or(ServerError::NoUser { name })
}

fn look_up_error(name: &str) -> impl Fn(nix::Error) -> ServerError {
    move |errno| ServerError::LookUp {
        name: name.to_owned(),
        source: errno.into(),
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
