//! Snapshots: file system trees, each on top of its parent.

use std::path::{Path, PathBuf};

use oci::ChainId;

use crate::{SnapshotId, Store, StoreError};

/// A committed snapshot. It never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The snapshot it lies on.
    pub parent: Option<SnapshotId>,
    /// The number of snapshots in its chain, itself included.
    pub depth: u32,
}

/// A snapshot that is being made. Dropping it discards it.
#[derive(Debug)]
pub struct ActiveSnapshot;

impl Store {
    /// Begins a snapshot on top of `parent`. Its root directory has the owner, mode, times and extended attributes
    /// of the parent's; without a parent: root's, 0755.
    pub fn prepare(&self, parent: Option<&Snapshot>) -> Result<ActiveSnapshot, StoreError> {
        let _ = parent;
        todo!()
    }

    /// The snapshot of that name.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        let _ = id;
        todo!()
    }

    /// The snapshot that holds the image layers of that chain ID. It stays in place for as long as this run lives.
    pub fn snapshot_by_chain(&self, chain: &ChainId) -> Result<Option<Snapshot>, StoreError> {
        let _ = chain;
        todo!()
    }

    /// The snapshot and all it lies on, bottom first.
    pub fn chain(&self, snapshot: &Snapshot) -> Result<Vec<Snapshot>, StoreError> {
        let _ = snapshot;
        todo!()
    }

    /// The directories that make up the snapshot's tree, top first, at most [`Store::MAX_LAYER_DIRECTORIES`]: lower
    /// directories of an overlay, or the one directory with the whole tree under [`crate::SnapshotterKind::Copy`].
    pub fn layer_dirs(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, StoreError> {
        let _ = snapshot;
        todo!()
    }

    /// The one directory that the snapshot itself has: what differs from its parent, or the whole tree under
    /// [`crate::SnapshotterKind::Copy`].
    pub fn own_dir(&self, snapshot: &SnapshotId) -> PathBuf {
        let _ = snapshot;
        todo!()
    }

    /// The kernel takes no more than 500 lower directories; lower parts of longer chains are merged.
    pub const MAX_LAYER_DIRECTORIES: usize = 500;
}

impl ActiveSnapshot {
    /// The directory that is written to.
    pub fn upper(&self) -> &Path {
        todo!()
    }

    /// The directories below, top first; empty under [`crate::SnapshotterKind::Copy`].
    pub fn lower_dirs(&self) -> &[PathBuf] {
        todo!()
    }

    /// A fresh, empty directory on the same file system, for overlay's work directory. It goes away with this value.
    pub fn work_dir(&self) -> Result<PathBuf, StoreError> {
        todo!()
    }

    /// The snapshot below.
    pub fn parent(&self) -> Option<&Snapshot> {
        todo!()
    }

    /// Finishes the snapshot. Nothing may write to it from now on.
    pub fn commit(self) -> Result<Snapshot, StoreError> {
        todo!()
    }

    /// Finishes the snapshot as that of the image layers of `chain`. If there is one already, that one is returned
    /// and this one discarded.
    pub fn commit_as(self, chain: &ChainId) -> Result<Snapshot, StoreError> {
        let _ = chain;
        todo!()
    }

    /// Finishes the snapshot on top of `parent` instead of the one it was prepared on, so that layers can be written
    /// in parallel before those below them are there. Only for snapshots prepared without a parent, and not under
    /// [`crate::SnapshotterKind::Copy`].
    pub fn set_parent(&mut self, parent: &Snapshot) -> Result<(), StoreError> {
        let _ = parent;
        todo!()
    }
}
