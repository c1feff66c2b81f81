//! What programs may rely on when they use the mount, case by case: with passthrough
//! (root) and with the write-back cache (other users).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::fixture::flip_byte;
use common::process::is_alive;
use common::session::LIMIT;
use common::syscalls::{Mapping, become_user};
use common::{OsUser, Sandbox, TestClone, eventually};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence};

const BLOCK: u64 = 8192;

/// Runs `test` on a mounted backup as root and as an unprivileged user, in a thread
/// of that user's.
fn both_ways(fixture: &str, test: impl Fn(&TestClone<'_>) + Sync) {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        println!("as {}", user.name);
        let sandbox = Sandbox::new(fixture, user);
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        as_its_user(&clone, || test(&clone));
        clone.down();
    }
}

/// Runs `work` as the mount's user, because a mount made by a user is closed to root.
fn as_its_user<T: Send>(clone: &TestClone<'_>, work: impl FnOnce() -> T + Send) -> T {
    let user = &clone.sandbox.user;
    let work = || {
        become_user(user);
        work()
    };
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn read_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

/// Returns a base file of at most 1 MiB, for which root's mount uses passthrough.
fn small(clone: &TestClone<'_>) -> PathBuf {
    clone.target.join("global/pg_filenode.map")
}

/// Returns the largest base file, which is served by block.
fn large(clone: &TestClone<'_>) -> PathBuf {
    let newest = clone.sandbox.fixture.newest();
    let manifest_name = clone.sandbox.fixture.largest_data_file(&newest).name;
    clone.target.join(manifest_name)
}

fn is_fresh(path: &Path) -> bool {
    let changed = fs::metadata(path).unwrap().modified().unwrap();
    SystemTime::now()
        .duration_since(changed)
        .is_ok_and(|age| age < Duration::from_secs(30))
}

#[test]
fn a_write_shows_at_once_in_stat_and_through_other_handles() {
    both_ways("pg15-debian", |clone| {
        for path in [small(clone), large(clone), clone.target.join("new")] {
            File::options()
                .append(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap();
            let before = fs::metadata(&path).unwrap();
            let (one, two) = (read_write(&path), File::open(&path).unwrap());
            one.write_all_at(b"there", before.len()).unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!(after.len(), before.len() + 5, "{}", path.display());
            assert!(is_fresh(&path), "{}", path.display());
            let mut read = [0; 10];
            assert_eq!(two.read_at(&mut read, before.len()).unwrap(), 5);
            assert_eq!(&read[..5], b"there");

            drop((one, two));
            let again = read_write(&path);
            assert_eq!(again.metadata().unwrap().len(), after.len());
            again.set_len(before.len() + 2).unwrap();
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len() as u64, before.len() + 2);
            assert!(content.ends_with(b"th"));
        }
    });
}

#[test]
fn a_write_through_a_mapping_is_read_and_outlives_the_mount() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        // The second file is not reopened before the mount ends.
        let paths = [
            small(&clone),
            clone.target.join("PG_VERSION"),
            large(&clone),
        ];
        as_its_user(&clone, || {
            for (i, path) in paths.iter().enumerate() {
                let file = read_write(path);
                let map = Mapping::new(&file, 0, 512).unwrap();
                // From here on, only the mapping keeps the file open.
                drop(file);
                thread::sleep(Duration::from_millis(100));
                map.write(b"m");
                map.sync().unwrap();
                if i != 1 {
                    assert_eq!(fs::read(path).unwrap()[0], b'm', "{}", path.display());
                }
                map.write(b"M");
            }
        });
        clone.down();
        clone.up();
        as_its_user(&clone, || {
            for path in &paths {
                assert_eq!(fs::read(path).unwrap()[0], b'M', "{}", path.display());
            }
        });
        clone.down();
    }
}

