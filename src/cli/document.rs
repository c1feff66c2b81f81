//! The documents that `--json` prints, and the profile, with their fields. The schemas
//! are generated from the very types that are printed or read, and from their doc
//! comments.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use crate::cli::catalog::{list, wal};
use crate::cli::clone::{diff, plan, status};
use crate::cli::show_config;
use crate::materialize::Materialized;
use crate::profile::keys;
use crate::promote::Promoted;
use crate::session::Ready;
use crate::verify::Document;

/// A document.
pub struct DocumentKind {
    /// Its name, also that of its schema's file.
    pub name: &'static str,
    /// The subcommands whose `--json` prints it.
    pub commands: &'static [&'static str],
    of: fn(&mut SchemaGenerator) -> Schema,
}

/// Every document.
pub const DOCUMENTS: &[DocumentKind] = &[
    DocumentKind::new::<list::Report>("list", &["list"]),
    DocumentKind::new::<wal::Report>("wal-list", &["wal"]),
    DocumentKind::new::<plan::Report>("plan", &["plan"]),
    DocumentKind::new::<show_config::Report>("show-config", &["show-config"]),
    DocumentKind::new::<Ready>("ready", &["up", "mount"]),
    DocumentKind::new::<status::Report>("status", &["status"]),
    DocumentKind::new::<diff::Report<'static>>("diff", &["diff"]),
    DocumentKind::new::<Document>("verify", &["verify"]),
    DocumentKind::new::<Materialized>("materialize", &["materialize"]),
    DocumentKind::new::<Promoted>("promote", &["promote"]),
];

/// A field of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its place, such as `backups[].chain[]`; `[]` stands for each item of a list.
    pub path: String,
    /// Its type: a number, text, one of several words.
    pub kind: String,
    /// Its description.
    pub text: String,
}

impl DocumentKind {
    const fn new<T: JsonSchema>(name: &'static str, commands: &'static [&'static str]) -> Self {
        Self {
            name,
            commands,
            of: SchemaGenerator::root_schema_for::<T>,
        }
    }

    /// Returns the JSON schema of the output of `--json` (draft 2020-12). The output
    /// has no fields that the schema does not describe.
    pub fn schema(&self) -> Value {
        let settings = SchemaSettings::draft2020_12()
            .for_serialize()
            .with(|settings| settings.inline_subschemas = true);
        let schema = (self.of)(&mut settings.into_generator()).to_value();
        named(self.name, schema)
    }

    /// Returns its fields, each after the one that contains it.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        below("", &self.schema(), &mut fields);
        fields
    }
}

/// Returns the JSON schema of a profile, for editors.
pub fn profile_schema() -> Value {
    named("profile", keys::schema())
}

fn named(name: &str, mut schema: Value) -> Value {
    tidy(&mut schema);
    if let Value::Object(schema) = &mut schema {
        schema.insert("title".to_owned(), format!("pbkfs {name}").into());
    }
    schema
}

/// Closes each object to undescribed properties, and removes Rust's number formats
/// and rustdoc's markup.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                let closed = object.entry("additionalProperties");
                closed.or_insert(Value::Bool(false));
            }
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text
                    .replace("\n\n", " ")
                    .replace('\n', " ")
                    .replace('`', "");
            }
            if object.get("type").is_some_and(|kind| !kind.is_object()) {
                object.remove("format");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn below(path: &str, schema: &Value, fields: &mut Vec<Field>) {
    for schema in forms(schema) {
        if let Some(items) = schema.get("items") {
            below(&format!("{path}[]"), items, fields);
        }
        for (name, property) in keys::properties(schema) {
            let path = match path {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            let text = property.get("description").and_then(Value::as_str);
            fields.push(Field {
                path: path.clone(),
                kind: kind(property),
                text: text.unwrap_or_default().to_owned(),
            });
            below(&path, property, fields);
        }
    }
}

/// Returns a schema, or its alternatives if it has any.
fn forms(schema: &Value) -> Vec<&Value> {
    let several = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    let several = several.and_then(Value::as_array);
    several.map_or_else(|| vec![schema], |several| several.iter().collect())
}

fn kind(schema: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for form in forms(schema) {
        if let Some(word) = form.get("const") {
            words.push(word.to_string());
        } else if let Some(all) = form.get("enum").and_then(Value::as_array) {
            words.extend(all.iter().map(Value::to_string));
        } else {
            words.extend(keys::types(form).map(str::to_owned));
        }
    }
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_says_what_it_is() {
        for document in DOCUMENTS {
            let fields = document.fields();
            assert_eq!(
                fields.iter().filter(|f| f.path == "version").count(),
                1,
                "{}",
                document.name
            );
            for field in fields {
                let what = format!("{} {field:?}", document.name);
                assert!(field.text.len() > 5, "{what}");
                assert!(!field.text.contains(['`', '[']), "{what}");
                assert!(!field.kind.is_empty(), "{what}");
            }
        }
    }
}
