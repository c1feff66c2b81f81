//! Settings that are lists of names (`SplitDirectoriesString`, guc.c).

/// Splits a list into its items, as PostgreSQL's `SplitDirectoriesString` does.
pub fn split(list: &str) -> Vec<String> {
    let mut items = Vec::new();
    let (mut item, mut in_quotes) = (String::new(), false);
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => item.push('"'),
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    items
        .iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

/// Puts an item of such a list in quotes if it needs them.
pub fn quote(item: &str) -> String {
    if item.contains(|c: char| c == ',' || c == '"' || c.is_whitespace()) {
        format!("\"{}\"", item.replace('"', "\"\""))
    } else {
        item.to_owned()
    }
}
