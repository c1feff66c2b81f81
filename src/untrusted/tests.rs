use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode as NixMode;
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use super::*;

fn dir() -> (TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

fn why<T: std::fmt::Debug>(result: io::Result<T>) -> Refused {
    let error = result.unwrap_err();
    refused(&error).unwrap_or_else(|| panic!("{error}"))
}

#[test]
fn only_regular_files_are_opened_and_nothing_waits() {
    let (temp, dir) = dir();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir_all(at("inner/deep")).unwrap();
    fs::write(at("inner/deep/file"), "content").unwrap();
    symlink(at("inner/deep/file"), at("link")).unwrap();
    symlink("inner", at("linked-dir")).unwrap();
    mkfifo(&at("fifo"), NixMode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();

    assert_eq!(dir.read("inner/deep/file", 7).unwrap(), b"content");
    let opens: [fn(&Dir, &str) -> io::Result<File>; 2] = [
        |dir, name| dir.file(name),
        |dir, name| dir.file_to_write(name),
    ];
    for open in opens {
        assert_eq!(why(open(&dir, "link")), Refused::Is(Kind::Symlink));
        let by_link = open(&dir, "linked-dir/deep/file");
        assert_eq!(why(by_link), Refused::Is(Kind::Symlink));
        assert_eq!(why(open(&dir, "fifo")), Refused::Is(Kind::Fifo));
        assert_eq!(why(open(&dir, "socket")), Refused::Is(Kind::Socket));
        assert_eq!(why(open(&dir, "inner")), Refused::Is(Kind::Directory));
        assert_eq!(why(open(&dir, "../x")), Refused::LeadsOut);
        assert_eq!(why(open(&dir, "/etc/passwd")), Refused::LeadsOut);
        let missing = open(&dir, "inner/none").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
    assert_eq!(why(dir.dir("linked-dir")), Refused::Is(Kind::Symlink));
    assert_eq!(why(dir.dir("fifo")), Refused::Is(Kind::Fifo));
    assert!(dir.dir("inner/deep").is_ok());
}

#[test]
fn without_openat2_each_step_is_checked() {
    let (temp, dir) = dir();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "x").unwrap();
    symlink("a", at("link")).unwrap();
    symlink("file", at("a/b/link")).unwrap();
    let open = |path: &str| dir.open_step_by_step(Path::new(path), OFlags::RDONLY);
    assert!(open("a/b/file").is_ok() && open("./a/./b").is_ok());
    assert_eq!(open("link/b/file").unwrap_err(), Errno::LOOP);
    assert_eq!(open("a/b/link").unwrap_err(), Errno::LOOP);
    assert_eq!(open("a/../a/b/file").unwrap_err(), Errno::XDEV);
    assert_eq!(open("/etc/passwd").unwrap_err(), Errno::XDEV);
    assert_eq!(open("a/none/file").unwrap_err(), Errno::NOENT);
}

#[test]
fn whole_reads_have_a_limit() {
    let (temp, dir) = dir();
    fs::write(temp.path().join("file"), [7; 100]).unwrap();
    assert_eq!(dir.read("file", 100).unwrap().len(), 100);
    assert_eq!(why(dir.read("file", 99)), Refused::TooLarge { limit: 99 });
    assert_eq!(
        why(read_limited(io::repeat(0), 5)),
        Refused::TooLarge { limit: 5 }
    );
    let passwd = read(Path::new("/etc/passwd"), SMALL).unwrap();
    assert!(!passwd.is_empty());
    assert_eq!(
        why(read(Path::new("/dev/zero"), 5)),
        Refused::Is(Kind::Device)
    );
}

#[test]
fn what_is_replaced_is_never_written_through() {
    let (temp, dir) = dir();
    let (outside, inside) = (temp.path().join("outside"), temp.path().join("d"));
    fs::write(&outside, "precious").unwrap();
    fs::create_dir(&inside).unwrap();
    symlink(&outside, inside.join("record")).unwrap();
    let inner = dir.dir("d").unwrap();
    inner.replace("record", b"ours", 0o640, None).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"precious");
    let meta = fs::symlink_metadata(inside.join("record")).unwrap();
    assert!(meta.is_file() && meta.permissions().mode() & 0o7777 == 0o640);
    assert_eq!(fs::read(inside.join("record")).unwrap(), b"ours");
    assert_eq!(inner.names().unwrap().len(), 1);

    symlink(&outside, inside.join("new")).unwrap();
    let error = inner.create("new", 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(why(inner.create("../x", 0o600)), Refused::LeadsOut);
    assert_eq!(
        why(inner.open_or_create("new", 0o600)),
        Refused::Is(Kind::Symlink)
    );
    let mut file = inner.open_or_create("fresh", 0o600).unwrap();
    file.write_all(b"x").unwrap();
    let begun = Replacement::begin(&inner, OsStr::new("fresh"), 0o600).unwrap();
    drop(begun);
    assert_eq!(fs::read(inside.join("fresh")).unwrap(), b"x");
    assert_eq!(inner.names().unwrap().len(), 3);
}

#[test]
fn a_directory_that_is_there_is_opened_and_no_link() {
    let (temp, dir) = dir();
    let made = dir.dir_or_new("inner", 0o711).unwrap().stat_self().unwrap();
    assert_eq!(made.mode, 0o711);
    let again = dir.dir_or_new("inner", 0o700).unwrap().stat_self().unwrap();
    assert_eq!((again.id, again.mode), (made.id, 0o711));
    symlink("inner", temp.path().join("link")).unwrap();
    let link = dir.dir_or_new("link", 0o700);
    assert_eq!(why(link), Refused::Is(Kind::Symlink));
}

#[test]
fn what_stands_at_a_name_or_deeper_is_told() {
    let (temp, dir) = dir();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir(at("inner")).unwrap();
    fs::write(at("inner/file"), "x").unwrap();
    fs::hard_link(at("inner/file"), at("second")).unwrap();
    symlink("inner", at("link")).unwrap();
    let (deep, plain) = (dir.stat("inner/file").unwrap(), dir.stat("second").unwrap());
    assert_eq!((deep, deep.unwrap().links), (plain, 2));
    assert_eq!(
        deep.unwrap().id,
        id_of(&dir.file("second").unwrap()).unwrap()
    );
    assert_eq!(dir.stat("link").unwrap().unwrap().kind, Kind::Symlink);
    assert_eq!(dir.stat("none").unwrap(), None);
    assert_eq!(dir.stat("none/file").unwrap(), None);
    assert_eq!(why(dir.stat("link/file")), Refused::Is(Kind::Symlink));
    for path in ["..", "../x", "/etc/passwd", "/"] {
        assert_eq!(why(dir.stat(path)), Refused::LeadsOut, "{path}");
    }
}

#[test]
fn what_is_removed_is_only_what_is_there() {
    let (temp, dir) = dir();
    let outside = temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    mkfifo(&tree.join("fifo"), NixMode::S_IRWXU).unwrap();
    symlink(&outside, tree.join("a/link")).unwrap();
    symlink(&outside, temp.path().join("link")).unwrap();
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
    dir.remove_tree("tree").unwrap();
    dir.remove_tree("link").unwrap();
    dir.remove_tree("none").unwrap();
    assert_eq!(dir.names().unwrap(), ["outside"]);
    assert!(outside.join("precious").exists());
}

#[test]
fn a_tree_of_any_depth_goes() {
    let (_temp, top) = dir();
    let mut at = top.make_dir("deep", 0o700).unwrap();
    for _ in 0..3000 {
        at = at.make_dir("d", 0o700).unwrap();
    }
    top.remove_content().unwrap();
    assert_eq!(top.names().unwrap().len(), 0);
}

#[test]
fn a_directory_of_ours_is_nobody_elses() {
    let temp = tempfile::tempdir().unwrap();
    let own = temp.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Dir::open_own(&own).is_ok());
    symlink(&own, temp.path().join("link")).unwrap();
    let link = Dir::open_own(&temp.path().join("link"));
    assert_eq!(why(link), Refused::NoDirectory);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(why(Dir::open_own(&own)), Refused::NotOurs { .. }));
}