/// Bytes that are still in the kernel's cache are not a hole: `cp` would lose them.
#[test]
fn what_was_just_written_is_data_to_lseek() {
    both_ways("pg15-debian", |clone| {
        let sparse = clone.target.join("sparse");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&sparse)
            .unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"data", 600_000).unwrap();
        let next = nix::unistd::lseek(&file, 0, Whence::SeekData).unwrap();
        assert!(next <= 600_000, "a hole up to {next}");
        let hole = nix::unistd::lseek(&file, 600_000, Whence::SeekHole).unwrap();
        assert!(hole >= 600_004, "a hole from {hole}");

        let base = read_write(&large(clone));
        let len = base.metadata().unwrap().len();
        base.set_len(len + (4 << 20)).unwrap();
        let map = Mapping::new(&base, len + (2 << 20), 4096).unwrap();
        map.write(b"mapped");
        let next = nix::unistd::lseek(&base, len as i64, Whence::SeekData).unwrap();
        assert!(next as u64 <= len + (2 << 20), "a hole up to {next}");

        let copy = clone.target.join("copy");
        let mut cp = Command::new("cp");
        cp.arg("--sparse=always").args([&sparse, &copy]);
        common::run(&mut cp, LIMIT).expect_ok();
        assert_eq!(fs::read(&sparse).unwrap(), fs::read(&copy).unwrap());
    });
}

#[test]
fn a_name_that_was_missing_appears() {
    both_ways("pg15-chain", |clone| {
        let name = |name: &str| clone.target.join(name);
        for missing in [
            "f",
            "d",
            "l",
            "moved",
            "pg_tblspc/4711",
            ".pbkfs/tblspc/4711",
        ] {
            assert!(!name(missing).exists());
        }
        fs::write(name("f"), "f").unwrap();
        fs::create_dir(name("d")).unwrap();
        fs::hard_link(name("f"), name("l")).unwrap();
        assert!(name("f").exists() && name("d").exists() && name("l").exists());
        fs::rename(name("f"), name("moved")).unwrap();
        assert!(name("moved").exists() && !name("f").exists());
        let long = name(&"n".repeat(300));
        assert_eq!(errno(&fs::metadata(long).unwrap_err()), Errno::ENAMETOOLONG);

        // The link that CREATE TABLESPACE creates is redirected into the mount.
        symlink("/srv/somewhere/else", name("pg_tblspc/4711")).unwrap();
        let target = fs::read_link(name("pg_tblspc/4711")).unwrap();
        assert_eq!(target, Path::new("../.pbkfs/tblspc/4711"));
        assert!(name("pg_tblspc/4711").is_dir());
        let inside: Vec<_> = fs::read_dir(name("pg_tblspc/4711")).unwrap().collect();
        assert_eq!(inside.len(), 1, "the directory of the version: {inside:?}");
    });
}

#[test]
fn the_hidden_directory_is_reached_but_not_listed() {
    both_ways("pg15-chain", |clone| {
        let listed: BTreeSet<_> = fs::read_dir(&clone.target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(listed.contains(std::ffi::OsStr::new("base")));
        assert!(!listed.contains(std::ffi::OsStr::new(".pbkfs")));
        assert!(clone.target.join(".pbkfs/tblspc").is_dir());
        assert!(fs::remove_dir_all(clone.target.join(".pbkfs")).is_err());
    });
}

/// One page of the backup is bad: only reading that page fails.
#[test]
fn a_bad_page_fails_alone() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-chain", user);
        let newest = sandbox.fixture.newest();
        let stored = sandbox.fixture.largest_data_file(&newest);
        let middle = fs::metadata(&stored.path).unwrap().len() / 2;
        flip_byte(&stored.path, middle);
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        as_its_user(&clone, || {
            let file = read_write(&clone.target.join(&stored.name));
            let blocks = file.metadata().unwrap().len() / BLOCK;
            let mut page = vec![0; BLOCK as usize];
            // Twice: data read ahead past a failure must not count as read.
            for _ in 0..2 {
                let bad: Vec<u64> = (0..blocks)
                    .filter(|block| match file.read_exact_at(&mut page, block * BLOCK) {
                        Ok(()) => false,
                        Err(e) => {
                            assert_eq!(errno(&e), Errno::EIO);
                            true
                        }
                    })
                    .collect();
                assert_eq!(bad.len(), 1, "{bad:?}");
                let at = bad[0] * BLOCK;
                let cut_short = file
                    .write_all_at(b"x", at + 5)
                    .and_then(|()| file.sync_all());
                assert_eq!(
                    errno(&cut_short.unwrap_err()),
                    Errno::EIO,
                    "the rest is unknown"
                );
            }
        });
        clone.down();
    }
}

