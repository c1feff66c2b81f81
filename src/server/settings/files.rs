//! Our own configuration files, beside the data directory and never in it.
//!
//! `postgresql.conf` is the backup's, without what cannot work on this host.
//!
//! `pg_hba.conf` and `pg_ident.conf` always replace the backup's: production's may
//! permit old logins, or lock us out. Nothing uses `trust`; the socket uses `peer`,
//! with a map from the operating system users that matter here to the roles they may
//! become:
//!
//! - from PostgreSQL 16 on they may become any role (`all`);
//! - before 16 a map line takes one role by name, so the lines name the role that
//!   pbkfs connects as, `postgres`, and each user's own name. Any other role is one
//!   `SET ROLE` or `CREATE ROLE` away.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::server::conf::Conf;
use crate::server::error::ServerError;
use crate::server::user::OsUser;
use crate::untrusted::Dir;

/// The first major version whose `pg_ident.conf` supports `all`.
const IDENT_ALL: u32 = 16;

const HEADER: &str = "# Written by pbkfs for this clone; it is replaced at each start.\n";

/// The files that configure a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFiles {
    /// Our `postgresql.conf`, derived from the backup's.
    pub config_file: PathBuf,
    /// Our `pg_hba.conf`.
    pub hba_file: PathBuf,
    /// Our `pg_ident.conf`.
    pub ident_file: PathBuf,
}

/// The input for the files.
#[derive(Debug, Clone, Copy)]
pub struct FilesInput<'a> {
    /// The directory to write them to; it exists.
    pub run_dir: &'a Path,
    /// The configuration, without what the server cannot take.
    pub conf: &'a Conf,
    /// The server's major version.
    pub major: u32,
    /// The role that pbkfs connects as.
    pub role: &'a str,
    /// Whether the server listens on TCP at all.
    pub listens: bool,
    /// The user that the server runs as, if not this process's.
    pub run_as: Option<&'a OsUser>,
}

impl ConfigFiles {
    /// Returns the paths where the files of that input are, or would be.
    #[must_use]
    pub fn paths(input: &FilesInput<'_>) -> Self {
        Self {
            config_file: input.run_dir.join("postgresql.conf"),
            hba_file: input.run_dir.join("pg_hba.conf"),
            ident_file: input.run_dir.join("pg_ident.conf"),
        }
    }

    /// Writes the files, readable by the server's user only.
    ///
    /// # Errors
    /// If a file cannot be written or given to that user, or this process's user has
    /// no name.
    pub fn write(input: &FilesInput<'_>) -> Result<Self, ServerError> {
        let files = Self::paths(input);
        let dir = Dir::open_own(input.run_dir).map_err(|source| ServerError::Write {
            path: input.run_dir.to_owned(),
            source,
        })?;
        let conf = [HEADER.as_bytes(), &input.conf.main_file()].concat();
        write_file(&dir, &files.config_file, &conf, input.run_as)?;
        let hba = hba(input.listens);
        write_file(&dir, &files.hba_file, hba.as_bytes(), input.run_as)?;
        let mut users = vec![OsUser::current()?.name];
        users.extend(input.run_as.map(|user| user.name.clone()));
        let ident = ident(&users, input.role, input.major);
        write_file(&dir, &files.ident_file, ident.as_bytes(), input.run_as)?;
        Ok(files)
    }
}

/// Writes a file of `dir` for the user that the server runs as.
fn write_file(
    dir: &Dir,
    path: &Path,
    bytes: &[u8],
    run_as: Option<&OsUser>,
) -> Result<(), ServerError> {
    let owner = run_as.map(|user| (user.uid.as_raw(), user.gid.as_raw()));
    let name = path.file_name().unwrap_or_default();
    dir.replace_volatile(name, bytes, 0o600, owner)
        .map_err(|source| ServerError::Write {
            path: path.to_owned(),
            source,
        })
}

fn hba(listens: bool) -> String {
    // "all" does not include replication connections, which pg_basebackup uses.
    let mut text =
        format!("{HEADER}local all all peer map=pbkfs\nlocal replication all peer map=pbkfs\n");
    if listens {
        text.push_str("host all all 127.0.0.1/32 scram-sha-256\n");
        text.push_str("host all all ::1/128 scram-sha-256\n");
    }
    text
}

fn ident(users: &[String], role: &str, major: u32) -> String {
    let mut lines: Vec<String> = Vec::new();
    for user in users {
        let roles = [role, "postgres", user];
        let mut line = |role: &str| {
            let mut line = String::from("pbkfs ");
            // Writing to a String cannot fail.
            let _ = writeln!(line, "{} {role}", quote(user));
            if !lines.contains(&line) {
                lines.push(line);
            }
        };
        if major >= IDENT_ALL {
            line("all");
        } else {
            roles.into_iter().for_each(|role| line(&quote(role)));
        }
    }
    format!("{HEADER}{}", lines.concat())
}

/// Quotes a name, so that it is never a keyword, a group or the start of a comment.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_trusted_and_tcp_is_there_only_if_asked_for() {
        assert_eq!(
            hba(false)
                .lines()
                .filter(|line| !line.starts_with('#'))
                .count(),
            2
        );
        assert!(!hba(false).contains("host") && hba(true).contains("127.0.0.1/32 scram-sha-256"));
        assert!(!hba(true).contains("trust"));
    }

    #[test]
    fn the_map_names_roles_where_all_is_not_known() {
        let users = ["root".to_owned(), "postgres".to_owned()];
        let body = |major| ident(&users, "boss", major).replace(HEADER, "");
        assert_eq!(body(16), "pbkfs \"root\" all\npbkfs \"postgres\" all\n");
        assert_eq!(
            body(15),
            "pbkfs \"root\" \"boss\"\npbkfs \"root\" \"postgres\"\npbkfs \"root\" \"root\"\n\
             pbkfs \"postgres\" \"boss\"\npbkfs \"postgres\" \"postgres\"\n"
        );
    }

    #[test]
    fn files_are_private_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let input = FilesInput {
            run_dir: dir.path(),
            conf: &Conf::default(),
            major: 15,
            role: "postgres",
            listens: false,
            run_as: None,
        };
        let files = ConfigFiles::write(&input).unwrap();
        for path in [files.config_file, files.hba_file, files.ident_file] {
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
