//! The settings that keep a clone from reaching production.
//!
//! A backup's own configuration points at production: its archive, its primary, its
//! log directory, even its data directory. `-c` options override all of that. They
//! take precedence over both configuration files, and survive `ALTER SYSTEM` and a
//! reload. What no setting stops (foreign data wrappers, `COPY TO PROGRAM`) is left
//! to [`namespace`](super::namespace). Event triggers stay on.

pub mod files;
mod input;
pub mod list;
pub mod port;
pub mod preload;
mod recovery;
mod table;

use std::path::Path;

use self::list::quote;
use self::table::{ARCHIVE_COMMANDS, CLONE, FENCE, Fixed, PASSTHROUGH, RESERVED, THROW_AWAY};
use super::error::ServerError;
pub use input::{DecidedBy, Setting, SettingsInput};

/// Returns the names of the settings that the server of a clone is given in any case,
/// whatever the backup's own configuration says.
pub fn forced(major: u32) -> impl Iterator<Item = &'static str> {
    let fixed = known(FENCE, major).chain(known(CLONE, major));
    fixed.map(|setting| setting.name).chain([
        "restore_command",
        "port",
        "unix_socket_directories",
        "hba_file",
        "ident_file",
        "shared_preload_libraries",
    ])
}

/// Returns every setting that the server is started with. The wanted recovery target
/// comes after the empty ones: PostgreSQL takes options in order and refuses a second
/// target beside the first.
///
/// # Errors
/// If the profile sets what only pbkfs may set, or something that is not a setting,
/// or allows a setting that does not belong to the fence; or if a path is not UTF-8.
pub fn all(input: &SettingsInput<'_>) -> Result<Vec<Setting>, ServerError> {
    if let Some(name) = input.allow.iter().find(|name| in_fence(name).is_none()) {
        return Err(ServerError::NothingToAllow { name: name.clone() });
    }
    for (name, value) in input.user {
        check_user(name, value, input.allow)?;
    }
    let own = |name: &str, value: &str, reason, owner| Setting {
        name: name.to_owned(),
        value: value.to_owned(),
        reason,
        owner,
    };
    let mut settings = places(input)?;
    settings.extend(
        known(FENCE, input.major)
            .filter(|setting| !input.user.contains_key(setting.name))
            .map(|s| own(s.name, s.value, s.reason, DecidedBy::Fence)),
    );
    settings.push(own(
        "restore_command",
        input.restore_command.unwrap_or_default(),
        ARCHIVE_COMMANDS,
        DecidedBy::Fence,
    ));
    for (name, value) in input.recovery_target {
        let reason = "the requested recovery target";
        settings.push(own(name, value, reason, DecidedBy::Fence));
    }
    settings.extend(recovery::read_ahead(input));
    settings.extend(recovery::limits(input));
    let when = |holds, table: &'static [Fixed]| if holds { table } else { &[] };
    let mut clone: Vec<Setting> = known(CLONE, input.major)
        .chain(when(input.passthrough, PASSTHROUGH))
        .chain(when(input.throw_away, THROW_AWAY))
        .map(|s| own(s.name, s.value, s.reason, DecidedBy::Clone))
        .collect();
    for preload in input.preload {
        let reason = "some of its libraries cannot be loaded here";
        let value = preload.value();
        clone.push(own(preload.setting, &value, reason, DecidedBy::Clone));
    }
    clone.retain(|setting| !input.user.contains_key(&setting.name));
    settings.extend(clone);
    settings.extend(
        input
            .user
            .iter()
            .filter(|(name, _)| !input.limits.iter().any(|(limit, _)| limit == name))
            .map(|(name, value)| own(name, value, "the profile sets it", DecidedBy::User)),
    );
    Ok(settings)
}

/// Returns the settings for the clone's own paths, port and name.
fn places(input: &SettingsInput<'_>) -> Result<Vec<Setting>, ServerError> {
    let text = |path: &Path| utf8(path).map(str::to_owned);
    let saved = "the backup's value overrides -D and may be production's data directory";
    let files = "generated, because the backup's may be missing or permit old logins";
    let mut places = vec![("data_directory", text(input.data_directory)?, saved)];
    let without = "generated from the backup's, without settings that cannot work here";
    places.push(("config_file", text(&input.files.config_file)?, without));
    places.push(("hba_file", text(&input.files.hba_file)?, files));
    places.push(("ident_file", text(&input.files.ident_file)?, files));
    let socket = "production may use the same port and directory";
    places.push((
        "unix_socket_directories",
        quote(&text(input.socket_dir)?),
        socket,
    ));
    places.push(("port", input.port.to_string(), socket));
    let label = "it distinguishes the clone from production in process lists";
    places.push(("cluster_name", format!("pbkfs/{}", input.name), label));
    Ok(places
        .into_iter()
        .map(|(name, value, reason)| Setting {
            name: name.to_owned(),
            value,
            reason,
            owner: DecidedBy::Fence,
        })
        .collect())
}

