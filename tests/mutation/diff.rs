//! A kept diff with a wrong binding, and with files of different bytes.

use std::fs;

use crate::case::{Case, replace};
use crate::content::damaged;
use crate::kinds::first_in;
use crate::mutation::{Mutation, Named, Random};

/// Size of a page of the store in bytes.
const PAGE: usize = 4096;

pub fn all() -> Vec<Mutation> {
    let mut mutations = of_store();
    mutations.extend(bindings());
    mutations.extend(texts());
    let mut random = Random::new(17);
    for dir in ["diff/data", "diff/.pbkfs-wal"] {
        for how in ["flipped", "cut", "longer", "zeros"] {
            let at = random.number();
            mutations.push(Mutation::new(
                format!("a file of {dir} is {how}"),
                move |case| {
                    let path = first_in(case, dir);
                    replace(&path, &damaged(fs::read(&path).unwrap(), how, at));
                },
            ));
        }
        mutations.push(Mutation::new(
            format!("a file of {dir} is missing"),
            move |case| {
                fs::remove_file(first_in(case, dir)).unwrap();
            },
        ));
        mutations.push(Mutation::new(
            format!("a file of {dir} has two names"),
            move |case| {
                fs::hard_link(
                    case.path("outside/secret"),
                    case.path(dir).join("4294999999"),
                )
                .unwrap();
            },
        ));
    }
    mutations
}

/// Mutations of the store's file, such as a disk or a person causes.
fn of_store() -> Vec<Mutation> {
    let mut random = Random::new(13);
    let mut mutations = Vec::new();
    for round in 0..70 {
        let (at, header) = (random.number(), round % 3 == 0);
        mutations.push(Mutation::new(
            format!("meta.redb is flipped, {round}"),
            move |case| {
                edit(case, |mut bytes| {
                    // Most of what matters is in the first page.
                    let room = if header { 320 } else { bytes.len() };
                    bytes[at as usize % room] ^= 1 << (at >> 61);
                    bytes
                });
            },
        ));
    }
    for round in 0..12 {
        let at = random.number();
        for how in ["cut", "longer", "zeros"] {
            mutations.push(Mutation::new(
                format!("meta.redb is {how}, {round}"),
                move |case| {
                    edit(case, |bytes| damaged(bytes, how, at));
                },
            ));
        }
    }
    for round in 0..24 {
        let (from, to) = (random.number() as usize, random.number() as usize);
        mutations.push(Mutation::new(
            format!("meta.redb has a page twice, {round}"),
            move |case| {
                edit(case, |mut bytes| {
                    let pages = bytes.len() / PAGE;
                    let from = from % pages * PAGE;
                    bytes.copy_within(from..from + PAGE, to % pages * PAGE);
                    bytes
                });
            },
        ));
    }
    mutations
}

fn edit(case: &Case, with: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = case.path("diff/meta.redb");
    replace(&path, &with(fs::read(&path).unwrap()));
}

/// Mutations of each field of the binding.
fn bindings() -> Vec<Mutation> {
    let long = || serde_json::json!("x".repeat(100_000));
    let many = || serde_json::json!(vec!["TOW7OQ"; 20_000]);
    let values: [(&str, Vec<serde_json::Value>); 7] = [
        (
            "version",
            vec![
                0.into(),
                2.into(),
                u32::MAX.into(),
                (-1).into(),
                "1".into(),
                1e300.into(),
            ],
        ),
        (
            "catalog",
            vec![
                "".into(),
                "/dev/zero".into(),
                "../../..".into(),
                "/proc/self/mem".into(),
                long(),
            ],
        ),
        (
            "instance",
            vec![
                "".into(),
                "../../outside".into(),
                "\u{1b}[31mred".into(),
                "two\nlines".into(),
                long(),
            ],
        ),
        (
            "system_identifier",
            vec![
                serde_json::Value::Null,
                u64::MAX.into(),
                (-1).into(),
                "7".into(),
            ],
        ),
        (
            "backup",
            vec![
                "".into(),
                "../../../outside/directory".into(),
                "TOW7OQ".into(),
                "\u{1b}[31mred".into(),
                long(),
            ],
        ),
        (
            "chain",
            vec![
                serde_json::json!([]),
                serde_json::json!(["TOW7P0"]),
                many(),
                "TOW7P0".into(),
            ],
        ),
        (
            "image",
            vec!["".into(), "00".into(), "\u{1b}[31mred".into(), long()],
        ),
    ];
    let mut mutations = Vec::new();
    for (field, values) in values {
        for (at, value) in values.into_iter().enumerate() {
            mutations.push(Mutation::new(
                format!("{field} of the binding is wrong, {at}"),
                move |case| {
                    let path = case.path("diff/.pbkfs-binding.json");
                    let text = fs::read(&path).unwrap();
                    let mut binding: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    binding[field] = value.clone();
                    replace(&path, &serde_json::to_vec(&binding).unwrap());
                },
            ));
        }
        mutations.push(Mutation::new(
            format!("the binding has no {field}"),
            move |case| {
                let path = case.path("diff/.pbkfs-binding.json");
                let text = fs::read(&path).unwrap();
                let mut binding: serde_json::Value = serde_json::from_slice(&text).unwrap();
                binding.as_object_mut().unwrap().remove(field);
                replace(&path, &serde_json::to_vec(&binding).unwrap());
            },
        ));
    }
    mutations
}

/// Mutations that replace binding and lock by various texts.
fn texts() -> Vec<Mutation> {
    let texts: [Named; 6] = [
        ("open brackets", || vec![b'['; 100_000]),
        ("64 MB of spaces", || vec![b' '; 64 << 20]),
        ("an open string", || b"{ \"catalog\": \"".to_vec()),
        ("no text", || vec![0xFF; 3000]),
        ("escapes", || {
            b"{\"pid\":1,\"host\":\"\x1b[31mred\"}".to_vec()
        }),
        ("process 1", || {
            b"{\"pid\":1,\"host\":\"two\\nlines\",\"target\":\"/\"}".to_vec()
        }),
    ];
    let mut mutations = Vec::new();
    for name in [".pbkfs-binding.json", ".pbkfs-lock"] {
        for (what, text) in texts {
            mutations.push(Mutation::new(format!("{name} has {what}"), move |case| {
                replace(&case.path("diff").join(name), &text());
            }));
        }
    }
    mutations
}
