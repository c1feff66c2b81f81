//! Finds which settings of a configuration this host's server accepts, by asking it.
//!
//! `postgres -C` reads a configuration as a start does, but starts nothing. It finds
//! unknown names, locales and time zones that are not installed, and values of
//! another build or beyond this host's limits, in every version and edition.
//! `--describe-config` would not do: it hides what is not in the sample file. Which
//! settings are refused is found by leaving settings out; the server's messages only
//! make the search faster, and provide the reasons that are reported.

use std::fs::File;
use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{Conf, Entry, line};
use crate::program;
use crate::server::binaries::Binaries;
use crate::server::error::ServerError;
use crate::server::spawn::{become_child, clean_environment};
use crate::server::user::OsUser;

/// Time limit of a trial, and of all of them together. One takes about 10 ms.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of trials: a configuration can contain any number of wrong lines.
const MOST: usize = 1000;

/// Number of bytes that are read of the server's messages.
const SAID: usize = 1 << 20;

/// Which of the two files a setting is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Main,
    Auto,
}

/// A setting on trial.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    part: Part,
    name: &'a str,
    entry: &'a Entry,
}

impl Conf {
    /// Leaves out what the server refuses. The server is asked as the user that it
    /// runs as, because the clone can write the configuration.
    ///
    /// # Errors
    /// If the server's program cannot be run, or does not answer in time.
    pub fn leave_out_refused(
        &mut self,
        binaries: &Binaries,
        run_as: Option<&OsUser>,
    ) -> Result<(), ServerError> {
        let main = self.main.iter().map(|setting| (Part::Main, setting));
        let auto = self.auto.iter().map(|setting| (Part::Auto, setting));
        let candidates: Vec<_> = main
            .chain(auto)
            .map(|(part, (name, entry))| Candidate { part, name, entry })
            .collect();
        let deadline = Instant::now() + TIMEOUT;
        let ask = |settings: &[Candidate<'_>]| ask(binaries, run_as, settings, deadline);
        let mut sieve = Sieve::new(&ask);
        // If everything is accepted, one trial is enough. If even an empty
        // configuration is refused, the start reports why.
        if sieve.ask(&candidates)?.is_none() || sieve.ask(&[])?.is_some() {
            return Ok(());
        }
        sieve.sift(&candidates)?;
        let refused: Vec<_> = sieve
            .refused
            .iter()
            .map(|(setting, why)| {
                let Candidate { part, name, entry } = setting;
                (*part, (*name).to_owned(), entry.without(name, why.clone()))
            })
            .collect();
        for (part, name, left_out) in refused {
            match part {
                Part::Main => self.main.remove(&name),
                Part::Auto => {
                    self.auto_is_right = false;
                    self.auto.remove(&name)
                }
            };
            self.left_out.push(left_out);
        }
        Ok(())
    }
}

/// Lets the server read settings; returns its messages if it refuses any.
type Ask<'a> = dyn Fn(&[Candidate<'_>]) -> Result<Option<String>, ServerError> + 'a;

/// Separates the settings that the server accepts together from the others.
struct Sieve<'a> {
    ask: &'a Ask<'a>,
    asked: usize,
    kept: Vec<Candidate<'a>>,
    refused: Vec<(Candidate<'a>, String)>,
}

