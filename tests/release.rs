//! What a release is made of: the version, the changelog, the crate, and the scripts in
//! `config/packaging`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command says; it has to end well.
#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    out(&output)
}

fn pbkfs(argument: &str) -> String {
    ok(Command::new(env!("CARGO_BIN_EXE_pbkfs")).arg(argument))
}

/// Git, as somebody who may commit.
fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a", "-C"]);
    ok(command.arg(dir).args(arguments))
}

/// Numbers of a version, so that 1.10 comes after 1.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|n| n.parse().unwrap()).collect()
}

#[test]
fn a_version_is_one_line_or_says_what_it_is_built_from() {
    let line = format!("pbkfs {VERSION}\n");
    assert_eq!(pbkfs("-V"), line);
    let long = pbkfs("--version");
    let rest = long.strip_prefix(&line).expect(&long);
    let lines: Vec<&str> = rest.lines().collect();
    let [commit, build] = lines[..] else {
        panic!("{long}");
    };
    assert!(commit.starts_with("commit: "), "{long}");
    let target = build.strip_prefix("build:  ").expect(&long);
    assert!(target.starts_with(std::env::consts::ARCH), "{long}");
    assert!(target.contains("-linux-"), "{long}");
    assert!(target.contains(", rustc 1."), "{long}");
}

/// The build script, compiled by itself.
struct BuildScript {
    dir: tempfile::TempDir,
}

impl BuildScript {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(ROOT).join("config/packaging/build.rs");
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-o"]);
        ok(rustc.arg(dir.path().join("script")).arg(source));
        Self { dir }
    }

    /// The commit that it finds for a directory.
    fn commit(&self, dir: &Path, profile: &str, told: Option<&str>) -> String {
        let mut command = Command::new(self.dir.path().join("script"));
        command.current_dir(dir).env_remove("PBKFS_COMMIT");
        command.env("PROFILE", profile).env("TARGET", "a-b-c");
        command.env("RUSTC", "rustc");
        if let Some(told) = told {
            command.env("PBKFS_COMMIT", told);
        }
        let said = ok(&mut command);
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("cargo::rustc-env=PBKFS_BUILT_FROM="));
        line.expect(&said).to_owned()
    }
}

#[test]
fn the_commit_is_found_in_a_clone_and_in_a_crate_and_nowhere_else() {
    let script = BuildScript::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(script.commit(dir, "release", None), "unknown");
    fs::write(dir.join("Cargo.toml"), "").unwrap();
    git(dir, &["init", "-q"]);
    git(dir, &["add", "Cargo.toml"]);
    git(
        dir,
        &["commit", "-q", "-m", "a", "--date=2001-01-01T00:00:00Z"],
    );
    let hash = git(dir, &["log", "-1", "--format=%H"]);
    let hash = hash.trim();
    let found = script.commit(dir, "release", None);
    let date = found.strip_prefix(&format!("{hash} of 20")).expect(&found);
    assert_eq!(date.len(), "01-01-01".len());
    // Else each commit would be a reason to build all tests again.
    let debug = script.commit(dir, "debug", None);
    assert_eq!(debug, "unknown, as this is a debug build");
    assert_eq!(script.commit(dir, "release", Some("b of c")), "b of c");
    // Not the repository that a copy of the sources lies in.
    fs::create_dir(dir.join("below")).unwrap();
    fs::write(dir.join("below/Cargo.toml"), "").unwrap();
    let below = script.commit(&dir.join("below"), "release", None);
    assert_eq!(below, "unknown");
    fs::write(dir.join("Cargo.toml"), "[package]").unwrap();
    let changed = script.commit(dir, "release", None);
    assert_eq!(changed, format!("{found}, with changes"));
    // As cargo writes it into a crate.
    let vcs = "{\n  \"git\": {\n    \"sha1\": \"0123abc\"\n  },\n  \"path_in_vcs\": \"\"\n}";
    fs::write(dir.join("below/.cargo_vcs_info.json"), vcs).unwrap();
    let packaged = script.commit(&dir.join("below"), "debug", None);
    assert_eq!(packaged, "0123abc");
}

/// The headings of the changelog and the table of SECURITY.md are of the version that
/// Cargo.toml has.
#[track_caller]
fn versions_agree(dir: &Path) {
    let manifest: toml::Table = read(dir, "Cargo.toml").parse().unwrap();
    let version = manifest["package"]["version"].as_str().unwrap();
    let lock: toml::Table = read(dir, "Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let ours = packages
        .iter()
        .find(|p| p["name"].as_str() == Some("pbkfs"));
    assert_eq!(ours.unwrap()["version"].as_str(), Some(version));

    let changelog = read(dir, "CHANGELOG.md");
    let mut headings = changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## "));
    assert_eq!(headings.next(), Some("Unreleased"));
    let released: Vec<(&str, &str)> = headings
        .map(|heading| heading.split_once(" - ").expect(heading))
        .collect();
    for (_, day) in &released {
        let form = time::macros::format_description!("[year]-[month]-[day]");
        time::Date::parse(day, form).unwrap_or_else(|e| panic!("{day}: {e}"));
    }
    // Before the first release there is none.
    if let Some((newest, _)) = released.first() {
        assert_eq!(*newest, version);
    }
    assert!(released.is_sorted_by(|a, b| numbers(a.0) > numbers(b.0)));

    let (major_minor, _) = version.rsplit_once('.').unwrap();
    let security = read(dir, "SECURITY.md");
    let fixed: Vec<&str> = security
        .lines()
        .filter_map(|line| line.strip_suffix(" | yes |"))
        .collect();
    assert_eq!(fixed, [format!("| {major_minor}")]);

    for page in fs::read_dir(dir.join("man")).unwrap() {
        let page = fs::read_to_string(page.unwrap().path()).unwrap();
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(&format!("\"pbkfs {version}\"")), "{title}");
    }
}

