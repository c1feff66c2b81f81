//! The documentation agrees with the program.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn pbkfs(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pbkfs"))
        .args(arguments)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pbkfs {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

fn read(name: &str) -> String {
    let path = Path::new(ROOT).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_manual_pages_are_those_of_the_program() {
    const MEND: &str = "run: rm man/*.[15] && cargo run -- generate man man";
    let dir = tempfile::tempdir().unwrap();
    pbkfs(&["generate", "man", dir.path().to_str().unwrap()]);
    let made = files(dir.path());
    let kept = files(&Path::new(ROOT).join("man"));
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&kept),
        names(&made),
        "the pages are not those in man/; {MEND}"
    );
    for (name, text) in &made {
        assert_eq!(&kept[name], text, "man/{name} is out of date; {MEND}");
    }
}

#[test]
fn the_full_profile_is_that_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    pbkfs(&["generate", "config", dir.path().to_str().unwrap()]);
    let made = files(dir.path());
    assert_eq!(made.keys().collect::<Vec<_>>(), ["full.toml"]);
    assert_eq!(
        made["full.toml"],
        read("config/full.toml"),
        "config/full.toml is out of date; run: cargo run -- generate config config"
    );
}

#[test]
fn every_command_has_a_page_and_an_example() {
    let main = read("man/pbkfs.1");
    let help = pbkfs(&["help"]);
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help");
    let mut count = 0;
    for command in commands {
        let page = read(&format!("man/pbkfs-{command}.1"));
        assert!(
            page.contains(".SH EXAMPLES"),
            "pbkfs-{command}.1 shows no example"
        );
        let reference = format!("pbkfs\\-{}(1)", command.replace('-', "\\-"));
        assert!(main.contains(&reference), "pbkfs.1 does not name {command}");
        count += 1;
    }
    assert!(
        count >= 5,
        "the format of the help's list of commands has changed:\n{help}"
    );
}

#[test]
fn completions_offer_what_is_for_people() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = pbkfs(&["generate", "completions", shell]);
        assert!(script.contains("detach"), "{shell}: {script}");
        assert!(
            !script.contains("hold-locks"),
            "{shell} offers a hidden command"
        );
    }
}

#[test]
fn every_test_that_the_requirements_name_exists() {
    let table = read("tests/REQUIREMENTS.md");
    let mut named = 0;
    // `file::test`, several per cell; a file is a path from the root.
    for reference in table.split('`').skip(1).step_by(2) {
        let Some((file, test)) = reference.split_once("::") else {
            continue;
        };
        let source = read(file);
        let exists = source.match_indices(&format!("fn {test}(")).any(|(at, _)| {
            let before = source[..at].trim_end();
            let attributes = before.rsplit("\n\n").next().unwrap_or(before);
            attributes.contains("#[test]")
        });
        // A proptest's functions are inside its macro, under the same attribute.
        assert!(
            exists,
            "REQUIREMENTS.md names {reference}, but {file} has no such test"
        );
        named += 1;
    }
    assert!(
        named > 50,
        "only {named} tests are named, or their format has changed"
    );
}

/// Returns every Markdown file of the project, by its path from the root.
fn texts() -> Vec<String> {
    fn walk(dir: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // Build output and git's own files.
            if ["target", ".git"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let path = path.strip_prefix(ROOT).unwrap();
                into.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let mut texts = Vec::new();
    walk(Path::new(ROOT), &mut texts);
    assert!(texts.len() > 15, "{texts:?}");
    texts
}

#[test]
fn links_between_the_texts_lead_somewhere() {
    for text in texts() {
        let dir = Path::new(ROOT).join(&text);
        let dir = dir.parent().unwrap();
        for link in read(&text).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let path = dir.join(target.split('#').next().unwrap());
            assert!(
                path.exists(),
                "{text} links to {target}, which does not exist"
            );
        }
    }
}

/// The README is short, and agrees with Cargo.toml and `man/`.
#[test]
fn the_readme_is_short_and_says_how_to_install() {
    let readme = read("README.md");
    assert!(readme.len() <= 10_000, "README.md has {}", readme.len());
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = manifest["package"]["rust-version"].as_str().unwrap();
    for text in [&readme, &read("CONTRIBUTING.md")] {
        assert!(text.contains(&format!("Rust {rust} or newer")), "{rust}");
    }
    let installed = readme.split_once("for section in ").unwrap().1;
    let installed: Vec<&str> = installed.split(';').next().unwrap().split(' ').collect();
    let pages = files(&Path::new(ROOT).join("man"));
    let sections: BTreeSet<&str> = pages
        .keys()
        .map(|name| name.rsplit('.').next().unwrap())
        .collect();
    assert_eq!(installed, Vec::from_iter(sections));
}

/// `-d` has several meanings, because pg_dump uses it for a database.
#[test]
fn what_names_a_backup_is_called_the_same_everywhere() {
    let pages = files(&Path::new(ROOT).join("man"));
    for (short, long) in [("B", "catalog"), ("i", "backup"), ("D", "target")] {
        let short = format!("\\fB\\-{short}\\fR, ");
        let long = format!("\\fB\\-\\-{long}\\fR");
        let with = |line: &&str| line.starts_with(&short);
        let lines = pages.values().flat_map(|text| text.lines().filter(with));
        let lines: Vec<&str> = lines.collect();
        assert!(lines.len() >= 3, "{short} {lines:?}");
        for line in lines {
            assert!(line.contains(&long), "{line}");
        }
    }
}