impl<'a> Sieve<'a> {
    fn new(ask: &'a Ask<'a>) -> Self {
        Self {
            ask,
            asked: 0,
            kept: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn ask(&mut self, more: &[Candidate<'a>]) -> Result<Option<String>, ServerError> {
        self.asked += 1;
        (self.ask)(&[&self.kept, more].concat())
    }

    fn sift(&mut self, candidates: &[Candidate<'a>]) -> Result<(), ServerError> {
        if candidates.is_empty() {
            return Ok(());
        }
        if self.asked >= MOST {
            let why = "the server refuses too much of the configuration";
            let refused = candidates.iter().map(|one| (*one, why.to_owned()));
            self.refused.extend(refused);
            return Ok(());
        }
        let Some(said) = self.ask(candidates)? else {
            self.kept.extend(candidates);
            return Ok(());
        };
        if let [one] = candidates {
            self.refused.push((*one, reason(one.name, &said)));
            return Ok(());
        }
        // PostgreSQL spells some names with capitals.
        let said = said.to_ascii_lowercase();
        let is_named = |one: &&Candidate<'_>| said.contains(&format!("\"{}\"", one.name));
        let (named, others): (Vec<_>, Vec<_>) = candidates.iter().partition(is_named);
        if named.is_empty() || others.is_empty() {
            let (first, second) = candidates.split_at(candidates.len() / 2);
            self.sift(first)?;
            return self.sift(second);
        }
        self.sift(&others)?;
        for one in named {
            self.sift(&[one])?;
        }
        Ok(())
    }
}

/// Returns why a setting is refused, from the server's messages about it.
fn reason(name: &str, said: &str) -> String {
    let logged = said.lines().filter_map(|line| line.split_once("LOG:  "));
    let why = logged
        .map(|(_, why)| why)
        .rfind(|why| !why.starts_with("skipping missing configuration file"))
        .or(said.lines().last())
        .unwrap_or_default();
    if why.starts_with("unrecognized configuration parameter") {
        return "this server does not recognize it".to_owned();
    }
    match name {
        "lc_messages" | "lc_monetary" | "lc_numeric" | "lc_time" => {
            "this locale is not installed here".to_owned()
        }
        "timezone" | "log_timezone" => "this time zone is not installed here".to_owned(),
        _ => format!("PostgreSQL says: {why}"),
    }
}

/// Asks the server itself. The file is in memory, so that a check before a start
/// creates no file, and the server's user needs no access to one.
fn ask(
    binaries: &Binaries,
    run_as: Option<&OsUser>,
    settings: &[Candidate<'_>],
    deadline: Instant,
) -> Result<Option<String>, ServerError> {
    let failed = |e| ServerError::unfinished(&binaries.postgres, TIMEOUT, e);
    let in_memory = || -> io::Result<File> {
        let mut text = memfd_create("postgresql.conf", MemfdFlags::CLOEXEC).map(File::from)?;
        for one in settings {
            text.write_all(&line::write(one.name, &one.entry.bytes))?;
        }
        Ok(text)
    };
    let mut command = Command::new(&binaries.postgres);
    // An existing directory without a postgresql.auto.conf; the configuration names
    // production's.
    let dir = binaries.dir.to_string_lossy();
    command.args(["-C", "server_version_num", "-D", &*dir]);
    for setting in [
        &*format!("data_directory={dir}"),
        "config_file=/proc/self/fd/0",
        "log_min_messages=info",
        "log_line_prefix=",
        "log_destination=stderr",
        "log_error_verbosity=default",
    ] {
        command.args(["-c", setting]);
    }
    clean_environment(&mut command);
    let text = in_memory().map_err(|source| failed(source.into()))?;
    command.env("LC_ALL", "C").current_dir("/").stdin(text);
    become_child(&mut command, run_as.cloned());
    let ended = program::run(&mut command, deadline, SAID).map_err(failed)?;
    Ok((!ended.status.success()).then_some(ended.stderr))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::server::conf::Host;

    fn entry() -> Entry {
        Entry {
            bytes: b"1".to_vec(),
            text: "1".to_owned(),
            file: PathBuf::from("postgresql.conf"),
            line: 1,
        }
    }

    /// Returns the names that are refused by a server that says `say` about each name
    /// it does not like, and how often it was asked.
    fn refused(
        names: &[String],
        likes: impl Fn(&str) -> bool,
        say: impl Fn(&str) -> String,
    ) -> (Vec<String>, usize) {
        let entry = entry();
        let candidates: Vec<_> = names
            .iter()
            .map(|name| Candidate {
                part: Part::Main,
                name,
                entry: &entry,
            })
            .collect();
        let asked = Cell::new(0);
        let ask = |settings: &[Candidate<'_>]| {
            asked.set(asked.get() + 1);
            let bad = settings.iter().filter(|one| !likes(one.name));
            let said: Vec<String> = bad.map(|one| say(one.name)).collect();
            Ok((!said.is_empty()).then(|| said.join("\n")))
        };
        let mut sieve = Sieve::new(&ask);
        sieve.sift(&candidates).unwrap();
        assert_eq!(sieve.kept.len() + sieve.refused.len(), names.len());
        let mut refused: Vec<String> = sieve
            .refused
            .iter()
            .map(|(one, _)| one.name.to_owned())
            .collect();
        refused.sort();
        (refused, asked.get())
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("n{at:04}")).collect()
    }

    #[test]
    fn whatever_is_refused_is_found_whatever_the_server_says() {
        let names = names(100);
        let bad = ["n0003", "n0050", "n0099"];
        let likes = |name: &str| !bad.contains(&name);
        let named = |name: &str| {
            format!(
                "LOG:  invalid value for parameter \"{}\"",
                name.to_uppercase()
            )
        };
        let (found, asked) = refused(&names, likes, named);
        assert_eq!(found, bad);
        assert_eq!(asked, 5);
        let (found, asked) = refused(&names, likes, |_| "not today".to_owned());
        assert_eq!(found, bad);
        assert!(asked < 50, "{asked}");
        assert_eq!(refused(&names, |_| true, named), (vec![], 1));
    }

    #[test]
    fn a_configuration_full_of_what_is_refused_ends() {
        let (found, asked) = refused(&names(3000), |_| false, |_| String::new());
        assert_eq!(found.len(), 3000);
        assert_eq!(asked, MOST);
    }

    #[test]
    fn what_postgresql_refuses_is_left_out_and_the_rest_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).unwrap();
        write(
            "postgresql.conf",
            b"work_mem = 7MB\nTimeZone = 'Europe/Nowhere'\nlc_monetary = 'ru_RU.UTF-8'\n\
              enable_compound_index_stats = on\nwal_sync_method = blah\nlog_min_messages = panic\n\
              ignore_checksum_failure = off\nmy.own = 1\nmax_connections = 99999999999\n\
              data_directory = '/nowhere'\napplication_name = 'caf\xe9'\nwhat is that\n",
        );
        write(
            "postgresql.auto.conf",
            b"work_mem = '8MB'\nlc_time = 'xx_XX'\nmaintenance_work_mem = '9MB'\n",
        );
        let binaries = Binaries::find(15, None).unwrap();
        let mut conf = Conf::read_from(&Host::default(), dir.path()).unwrap();
        conf.leave_out_refused(&binaries, None).unwrap();
        let mut told: Vec<String> = conf.left_out.iter().map(ToString::to_string).collect();
        told.sort();
        assert_eq!(
            told,
            [
                "enable_compound_index_stats = 'on' (postgresql.conf, line 4): \
                 this server does not recognize it",
                "lc_monetary = 'ru_RU.UTF-8' (postgresql.conf, line 3): \
                 this locale is not installed here",
                "lc_time = 'xx_XX' (postgresql.auto.conf, line 2): \
                 this locale is not installed here",
                "max_connections = '99999999999' (postgresql.conf, line 9): \
                 PostgreSQL says: invalid value for parameter \"max_connections\": \"99999999999\"",
                "timezone = 'Europe/Nowhere' (postgresql.conf, line 2): \
                 this time zone is not installed here",
                "wal_sync_method = 'blah' (postgresql.conf, line 5): \
                 PostgreSQL says: invalid value for parameter \"wal_sync_method\": \"blah\"",
                "what is that (postgresql.conf, line 12): PostgreSQL rejects it as a syntax error",
            ]
        );
        assert_eq!(
            conf.main_file(),
            b"application_name = 'caf\xe9'\ndata_directory = '/nowhere'\n\
              ignore_checksum_failure = 'off'\nlog_min_messages = 'panic'\nmy.own = '1'\n\
              work_mem = '7MB'\n"
        );
        let auto = conf.new_auto_file().unwrap();
        assert_eq!(auto, b"maintenance_work_mem = '9MB'\nwork_mem = '8MB'\n");
    }

    #[test]
    fn what_works_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("postgresql.auto.conf"),
            "work_mem = '8MB'\n",
        )
        .unwrap();
        let mut conf = Conf::read_from(&Host::default(), dir.path()).unwrap();
        let binaries = Binaries::find(15, None).unwrap();
        conf.leave_out_refused(&binaries, None).unwrap();
        assert_eq!((conf.left_out.len(), conf.new_auto_file()), (0, None));
    }
}
