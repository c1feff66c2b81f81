//! pbkfs.toml(5), from the one table of keys.

use super::page::{Page, sentence};
use crate::profile::keys::{Default, KEYS, Key};

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
    page.heading("LAYERS");
    page.paragraph("A key may be set in five places. Later ones count more, key by key:");
    for (layer, text) in LAYERS {
        page.term(layer, [*text]);
    }
    page.heading("KEYS");
    let mut section = "";
    for key in KEYS {
        let of_key = key.path.rsplit_once('.').map_or("", |(section, _)| section);
        if of_key != section {
            page.subheading(&format!("[{of_key}]"));
            section = of_key;
        }
        describe(&mut page, key);
    }
    page.heading("SEE ALSO");
    page.paragraph(
        "pbkfs(1), pbkfs-plan(1), pbkfs-up(1), pbkfs-recovery(7), pbkfs-safety(7), \
         pbkfs-troubleshooting(7)",
    );
    page
}

fn describe(page: &mut Page, key: &Key) {
    let default = match key.default {
        Default::Value("") => "none".to_owned(),
        Default::Value(value) => value.to_owned(),
        Default::Derived(text) => text.to_owned(),
        Default::Required => "none, it has to be set".to_owned(),
    };
    let name = key.path.rsplit('.').next().unwrap_or(key.path);
    page.term(
        name,
        [
            sentence(key.help).as_str(),
            &format!("Takes: {}", key.values),
            &format!("Default: {default}"),
            &format!("Example: {name} = {}", key.example),
        ],
    );
}