/// Returns a path as text, as which PostgreSQL takes it.
///
/// # Errors
/// Returns [`ServerError::NotUtf8`] if it is none.
pub fn utf8(path: &Path) -> Result<&str, ServerError> {
    path.to_str().ok_or_else(|| ServerError::NotUtf8 {
        path: path.to_owned(),
    })
}

fn known(table: &'static [Fixed], major: u32) -> impl Iterator<Item = &'static Fixed> {
    table
        .iter()
        .filter(move |setting| setting.majors.contains(&major))
}

/// Returns the fence's setting of that name, whichever versions have it.
fn in_fence(name: &str) -> Option<&'static Fixed> {
    FENCE.iter().find(|setting| setting.name == name)
}

fn check_user(name: &str, value: &str, allow: &[String]) -> Result<(), ServerError> {
    // A dash would get around the checks: PostgreSQL reads "archive-mode" as
    // archive_mode.
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(is_part);
    if !is_name || value.contains('\0') {
        return Err(ServerError::BadSetting {
            name: name.to_owned(),
        });
    }
    let lower = name.to_ascii_lowercase();
    if let Some((_, reason)) = RESERVED.iter().find(|(forced, _)| *forced == lower) {
        return Err(ServerError::ForcedSetting {
            name: lower,
            reason,
        });
    }
    match in_fence(&lower) {
        Some(setting) if !allow.contains(&lower) => Err(ServerError::FencedSetting {
            name: lower,
            reason: setting.reason,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::files::ConfigFiles;
    use super::*;

    fn fence(major: u32, user: &[(&str, &str)]) -> Result<Vec<Setting>, ServerError> {
        fence_of(major, user, (false, false))
    }

    fn fence_of(
        major: u32,
        user: &[(&str, &str)],
        case: (bool, bool),
    ) -> Result<Vec<Setting>, ServerError> {
        fence_with([], major, user, case)
    }

    fn fence_but_for<const N: usize>(
        allow: [&str; N],
        major: u32,
        user: &[(&str, &str)],
    ) -> Result<Vec<Setting>, ServerError> {
        fence_with(allow, major, user, (false, false))
    }

    fn fence_with<const N: usize>(
        allow: [&str; N],
        major: u32,
        user: &[(&str, &str)],
        (passthrough, throw_away): (bool, bool),
    ) -> Result<Vec<Setting>, ServerError> {
        let files = ConfigFiles {
            config_file: "/run/c/postgresql.conf".into(),
            hba_file: "/run/c/pg_hba.conf".into(),
            ident_file: "/run/c/pg_ident.conf".into(),
        };
        let user = user
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        all(&SettingsInput {
            major,
            data_directory: Path::new("/mnt/c"),
            files: &files,
            socket_dir: Path::new("/run/c d"),
            port: 5433,
            name: "main",
            restore_command: None,
            recovery_target: &[("recovery_target_name".into(), "here".into())],
            limits: &[("max_connections", 200), ("max_wal_senders", 5)],
            preload: &[],
            passthrough,
            throw_away,
            user: &user,
            allow: &allow.map(str::to_owned),
        })
    }

    #[test]
    fn how_much_is_synced_depends_on_mount_and_diff() {
        for (passthrough, throw_away, wal, fsync) in [
            (false, false, None, None),
            (true, false, Some("open_datasync"), None),
            (false, true, None, Some("off")),
            (true, true, Some("open_datasync"), Some("off")),
        ] {
            let case = (passthrough, throw_away);
            let settings = fence_of(15, &[], case).unwrap();
            for (name, expected) in [
                ("wal_sync_method", wal),
                ("wal_buffers", passthrough.then_some("64MB")),
                ("fsync", fsync),
            ] {
                assert_eq!(
                    value(&settings, name).as_deref(),
                    expected,
                    "{name}, {case:?}"
                );
            }
            let user = [("wal_sync_method", "fsync"), ("fsync", "on")];
            let settings = fence_of(15, &user, case).unwrap();
            for (name, expected) in user {
                assert_eq!(
                    value(&settings, name).as_deref(),
                    Some(expected),
                    "{name}, {case:?}"
                );
            }
        }
    }

    #[test]
    fn limits_are_never_below_the_primarys() {
        let user = [("max_connections", "100"), ("max_wal_senders", "50")];
        let settings = fence(15, &user).unwrap();
        for (name, expected) in [("max_connections", "200"), ("max_wal_senders", "50")] {
            assert_eq!(value(&settings, name).as_deref(), Some(expected));
            assert_eq!(settings.iter().filter(|s| s.name == name).count(), 1);
        }
    }

    fn value(settings: &[Setting], name: &str) -> Option<String> {
        settings
            .iter()
            .rfind(|s| s.name == name)
            .map(|s| s.value.clone())
    }

    #[test]
    fn names_are_gated_by_major() {
        for (major, name, there) in [
            (14, "archive_library", false),
            (15, "archive_library", true),
            (14, "stats_temp_directory", true),
            (15, "stats_temp_directory", false),
            (15, "promote_trigger_file", true),
            (16, "promote_trigger_file", false),
            (16, "sync_replication_slots", false),
            (17, "sync_replication_slots", true),
            (17, "io_method", false),
            (18, "io_method", true),
        ] {
            let settings = fence(major, &[]).unwrap();
            assert_eq!(value(&settings, name).is_some(), there, "{name} in {major}");
        }
    }

    #[test]
    fn the_wanted_target_comes_after_the_empty_ones() {
        let settings = fence(15, &[]).unwrap();
        assert_eq!(
            value(&settings, "recovery_target_name").as_deref(),
            Some("here")
        );
        let last_empty = settings
            .iter()
            .rposition(|s| s.name.starts_with("recovery_target") && s.value.is_empty());
        let wanted = settings.iter().position(|s| s.value == "here");
        assert!(last_empty < wanted);
        assert_eq!(
            value(&settings, "unix_socket_directories").as_deref(),
            Some("\"/run/c d\"")
        );
    }

    #[test]
    fn the_user_may_change_the_clone_but_not_the_fence() {
        let settings = fence(15, &[("shared_buffers", "1GB")]).unwrap();
        assert_eq!(
            settings
                .iter()
                .filter(|s| s.name == "shared_buffers")
                .count(),
            1
        );
        assert_eq!(value(&settings, "shared_buffers").as_deref(), Some("1GB"));
        // Each name is refused in every version, even in those that do not have it.
        for name in FENCE
            .iter()
            .map(|s| s.name)
            .chain(RESERVED.iter().map(|(name, _)| *name))
        {
            for name in [name.to_owned(), name.to_uppercase()] {
                let error = fence(15, &[(&name, "x")]).unwrap_err();
                assert!(
                    matches!(
                        error,
                        ServerError::ForcedSetting { .. } | ServerError::FencedSetting { .. }
                    ),
                    "{name}: {error}"
                );
            }
        }
        for name in ["archive-mode", "", "a b", "a=b", "1a"] {
            let error = fence(15, &[(name, "x")]).unwrap_err();
            assert!(
                matches!(error, ServerError::BadSetting { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn the_fences_own_settings_are_changed_only_where_that_is_allowed() {
        let user = [("listen_addresses", "*"), ("archive_mode", "on")];
        let allow = ["listen_addresses", "archive_mode"];
        let settings = fence_but_for(allow, 15, &user).unwrap();
        for (name, wanted) in user {
            assert_eq!(value(&settings, name).as_deref(), Some(wanted));
            assert_eq!(settings.iter().filter(|s| s.name == name).count(), 1);
        }
        let error = fence_but_for(["archive_mode"], 15, &user).unwrap_err();
        assert!(error.to_string().contains("fence.allow"), "{error}");
        // Allowing a setting does not change it.
        let settings = fence_but_for(allow, 15, &[]).unwrap();
        assert_eq!(value(&settings, "archive_mode").as_deref(), Some("off"));
        for name in ["data_directory", "port", "work_mem"] {
            let error = fence_but_for([name], 15, &[]).unwrap_err();
            assert!(
                matches!(error, ServerError::NothingToAllow { .. }),
                "{error}"
            );
        }
    }
}