#[test]
fn a_full_disk_says_so_and_works_again_when_it_is_not() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let disk = sandbox.small_disk("16m");
        let clone = sandbox
            .profile("latest")
            .mount_only()
            .diff_at(disk.path().join("diff"))
            .write();
        clone.up();
        as_its_user(&clone, || {
            let path = large(&clone);
            let base = read_write(&path);
            let filler = clone.target.join("filler");
            let fill = || -> io::Result<()> {
                let mut file = File::options().append(true).create(true).open(&filler)?;
                loop {
                    file.write_all(&[7; 65536])?;
                    file.sync_all()?;
                }
            };
            assert_eq!(errno(&fill().unwrap_err()), Errno::ENOSPC);
            let write = || {
                base.write_all_at(&[9; 100_000], 3)
                    .and_then(|()| base.sync_all())
            };
            assert_eq!(errno(&write().unwrap_err()), Errno::ENOSPC);
            // A file that could no longer be copied up can still be read.
            let map = small(&clone);
            let before = read_write(&map);
            assert_eq!(fs::read(&map).unwrap().len(), 512);

            let df = common::run(
                Command::new("df")
                    .arg("--output=avail,size")
                    .arg(&clone.target),
                LIMIT,
            );
            let df = df.expect_ok();
            let numbers: Vec<u64> = df
                .split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect();
            assert!(numbers[0] < 200 && numbers[1] == 16 << 10, "{df}");

            fs::remove_file(&filler).unwrap();
            eventually("the space is released", LIMIT, || write().is_ok());
            let content = fs::read(&path).unwrap();
            assert_eq!(content[3..100_003], [9; 100_000]);
            // One was opened while the disk was full, the other is opened now.
            before.write_all_at(b"before", 0).unwrap();
            let now = read_write(&map);
            now.write_all_at(b"now", 6).unwrap();
            before.sync_all().unwrap();
            drop((before, now));
            assert!(fs::read(&map).unwrap().starts_with(b"beforenow"));
        });
        clone.down();
        clone.up();
        as_its_user(&clone, || {
            assert!(fs::read(small(&clone)).unwrap().starts_with(b"beforenow"));
            assert_eq!(fs::read(large(&clone)).unwrap()[3..100_003], [9; 100_000]);
        });
        clone.down();
    }
}

#[test]
fn ten_thousand_files_in_a_directory() {
    both_ways("pg15-debian", |clone| {
        const COUNT: usize = 10_000;
        let dir = clone.target.join("many");
        fs::create_dir(&dir).unwrap();
        for i in 0..COUNT {
            File::create(dir.join(format!("{i}"))).unwrap();
        }
        // Files are removed during the listing: each name appears once.
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name();
            fs::remove_file(dir.join(&name)).unwrap();
            assert!(seen.insert(name));
        }
        assert_eq!(seen.len(), COUNT);
        fs::remove_dir(&dir).unwrap();
    });
}

