//! Generates pbkfs(1), and one page per subcommand, from clap's definitions.
//!
//! A command's `after_help` becomes sections: a line that ends with a colon becomes a
//! heading, and the indented lines below it are shown verbatim.

use clap::Command;

use super::page::{Page, sentence};
use crate::cli::common::SYSTEM_CONFIG;
use crate::cli::document::{DOCUMENTS, DocumentKind};
use crate::cli::exit::EXIT_CODES;
use crate::verify::{FINDINGS, Verdict, consequence};

const FILES: &[(&str, &str)] = &[
    (
        SYSTEM_CONFIG,
        "Settings of this host, which every profile overrides. The file is optional. \
         See pbkfs.toml(5).",
    ),
    (
        "/run/pbkfs/NAME-HASH/",
        "One directory per target in use: session.json (the session's state), session.lock \
         (held while it runs), pbkfs.log (the log of a detached pbkfs), server.log \
         (PostgreSQL's log), the generated pg_hba.conf and pg_ident.conf, and the socket. It is \
         removed with the clone, so read the logs before that. Without root it is in \
         $XDG_RUNTIME_DIR/pbkfs, or in /tmp/pbkfs-UID if that variable is not set.",
    ),
    (
        "DIFF/.pbkfs-binding.json",
        "The catalog, instance, backup and chain that a diff belongs to, as plain JSON.",
    ),
    (
        "DIFF/.pbkfs-lock",
        "Locked while the diff is in use. The lock is released when the process that holds it \
         and its server have exited, so there is never a reason to delete this file.",
    ),
    (
        "DIFF/meta.redb",
        "The names, attributes and sizes of the files that the clone changed, and the list of \
         the blocks in the diff.",
    ),
    (
        "DIFF/data/INODE",
        "The changed bytes, at the same offsets as in the clone's file. The files are sparse: \
         du(1) shows the space that they use, ls(1) does not.",
    ),
    (
        "DIFF/.pbkfs-wal/",
        "The server's WAL; pg_wal in the data directory is a link to it. It is as much part of \
         the diff as the rest: copy a diff with cp -a, or not at all.",
    ),
    (
        "CATALOG/backups/INSTANCE/BACKUP/backup_ro.pid",
        "The lock that pg_probackup's own restore takes; pbkfs holds it on every backup of the \
         chain, so that delete and merge wait. pbkfs never writes anything else into a catalog.",
    ),
    (
        "/var/lib/pbkfs, or ~/.local/state/pbkfs",
        "Data that survives a reboot: the list of throw-away diffs, the history of verify, and \
         the mount points of jobs without a target. The former directory is root's; other users \
         have the latter, or $XDG_STATE_HOME/pbkfs if that variable is set.",
    ),
    (
        "/etc/pbkfs/NAME.toml",
        "A profile for the units that the packages bring: pbkfs@NAME.service keeps its clone \
         up, and pbkfs-verify@NAME.timer verifies it every night.",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PBKFS_KEY",
        "Sets a key of the profile. KEY is the key in upper case, with two underscores for a \
         dot: PBKFS_POSTGRES__PORT=5433 sets postgres.port. It overrides the profile, and --set \
         overrides it. A variable that matches no key is ignored, with a warning.",
    ),
    (
        "BACKUP_PATH",
        "The catalog, as for pg_probackup, if neither a profile nor -B names one.",
    ),
    (
        "PATH",
        "Searched for pg_probackup, fusermount3 and PostgreSQL's programs, in addition to the \
         usual directories of Debian's, PGDG's and Red Hat's packages.",
    ),
    (
        "XDG_RUNTIME_DIR",
        "Location of the directories of running clones, unless pbkfs runs as root.",
    ),
];

const SAFETY: &[&str] = &[
    "A backup's own configuration points at production: its archive, its primary, its log \
     directory, even its data directory. pbkfs overrides all of it on the server's command line, \
     and runs the server in Linux namespaces if the host permits them. \"pbkfs plan\" lists \
     every setting with its reason, and every hazard of the backup with what stops it. See \
     pbkfs-safety(7).",
    "pbkfs never writes to the catalog, except for the lock named under FILES. Every write of the \
     clone goes to the diff.",
];

/// The pages of section 7, each with the subcommands that it is about.
const GUIDES: &[(&str, &[&str])] = &[
    (
        "pbkfs-recovery(7)",
        &["up", "plan", "mount", "verify", "extract", "wal", "wal-get"],
    ),
    (
        "pbkfs-safety(7)",
        &[
            "up", "down", "status", "diff", "plan", "mount", "cleanup", "verify", "extract",
        ],
    ),
    (
        "pbkfs-troubleshooting(7)",
        &[
            "up", "down", "status", "plan", "mount", "unmount", "cleanup", "list", "verify",
            "extract",
        ],
    ),
];

