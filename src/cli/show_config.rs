//! `pbkfs show-config`: shows the merged profile, with the origin of each value.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::cli::common::{At, ProfileArgs};
use crate::cli::exit::Code;
use crate::cli::log::{self, MASK, is_secret_name, redact};
use crate::cli::output;
use crate::cli::verbosity::Verbosity;
use crate::escape;
use crate::profile::keys::{self, Key, SETTINGS};
use crate::profile::{Given, Origin, Profile};
use crate::session::SessionError;

/// Show every key of a profile, with the origin of its value
///
/// Merges the settings of the host, the profile, the environment and --set over the
/// defaults, and prints the result as a profile. Each value is followed by its origin:
/// a file and the line in it, an environment variable, a flag, or the default. A key
/// that is not set and has no fixed default is commented out with "#".
///
/// Passwords are masked, as in the log. At the end the profile is checked as by all
/// other commands: missing keys and conflicting values are errors.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pbkfs show-config profile.toml
  pbkfs show-config profile.toml --set fence.level=settings
  pbkfs show-config profile.toml --json | jq '.keys[] | select(.origin != \"default\")'")]
pub struct ShowConfigArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    at: At,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The format version of the output of `--json`.
const VERSION: u32 = 1;

/// Output of `--json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this document's format; it increases when a field is removed or
    /// changes its meaning.
    version: u32,
    /// Every key, in the order of pbkfs.toml(5); each PostgreSQL setting is a key of
    /// its own.
    keys: Vec<Line>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
struct Line {
    /// The dotted key, including its section.
    key: String,
    /// Its value, with passwords masked; null if it is not set and has no fixed default.
    #[schemars(extend("type" = ["string", "number", "boolean", "array", "null"]))]
    value: Value,
    /// The default, described for people; null for a PostgreSQL setting.
    default: Option<&'static str>,
    /// Kind of origin of the value.
    origin: Kind,
    /// File that sets the key.
    file: Option<PathBuf>,
    /// Line of the key in that file, counted from 1.
    line: Option<usize>,
    /// Environment variable that sets the key.
    variable: Option<String>,
    /// Flag that sets the key.
    flag: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Not set.
    #[default]
    Default,
    /// A profile, or the settings of the host.
    File,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

impl Report {
    fn of(given: &Profile) -> Self {
        let mut lines = Vec::new();
        for key in keys::keys() {
            if key.path == SETTINGS {
                let settings = given.settings();
                let line = |(path, setting): (&str, _)| Line::new(path, None, Some(setting));
                lines.extend(settings.map(line));
            } else {
                lines.push(Line::new(&key.path, Some(key), given.get(&key.path)));
            }
        }
        Self {
            version: VERSION,
            keys: lines,
        }
    }
}

impl Line {
    fn new(path: &str, key: Option<&'static Key>, given: Option<&Given>) -> Self {
        let value = given.map(|given| &given.value);
        let value = value.or(key.and_then(|key| key.value.as_ref()));
        let mut line = Self {
            key: path.to_owned(),
            value: value.map_or(Value::Null, |value| masked(path, value)),
            default: key.map(|key| key.default.as_str()),
            ..Self::default()
        };
        match given.map(|given| &given.origin) {
            None => {}
            Some(Origin::File { path, line: at }) => {
                line.origin = Kind::File;
                (line.file, line.line) = (Some(path.clone()), Some(*at));
            }
            Some(Origin::Variable(name)) => {
                line.origin = Kind::Environment;
                line.variable = Some(name.clone());
            }
            Some(Origin::Set(_)) => {
                line.origin = Kind::Flag;
                // Its argument contains the value, which may be a password.
                line.flag = Some("--set");
            }
            Some(Origin::Command(flag)) => {
                line.origin = Kind::Flag;
                line.flag = Some(flag);
            }
        }
        line
    }

    /// Returns the origin of the value, for people.
    fn place(&self) -> String {
        match (&self.file, self.line, &self.variable, self.flag) {
            (Some(file), Some(line), _, _) => format!("{}:{line}", escape::value(file)),
            (_, _, Some(variable), _) => format!("environment variable {variable}"),
            (_, _, _, Some(flag)) => flag.to_owned(),
            _ if self.value.is_null() => {
                format!("not set: {}", self.default.unwrap_or_default())
            }
            _ => "default".to_owned(),
        }
    }
}

/// Converts a value to JSON, with its secrets masked.
fn masked(name: &str, value: &toml::Value) -> Value {
    match value {
        toml::Value::String(_) if is_secret_name(name) => MASK.into(),
        toml::Value::String(text) => redact(text).into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Array(items) => items.iter().map(|item| masked(name, item)).collect(),
        toml::Value::Table(table) => {
            let fields = table.iter();
            fields
                .map(|(name, value)| (name.clone(), masked(name, value)))
                .collect()
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &ShowConfigArgs, verbosity: Verbosity) -> Result<Code, SessionError> {
    let mut given = args.profile.given()?;
    args.at.apply(&mut given);
    let plan = given.plan();
    log::init(verbosity, plan.as_ref().ok());
    let report = Report::of(&given);
    output::document(args.json, &report, print);
    plan?;
    Ok(Code::Done)
}

fn print(report: &Report) {
    const VALUE: usize = 40;
    let mut within = "";
    for line in &report.keys {
        let (section, name) = match keys::setting(&line.key) {
            Some(name) => (SETTINGS, name),
            None => line.key.rsplit_once('.').unwrap_or(("", &line.key)),
        };
        if section != within {
            say!("");
            say!("[{section}]");
            within = section;
        }
        let place = line.place();
        let setting = match &line.value {
            Value::Null => format!("#{name}"),
            value => format!("{} = {}", bare(name), inline(value)),
        };
        say!("{setting:<VALUE$}  # {place}");
    }
}

/// Returns a key as TOML, quoted if necessary.
fn bare(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_plain) {
        true => name.to_owned(),
        false => inline(&name.into()),
    }
}

/// Returns a value as TOML, on one line. Its strings are written as in JSON.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, _)| format!("{} = {}", bare(name), inline(value));
            let fields: Vec<_> = fields.iter().map(field).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        value => escape::json(&value.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a value contains, its line stays one line, and TOML reads the same
    /// value back.
    #[test]
    fn what_is_printed_is_read_back() {
        for text in ["a", "a\nb \"c\" \\ d", "\u{1b}[1m\u{7f}", "\u{202e}"] {
            let value = serde_json::json!([{ "name": text, "a b": 1 }, 1.5, true]);
            let line = format!("{} = {}", bare("cron.use"), inline(&value));
            assert_eq!(escape::line(&line), line);
            let read: toml::Table = toml::from_str(&line).unwrap();
            let read = serde_json::to_value(&read["cron.use"]).unwrap();
            assert_eq!(read, value, "{line}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let text = "[postgres.settings]\nprimary_conninfo = 'host=h password=geheim'\n\
                    x.password = 'geheim'\n[recovery]\nrestore_command = 'PGPASSWORD=geheim a'\n\
                    [[verify.command]]\nname = 'a'\nrun = 'psql postgres://u:geheim@h/d'\n";
        let mut given = Profile::parse(text, "/p/x.toml".as_ref()).unwrap();
        let set = Origin::Set("postgres.settings.y.passwd=geheim".to_owned());
        given.set("postgres.settings.y.passwd", "geheim", set);
        let shown = serde_json::to_string(&Report::of(&given)).unwrap();
        assert!(!shown.contains("geheim"), "{shown}");
        assert_eq!(shown.matches(MASK).count(), 5, "{shown}");
    }
}