#[test]
fn a_directory_of_the_image_moves_with_all_below_it() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        let inside = large(&clone)
            .strip_prefix(clone.target.join("base"))
            .unwrap()
            .to_owned();
        let moved = clone.target.join("a/b/c");
        let wanted = as_its_user(&clone, || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(clone.target.join("a/b"))
                .unwrap();
            let held = read_write(&clone.target.join("base").join(&inside));
            fs::rename(clone.target.join("base"), &moved).unwrap();
            held.write_all_at(b"after the move", 20_000).unwrap();
            fs::rename(clone.target.join("global"), moved.join("1/global")).unwrap();
            drop(held);
            fs::read(moved.join(&inside)).unwrap()
        });
        assert_eq!(wanted[20_000..20_014], *b"after the move");
        clone.down();
        clone.up();
        as_its_user(&clone, || {
            assert!(!clone.target.join("base").exists());
            assert_eq!(fs::read(moved.join(&inside)).unwrap(), wanted);
            assert!(moved.join("1/global/pg_control").exists());
        });
        clone.down();
    }
}

#[test]
fn threads_that_append_to_one_file_lose_nothing() {
    both_ways("pg15-debian", |clone| {
        for path in [small(clone), large(clone), clone.target.join("log")] {
            File::options()
                .append(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap();
            let start = fs::metadata(&path).unwrap().len();
            thread::scope(|scope| {
                for who in 0..2_u8 {
                    let path = &path;
                    scope.spawn(move || {
                        become_user(&clone.sandbox.user);
                        for i in 0..500 {
                            // Reopened now and then, among other handles.
                            let mut file = OpenOptions::new().append(true).open(path).unwrap();
                            file.write_all(&[b'a' + who; 700]).unwrap();
                            if i % 100 == 0 {
                                file.sync_data().unwrap();
                            }
                        }
                    });
                }
            });
            let content = fs::read(&path).unwrap();
            let added = &content[start as usize..];
            assert_eq!(added.len(), 2 * 500 * 700);
            for record in added.chunks(700) {
                assert!(record.iter().all(|byte| *byte == record[0]));
            }
        }
    });
}

#[test]
fn thousands_of_files_open_at_once() {
    const COUNT: usize = 5_000;
    common::syscalls::raise_file_limit(COUNT as u64 + 2_000);
    both_ways("pg15-debian", |clone| {
        let dir = clone.target.join("many");
        fs::create_dir(&dir).unwrap();
        let open = |i: usize| {
            let path = dir.join(format!("{i}"));
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .unwrap()
        };
        let files: Vec<File> = (0..COUNT).map(open).collect();
        for (i, file) in files.iter().enumerate() {
            file.write_all_at(&i.to_le_bytes(), 0).unwrap();
        }
        for (i, file) in files.iter().enumerate() {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(usize::from_le_bytes(bytes), i);
        }
    });
}

#[test]
fn a_killed_owner_leaves_writers_an_error_and_not_a_hang() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        let ready = clone.up();
        let path = large(&clone);
        as_its_user(&clone, || {
            let files = [
                read_write(&path),
                File::create(clone.target.join("new")).unwrap(),
            ];
            thread::scope(|scope| {
                let writers = files.each_ref().map(|file| {
                    scope.spawn(|| {
                        become_user(&clone.sandbox.user);
                        let deadline = Instant::now() + LIMIT;
                        while Instant::now() < deadline {
                            if file
                                .write_all_at(&[1; 5000], 777)
                                .and_then(|()| file.sync_all())
                                .is_err()
                            {
                                return true;
                            }
                        }
                        false
                    })
                });
                thread::sleep(Duration::from_millis(300));
                kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
                for writer in writers {
                    assert!(writer.join().unwrap(), "written to nobody");
                }
            });
        });
        clone.up();
        as_its_user(&clone, || {
            assert_eq!(fs::read(&path).unwrap()[777..5777], [1; 5000]);
        });
        clone.down();
    }
}

