//! What pbkfs remembers about a clone besides its files: the table `notes`. The clone
//! cannot write to it, whatever its server's privileges.

use redb::{Durability, ReadableDatabase};

use super::metadata::Store;
use super::tables::NOTES;
use crate::diff::error::DiffError;

/// The maximum size of a note in bytes.
const MAX_LEN: usize = 64 << 10;

impl Store {
    /// Returns the note of that name, if there is one.
    ///
    /// # Errors
    /// If an I/O operation fails; returns [`DiffError::BadRecord`] for a note of more than 64
    /// KiB.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>, DiffError> {
        let row = self.with("read", |database| {
            let notes = database.begin_read()?.open_table(NOTES)?;
            let Some(row) = notes.get(name)? else {
                return Ok(None);
            };
            let bytes = row.value();
            // Do not copy a note that is too large.
            Ok(Some((bytes.len() <= MAX_LEN).then(|| bytes.to_owned())))
        })?;
        row.map(|bytes| bytes.ok_or_else(|| too_long(name)))
            .transpose()
    }

    /// Sets the note of that name, or removes it. The change is durable when this
    /// returns.
    ///
    /// # Errors
    /// If an I/O operation fails, and then the old note remains;
    /// [`DiffError::BadRecord`] for a note of more than 64 KiB.
    pub fn set_note(&self, name: &str, value: Option<&[u8]>) -> Result<(), DiffError> {
        if value.is_some_and(|value| value.len() > MAX_LEN) {
            return Err(too_long(name));
        }
        self.with("written", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut notes = transaction.open_table(NOTES)?;
                match value {
                    Some(value) => notes.insert(name, value)?,
                    None => notes.remove(name)?,
                };
            }
            Ok(transaction.commit()?)
        })
    }
}

fn too_long(name: &str) -> DiffError {
    DiffError::record(
        "the note",
        name,
        &format!("it has more than {MAX_LEN} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::diff::StoreBackend;
    use crate::diff::directory::Root;

    fn open(dir: &Path) -> Store {
        Store::open(StoreBackend::New(Arc::new(Root::open(dir).unwrap()))).unwrap()
    }

    #[test]
    fn a_note_stays_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert_eq!(store.note("recovery").unwrap(), None);
        store.set_note("recovery", Some(b"one")).unwrap();
        store.set_note("other", Some(b"")).unwrap();
        store.set_note("recovery", Some(b"two")).unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.note("recovery").unwrap().unwrap(), b"two");
        assert_eq!(store.note("other").unwrap().unwrap(), b"");
        store.set_note("recovery", None).unwrap();
        store.set_note("recovery", None).unwrap();
        assert_eq!(store.note("recovery").unwrap(), None);
        assert!(store.note("other").unwrap().is_some());
    }

    #[test]
    fn a_note_is_small() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.set_note("note", Some(&[1; MAX_LEN])).unwrap();
        let error = store.set_note("note", Some(&[1; MAX_LEN + 1])).unwrap_err();
        assert!(matches!(error, DiffError::BadRecord { .. }), "{error}");
        assert_eq!(store.note("note").unwrap().unwrap().len(), MAX_LEN);
        // Another program may have written this.
        store
            .with("written", |database| {
                let transaction = database.begin_write()?;
                let long = vec![1; MAX_LEN + 1];
                transaction
                    .open_table(NOTES)?
                    .insert("note", long.as_slice())?;
                Ok(transaction.commit()?)
            })
            .unwrap();
        let error = store.note("note").unwrap_err();
        assert!(matches!(error, DiffError::BadRecord { .. }), "{error}");
    }
}