#[test]
fn changelog_security_and_manual_are_of_the_crates_version() {
    versions_agree(Path::new(ROOT));
}

/// A clone of this repository, with these scripts and something to release committed.
fn clone(dir: &Path) {
    let is_repository = Path::new(ROOT).join(".git").exists();
    assert!(
        is_repository,
        "this makes a release of a clone, and {ROOT} is no repository: the crate of a registry \
         has no history, so use a clone of the repository"
    );
    git(
        Path::new(ROOT),
        &["clone", "-q", ".", dir.to_str().unwrap()],
    );
    for name in ["release.sh", "artefacts.sh"] {
        let script = format!("config/packaging/{name}");
        fs::copy(Path::new(ROOT).join(&script), dir.join(&script)).unwrap();
    }
    let changelog = read(dir, "CHANGELOG.md");
    let changelog = changelog.replacen("## Unreleased\n", "## Unreleased\n\n- A change.\n", 1);
    fs::write(dir.join("CHANGELOG.md"), changelog).unwrap();
    git(dir, &["add", "--all"]);
    git(dir, &["commit", "-q", "-m", "a change"]);
}

fn release(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(dir.join("config/packaging/release.sh"));
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a");
        command.env(format!("GIT_{who}_EMAIL"), "a");
    }
    command.args(arguments).output().unwrap()
}

#[test]
fn a_release_is_a_commit_and_a_tag_that_agree() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    clone(dir);
    let before = git(dir, &["rev-parse", "HEAD"]);

    let shown = release(dir, &["--dry-run", "12.34.56"]);
    let text = out(&shown);
    assert!(shown.status.success(), "{shown:?}");
    for line in [
        "commit: Release 12.34.56",
        "tag:    v12.34.56",
        "+version = \"12.34.56\"",
        "    pbkfs-12.34.56-x86_64-linux.tar.gz",
        "    SHA256SUMS",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}: {text}");
    }
    assert_eq!(git(dir, &["rev-parse", "HEAD"]), before);
    assert_eq!(git(dir, &["status", "--porcelain"]), "");
    assert_eq!(git(dir, &["tag", "--list", "v12.*"]), "");

    let made = release(dir, &["--without-artefacts", "12.34.56"]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(git(dir, &["status", "--porcelain"]), "");
    let tagged = git(dir, &["rev-parse", "v12.34.56^{commit}"]);
    assert_eq!(tagged, git(dir, &["rev-parse", "HEAD"]));
    assert_eq!(git(dir, &["rev-parse", "HEAD~1"]), before);
    versions_agree(dir);
    let changelog = read(dir, "CHANGELOG.md");
    assert!(changelog.contains("## Unreleased\n\n## 12.34.56 - 20"));
    // Cargo takes the lock as it is.
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--locked", "--offline"]);
    ok(cargo.args(["--format-version=1"]).current_dir(dir));

    let said = |arguments: &[&str]| {
        let refused = release(dir, arguments);
        assert!(!refused.status.success(), "{arguments:?}");
        String::from_utf8(refused.stderr).unwrap()
    };
    assert!(said(&["12.34.56"]).contains("the tag v12.34.56 is there already"));
    assert!(said(&["12.34.55"]).contains("is older than 12.34.56"));
    assert!(said(&["12.35"]).contains("give three numbers"));
    assert!(said(&["12.35.0"]).contains("nothing under \"Unreleased\""));
    assert!(said(&[]).contains("usage: "));
    fs::write(dir.join("left"), "").unwrap();
    assert!(said(&["12.35.0"]).contains("changes that are not committed"));
}

/// What cargo says of this crate and its dependencies on Linux.
fn metadata() -> serde_json::Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    serde_json::from_str(&ok(cargo.current_dir(ROOT))).unwrap()
}

#[test]
fn rust_is_no_newer_than_the_dependencies_need() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let of_ours = |ours: bool| {
        packages
            .iter()
            .filter(move |package| (package["name"] == "pbkfs") == ours)
            .filter_map(|package| package["rust_version"].as_str())
    };
    let ours = of_ours(true).next().unwrap();
    let needed = of_ours(false)
        .max_by_key(|version| numbers(version))
        .unwrap();
    let minor = |version: &str| numbers(version)[..2].to_vec();
    assert_eq!(minor(ours), minor(needed), "Cargo.toml has {ours}");
}

/// crates.io takes 10 MB, compressed; this is what it is before.
#[test]
fn the_crate_is_small_and_has_what_it_is_built_from() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "package",
        "--list",
        "--allow-dirty",
        "--locked",
        "--offline",
    ]);
    let list = ok(cargo.current_dir(ROOT));
    let size: u64 = list
        .lines()
        .filter_map(|name| fs::metadata(Path::new(ROOT).join(name)).ok())
        .map(|file| file.len())
        .sum();
    assert!(size < 10_000_000, "{size} bytes");
    let has = |name: &str| list.lines().any(|line| line == name);
    for name in [
        "src/main.rs",
        "config/packaging/build.rs",
        "man/pbkfs-safety.7",
        "LICENSE",
        "Cargo.lock",
    ] {
        assert!(has(name), "{name}");
    }
    assert!(!list.contains("catalog.tar.zst"), "{list}");
}