/// `O_DSYNC`, as used by `wal_sync_method = open_datasync`, is the only sync request
/// that some writers ever make.
#[test]
fn a_synchronous_write_outlives_the_owner() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        let ready = clone.up();
        let [temporary, recycled] = ["xlogtemp", "recycled"].map(|name| clone.target.join(name));
        let paths = [
            small(&clone),
            large(&clone),
            clone.target.join("new"),
            recycled,
        ];
        as_its_user(&clone, || {
            // Like PostgreSQL when it creates and recycles a segment: it is renamed
            // and the directory synced before a process that may have it open writes
            // to it.
            let segment = File::create(&temporary).unwrap();
            segment.set_len(16 << 20).unwrap();
            segment.sync_all().unwrap();
            fs::rename(&temporary, &paths[3]).unwrap();
            File::open(&clone.target).unwrap().sync_all().unwrap();
            for path in &paths {
                let mut options = OpenOptions::new();
                options.write(true).create(true).custom_flags(libc::O_DSYNC);
                options
                    .open(path)
                    .unwrap()
                    .write_all_at(b"durable", 0)
                    .unwrap();
            }
        });
        kill(Pid::from_raw(ready.pid), Signal::SIGKILL).unwrap();
        eventually("the owner has exited", LIMIT, || !is_alive(ready.pid));
        clone.up();
        as_its_user(&clone, || {
            for path in &paths {
                let content = fs::read(path).unwrap_or_default();
                assert!(content.starts_with(b"durable"), "{}", path.display());
            }
        });
        clone.down();
    }
}

#[test]
fn down_detaches_what_is_still_open_and_keeps_what_was_written() {
    common::require_everything();
    for user in [OsUser::root(), OsUser::postgres()] {
        let sandbox = Sandbox::new("pg15-debian", user);
        let clone = sandbox.profile("latest").mount_only().write();
        clone.up();
        let path = small(&clone);
        let held = as_its_user(&clone, || {
            let held = read_write(&path);
            held.write_all_at(b"kept", 0).unwrap();
            held.sync_all().unwrap();
            held
        });
        clone.down();
        assert!(!clone.is_mounted());
        drop(held);
        clone.up();
        as_its_user(&clone, || {
            assert!(fs::read(&path).unwrap().starts_with(b"kept"))
        });
        clone.down();
    }
}

#[test]
fn a_new_file_has_the_mode_and_group_that_its_directory_asks_for() {
    both_ways("pg15-debian", |clone| {
        let dir = clone.target.join("shared");
        fs::create_dir(&dir).unwrap();
        let group = if clone.sandbox.user == OsUser::root() {
            std::os::unix::fs::chown(&dir, None, Some(4242)).unwrap();
            4242
        } else {
            clone.sandbox.user.gid
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2770)).unwrap();
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o666)
            .open(dir.join("f"))
            .unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        let (file, sub) = (
            fs::metadata(dir.join("f")).unwrap(),
            fs::metadata(dir.join("d")).unwrap(),
        );
        assert_eq!((file.gid(), sub.gid()), (group, group));
        assert_eq!(sub.mode() & 0o2000, 0o2000, "{:o}", sub.mode());
        assert_eq!(file.mode() & 0o022, 0, "the umask holds: {:o}", file.mode());
    });
}

#[test]
fn an_unlinked_file_lives_on_while_it_is_open() {
    both_ways("pg15-debian", |clone| {
        for path in [small(clone), large(clone), clone.target.join("new")] {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap();
            file.write_all_at(b"still here", 0).unwrap();
            fs::remove_file(&path).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            let again = File::open(format!(
                "/proc/thread-self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(&file)
            ));
            let mut bytes = [0; 10];
            again.unwrap().read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"still here");
            file.set_len(3).unwrap();
            file.sync_all().unwrap();
            file.write_all(b"more").unwrap();
            assert_eq!(file.metadata().unwrap().len(), 4);
            // The name can be reused.
            fs::write(&path, "another").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"another");
        }
    });
}
