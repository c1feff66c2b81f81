//! A manual page under construction.

use clap_mangen::roff::{Roff, bold, roman};

/// An empty argument; if it were omitted, the following ones would move up.
const NO_DATE: &str = "\"\"";

/// A page: its name, its section of the manual, and its text so far.
pub struct Page {
    name: String,
    section: char,
    roff: String,
}

impl Page {
    /// Creates a page with its title line and its NAME section. It has no date,
    /// because the pages are kept under version control and compared.
    pub fn new(name: &str, section: char, about: &str) -> Self {
        let mut title = Roff::new();
        let arguments = [
            &name.to_uppercase(),
            &section.to_string(),
            NO_DATE,
            concat!("pbkfs ", env!("CARGO_PKG_VERSION")),
            "pbkfs manual",
        ];
        title.control("TH", arguments);
        let mut page = Self {
            name: name.to_owned(),
            section,
            roff: title.render(),
        };
        page.heading("NAME");
        page.paragraph(&format!("{name} - {}", lower_first(about)));
        page
    }

    /// Returns the file name, such as `pbkfs-up.1`.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    /// Returns the page as roff.
    pub fn as_roff(&self) -> &str {
        &self.roff
    }

    /// Appends text that was rendered elsewhere, without its first two lines: they
    /// define how an apostrophe is written, which the title has done already.
    pub fn append(&mut self, rendered: &str) {
        const LINES_BEFORE: usize = 2;
        let body = rendered.split_inclusive('\n').skip(LINES_BEFORE);
        self.roff.extend(body);
    }

    fn add(&mut self, build: impl FnOnce(&mut Roff)) {
        let mut roff = Roff::new();
        build(&mut roff);
        self.append(&roff.render());
    }

    /// Begins a section.
    pub fn heading(&mut self, heading: &str) {
        self.add(|roff| {
            roff.control("SH", [heading]);
        });
    }

    /// Begins a subsection.
    pub fn subheading(&mut self, heading: &str) {
        self.add(|roff| {
            roff.control("SS", [heading]);
        });
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.add(|roff| {
            roff.control("PP", []);
            roff.text([roman(one_line(text))]);
        });
    }

    /// Adds the forms of a command line, with the name in bold.
    pub fn synopsis(&mut self, name: &str, forms: &str) {
        self.heading("SYNOPSIS");
        for form in forms.lines().map(str::trim).filter(|form| !form.is_empty()) {
            let rest = form.strip_prefix(name).unwrap_or(form);
            self.add(|roff| {
                roff.control("PP", []);
                roff.text([bold(name), roman(rest)]);
            });
        }
    }

    /// Adds a term and its description; each text starts on a new line.
    pub fn term<'a>(&mut self, term: &str, texts: impl IntoIterator<Item = &'a str>) {
        self.add(|roff| {
            roff.control("TP", []);
            roff.text([bold(term)]);
            for (i, text) in texts.into_iter().enumerate() {
                if i > 0 {
                    roff.control("br", []);
                }
                roff.text([roman(one_line(text))]);
            }
        });
    }

    /// Adds lines that are shown verbatim.
    pub fn literal<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        self.add(|roff| {
            roff.control("PP", []);
            roff.control("RS", ["4"]);
            roff.control("nf", []);
            for line in lines {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
            roff.control("RE", []);
        });
    }

    /// Adds references to other pages, in the usual order: by section, then by name.
    pub fn see_also(&mut self, pages: &[&str]) {
        self.heading("SEE ALSO");
        let mut pages: Vec<&str> = pages.to_vec();
        pages.sort_by_key(|page| (page.split('(').nth(1).map(str::to_owned), *page));
        self.paragraph(&pages.join(", "));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Lowers the first letter of a sentence, for the middle of a line: `Show what`
/// becomes `show what`; `PostgreSQL` stays.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() && !text.starts_with("Postgre") => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// Returns the text as a sentence, with an initial capital and a full stop.
pub fn sentence(text: &str) -> String {
    let mut chars = text.trim_end().chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(chars).collect();
    if !sentence.ends_with(['.', '!', '?', ':']) {
        sentence.push('.');
    }
    sentence
}
