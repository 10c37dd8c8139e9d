//! Cache records: key to snapshot, and the memoized digests of what is in a snapshot.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::database::{Failed, kind_number};
use crate::run::{Declared, Use};
use crate::snapshot::read_snapshot_row;
use crate::store::{is_outdated, now};
use crate::{EntryKind, RecordKey, Snapshot, SnapshotId, Store, StoreError};

/// What happens to an earlier record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It stays, and its snapshot is the one that holds.
    No,
    /// It gives way.
    Yes,
}

/// What is told of a record; it is not found by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordDetails {
    /// What made it, for people (`[2/3] RUN make`).
    pub description: String,
    /// What kind of thing it is.
    pub kind: EntryKind,
    /// The (name, value) parts that its key was made of.
    pub parts: Vec<(String, String)>,
}

impl Store {
    /// The snapshot recorded under `key`. It stays in place for as long as this run lives.
    pub fn lookup(&self, key: &RecordKey) -> Result<Option<Snapshot>, StoreError> {
        let found = self.acquire(|connection| self.read_record(connection, key))?;
        let Some((snapshot, used)) = found else { return Ok(None) };
        if is_outdated(used) {
            self.shared.database.pending().used.insert(*key);
        }
        Ok(Some(snapshot))
    }

    /// Reads a snapshot and the time of its last use, and makes sure that it stays: declares the use, and looks
    /// whether it is still there.
    pub(crate) fn acquire(
        &self,
        read: impl Fn(&Connection) -> rusqlite::Result<Option<(Snapshot, i64)>>,
    ) -> Result<Option<(Snapshot, i64)>, StoreError> {
        loop {
            let prunes = self.shared.prunes.known();
            let Some(found) = self.shared.database.read(&read)? else { return Ok(None) };
            // If a prune came between, it is looked for again: what is found after its use was declared stays.
            let used = Use::snapshot(found.0.id);
            let declared = self.shared.run.declare(used)?;
            if declared == Declared::Before || self.shared.prunes.none_since(prunes)? {
                self.shared.run.confirm(used);
                self.shared.memory().snapshots.insert(found.0.id, found.0);
                return Ok(Some(found));
            }
        }
    }

    fn read_record(
        &self,
        connection: &Connection,
        key: &RecordKey,
    ) -> rusqlite::Result<Option<(Snapshot, i64)>> {
        connection
            .prepare_cached(
                "SELECT s.id, s.parent, s.depth, r.used FROM records r JOIN snapshots s ON s.id = r.snapshot
                 WHERE r.key = ?1 AND s.kind = ?2 AND s.doomed = 0",
            )?
            .query_row(params![key.0, kind_number(self.shared.snapshotter)], |row| {
                Ok((read_snapshot_row(row)?, row.get(3)?))
            })
            .optional()
    }

    /// Records `snapshot` under `key`. Returns the snapshot that holds: under [`Replace::No`] an earlier one if there
    /// is one.
    pub fn save(
        &self,
        key: &RecordKey,
        details: &RecordDetails,
        snapshot: &Snapshot,
        replace: Replace,
    ) -> Result<Snapshot, StoreError> {
        let holds = self.shared.database.write(|transaction| {
            if replace == Replace::No
                && let Some((earlier, _)) = self.read_record(transaction, key)?
            {
                // Nothing can be pruned before the end of this transaction, and prune will see the use then.
                self.shared.run.hold(Use::snapshot(earlier.id))?;
                return Ok(earlier);
            }
            write_record(transaction, key, snapshot, details)?;
            Ok(*snapshot)
        })?;
        self.shared.memory().snapshots.insert(holds.id, holds);
        self.shared.mark_unsealed();
        Ok(holds)
    }

    /// The records that are described in words that end in `text`, the one that was used last first.
    pub fn records_described(&self, text: &str) -> Result<Vec<RecordKey>, StoreError> {
        self.shared.database.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT key FROM records WHERE substr(description, -length(?1)) = ?1 ORDER BY used DESC",
                )?
                .query_map([text], |row| Ok(RecordKey(row.get(0)?)))?
                .collect()
        })
    }

    /// The snapshot recorded under `key`, if it is there: without a claim on it.
    pub fn recorded(&self, key: &RecordKey) -> Result<Option<Snapshot>, StoreError> {
        let found = self.shared.database.read(|connection| self.read_record(connection, key))?;
        Ok(found.map(|(snapshot, _)| snapshot))
    }

    /// The parts that were saved with the record of `key`.
    pub fn record_parts(&self, key: &RecordKey) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let text: Option<String> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT parts FROM records WHERE key = ?1")?
                .query_row([key.0], |row| row.get(0))
                .optional()
        })?;
        let Some(text) = text else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(parts) => Ok(Some(parts)),
            Err(_) => Err(self.invalid("list of key parts", text)),
        }
    }

    /// The memoized digest of the part of the snapshot that `selector` (a hash of it) selects.
    pub fn content_digest(
        &self,
        snapshot: &SnapshotId,
        selector: &[u8; 32],
    ) -> Result<Option<[u8; 32]>, StoreError> {
        if let Some(digest) = self.shared.memory().digests.get(&(*snapshot, *selector)) {
            return Ok(Some(*digest));
        }
        self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT digest FROM digests WHERE snapshot = ?1 AND selector = ?2")?
                .query_row(params![snapshot.0, selector], |row| row.get(0))
                .optional()
        })
    }

    /// The same for the snapshot recorded under `key`, without looking at the snapshot itself.
    pub fn record_content_digest(
        &self,
        key: &RecordKey,
        selector: &[u8; 32],
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let record = self.shared.database.read(|connection| self.read_record(connection, key))?;
        match record {
            Some((snapshot, _)) => self.content_digest(&snapshot.id, selector),
            None => Ok(None),
        }
    }

    /// Memoizes a digest; it goes away with the snapshot.
    pub fn set_content_digest(
        &self,
        snapshot: &SnapshotId,
        selector: &[u8; 32],
        digest: &[u8; 32],
    ) -> Result<(), StoreError> {
        self.shared.memory().digests.insert((*snapshot, *selector), *digest);
        self.shared.database.pending().digests.insert((*snapshot, *selector), *digest);
        Ok(())
    }

    /// The error for a text in the metadata that this program does not write.
    pub(crate) fn invalid(&self, what: &'static str, value: String) -> StoreError {
        StoreError::InvalidMetadata { path: self.shared.database.path().to_owned(), what, value }
    }
}

fn write_record(
    transaction: &Transaction<'_>,
    key: &RecordKey,
    snapshot: &Snapshot,
    details: &RecordDetails,
) -> Result<(), Failed> {
    let parts = serde_json::to_string(&details.parts).expect("pairs of texts can always be written");
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO records (key, snapshot, used, generation, kind, description, parts)
             VALUES (?1, ?2, ?3, (SELECT max(id) FROM generations), ?4, ?5, ?6)",
        )?
        .execute(params![key.0, snapshot.id.0, now(), details.kind.number(), details.description, parts])?;
    Ok(())
}