const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "The shortest profile; the clone's writes are thrown away at the end:",
        &[
            "catalog  = \"/srv/backup\"",
            "instance = \"main\"",
            "target   = \"/srv/look/main\"",
        ],
    ),
    (
        "Show what would be done, start a clone, look at it, query it, and stop it:",
        &[
            "pbkfs plan look.toml",
            "pbkfs up look.toml --detach",
            "pbkfs status look.toml",
            "psql \"host=... port=... user=postgres dbname=postgres\"",
            "pbkfs down look.toml",
        ],
    ),
];

/// Returns the page of the program and those of its visible subcommands.
pub fn pages(root: Command) -> Vec<Page> {
    let mut root = root.disable_help_subcommand(true);
    root.build();
    let mut pages = vec![main_page(&root)];
    pages.extend(visible(&root).map(|command| command_page(command, &root)));
    pages
}

/// Returns the subcommands that are not hidden.
pub fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

fn main_page(root: &Command) -> Page {
    let mut page = begin(root);
    options(&mut page, root);
    page.heading("COMMANDS");
    for command in visible(root) {
        let name = format!("{}(1)", page_name(command));
        page.term(&name, [sentence(&about(command)).as_str()]);
    }
    page.heading("EXIT STATUS");
    for (code, meaning) in exit_codes() {
        page.term(code, [sentence(meaning).as_str()]);
    }
    page.paragraph(
        "With --detach, up exits with the same code as in the foreground. The codes are stable; \
         messages are for people and may change.",
    );
    page.heading("FILES");
    terms(&mut page, FILES);
    page.heading("ENVIRONMENT");
    terms(&mut page, ENVIRONMENT);
    page.heading("SAFETY");
    for text in SAFETY {
        page.paragraph(text);
    }
    page.heading("EXAMPLES");
    for (what, lines) in EXAMPLES {
        page.paragraph(what);
        page.literal(lines.iter().copied());
    }
    let names: Vec<String> = visible(root)
        .map(|command| format!("{}(1)", page_name(command)))
        .collect();
    let mut others: Vec<&str> = names.iter().map(String::as_str).collect();
    others.extend(["pbkfs.toml(5)", "fusermount3(1)", "postgres(1)", "psql(1)"]);
    others.extend(GUIDES.iter().map(|(guide, _)| *guide));
    page.see_also(&others);
    page
}

fn terms(page: &mut Page, terms: &[(&str, &str)]) {
    for (term, text) in terms {
        page.term(term, [*text]);
    }
}

fn command_page(command: &Command, root: &Command) -> Page {
    let mut page = begin(command);
    options(&mut page, command);
    if command.has_subcommands() {
        page.heading("COMMANDS");
        for sub in visible(command) {
            let positionals = sub.get_positionals().filter(|arg| !arg.is_hide_set());
            let name = positionals.fold(sub.get_name().to_owned(), |name, arg| {
                format!("{name} {}", arg.get_id().as_str().to_uppercase())
            });
            page.term(&name, [sentence(&about(sub)).as_str()]);
        }
    }
    after_help(&mut page, command);
    if command.get_name() == "verify" {
        verdicts(&mut page);
    }
    document(&mut page, command.get_name());
    page.heading("EXIT STATUS");
    page.paragraph(match command.get_name() {
        "verify" => {
            "The code of the verdict, see above; 1 also if another backup is known to be bad; 2 on \
             a usage or profile error. There are no others."
        }
        "wal-get" => {
            "0 if the file was fetched, 1 if the archive does not have it and need not have it, \
             200 on any error."
        }
        _ => "0 on success; every other code is described in pbkfs(1).",
    });
    let siblings: Vec<String> = visible(root)
        .filter(|sibling| sibling.get_name() != command.get_name())
        .map(|sibling| format!("{}(1)", page_name(sibling)))
        .collect();
    let mut others: Vec<&str> = siblings.iter().map(String::as_str).collect();
    others.extend(["pbkfs(1)", "pbkfs.toml(5)"]);
    let is_about = |(_, subjects): &&(_, &[&str])| subjects.contains(&command.get_name());
    others.extend(GUIDES.iter().filter(is_about).map(|(guide, _)| *guide));
    page.see_also(&others);
    page
}

