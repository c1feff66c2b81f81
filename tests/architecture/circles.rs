//! No cycle of files within a module, and no folder with too many files.
//!
//! A file stands for one Rust module; a folder's `mod.rs` is a file like the others.
//! File A uses file B if A names an item of B: in a `use`, or by a path in its code.
//! An item named through a re-export (`pub use`, or a `use` that a child looks
//! through) counts as use of the file that defines it, so a `mod.rs` that only
//! re-exports depends on nothing. A method call names nothing, so an `impl` that is
//! spread over several files is connected only through its type.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, sources, src};

/// The modules whose files use each other without a cycle: all of them.
const WITHOUT_CIRCLES: &[&str] = &[
    "pg", "catalog", "chain", "image", "diff", "overlay", "fuse", "server", "profile", "session",
    "verify", "extract", "cli",
];

/// Modules whose folders have at most [`MOST_FILES`] files each.
const ROOMY: &[&str] = WITHOUT_CIRCLES;

const MOST_FILES: usize = 12;

/// A module's name: `["catalog", "pages", "codec"]`.
type Module = Vec<String>;

/// A path as written: `a::b::C`.
type Words = Vec<String>;

/// The names used in one file's code.
#[derive(Debug, Default)]
struct Names {
    /// Each `use`: the local name, and the path it refers to.
    imports: Vec<(String, Words)>,
    /// Paths used elsewhere, or in a `use` that does not re-export them.
    paths: Vec<Words>,
}

impl Names {
    fn of(code: &str) -> Self {
        let tokens = tokens(code);
        let mut names = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            let is_use = tokens[at] == "use" && tokens.get(at + 1) != Some(&"<");
            if is_use {
                let is_public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
                let mut tree = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut tree);
                for (called, words) in tree {
                    if !is_public {
                        names.paths.push(words.clone());
                    }
                    names.imports.push((called, words));
                }
            } else if is_word(tokens[at]) && tokens.get(at + 1) == Some(&"::") {
                let mut words = vec![tokens[at].to_owned()];
                while tokens.get(at + 1) == Some(&"::") && tokens.get(at + 2).is_some_and(is_name) {
                    words.push(tokens[at + 2].to_owned());
                    at += 2;
                }
                at += 1;
                names.paths.push(words);
            } else {
                at += 1;
            }
        }
        names
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn is_name(token: &&str) -> bool {
    is_word(token)
}

/// Splits code into words, `::`, and single other characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// Reads the tree of a `use` that starts at `at`, below `above`; returns where it
/// ends.
fn use_tree(
    tokens: &[&str],
    at: usize,
    above: &[String],
    into: &mut Vec<(String, Words)>,
) -> usize {
    let mut words = above.to_vec();
    let mut at = at;
    loop {
        match tokens.get(at).copied() {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != "}") {
                    at = use_tree(tokens, at, &words, into);
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return at + 1;
            }
            Some("::") => at += 1,
            Some("*") => {
                into.push(("*".to_owned(), words));
                return at + 1;
            }
            Some("self") if !words.is_empty() => at += 1,
            Some("as") => {
                let called = tokens.get(at + 1).copied().unwrap_or_default();
                into.push((called.to_owned(), words));
                return at + 2;
            }
            Some(word) if is_word(word) => {
                words.push(word.to_owned());
                at += 1;
            }
            _ => {
                let called = words.last().cloned().unwrap_or_default();
                into.push((called, words));
                return at;
            }
        }
    }
}

/// The files of `src` and the names that each uses.
struct Files(BTreeMap<Module, Names>);

impl Files {
    fn read(sources: &[Source]) -> Self {
        let file = |source: &Source| {
            let mut module: Module = source
                .path
                .with_extension("")
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            (module, Names::of(&source.code))
        };
        Self(sources.iter().map(file).collect())
    }