#[test]
fn work_is_done_with_another_users_rights() {
    assert!(geteuid().is_root(), "run this test as root");
    let temp = tempfile::tempdir().unwrap();
    let secret = temp.path().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let nobody = Rights {
        uid: 65534,
        gid: 65534,
        groups: vec![65534],
    };
    let denied = as_user(Some(&nobody), || read(&secret, SMALL)).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    let made = temp.path().join("made");
    as_user(Some(&nobody), || fs::write(&made, "y")).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().uid(), 65534);
    // This thread is still root.
    assert_eq!(as_user(None, || read(&secret, SMALL)).unwrap(), b"x");
}

fn led(path: &Path, trusted: &[(u32, u32)]) -> Option<Refused> {
    let led = lead(path, trusted);
    led.err()
        .map(|error| refused(&error).unwrap_or_else(|| panic!("{error}")))
}

const NOBODY: (u32, u32) = (65534, 65534);

#[test]
fn the_way_to_a_path_is_nobody_elses() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let (path, mode) = (dir.join("target"), |mode| {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    });
    mode(0o755);
    assert_eq!(led(&path, &[]), None);
    mode(0o777);
    assert!(matches!(led(&path, &[]), Some(Refused::OthersWay { .. })));
    mode(0o1777);
    assert_eq!(led(&path, &[]), None);
    mode(0o755);
    std::os::unix::fs::chown(&dir, Some(NOBODY.0), Some(NOBODY.1)).unwrap();
    assert!(matches!(
        led(&path, &[]),
        Some(Refused::OthersWay { uid: 65534, .. })
    ));
    assert_eq!(led(&path, &[NOBODY]), None);
    assert!(check_owner(&Dir::open(&dir).unwrap(), &[]).is_err());
    check_owner(&Dir::open(&dir).unwrap(), &[NOBODY]).unwrap();
}

