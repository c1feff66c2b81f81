use std::fs;
use std::ops::{Deref, DerefMut};

use tempfile::TempDir;

use super::*;
use crate::catalog::fixtures;

fn id(text: &str) -> BackupId {
    BackupId(text.to_owned())
}

/// The backups of pg15-hazards, newest first: DELTA TOW7GA on DELTA TOW7G5 on
/// FULL TOW7FV.
struct Three {
    backups: Vec<Backup>,
    _unpacked: TempDir,
}

impl Deref for Three {
    type Target = Vec<Backup>;

    fn deref(&self) -> &Vec<Backup> {
        &self.backups
    }
}

impl DerefMut for Three {
    fn deref_mut(&mut self) -> &mut Vec<Backup> {
        &mut self.backups
    }
}

fn three() -> Three {
    let unpacked = fixtures::unpack_metadata("pg15-hazards");
    Three {
        backups: fixtures::main_instance(&unpacked).backups().unwrap(),
        _unpacked: unpacked,
    }
}

fn resolve(backups: &[Backup], wanted: &str) -> Result<Chain, ChainError> {
    Chain::resolve("main", backups, &wanted.parse().unwrap())
}

fn words(chain: &Chain) -> Vec<String> {
    chain.ids().iter().map(ToString::to_string).collect()
}

#[test]
fn every_backup_of_every_fixture_resolves_to_its_full() {
    for name in fixtures::ALL {
        let unpacked = fixtures::unpack_metadata(name);
        let backups = fixtures::main_instance(&unpacked).backups().unwrap();
        for backup in &backups {
            let chain = resolve(&backups, &backup.id.0).unwrap();
            assert_eq!(chain.target(), backup);
            assert_eq!(chain.layers().last(), Some(backup));
            assert_eq!(chain.layers()[0].mode, BackupMode::Full);
            for pair in chain.layers().windows(2) {
                assert_eq!(pair[1].parent.as_ref(), Some(&pair[0].id));
            }
        }
        assert_eq!(*resolve(&backups, "latest").unwrap().target(), backups[0]);
    }
    let chain = resolve(&three(), "latest").unwrap();
    assert_eq!(words(&chain), ["TOW7FV", "TOW7G5", "TOW7GA"]);
    assert_eq!(chain.instance(), "main");
}

#[test]
fn latest_passes_over_what_cannot_be_restored() {
    let mut backups = three();
    backups[0].status = BackupStatus::Running;
    assert_eq!(
        resolve(&backups, "latest").unwrap().target().id,
        id("TOW7G5")
    );
    backups[1].status = BackupStatus::Corrupt;
    backups[0].status = BackupStatus::Done;
    // Good itself, but its parent is not.
    assert_eq!(
        resolve(&backups, "latest").unwrap().target().id,
        id("TOW7FV")
    );
    // DONE means complete but not validated, which is restorable.
    backups[1].status = BackupStatus::Done;
    assert_eq!(
        resolve(&backups, "latest").unwrap().target().id,
        id("TOW7GA")
    );

    for backup in backups.iter_mut() {
        backup.status = BackupStatus::Error;
    }
    let message = resolve(&backups, "latest").unwrap_err().to_string();
    assert_eq!(
        message,
        "instance \"main\" has no backup that can be restored; \
         the newest are: TOW7GA (ERROR), TOW7G5 (ERROR), TOW7FV (ERROR)"
    );
    let message = resolve(&[], "latest").unwrap_err().to_string();
    assert!(message.ends_with("it has no backup at all"), "{message}");
}

#[test]
fn an_unknown_id_is_answered_with_those_that_exist() {
    let error = resolve(&three(), "abc").unwrap_err();
    assert_eq!(
        error.to_string(),
        "instance \"main\" has no backup ABC; \
         the newest are: TOW7GA (OK), TOW7G5 (OK), TOW7FV (OK)"
    );
}

#[test]
fn every_status_but_ok_and_done_is_refused_with_its_meaning() {
    let mut backups = three();
    for (status, hint) in [
        (
            BackupStatus::Unknown,
            "backup.control is missing or unusable",
        ),
        (
            BackupStatus::Corrupt,
            "pg_probackup validate --instance=main -i TOW7GA",
        ),
        (BackupStatus::Orphan, "a parent was missing or bad"),
        (BackupStatus::Running, "still being taken"),
        (BackupStatus::Error, "incomplete"),
        (BackupStatus::Merging, "merge is under way"),
        (BackupStatus::Merged, "merge is under way"),
        (BackupStatus::Deleting, "being deleted"),
        (BackupStatus::Deleted, "being deleted"),
    ] {
        for (index, start) in [
            (0, "backup TOW7GA is "),
            (2, "backup TOW7GA needs backup TOW7FV"),
        ] {
            let kept = std::mem::replace(&mut backups[index].status, status);
            let message = resolve(&backups, "TOW7GA").unwrap_err().to_string();
            backups[index].status = kept;
            assert!(message.starts_with(start), "{message}");
            assert!(message.contains(&status.to_string()), "{message}");
            assert!(message.contains(hint), "{message}");
        }
    }
}

