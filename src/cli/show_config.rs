//! `pbkfs show-config`: a profile as it is merged, and where each value is from.

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

/// Show every key of a profile, and where its value is from
///
/// Merges the settings of the host, the profile, the environment and --set over the
/// defaults, and prints the result as a profile. Behind each value stands where it is
/// from: a file and the line in it, an environment variable, a flag, or the default. A
/// key that nobody set stands behind a "#" if its default is no fixed value.
///
/// Passwords are masked, as in the log. At the end the profile is checked, as all other
/// commands do it: what is missing or does not go together is an error.
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

/// The version of what `--json` prints.
const VERSION: u32 = 1;

/// What `--json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// The version of this document's form; it grows when a field goes or changes its
    /// meaning.
    version: u32,
    /// Every key, in the order of pbkfs.toml(5), and each PostgreSQL setting as one.
    keys: Vec<Line>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Line {
    /// The key with its section, dotted.
    key: String,
    /// Its value, passwords masked; null where nobody set it and its default is no fixed
    /// value.
    #[schemars(extend("type" = ["string", "number", "boolean", "array", "null"]))]
    value: Value,
    /// What the key comes to where nobody sets it, for people.
    default: Option<&'static str>,
    /// Who set it.
    origin: Kind,
    /// The file that it is from.
    file: Option<PathBuf>,
    /// The line of the key in that file, from 1.
    line: Option<usize>,
    /// The environment variable that it is from.
    variable: Option<String>,
    /// The flag that it is from.
    flag: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Nobody set it.
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
            origin: Kind::Default,
            file: None,
            line: None,
            variable: None,
            flag: None,
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
                // Its argument has the value in it, and that may be a password.
                line.flag = Some("--set");
            }
            Some(Origin::Command(flag)) => {
                line.origin = Kind::Flag;
                line.flag = Some(flag);
            }
        }
        line
    }

    /// Where the value is from, for people.
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

/// The value as JSON has it, with no secret in it.
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
    if args.json {
        output::json(&report);
    } else {
        print(&report);
    }
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

/// A key as TOML has it: with quotes where it needs them.
fn bare(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_plain) {
        true => name.to_owned(),
        false => inline(&name.into()),
    }
}

/// A value as TOML has it, in one line. Its text in quotes is written as JSON's is.
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

    /// Whatever a value has in it, a line is one line, and TOML reads it as it was.
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
