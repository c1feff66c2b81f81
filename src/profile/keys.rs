//! The keys of a profile, with their names, defaults, help and examples, from the fields
//! of [`Plan`].
//!
//! All of it comes from the JSON schema that schemars generates from the types and
//! their doc comments, so that every field is a key here.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::plan::Plan;

/// The key under which every PostgreSQL setting is a key of its own.
pub const SETTINGS: &str = "postgres.settings";

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The dotted key, including its section.
    pub path: String,
    /// Its description, in one or more sentences.
    pub help: String,
    /// The values that it accepts, for people.
    pub takes: String,
    /// Its default, for people.
    pub default: String,
    /// A valid value.
    pub example: toml::Value,
    /// Its default, if that is a fixed value.
    pub value: Option<toml::Value>,
    /// Whether it has to be set.
    pub is_required: bool,
    /// Whether it is a path; a relative one starts at the directory of its file.
    pub is_path: bool,
    types: Vec<String>,
}

/// A section; the keys at the top of a file form the section `""`.
#[derive(Debug)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its purpose, in a sentence.
    pub help: String,
    /// Its keys, in order.
    pub keys: Vec<Key>,
}

static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| {
    let schema = schema();
    let mut sections = vec![Section::new("", &schema)];
    for (name, property) in properties(&schema) {
        if property.get("properties").is_some() {
            sections.push(Section::new(name, property));
        }
    }
    sections
});

/// Returns every section, in the order of the manual page and of `config/full.toml`.
#[must_use]
pub fn sections() -> &'static [Section] {
    &SECTIONS
}

/// Returns every key, in the same order.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    sections().iter().flat_map(|section| &section.keys)
}

/// Returns the JSON schema of a profile (draft 2020-12). It requires no key, because
/// every key may be set in several places.
#[must_use]
pub fn schema() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Plan>()
        .to_value();
    leave_out_null(&mut schema);
    schema
}

/// Removes null, which TOML does not have: a key that is not set is omitted. Removes
/// empty text as a default, too.
fn leave_out_null(schema: &mut Value) {
    let is_null = |value: &Value| value == "null" || value["type"] == "null" || value.is_null();
    match schema {
        Value::Object(object) => {
            object.retain(|name, value| !(name == "default" && (value.is_null() || value == "")));
            object.values_mut().for_each(leave_out_null);
            for list in ["type", "enum", "anyOf"] {
                if let Some(Value::Array(all)) = object.get_mut(list) {
                    all.retain(|value| !is_null(value));
                }
            }
            if let Some(kind) = take_only(object, "type") {
                object.insert("type".to_owned(), kind);
            }
            if let Some(Value::Object(form)) = take_only(object, "anyOf") {
                for (name, value) in form {
                    object.entry(name).or_insert(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_null),
        _ => {}
    }
}

/// Removes a list that has one item, and returns the item.
fn take_only(object: &mut Map<String, Value>, list: &str) -> Option<Value> {
    let items = object.get_mut(list)?.as_array_mut()?;
    let [only] = items.as_mut_slice() else {
        return None;
    };
    let only = only.take();
    object.remove(list);
    Some(only)
}

/// Returns the properties that a schema describes.
pub fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten()
}

/// Returns the types that a schema permits: one, or several in a list.
pub fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let types = match schema.get("type") {
        Some(Value::Array(several)) => several.as_slice(),
        one => one.map(std::slice::from_ref).unwrap_or_default(),
    };
    types.iter().filter_map(Value::as_str)
}

impl Section {
    fn new(name: &str, schema: &Value) -> Self {
        let keys = properties(schema).filter(|(_, key)| key.get("properties").is_none());
        Self {
            name: name.to_owned(),
            help: paragraphs(schema).join(" "),
            keys: keys
                .map(|(key, schema)| Key::new(name, key, schema))
                .collect(),
        }
    }
}

impl Key {
    fn new(section: &str, name: &str, schema: &Value) -> Self {
        const DEFAULT: &str = "Default: ";
        let (of_default, help): (Vec<_>, Vec<_>) = paragraphs(schema)
            .into_iter()
            .partition(|paragraph| paragraph.starts_with(DEFAULT));
        let described = of_default
            .first()
            .and_then(|text| text.strip_prefix(DEFAULT));
        let value = schema.get("default").and_then(as_toml);
        let default = match (described, &value) {
            (Some(text), _) => text.to_owned(),
            (None, Some(value)) => value.to_string(),
            (None, None) => "none; it has to be set".to_owned(),
        };
        Self {
            path: match section {
                "" => name.to_owned(),
                section => format!("{section}.{name}"),
            },
            help: help.join(" "),
            takes: takes(schema),
            default,
            example: as_toml(&schema["examples"][0]).unwrap_or_else(|| String::new().into()),
            is_required: described.is_none() && value.is_none(),
            value,
            is_path: schema["format"] == "path",
            types: types(schema).map(str::to_owned).collect(),
        }
    }

    /// Returns the key without its section.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// Converts the text of an environment variable or of `--set` to a value of the key:
    /// to a number, a boolean or a list of names if the key accepts one and the text is
    /// one.
    #[must_use]
    pub fn value_of(&self, text: &str) -> toml::Value {
        let takes = |kind: &str| self.types.iter().any(|known| known == kind);
        let number = || {
            text.parse()
                .ok()
                .filter(|_| takes("integer") || takes("number"))
        };
        let fraction = || text.parse().ok().filter(|_| takes("number"));
        let flag = || text.parse().ok().filter(|_| takes("boolean"));
        let list = || takes("array").then(|| names(text));
        let value = number().map(toml::Value::Integer);
        let value = value.or_else(|| fraction().map(toml::Value::Float));
        let value = value.or_else(|| flag().map(toml::Value::Boolean));
        let value = value.or_else(list);
        value.unwrap_or_else(|| text.into())
    }
}

/// Splits text into names at its commas.
fn names(text: &str) -> toml::Value {
    let names = text.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(toml::Value::from).collect::<Vec<_>>().into()
}

fn as_toml(value: &Value) -> Option<toml::Value> {
    toml::Value::try_from(value).ok()
}

/// Returns the paragraphs of a doc comment, each on one line.
fn paragraphs(schema: &Value) -> Vec<String> {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split("\n\n")
        .map(|text| text.replace('\n', " "))
        .collect()
}

/// Returns the accepted values: the title if there is one, as for types with forms of
/// their own.
fn takes(schema: &Value) -> String {
    let forms = schema
        .get("oneOf")
        .or_else(|| schema["anyOf"][0].get("oneOf"));
    match (schema["title"].as_str(), forms.and_then(Value::as_array)) {
        (Some(title), _) => title.to_owned(),
        (None, Some(forms)) => {
            let words: Vec<_> = forms.iter().map(|form| form["const"].to_string()).collect();
            match words.split_last() {
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
                None => String::new(),
            }
        }
        (None, None) if schema["format"] == "path" => "path".to_owned(),
        (None, None) if schema["type"] == "boolean" => "true or false".to_owned(),
        (None, None) => "text".to_owned(),
    }
}

/// Returns the key with that dotted path. Any name under `postgres.settings` is a
/// key.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    let is_setting = setting(path).is_some();
    keys().find(|key| key.path == path || is_setting && key.path == SETTINGS)
}

