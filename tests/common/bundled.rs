// An expression: a function that gives the place of a bundled catalog by its name.
// All that needs one includes it.
|name: &str| -> std::path::PathBuf {
    let all = concat!(env!("CARGO_MANIFEST_DIR"), "/postgres/fixtures");
    let place = std::path::Path::new(all).join(name);
    assert!(
        place.exists(),
        "this needs the bundled catalog {name}, and there is no {}: the crate of a registry has \
         no catalogs, so use a clone of the repository",
        place.display()
    );
    place
}
