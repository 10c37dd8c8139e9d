//! What takes space, and throwing away what is not needed.

use std::time::Duration;

use crate::{Store, StoreError};

/// The space a store takes. Files are counted once however many links they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it, in bytes on the disk.
    pub total_bytes: u64,
    /// What [`Store::prune`] of everything unused would free now, in bytes on the disk.
    pub reclaimable_bytes: u64,
    /// The number of snapshots.
    pub snapshots: u64,
    /// The number of cache records.
    pub records: u64,
    /// The number of blobs.
    pub blobs: u64,
}

/// What may be thrown away. What a living run uses and what local tags name always stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Only what has not been used for that long; `None`: no matter when.
    pub unused_for: Option<Duration>,
    /// Stop as soon as the store takes no more than that many bytes, the least recently used go first; `None`: go on.
    pub keep_bytes: Option<u64>,
}

/// What was thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The bytes freed on the disk.
    pub freed_bytes: u64,
    /// The number of snapshots.
    pub snapshots: u64,
    /// The number of cache records.
    pub records: u64,
    /// The number of blobs.
    pub blobs: u64,
}

impl Store {
    /// What takes space. Walks the whole store.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        todo!()
    }

    /// Throws away what is not needed, and what killed processes have left. Never waits for a build.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        let _ = options;
        todo!()
    }
}
