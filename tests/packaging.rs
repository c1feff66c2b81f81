//! What `Cargo.toml` says of the packages agrees with the repository. That they can be
//! installed and used is tried by `tests/package/run.sh`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What `config/packaging/build.sh` makes.
const BUILT: &str = "target/release/";

/// A file or pattern of the repository, and where it goes.
type Asset = (String, String);

fn metadata(tool: &str) -> toml::Table {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let all = &manifest["package"]["metadata"][tool];
    all.as_table().unwrap().clone()
}

fn assets(tool: &str) -> Vec<Asset> {
    let text = |value: &toml::Value| value.as_str().unwrap().trim_start_matches('/').to_owned();
    let asset = |asset: &toml::Value| match asset {
        toml::Value::Array(parts) => (text(&parts[0]), text(&parts[1])),
        table => (text(&table["source"]), text(&table["dest"])),
    };
    let all = &metadata(tool)["assets"];
    all.as_array().unwrap().iter().map(asset).collect()
}

/// The names of the files that a source stands for: one name, or all that a directory has
/// of a kind.
fn names(source: &str) -> Vec<String> {
    let (dir, name) = source.rsplit_once('/').unwrap_or((".", source));
    let Some((_, kind)) = name.split_once('*') else {
        return vec![name.to_owned()];
    };
    let entries = fs::read_dir(Path::new(ROOT).join(dir)).unwrap();
    let files = entries.map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    let names = files.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(kind)).collect()
}

#[test]
fn what_the_packages_hold_is_there() {
    for tool in ["deb", "generate-rpm"] {
        let assets = assets(tool);
        for (source, _) in assets
            .iter()
            .filter(|(source, _)| !source.starts_with(BUILT))
        {
            let names = names(source);
            assert!(!names.is_empty(), "{tool}: {source} stands for nothing");
            let dir = Path::new(ROOT).join(source).parent().unwrap().to_owned();
            for name in names {
                assert!(dir.join(&name).is_file(), "{tool}: there is no {source}");
            }
        }
        // A page of another section would be left out in silence.
        for page in names("man/*") {
            let section = page.rsplit('.').next().unwrap();
            let pages = format!("{BUILT}package/man/*.{section}.gz");
            let held = assets.iter().any(|(source, _)| *source == pages);
            assert!(held, "{tool} has no manual pages of section {section}");
        }
    }
    for script in ["post_install", "pre_uninstall", "post_uninstall"] {
        let path = &metadata("generate-rpm")[&format!("{script}_script")];
        assert!(
            Path::new(ROOT).join(path.as_str().unwrap()).is_file(),
            "{path}"
        );
    }
}

/// Only where Debian and Fedora have other places for the same do they differ.
#[test]
fn both_packages_hold_the_same() {
    let places = |tool: &str| -> BTreeSet<String> {
        let all = assets(tool).into_iter().map(|(_, place)| place);
        all.map(|place| place.replace("vendor-completions", "site-functions"))
            .filter(|place| !place.starts_with("usr/share/doc/pbkfs/"))
            .filter(|place| !place.contains("licenses") && !place.contains("lintian"))
            .map(|place| match place.as_str() {
                "usr/bin/" => "usr/bin/pbkfs".to_owned(),
                _ => place,
            })
            .collect()
    };
    let deb = places("deb");
    assert_eq!(deb, places("generate-rpm"));
    assert!(deb.len() >= 8, "{deb:?}");
}

/// systemd looks in `/usr/local/bin` and in `/usr/bin` for what has no directory.
#[test]
fn the_units_start_the_program_wherever_it_is() {
    let dir = "config/packaging/systemd";
    let services = names(&format!("{dir}/*.service"));
    assert_eq!(services.len(), 2);
    for unit in services {
        let text = fs::read_to_string(Path::new(ROOT).join(dir).join(&unit)).unwrap();
        let commands = text.lines().filter(|line| line.starts_with("Exec"));
        let commands: Vec<&str> = commands.collect();
        assert!(!commands.is_empty(), "{unit}");
        for command in commands {
            assert!(command.contains("pbkfs "), "{unit}: {command}");
            assert!(!command.contains("/pbkfs "), "{unit}: {command}");
        }
    }
}

/// A variable that a function of a sourced script assigns is its caller's, too, and once
/// took the place of one of the same name there. So it is declared `local`, or the
/// script's head says that it is left to the caller.
#[test]
fn functions_that_are_sourced_keep_their_variables() {
    for script in ["tests/lib.sh", "tests/package/root.sh"] {
        let text = fs::read_to_string(Path::new(ROOT).join(script)).unwrap();
        let head = text.lines().take_while(|line| line.starts_with('#'));
        let head = head.collect::<String>();
        let (mut functions, mut own) = (0, BTreeSet::new());
        for line in text.lines() {
            if line.ends_with("() {") {
                functions += 1;
                own.clear();
            }
            let words = line.split_whitespace().collect::<Vec<_>>();
            let local = words.first() == Some(&"local");
            for name in assigned(&words) {
                if local {
                    own.insert(name);
                }
                let known = own.contains(name) || head.contains(&format!("${name}"));
                assert!(!line.starts_with(' ') || known, "{script}: {line}");
            }
        }
        assert!(functions > 5, "{script}");
    }
}

/// The variables that a line of shell assigns, but for settings, which are in upper case.
fn assigned<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let name = |word: &&'a str| word.split_once('=').map(|(name, _)| name);
    let names: Vec<&str> = match words {
        ["local", names @ ..] => names
            .iter()
            .map(|word| name(word).unwrap_or(word))
            .collect(),
        ["for", name, "in", ..] => vec![name],
        // What follows a command is an argument of it.
        _ => words.iter().map_while(name).collect(),
    };
    let variable = |name: &&str| name.starts_with(|c: char| c.is_ascii_lowercase());
    names.into_iter().filter(variable).collect()
}
