//! Nothing that pbkfs reads may harm the user who runs it.
//!
//! Copies of the smallest bundled catalog, and of a kept diff based on it, are
//! damaged in some hundred ways each, always the same ones; and a clone's data
//! directory gets everything that a clone's superuser can plant there. Then every
//! command runs on it, as root, and is checked against the contract: it ends in time,
//! without a signal and with a known exit code, in bounded memory; it prints one
//! sentence if it fails; it reveals nothing of a file outside and changes none; it
//! leaves nothing behind.
//!
//! A failure names the mutation. To repeat only that one:
//!
//! ```text
//! PBKFS_MUTATION='catalog: size of base/1/1255 is -2' cargo test --test mutation
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;
mod case;
mod content;
mod control;
mod diff;
mod kinds;
mod mutation;
mod planted;
mod records;
mod walk;

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use case::{Bench, Case};
use mutation::{Mutation, some};

/// Number of cases of one kind that run in parallel; the kinds also run in parallel.
const WORKERS: usize = 2;

/// After this many failures, more would reveal nothing new.
const ENOUGH: usize = 60;

/// The environment variable that selects a single mutation.
const ONLY: &str = "PBKFS_MUTATION";

/// Runs `work` on a copy of the bench's files for each mutation, and fails with all
/// faults found.
fn hold(
    kind: &str,
    bench: &Bench,
    mutations: &[Mutation],
    least: usize,
    work: impl Fn(&mut Case) + Sync,
) {
    assert!(
        mutations.len() >= least,
        "only {} mutations",
        mutations.len()
    );
    let names: BTreeSet<_> = mutations.iter().map(|mutation| &mutation.name).collect();
    assert_eq!(names.len(), mutations.len(), "two mutations have one name");
    let only = std::env::var(ONLY).ok();
    let chosen = |mutation: &&Mutation| {
        only.as_ref()
            .is_none_or(|only| *only == format!("{kind}: {}", mutation.name))
    };
    let chosen: Vec<_> = mutations.iter().filter(chosen).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(mutation) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failures.lock().unwrap().len() >= ENOUGH {
                        return;
                    }
                    let mut case = bench.case();
                    (mutation.apply)(&case);
                    case.begin();
                    work(&mut case);
                    let faults = case.end();
                    if !faults.is_empty() {
                        let name = format!("{kind}: {}", mutation.name);
                        eprintln!("FAILED {name}\n  {}", faults.join("\n  "));
                        failures.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    bench.assert_unchanged();
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} mutations broke the contract (each is listed above; {ONLY}='..' repeats one):\n{}",
        failures.len(),
        chosen.len(),
        failures.join("\n")
    );
}

#[test]
fn a_damaged_catalog() {
    let bench = Bench::with_catalog("pg15-debian");
    let mut mutations = kinds::of_catalog();
    mutations.extend(some(content::all(), 110, 1));
    mutations.extend(some(control::all(), 90, 2));
    mutations.extend(content::stored());
    hold("catalog", &bench, &mutations, 300, Case::look_at_catalog);
}

#[test]
fn a_damaged_archive() {
    let bench = Bench::with_archive();
    hold(
        "archive",
        &bench,
        &archive::all(),
        60,
        Case::look_at_archive,
    );
}

#[test]
fn a_damaged_diff() {
    let bench = Bench::with_diff();
    let mut mutations = kinds::of_diff();
    mutations.extend(diff::all());
    mutations.extend(records::all());
    hold("diff", &bench, &mutations, 300, Case::look_at_diff);
}

#[test]
fn what_a_clone_planted() {
    let bench = Bench::with_diff();
    let mutations = planted::all();
    hold("planted", &bench, &mutations, 25, planted::look_at_planted);
}

/// PostgreSQL takes seconds, so only some of the damaged catalogs and diffs get a
/// server.
#[test]
fn a_server_on_what_is_damaged() {
    let bench = Bench::with_diff();
    let mut of_catalog = kinds::of_catalog();
    of_catalog.extend(content::stored());
    let mut mutations = some(of_catalog, 20, 3);
    let mut of_diff = kinds::of_diff();
    of_diff.extend(records::all());
    mutations.extend(some(of_diff, 20, 4));
    hold("server", &bench, &mutations, 40, Case::start_servers);
}
