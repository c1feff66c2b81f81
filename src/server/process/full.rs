//! "No space left on device" although no disk is full: in namespaces, `/tmp` and
//! `/dev/shm` are the clone's own, in memory. They can be full while the diff has
//! space.

use super::Server;

/// For each of these directories: how its paths begin in PostgreSQL's messages, its
/// name, and the key that makes it larger. Shared memory appears there by name, not
/// by path (`dsm_impl.c`).
const OWN: [(&str, &str, &str); 3] = [
    ("\"/PostgreSQL.", "/dev/shm", "fence.shm_size"),
    ("\"/tmp/", "/tmp", "fence.tmp_size"),
    ("\"/var/tmp/", "/var/tmp", "fence.tmp_size"),
];

impl Server {
    /// Adds advice to a message of the server or its client, if one of the clone's
    /// own directories is full.
    #[must_use]
    pub fn explain(&self, said: String) -> String {
        match self.config().enclosure {
            Some(_) => explain(said),
            None => said,
        }
    }
}

fn explain(said: String) -> String {
    let full = said.lines().find_map(|line| {
        let is_meant = line.contains("No space left on device");
        OWN.iter()
            .find(|(begin, ..)| is_meant && line.contains(begin))
    });
    match full {
        Some((_, dir, key)) => {
            format!("{said}\nThe clone's own {dir} is full, not the diff's disk; raise {key}")
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_named_where_the_memory_is_full() {
        let explained = |said: &str| explain(said.to_owned());
        let shared = "ERROR:  could not resize shared memory segment \"/PostgreSQL.2711\" to \
                      8388608 bytes: No space left on device";
        assert!(explained(shared).ends_with("raise fence.shm_size"));
        let copy = "a\nERROR:  could not write to file \"/tmp/t.csv\": No space left on device";
        assert!(explained(copy).ends_with("raise fence.tmp_size"));
        for other in [
            "ERROR:  could not extend file \"base/5/16384\": No space left on device",
            "ERROR:  could not write to file \"base/pgsql_tmp/1.0\": No space left on device",
            "ERROR:  could not open file \"/tmp/t.csv\": Permission denied",
        ] {
            assert_eq!(explained(other), other);
        }
    }
}