/// Returns the PostgreSQL setting that a dotted path names.
#[must_use]
pub fn setting(path: &str) -> Option<&str> {
    path.strip_prefix(SETTINGS)?.strip_prefix('.')
}

/// Returns whether that dotted path is a section.
#[must_use]
pub fn is_section(path: &str) -> bool {
    sections()
        .iter()
        .skip(1)
        .any(|section| section.name == path)
}

/// Returns the known key or section that is most similar to `path`, if any is similar
/// enough.
///
/// A key's last part counts nearly as much as all of it, so that `port` at the top of
/// a file suggests `postgres.port`.
#[must_use]
pub fn nearest(path: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.6;
    const LAST_PART_WEIGHT: f64 = 0.95;
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(known, path);
        let part = strsim::normalized_damerau_levenshtein(&last(known), &last(path));
        whole.max(part * LAST_PART_WEIGHT)
    };
    let sections = sections().iter().skip(1).map(|section| &section.name);
    keys()
        .map(|key| &key.path)
        .chain(sections)
        .map(|known| (known.as_str(), likeness(known)))
        .filter(|(_, likeness)| *likeness >= ALIKE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(known, _)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_all_of_itself() {
        assert!(keys().count() > 60);
        for key in keys() {
            assert!(key.help.len() > 10, "{key:?}");
            assert!(key.help.ends_with('.'), "{key:?}");
            assert!(!key.help.contains('`'), "it is no manual page's: {key:?}");
            assert!(!key.default.ends_with('.'), "{key:?}");
            assert_ne!(key.example.as_str(), Some(""), "no example: {key:?}");
        }
        let required: Vec<_> = keys().filter(|key| key.is_required).collect();
        let required: Vec<_> = required.iter().map(|key| key.path.as_str()).collect();
        assert_eq!(required, ["catalog", "instance", "target"]);
    }

    #[test]
    fn what_a_key_takes_comes_from_its_type() {
        let takes = |path: &str| find(path).unwrap().takes.as_str();
        assert_eq!(
            takes("metadata"),
            "\"auto\", \"pg_probackup\" or \"native\""
        );
        assert_eq!(
            takes("log.destination"),
            "\"stderr\", \"journald\" or \"file\""
        );
        assert_eq!(takes("postgres.port"), "a port from 1 to 65535");
        assert_eq!(takes("diff_dir"), "path");
        assert_eq!(takes("pg_probackup"), "path or command name");
        assert_eq!(takes("verify.pages"), "true or false");
        let texts = keys().filter(|key| key.takes == "text");
        assert_eq!(texts.map(|key| &key.path).collect::<Vec<_>>(), [""; 0]);
        let default = |path: &str| find(path).unwrap().default.as_str();
        assert_eq!(default("cache_size"), "\"256MB\"");
        assert_eq!(default("fence.memory"), "no limit");
        assert_eq!(default("catalog"), "none; it has to be set");
    }

    #[test]
    fn nearest_finds_typos_and_lost_sections() {
        assert_eq!(nearest("catalogue"), Some("catalog"));
        assert_eq!(nearest("diffdir"), Some("diff_dir"));
        assert_eq!(nearest("postgres.prot"), Some("postgres.port"));
        assert_eq!(nearest("port"), Some("postgres.port"));
        assert_eq!(nearest("postgrse"), Some("postgres"));
        assert_eq!(nearest("zzzzzz"), None);
    }

    #[test]
    fn postgresql_settings_are_keys_of_any_name() {
        assert!(find("postgres.settings.work_mem").is_some());
        assert!(find("postgres.settings").is_some());
        assert!(find("postgres.settingsX").is_none());
        assert!(find("postgres").is_none());
    }
}
