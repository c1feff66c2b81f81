//! The manual pages: their format, their cross-references, and the messages that they
//! explain.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The macros of man(7) used in the hand-written pages, and the requests that turn
/// off hyphenation and justification, which would break names.
const MACROS: &[&str] = &[
    "TH", "SH", "SS", "PP", "TP", "TQ", "IP", "RS", "RE", "nf", "fi", "B", "I", "BI", "BR", "IB",
    "IR", "RB", "RI", "nh", "ad",
];

/// Maximum length of a line, as in `mandoc -T lint`.
const WIDTH: usize = 80;

/// Returns the manual pages by file name.
fn pages() -> BTreeMap<String, String> {
    let entries = fs::read_dir(Path::new(ROOT).join("man")).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// Returns the hand-written pages.
fn written() -> BTreeMap<String, String> {
    let mut pages = pages();
    pages.retain(|name, _| name.ends_with(".7"));
    assert!(pages.len() >= 3, "{:?}", pages.keys());
    pages
}

/// Removes the roff escapes that the pages use.
fn plain(text: &str) -> String {
    let escapes = [
        ("\\fB", ""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\-", "-"),
        ("\\(dq", "\""),
        ("\\(aq", "'"),
        ("\\*(Aq", "'"),
    ];
    let mut text = text.to_owned();
    for (escape, is) in escapes {
        text = text.replace(escape, is);
    }
    text
}

/// Splits a line into its macro and arguments, as roff does.
fn request(line: &str) -> Option<(&str, Vec<String>)> {
    let (name, rest) = line
        .strip_prefix('.')
        .map(|request| request.split_once(' ').unwrap_or((request, "")))?;
    let (mut arguments, mut rest) = (Vec::new(), rest.trim_start());
    while !rest.is_empty() {
        let (argument, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        arguments.push(plain(argument));
        rest = after.trim_start();
    }
    Some((name, arguments))
}

/// Returns a page's lines as readers see them, without formatting. Macros that
/// alternate between two fonts join their arguments.
fn lines(page: &str) -> impl Iterator<Item = String> {
    page.lines().map(|line| match request(line) {
        Some(("BI" | "BR" | "IB" | "IR" | "RB" | "RI", arguments)) => arguments.concat(),
        Some((_, arguments)) => arguments.join(" "),
        None => plain(line),
    })
}

/// Returns the file names of the manual pages that a line names, such as
/// `pbkfs-up(1)`.
fn named(line: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    let page = |(at, _): (usize, &str)| {
        let name = &line[..at];
        let name = &name[name.rfind(|c| !is_name(c)).map_or(0, |before| before + 1)..];
        let mut section = line[at + 1..].chars();
        let number = section.next().filter(char::is_ascii_digit)?;
        let is_page = !name.is_empty() && section.next() == Some(')');
        is_page.then(|| format!("{name}.{number}"))
    };
    line.match_indices('(').filter_map(page).collect()
}

#[test]
fn pages_name_pages_that_exist() {
    let pages = pages();
    let mut named_by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, page) in &pages {
        for line in lines(page) {
            for target in named(&line) {
                let is_ours = target.starts_with("pbkfs");
                assert!(
                    !is_ours || pages.contains_key(&target),
                    "man/{name} names a page that does not exist: {line}"
                );
                named_by.entry(target).or_default().push(name);
            }
        }
    }
    for name in pages.keys().filter(|name| *name != "pbkfs.1") {
        let by = named_by.get(name).cloned().unwrap_or_default();
        assert!(by.contains(&"pbkfs.1"), "{name} is named by {by:?} only");
        assert!(by.len() > 3, "{name} is named by {by:?} only");
    }
}

#[test]
fn pages_written_by_hand_have_the_usual_form() {
    for (file, page) in written() {
        let name = file.trim_end_matches(".7");
        let title = format!(
            ".TH {} 7 \"\" \"pbkfs {}\" \"pbkfs manual\"",
            name.to_uppercase(),
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(page.lines().next(), Some(title.as_str()));
        assert!(page.is_ascii(), "{file}: a terminal may support only ASCII");
        let mut is_literal = false;
        for line in page.lines() {
            assert!(line.len() <= WIDTH && line.trim_end() == line, "{line}");
            match request(line) {
                Some((name, _)) => {
                    assert!(MACROS.contains(&name), "man/{file}: {line}");
                    is_literal = name == "nf" || is_literal && name != "fi";
                }
                // One sentence per line, so that changing a sentence changes one
                // line.
                None => assert!(
                    is_literal || !line.contains(". "),
                    "man/{file}: a sentence starts within a line: {line}"
                ),
            }
        }
        let sections: Vec<&str> = page.lines().filter(|l| l.starts_with(".SH")).collect();
        assert_eq!(sections[0], ".SH NAME");
        assert_eq!(*sections.last().unwrap(), ".SH SEE ALSO");
        let (_, see_also) = page.split_once(".SH SEE ALSO").unwrap();
        let others: Vec<String> = lines(see_also).flat_map(|line| named(&line)).collect();
        let mut sorted = others.clone();
        sorted.sort_by_key(|name| {
            name.rsplit_once('.')
                .map(|(a, b)| (b.to_owned(), a.to_owned()))
        });
        assert_eq!(others, sorted, "man/{file}: by section, then by name");
    }
}

/// Runs only if groff is installed, which is rare in a container.
#[test]
fn groff_takes_the_pages() {
    if which::which("groff").is_err() {
        println!("groff is not installed, so the manual pages were not formatted");
        return;
    }
    for name in pages().keys() {
        let output = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z", name])
            .current_dir(Path::new(ROOT).join("man"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

/// Returns the program's sources, with string literals that span several lines
/// joined.
fn sources(dir: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let mut parts = text.split("\\\n");
            all += parts.next().unwrap();
            for part in parts {
                all += part.trim_start();
            }
        }
    }
    all
}

/// Bold marks the constant parts of a message, italic the variable ones. This test
/// leads anyone who changes a message to the page.
#[test]
fn the_messages_that_are_explained_are_those_of_the_program() {
    let sources = sources(&Path::new(ROOT).join("src")).replace("\\\"", "\"");
    let page = &pages()["pbkfs-troubleshooting.7"];
    let (_, messages) = page.split_once(".SH MESSAGES OF PBKFS\n").unwrap();
    let (messages, _) = messages.split_once("\n.SH ").unwrap();
    let mut before = "";
    let mut count = 0;
    for line in messages.lines() {
        if let (".TP" | ".TQ", Some((name, arguments))) = (before, request(line)) {
            let skipped = usize::from(name == "IB");
            assert!(["B", "BI", "IB"].contains(&name), "{line}");
            let constant = match name {
                "B" => vec![arguments.join(" ")],
                _ => arguments.into_iter().skip(skipped).step_by(2).collect(),
            };
            for part in constant {
                assert!(
                    sources.contains(&part),
                    "pbkfs-troubleshooting(7) explains \"{}\", and pbkfs never says \"{part}\"",
                    lines(line).collect::<String>()
                );
            }
            count += 1;
        }
        before = line;
    }
    assert!(count > 30, "{count}");
}
