//! pbkfs(1), and one page for each subcommand, from clap's definitions.
//!
//! A command's `after_help` becomes sections: a line that ends with a colon
//! is a heading, what is indented below it is shown as it is.

use clap::Command;

use super::page::{Page, sentence};
use crate::cli::common::SYSTEM_CONFIG;
use crate::cli::document::{DOCUMENTS, DocumentKind};
use crate::cli::exit::EXIT_CODES;
use crate::verify::{FINDINGS, Verdict, consequence};

const FILES: &[(&str, &str)] = &[
    (
        SYSTEM_CONFIG,
        "Settings of this host, below those of every profile. It need not exist. \
         See pbkfs.toml(5).",
    ),
    (
        "/run/pbkfs/NAME-HASH/",
        "One directory for each target that is in use: session.json (what runs), session.lock \
         (held while it runs), pbkfs.log (what a detached pbkfs logs), server.log (what \
         PostgreSQL logs), the generated pg_hba.conf and pg_ident.conf, and the socket. It goes \
         when the clone does, so read the logs before. Without root it is in \
         $XDG_RUNTIME_DIR/pbkfs, or in /tmp/pbkfs-UID where that is not set.",
    ),
    (
        "DIFF/.pbkfs-binding.json",
        "Which catalog, instance, backup and chain a diff belongs to. Plain JSON, for people too.",
    ),
    (
        "DIFF/.pbkfs-lock",
        "Locked while the diff is in use. The lock goes with the process that holds it and its \
         server, so there is never a reason to delete this file.",
    ),
    (
        "DIFF/meta.redb",
        "The names, attributes and lengths of what the clone changed, and which blocks are in \
         the diff.",
    ),
    (
        "DIFF/data/INODE",
        "The changed bytes, each at the offset that it has in its file. The files are sparse: \
         du(1) tells what they take, ls(1) does not.",
    ),
    (
        "DIFF/.pbkfs-wal/",
        "The server's WAL, to which pg_wal in the data directory is a link. It is as much part \
         of the diff as the rest: copy a diff with cp -a, or not at all.",
    ),
    (
        "CATALOG/backups/INSTANCE/BACKUP/backup_ro.pid",
        "The lock that pg_probackup's own restore takes; pbkfs holds it on every backup of the \
         chain, so that delete and merge wait. It is the only thing that pbkfs ever writes into \
         a catalog.",
    ),
    (
        "/var/lib/pbkfs, or ~/.local/state/pbkfs",
        "What outlasts a reboot: the list of throw-away diffs, the history of verify, and the \
         mount points of jobs that were given none. The former is root's; others have \
         $XDG_STATE_HOME/pbkfs, if that is set.",
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
        "Sets a key of the profile: the key in upper case, a dot written as two underscores, so \
         that PBKFS_POSTGRES__PORT=5433 sets postgres.port. It counts more than the profile and \
         less than --set. A name that is no key is ignored, with a warning.",
    ),
    (
        "BACKUP_PATH",
        "The catalog, as for pg_probackup, where neither a profile nor -B names one.",
    ),
    (
        "PATH",
        "Where pg_probackup, fusermount3 and PostgreSQL's programs are looked for, besides the \
         usual places of Debian's, PGDG's and Red Hat's packages.",
    ),
    (
        "XDG_RUNTIME_DIR",
        "Where the directories of running clones are kept, unless pbkfs is root.",
    ),
];

const SAFETY: &[&str] = &[
    "A backup's own configuration points at production: its archive, its primary, its log \
     directory, even its data directory. pbkfs overrides all of it on the server's command line, \
     and runs the server in Linux namespaces where the host permits them. \"pbkfs plan\" lists \
     every setting with its reason, and every hazard of the backup with what stops it. See \
     pbkfs-safety(7).",
    "The catalog is never written, but for the lock named under FILES. Every write of the clone \
     goes to the diff.",
];

/// The pages of section 7, and the subcommands to whose subject each belongs.
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
        "The shortest profile; what the clone writes is thrown away at the end:",
        &[
            "catalog  = \"/srv/backup\"",
            "instance = \"main\"",
            "target   = \"/srv/look/main\"",
        ],
    ),
    (
        "Look at what would be done, do it, ask something, end it:",
        &[
            "pbkfs plan look.toml",
            "pbkfs up look.toml --detach",
            "pbkfs status look.toml",
            "psql \"host=... port=... user=postgres dbname=postgres\"",
            "pbkfs down look.toml",
        ],
    ),
];

/// The page of the program and those of its visible subcommands.
pub fn pages(root: Command) -> Vec<Page> {
    let mut root = root.disable_help_subcommand(true);
    root.build();
    let mut pages = vec![main_page(&root)];
    pages.extend(visible(&root).map(|command| command_page(command, &root)));
    pages
}

/// The subcommands that are for people.
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
        "With --detach, up ends with the code that the foreground would have given. The codes \
         are stable; messages are for people and may change.",
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
            "As the verdict, see above; 1 also where another backup is known to be bad; 2 where it \
             was asked for wrongly. There are no others."
        }
        "wal-get" => {
            "0 when the file was fetched, 1 if the archive does not have it and need not have it, \
             200 if anything is wrong."
        }
        _ => "0 when done; every other code is described in pbkfs(1).",
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

/// What is in the document that --json prints.
fn document(page: &mut Page, command: &str) {
    let prints = |document: &&DocumentKind| document.commands.contains(&command);
    let Some(document) = DOCUMENTS.iter().find(prints) else {
        return;
    };
    page.heading("JSON");
    page.paragraph(&format!(
        "What --json prints, as in {}.schema.json, which \"pbkfs generate schema\" writes. \
         Fields may be added; one that goes or changes its meaning raises the version. [] stands \
         for each item of a list.",
        document.name
    ));
    for field in document.fields() {
        let term = format!("{} ({})", field.path, field.kind);
        page.term(&term, [sentence(&field.text).as_str()]);
    }
}

/// What each kind of finding says.
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

/// NAME, SYNOPSIS and DESCRIPTION.
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
    // clap's long text begins with the short one, which stands under NAME.
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

/// OPTIONS, as clap_mangen writes it. Writing into memory cannot fail.
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
                page.heading(
                    match heading {
                        "Example" => "EXAMPLES".to_owned(),
                        other => other.to_uppercase(),
                    }
                    .as_str(),
                );
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

/// The lines of the table that `--help` shows: `2  usage or profile`.
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
