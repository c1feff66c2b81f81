//! The messages by which PostgreSQL and its programs show whose fault something is:
//! data of another program, in the language that its messages always have here.
//! Nothing else in `verify` is judged by its wording, and none of our own messages
//! are.

/// PostgreSQL's messages when the host is at fault.
const HOST: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "out of memory",
    "Permission denied",
    "Operation not permitted",
    "Too many open files",
    "Read-only file system",
    "File too large",
    "Transport endpoint is not connected",
    "could not access file \"$libdir",
    "could not load library",
    "shared memory",
    "was terminated by signal 9",
    "canceling statement due to",
    // If no damaged page explains it, a disk is at fault.
    "Input/output error",
];

/// PostgreSQL's messages when its files are at fault.
const DAMAGE: &[&str] = &[
    "invalid page in block",
    "page verification failed",
    "could not read block",
    "invalid checkpoint record",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "could not find redo location",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "WAL contains references to invalid pages",
    "incorrect resource manager data checksum",
    "invalid magic number",
    "unexpected pageaddr",
    "incorrect checksum in control file",
    "control file appears to be corrupt",
    "incorrect checksum in file",
    "relation mapping file",
    "invalid data in file",
    "could not access status of transaction",
    "is not a valid data directory",
    "could not open file \"base/",
    "could not open file \"global/",
    "could not open file \"pg_",
    "missing chunk number",
    "unexpected chunk number",
    "compressed pglz data is corrupt",
    "compressed lz4 data is corrupt",
    "unexpected zero page",
    "contains corrupted page",
    "invalid memory alloc request size",
    "backup_label contains data inconsistent with control file",
    "was terminated by signal 6",
    "was terminated by signal 11",
    "was terminated by signal 7",
];

/// Returns whether a text blames the host.
#[must_use]
pub fn blame_host(text: &str) -> bool {
    says(text, HOST)
}

/// Returns whether a text blames PostgreSQL's files.
#[must_use]
pub fn blame_files(text: &str) -> bool {
    says(text, DAMAGE)
}

fn says(text: &str, list: &[&str]) -> bool {
    list.iter().any(|what| text.contains(what))
}

/// What pg_amcheck reports about an index that is not in the order of its collation,
/// or whose expressions give other results in another version.
const ORDER: &[&str] = &[
    "item order invariant violated for index",
    "high key invariant violated for index",
    "down-link lower bound invariant violated for index",
    "lacks matching index tuple within index",
    "could not find tuple using search from root page in index",
];

/// How pg_amcheck begins its findings about an object. The findings follow, indented.
const OBJECTS: &[&str] = &["btree index \"", "heap table \""];

/// The output of pg_amcheck, line by line.
#[derive(Debug)]
pub struct Found<'a> {
    lines: Vec<&'a str>,
    text: String,
}

impl<'a> Found<'a> {
    /// Reads its output.
    #[must_use]
    pub fn read(said: &'a str) -> Self {
        Self {
            lines: said.lines().collect(),
            text: said.to_owned(),
        }
    }

    /// Removes the findings about the order of these indexes, each given by its
    /// schema and name. An index whose name has several lines is not found.
    #[must_use]
    pub fn without_order_of<'i>(
        self,
        database: &str,
        indexes: impl Iterator<Item = &'i (String, String)>,
    ) -> Self {
        let head = |(schema, name): &(String, String)| {
            format!("btree index \"{database}.{schema}.{name}\":")
        };
        let heads: Vec<String> = indexes.map(head).collect();
        let mut lines = Vec::new();
        let mut rest = self.lines.as_slice();
        while let [first, behind @ ..] = rest {
            let count = behind.iter().take_while(|line| line.starts_with(' '));
            let (said, next) = behind.split_at(count.count());
            let is_one = heads.iter().any(|head| head == first);
            if !is_one || !said.first().is_some_and(|line| says(line, ORDER)) {
                lines.push(*first);
                lines.extend(said);
            }
            rest = next;
        }
        Self {
            text: lines.join("\n"),
            lines,
        }
    }

    /// Returns whether it has found something.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        let is_head = |line: &&&str| OBJECTS.iter().any(|object| line.contains(object));
        self.lines.iter().any(|line| is_head(&line))
    }

    /// Returns all of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
WARNING:  database \"shop\" has a collation version mismatch
btree index \"shop.public.names\":
    ERROR:  item order invariant violated for index \"names\"
    DETAIL:  Lower index tid=(3,3)
btree index \"shop.public.numbers\":
    ERROR:  item order invariant violated for index \"numbers\"
heap table \"shop.public.t\", block 0, offset 3:
    xmin 3 precedes relation freeze threshold";

    fn index(name: &str) -> (String, String) {
        ("public".to_owned(), name.to_owned())
    }

    #[test]
    fn only_the_order_of_named_indexes_is_left_out() {
        let all = Found::read(SAID);
        assert!(all.has_findings());
        let rest = all.without_order_of("shop", [index("names")].iter());
        let said = rest.text();
        assert!(!said.contains("names") && !said.contains("(3,3)"), "{said}");
        assert!(
            said.contains("public.numbers") && said.contains("freeze"),
            "{said}"
        );
        assert!(rest.has_findings());

        let (index_part, _) = SAID
            .split_once("btree index \"shop.public.numbers")
            .unwrap();
        let found = Found::read(index_part).without_order_of("shop", [index("names")].iter());
        assert!(!found.has_findings(), "{}", found.text());
        // Findings in another database, or about something other than order, stay.
        let broken = index_part.replace("item order invariant violated for", "invalid page in");
        for (said, database) in [(index_part, "other"), (&*broken, "shop")] {
            let found = Found::read(said).without_order_of(database, [index("names")].iter());
            assert!(found.has_findings(), "{}", found.text());
        }
    }
}