    /// Returns the file that defines what a path refers to in a module; `None` for
    /// another crate's.
    fn definer(
        &self,
        within: &Module,
        words: &[String],
        seen: &mut BTreeSet<Words>,
    ) -> Option<Module> {
        let mut module = within.clone();
        let mut rest = words;
        match rest.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let mut child = module.clone();
                child.push(first.to_owned());
                if !self.0.contains_key(&child) {
                    return None;
                }
            }
        }
        while let Some(word) = rest.first() {
            module.push(word.clone());
            if !self.0.contains_key(&module) {
                module.pop();
                break;
            }
            rest = &rest[1..];
        }
        let names = self.0.get(&module)?;
        let Some(item) = rest.first() else {
            return Some(module);
        };
        // An item that the file imports belongs to the file that defines it.
        let asked = [module.clone(), vec![item.clone()]].concat();
        if seen.insert(asked) {
            let known = names.imports.iter().filter(|(called, _)| called == item);
            for (_, words) in known {
                let words: Words = words.iter().chain(&rest[1..]).cloned().collect();
                if let Some(found) = self.definer(&module, &words, seen) {
                    return Some(found);
                }
            }
        }
        Some(module)
    }

    /// Returns which files of `top` each of its files uses.
    fn uses(&self, top: &str) -> BTreeMap<&Module, BTreeSet<Module>> {
        let is_inside = |module: &Module| module.first().is_some_and(|first| first == top);
        let inside = self.0.iter().filter(|(module, _)| is_inside(module));
        let used = inside.map(|(module, names)| {
            let found = names
                .paths
                .iter()
                .filter_map(|words| self.definer(module, words, &mut BTreeSet::new()));
            let others = found.filter(|found| found != module && is_inside(found));
            (module, others.collect())
        });
        used.collect()
    }

    /// Returns a cycle through the files of `top`, if there is one.
    fn circle(&self, top: &str) -> Option<Vec<String>> {
        let uses = self.uses(top);
        let mut done = BTreeSet::new();
        for start in uses.keys() {
            let mut way = Vec::new();
            if let Some(circle) = walk(start, &uses, &mut way, &mut done) {
                return Some(circle.iter().map(|module| module.join("::")).collect());
            }
        }
        None
    }
}

fn walk(
    at: &Module,
    uses: &BTreeMap<&Module, BTreeSet<Module>>,
    way: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<Vec<Module>> {
    if let Some(begin) = way.iter().position(|module| module == at) {
        return Some(way[begin..].to_vec());
    }
    if done.contains(at) {
        return None;
    }
    way.push(at.clone());
    let next = uses.get(at).into_iter().flatten();
    let circle = next
        .map(|next| walk(next, uses, way, done))
        .find_map(|circle| circle);
    way.pop();
    done.insert(at.clone());
    circle
}

#[test]
fn files_of_a_module_use_each_other_in_no_circle() {
    let sources = sources();
    let files = Files::read(&sources);
    for top in WITHOUT_CIRCLES {
        let circle = files.circle(top);
        assert!(circle.is_none(), "each uses the next: {circle:?}");
    }
}

#[test]
fn no_folder_has_too_much_in_it() {
    fn look(dir: &std::path::Path) {
        let entries: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let files = entries.iter().filter(|path| path.is_file()).count();
        assert!(
            files <= MOST_FILES,
            "{} has {files} files, at most {MOST_FILES} are allowed",
            dir.display()
        );
        entries
            .iter()
            .filter(|path| path.is_dir())
            .for_each(|path| look(path));
    }
    for top in ROOMY {
        let dir = src().join(top);
        assert!(dir.is_dir(), "there is no {}", dir.display());
        look(&dir);
    }
}

/// Creates made-up sources from paths and code.
fn planted(files: &[(&str, &str)]) -> Files {
    let source = |(path, code): &(&str, &str)| Source {
        path: path.into(),
        code: (*code).to_owned(),
        lines: 1,
    };
    Files::read(&files.iter().map(source).collect::<Vec<_>>())
}

#[test]
fn a_circle_is_found_by_use_and_by_path() {
    for (a, b) in [
        ("use super::b::B;", "use super::a::A;"),
        ("use crate::m::{b::B, c::C};", "fn f() { crate::m::a::f() }"),
        ("use super::B;", "fn f() { super::a::f() }"),
        ("use super::b;", "use super::{c::C, a::{self, A}};"),
        (
            "pub(super) use super::b::B; fn f() { super::B::new() }",
            "use super::a as x;",
        ),
    ] {
        let files = planted(&[
            ("m/mod.rs", "mod a; mod b; mod c; pub use b::B;"),
            ("m/a.rs", a),
            ("m/b.rs", b),
            ("m/c.rs", ""),
        ]);
        let circle = files.circle("m").unwrap_or_default();
        assert_eq!(circle, ["m::a", "m::b"], "{a} {b}");
    }
}

#[test]
fn a_mod_file_that_only_gives_on_is_in_no_circle() {
    let files = planted(&[
        ("m/mod.rs", "mod a; mod b; pub use a::A; pub use b::B as C;"),
        (
            "m/a.rs",
            "use super::{C, LIMIT}; use crate::other::a::A as Other;",
        ),
        (
            "m/b.rs",
            "use std::fmt; use super::LIMIT; use other::super_::b;",
        ),
        ("other.rs", "use crate::m::a::A;"),
    ]);
    assert_eq!(files.circle("m"), None);
    let with_code = planted(&[
        ("m.rs", "mod a; use a::A; fn f() { A::new(); }"),
        ("m/a.rs", "use super::LIMIT;"),
    ]);
    assert_eq!(with_code.circle("m").unwrap_or_default(), ["m", "m::a"]);
}