/// Describes the document that --json prints.
fn document(page: &mut Page, command: &str) {
    let prints = |document: &&DocumentKind| document.commands.contains(&command);
    let Some(document) = DOCUMENTS.iter().find(prints) else {
        return;
    };
    page.heading("JSON");
    page.paragraph(&format!(
        "Output of --json, as described by {}.schema.json, which \"pbkfs generate schema\" writes. \
         Fields may be added; the version increases if one is removed or changes its meaning. [] \
         stands for each item of a list.",
        document.name
    ));
    for field in document.fields() {
        let term = format!("{} ({})", field.path, field.kind);
        page.term(&term, [sentence(&field.text).as_str()]);
    }
}

/// Describes the verdicts and the kinds of findings behind them.
fn verdicts(page: &mut Page) {
    page.heading("VERDICTS");
    for verdict in [
        Verdict::Proved,
        Verdict::PagesRight,
        Verdict::CouldNotTell,
        Verdict::Bad,
    ] {
        page.subheading(verdict.as_str());
        page.paragraph(&sentence(consequence(verdict)));
        for finding in FINDINGS.iter().filter(|finding| finding.verdict == verdict) {
            page.term(&sentence(finding.what), [sentence(finding.why).as_str()]);
        }
    }
}

/// Begins a page with NAME, SYNOPSIS and DESCRIPTION.
fn begin(command: &Command) -> Page {
    let about = about(command);
    let mut page = Page::new(&page_name(command), '1', &about);
    let usage = command.clone().render_usage().to_string();
    let forms = usage.trim_start_matches("Usage:");
    let name = command.get_bin_name().unwrap_or(command.get_name());
    page.synopsis(name, forms);
    page.heading("DESCRIPTION");
    let long = command.get_long_about().map(ToString::to_string);
    let long = long.as_deref().unwrap_or_default();
    // clap's long text begins with the short one, which is under NAME already.
    let rest = long.strip_prefix(about.as_str()).unwrap_or(long).trim();
    let text = if rest.is_empty() {
        sentence(&about)
    } else {
        rest.to_owned()
    };
    for paragraph in text.split("\n\n") {
        page.paragraph(paragraph);
    }
    page
}

/// Adds OPTIONS, as written by clap_mangen. Writing into memory cannot fail.
fn options(page: &mut Page, command: &Command) {
    let mut bytes = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    if man.render_options_section(&mut bytes).is_ok() {
        page.append(&String::from_utf8_lossy(&bytes));
    }
}

fn after_help(page: &mut Page, command: &Command) {
    let text = command
        .get_after_long_help()
        .or_else(|| command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut literal: Vec<&str> = Vec::new();
    for line in text.lines() {
        match line.strip_suffix(':') {
            Some(heading) if !line.starts_with(' ') => {
                flush(page, &mut literal);
                page.heading(&match heading {
                    "Example" => "EXAMPLES".to_owned(),
                    other => other.to_uppercase(),
                });
            }
            _ if line.starts_with(' ') => literal.push(line.trim_start()),
            _ if line.is_empty() => literal.push(line),
            _ => {
                flush(page, &mut literal);
                page.paragraph(line);
            }
        }
    }
    flush(page, &mut literal);
}

fn flush(page: &mut Page, literal: &mut Vec<&str>) {
    while literal.last().is_some_and(|line| line.is_empty()) {
        literal.pop();
    }
    if !literal.is_empty() {
        page.literal(literal.drain(..));
    }
}

fn page_name(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    name.to_owned()
}

fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Returns the lines of the table that `--help` shows, such as `2 usage or profile
/// error`.
fn exit_codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXIT_CODES
        .lines()
        .filter_map(|line| line.trim().split_once("  "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Code;

    #[test]
    fn every_exit_code_is_described() {
        let described: Vec<i32> = exit_codes()
            .map(|(code, _)| code.parse().unwrap())
            .collect();
        assert_eq!(described, (0..=7).collect::<Vec<_>>());
        let known = |code: &i32| Code::from_number(*code).is_some();
        assert!(described.iter().all(known));
    }

    #[test]
    fn help_after_the_options_becomes_sections() {
        let command = Command::new("x")
            .after_help("Notes:\nRead this.\nExample:\n  x --y\n    z\n\nExit codes:\n  0  done");
        let mut page = Page::new("x", '1', "Do it");
        after_help(&mut page, &command);
        let roff = page.as_roff();
        let sections: Vec<&str> = roff
            .lines()
            .filter(|line| line.starts_with(".SH"))
            .collect();
        assert_eq!(
            sections,
            [
                ".SH NAME",
                ".SH NOTES",
                ".SH EXAMPLES",
                ".SH \"EXIT CODES\""
            ]
        );
        assert!(roff.contains("x \\- do it"), "{roff}");
    }
}
