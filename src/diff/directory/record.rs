//! The small JSON files of a diff.

use serde::Serialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::Value;

use super::root::Root;
use crate::diff::error::DiffError;
use crate::untrusted::{SMALL, found};

/// Reads a file; `None` if there is none.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is damaged.
pub fn read<T: DeserializeOwned>(root: &Root, name: &str) -> Result<Option<T>, DiffError> {
    let path = root.join(name);
    let text = found(root.dir().read(name, SMALL)).map_err(|e| DiffError::io("read", &path, e))?;
    let read = text.map(|text| serde_json::from_slice(&text).and_then(shown));
    let read = read.map(|value| value.and_then(serde_json::from_value));
    read.transpose()
        .map_err(|source| DiffError::BadFile { path, source })
}

/// Writes a file. A crash leaves the old one or the new one; this one is durable when
/// the function returns.
///
/// # Errors
/// If it could not be read again, or cannot be written.
pub fn write(root: &Root, name: &str, content: &impl Serialize) -> Result<(), DiffError> {
    let path = root.join(name);
    let value = serde_json::to_value(content).and_then(shown);
    let text = value.and_then(|_| serde_json::to_vec_pretty(content));
    let mut text = text.map_err(|source| DiffError::BadFile {
        path: path.clone(),
        source,
    })?;
    text.push(b'\n');
    let written = root.dir().replace(name, &text, 0o600, None);
    written.map_err(|e| DiffError::io("write", &path, e))
}

/// Refuses control characters: the values are shown to people, and anybody may have
/// written them.
fn shown(value: Value) -> Result<Value, serde_json::Error> {
    match has_control(&value) {
        true => Err(Error::custom("it has control characters")),
        false => Ok(value),
    }
}

fn has_control(value: &Value) -> bool {
    match value {
        Value::String(text) => text.chars().any(char::is_control),
        Value::Array(values) => values.iter().any(has_control),
        Value::Object(values) => values.values().any(has_control),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