/// The mode of a link is always 0777 and means nothing; only its owner counts.
#[test]
fn a_link_on_the_way_is_ours_and_what_it_leads_over_is_looked_at() {
    let temp = tempfile::tempdir().unwrap();
    let temp = temp.path().canonicalize().unwrap();
    fs::create_dir_all(temp.join("real/deep")).unwrap();
    symlink("../hop", temp.join("real/link")).unwrap();
    symlink(temp.join("real/deep"), temp.join("hop")).unwrap();
    let path = temp.join("real/./link/../link/target");
    let (dir, name) = lead(&path, &[]).unwrap();
    assert_eq!(
        (dir.path(), name.to_str()),
        (&*temp.join("real/deep"), Some("target"))
    );
    let seen = dir.stat_self().unwrap().id;
    let real = fs::metadata(temp.join("real/deep")).unwrap();
    assert_eq!(seen, (real.dev(), real.ino()));
    // The last component may be a link as well.
    let (dir, name) = lead(&temp.join("real/link"), &[]).unwrap();
    assert_eq!(
        (dir.path(), name.to_str()),
        (&*temp.join("real"), Some("deep"))
    );

    // A user trusted with directories could redirect the path anywhere by a link.
    std::os::unix::fs::lchown(temp.join("hop"), Some(NOBODY.0), Some(NOBODY.1)).unwrap();
    let link = temp.join("hop");
    for trusted in [&[][..], &[NOBODY]] {
        let uid = NOBODY.0;
        assert_eq!(
            led(&path, trusted),
            Some(Refused::OthersLink {
                link: link.clone(),
                uid
            })
        );
    }
    symlink("loop", temp.join("loop")).unwrap();
    let error = lead(&temp.join("loop/target"), &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP));
    assert!(lead(Path::new("relative/target"), &[]).is_err());
}