#[test]
fn the_cause_is_named_before_what_follows_from_it() {
    let mut backups = three();
    backups[0].status = BackupStatus::Orphan;
    backups[1].status = BackupStatus::Corrupt;
    match resolve(&backups, "TOW7GA").unwrap_err() {
        ChainError::Status { member, status, .. } => {
            assert_eq!((member, status), (id("TOW7G5"), BackupStatus::Corrupt));
        }
        other => panic!("{other}"),
    }
    backups.remove(1);
    assert_eq!(
        resolve(&backups, "TOW7GA").unwrap_err().to_string(),
        "backup TOW7GA cannot be restored: TOW7GA is based on TOW7G5, \
         and the catalog has no backup TOW7G5"
    );
}

#[test]
fn circles_and_chains_without_a_full_are_refused() {
    let mut backups = three();
    backups[2].mode = BackupMode::Page;
    let error = resolve(&backups, "TOW7GA").unwrap_err();
    assert!(matches!(&error, ChainError::NoFull { member, .. } if member.0 == "TOW7FV"));

    backups[2].parent = Some(id("TOW7G5"));
    let message = resolve(&backups, "TOW7GA").unwrap_err().to_string();
    assert!(
        message.ends_with("form a cycle (TOW7GA -> TOW7G5 -> TOW7FV -> TOW7G5)"),
        "{message}"
    );
    backups[0].parent = Some(id("TOW7GA"));
    let error = resolve(&backups, "TOW7GA").unwrap_err();
    assert!(matches!(error, ChainError::Cycle { .. }), "{error}");
}

#[test]
fn unsupported_versions_and_block_sizes_are_refused_by_name() {
    for version in ["13", "19", "9.6", ""] {
        let mut backups = three();
        backups[0].server_version = version.to_owned();
        let message = resolve(&backups, "TOW7GA").unwrap_err().to_string();
        assert!(
            message.contains(&format!("PostgreSQL {version}")),
            "{message}"
        );
        // Like a backup whose metadata cannot be read, it is skipped.
        assert_eq!(
            resolve(&backups, "latest").unwrap().target().id,
            id("TOW7G5")
        );
    }
    let mut backups = three();
    backups[2].block_size = 16384;
    let message = resolve(&backups, "latest").unwrap_err().to_string();
    assert!(
        message.starts_with("backup TOW7FV has a block-size of 16384"),
        "{message}"
    );
    backups[2].block_size = 8192;
    backups[1].xlog_block_size = 4096;
    let message = resolve(&backups, "TOW7GA").unwrap_err().to_string();
    assert!(message.contains("xlog-block-size of 4096"), "{message}");
}

#[test]
fn rechecking_notices_a_change_of_status_and_a_merge() {
    let unpacked = fixtures::unpack_metadata("pg15-hazards");
    let instance = fixtures::main_instance(&unpacked);
    let chain = resolve(&instance.backups().unwrap(), "latest").unwrap();
    chain.recheck(&instance).unwrap();

    let control = instance.dir.join("TOW7G5/backup.control");
    let good = fs::read_to_string(&control).unwrap();
    let change = |from: &str, to: &str| {
        assert!(good.contains(from));
        fs::write(&control, good.replace(from, to)).unwrap();
        chain.recheck(&instance).unwrap_err()
    };
    let error = change("status = OK", "status = MERGING");
    assert!(matches!(
        error,
        ChainError::Status {
            status: BackupStatus::Merging,
            ..
        }
    ));
    for (from, to, wanted) in [
        ("backup-mode = DELTA", "backup-mode = FULL", "another mode"),
        ("'TOW7FV'", "'TOW7FX'", "another parent"),
        (
            "content-crc = 4",
            "content-crc = 3",
            "another list of files",
        ),
    ] {
        let error = change(from, to);
        assert!(
            matches!(&error, ChainError::Changed { what, .. } if *what == wanted),
            "{error}"
        );
    }
    fs::remove_file(&control).unwrap();
    let error = chain.recheck(&instance).unwrap_err();
    assert!(matches!(error, ChainError::Reread { .. }));

    fs::write(&control, &good).unwrap();
    chain.recheck(&instance).unwrap();
}

#[test]
fn latest_passes_over_what_has_no_list_of_files() {
    let backups = three();
    let list = |index: usize| backups[index].content().name();
    let latest = || resolve(&backups, "latest").map(|chain| chain.target().id.clone());
    let good = fs::read(list(0)).unwrap();
    let ways: [&dyn Fn(); 4] = [
        &|| (),
        &|| nix::unistd::mkfifo(&list(0), nix::sys::stat::Mode::S_IRWXU).unwrap(),
        &|| std::os::unix::fs::symlink(list(1), list(0)).unwrap(),
        // A different list from the one whose checksum was recorded.
        &|| fs::write(list(0), &good[..good.len() / 2]).unwrap(),
    ];
    for put in ways {
        fs::remove_file(list(0)).unwrap_or_default();
        put();
        assert_eq!(latest().unwrap(), id("TOW7G5"));
    }
    // A backup requested by id is returned, or an error is.
    assert!(resolve(&backups, "TOW7GA").is_ok());
    // The FULL is a member of every chain.
    fs::remove_file(list(2)).unwrap();
    let error = latest().unwrap_err();
    assert!(
        matches!(&error, ChainError::Unlisted { target, member, .. }
            if target.0 == "TOW7GA" && member.0 == "TOW7FV"),
        "{error}"
    );
    fs::write(list(0), good).unwrap();
}
