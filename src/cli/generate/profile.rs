//! pbkfs.toml(5) and config/full.toml, from what the profile's types say of the keys.

use super::page::{Page, sentence};
use crate::cli::common::wrapped;
use crate::profile::keys::{Key, SETTINGS, sections};

const LAYERS: &[(&str, &str)] = &[
    ("defaults", "What stands under \"Default\" below."),
    (
        "/etc/pbkfs/config.toml",
        "For all profiles of this host. It need not exist.",
    ),
    ("the profile", "The file named on the command line."),
    (
        "PBKFS_* in the environment",
        "The key in upper case, a dot written as two underscores: PBKFS_POSTGRES__PORT=5433.",
    ),
    (
        "--set KEY=VALUE",
        "As in --set postgres.port=5433. The value is taken as it stands, without quotes of \
         TOML; a shell needs its own around blanks, as in --set 'recovery.time=2026-11-22 \
         14:32:00+00'. Names of a list are separated by commas.",
    ),
];

/// What [`full`] begins with.
const HEAD: &str = "\
# Every key that a profile may have. What is set here is the default, except
# for catalog, instance and target, which every profile sets itself. Keys
# without a fixed default stand behind a \"#\", with an example.
#
# Relative paths start at this file's directory; \"~\" is not expanded. The same
# keys can be set for all profiles in /etc/pbkfs/config.toml, by environment
# variables (PBKFS_POSTGRES__PORT=5433) and by --set postgres.port=5433.
#
# Written by pbkfs generate config.
";

/// The page.
pub fn page() -> Page {
    let mut page = Page::new("pbkfs.toml", '5', "Profiles of pbkfs");
    page.heading("SYNOPSIS");
    page.literal([
        "catalog  = \"/srv/backup\"",
        "instance = \"main\"",
        "target   = \"/srv/clone/main\"",
        "diff_dir = \"/srv/clone/main.diff\"",
        "",
        "[postgres]",
        "port = 5433",
        "",
        "[postgres.settings]",
        "work_mem = \"64MB\"",
    ]);
    page.heading("DESCRIPTION");
    page.paragraph(
        "A profile says which backup becomes a clone, where, and how. It is a TOML file of any \
         name. Only catalog, instance and target have to be set.",
    );
    page.paragraph(
        "A key that pbkfs does not know is refused, with its place and the key that looks most \
         like it. A relative path starts at the directory of the file that it stands in; one in \
         the environment or in --set starts at the working directory. \"~\" is not expanded.",
    );
    page.paragraph(
        "\"pbkfs show-config\" prints every key with the place that its value is from. Editors \
         that know JSON schemas complete and check a profile by profile.schema.json, which \
         \"pbkfs generate schema\" writes; a first line such as \"#:schema PATH\" tells many of \
         them where it is.",
    );
    page.heading("LAYERS");
    page.paragraph("A key may be set in five places. Later ones count more, key by key:");
    for (layer, text) in LAYERS {
        page.term(layer, [*text]);
    }
    page.heading("KEYS");
    for section in sections() {
        if !section.name.is_empty() {
            page.subheading(&format!("[{}]", section.name));
            page.paragraph(&section.help);
        }
        section.keys.iter().for_each(|key| describe(&mut page, key));
    }
    page.heading("SEE ALSO");
    page.paragraph(
        "pbkfs(1), pbkfs-plan(1), pbkfs-show-config(1), pbkfs-up(1), pbkfs-recovery(7), pbkfs-safety(7), \
         pbkfs-troubleshooting(7)",
    );
    page
}

fn describe(page: &mut Page, key: &Key) {
    let lines = [
        key.help.clone(),
        format!("Takes: {}", key.takes),
        format!("Default: {}", key.default),
        format!("Example: {} = {}", key.name(), key.example),
    ];
    page.term(key.name(), lines.iter().map(String::as_str));
}

/// A profile with every key: its help, and its default or an example.
pub fn full() -> String {
    let mut text = HEAD.to_owned();
    for section in sections() {
        if !section.name.is_empty() {
            text.push_str(&format!("\n{}[{}]\n", comment(&section.help), section.name));
        }
        for key in &section.keys {
            text.push('\n');
            text.push_str(&comment(&key.help));
            text.push_str(&comment(&sentence(&format!("Takes: {}", key.takes))));
            if key.value.is_none() && !key.is_required {
                text.push_str(&comment(&sentence(&format!("Default: {}", key.default))));
            }
            text.push_str(&setting(key));
        }
    }
    text
}

fn comment(text: &str) -> String {
    let lines = wrapped(text, 78).into_iter();
    lines.map(|line| format!("# {line}\n")).collect()
}

/// The key with its default, or an example behind a "#" where it has none.
fn setting(key: &Key) -> String {
    let fields = |table: &toml::Table| -> String {
        let lines = table.iter();
        lines
            .map(|(name, value)| format!("#{name} = {value}\n"))
            .collect()
    };
    match (&key.value, &key.example) {
        (_, toml::Value::Table(table)) if key.path == SETTINGS => {
            format!("[{SETTINGS}]\n{}", fields(table))
        }
        (None, toml::Value::Array(items)) => {
            let tables = items.iter().filter_map(toml::Value::as_table);
            tables
                .map(|table| format!("#[[{}]]\n{}", key.path, fields(table)))
                .collect()
        }
        (Some(value), _) => format!("{} = {value}\n", key.name()),
        (None, example) if key.is_required => format!("{} = {example}\n", key.name()),
        (None, example) => format!("#{} = {example}\n", key.name()),
    }
}
