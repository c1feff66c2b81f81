//! The words of a `restore_command`.

use std::path::{Path, PathBuf};

use crate::catalog::Location;
use crate::server::settings::utf8;
use crate::session::SessionError;

/// Returns the path at which others can run this program.
///
/// # Errors
/// If it no longer has one.
pub fn program() -> Result<PathBuf, SessionError> {
    let unknown = |e| SessionError::io("find", Path::new("the program of this process"), e);
    let path = std::env::current_exe().map_err(unknown)?;
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => Err(unknown(std::io::ErrorKind::NotFound.into())),
        Err(error) => Err(unknown(error)),
    }
}

/// Returns a path as text.
///
/// # Errors
/// If it is not UTF-8.
pub fn text(path: &Path) -> Result<&str, SessionError> {
    Ok(utf8(path)?)
}

/// Returns our own command, with these options besides those that name the instance.
///
/// # Errors
/// If this program's path or the catalog's is not known, or is not UTF-8.
pub fn ours(catalog: &Location, instance: &str, options: &[&str]) -> Result<String, SessionError> {
    let (program, catalog) = (program()?, catalog.name());
    let named = ["wal-get", "-B", text(&catalog)?, "--instance", instance];
    let words = [&[text(&program)?], &named[..], options].concat();
    let quoted: Vec<String> = words.into_iter().map(quote).collect();
    Ok(format!("{} %f %p", quoted.join(" ")))
}

/// Returns the files and directories that a command names by absolute paths; for a path
/// with a placeholder, the directory before the placeholder.
#[must_use]
pub fn named_paths(command: &str) -> Vec<PathBuf> {
    let is_end = |c: char| c.is_whitespace() || "'\"`;|&<>()=".contains(c);
    command
        .split(is_end)
        .filter(|word| word.starts_with('/'))
        .map(|word| match word.split_once('%') {
            Some((before, _)) => before.rsplit_once('/').map_or("", |(dir, _)| dir),
            None => word,
        })
        .map(PathBuf::from)
        .filter(|path| path.parent().is_some() && path.exists())
        .collect()
}

/// Quotes a word of a `restore_command`: for the shell, and for PostgreSQL, which takes
/// a `%` for the start of a placeholder.
#[must_use]
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('%', "%%").replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_command_names_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        let command = format!("test -f {text} && gzip -dc <'{text}/%f.gz' >%p; cp /%f /none/x");
        assert_eq!(named_paths(&command), [dir.path(), dir.path()]);
        assert_eq!(named_paths("cp wal/%f %p"), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn words_survive_shell_and_postgresql() {
        for word in [
            "/a/b-c.d",
            "it's",
            "a b",
            "$HOME `x` \"y\" \\z",
            "",
            "100%f",
        ] {
            let quoted = quote(word);
            let shell = Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted.replace("%%", "%"))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), word, "{quoted}");
            assert!(!quoted.replace("%%", "").contains('%'), "{quoted}");
        }
    }
}
