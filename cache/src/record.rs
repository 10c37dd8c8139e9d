//! Cache records: key to snapshot, and the memoized digests of what is in a snapshot.

use crate::{RecordKey, Snapshot, SnapshotId, Store, StoreError};

/// What happens to an earlier record of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It stays, and its snapshot is the one that holds.
    No,
    /// It gives way.
    Yes,
}

impl Store {
    /// The snapshot recorded under `key`. It stays in place for as long as this run lives.
    pub fn lookup(&self, key: &RecordKey) -> Result<Option<Snapshot>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Records `snapshot` under `key`, with the (name, value) parts the key was made of. Returns the snapshot that
    /// holds: under [`Replace::No`] an earlier one if there is one.
    pub fn save(
        &self,
        key: &RecordKey,
        parts: &[(String, String)],
        snapshot: &Snapshot,
        replace: Replace,
    ) -> Result<Snapshot, StoreError> {
        let _ = (key, parts, snapshot, replace);
        todo!()
    }

    /// The parts that were saved with the record of `key`.
    pub fn record_parts(&self, key: &RecordKey) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let _ = key;
        todo!()
    }

    /// The memoized digest of the part of the snapshot that `selector` (a hash of it) selects.
    pub fn content_digest(
        &self,
        snapshot: &SnapshotId,
        selector: &[u8; 32],
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let _ = (snapshot, selector);
        todo!()
    }

    /// The same for the snapshot recorded under `key`, without looking at the snapshot itself.
    pub fn record_content_digest(
        &self,
        key: &RecordKey,
        selector: &[u8; 32],
    ) -> Result<Option<[u8; 32]>, StoreError> {
        let _ = (key, selector);
        todo!()
    }

    /// Memoizes a digest; it goes away with the snapshot.
    pub fn set_content_digest(
        &self,
        snapshot: &SnapshotId,
        selector: &[u8; 32],
        digest: &[u8; 32],
    ) -> Result<(), StoreError> {
        let _ = (snapshot, selector, digest);
        todo!()
    }
}
