//! Snapshots: file system trees, each on top of its parent.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use oci::ChainId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::contents::Contents;
use crate::database::{PendingSnapshot, kind_number};
use crate::disk::Disk;
use crate::duplicate::{self, Overlay};
use crate::layer::LayerSource;
use crate::links::Linked;
use crate::run::Use;
use crate::store::is_outdated;
use crate::{SnapshotId, SnapshotterKind, Store, StoreError};

/// The name of a snapshot's tree in its directory.
pub(crate) const TREE: &str = "fs";

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
pub struct ActiveSnapshot {
    pub(crate) store: Store,
    pub(crate) directory: PathBuf,
    upper: PathBuf,
    parent: Option<Snapshot>,
    lower_dirs: Vec<PathBuf>,
    work_dirs: Mutex<Vec<PathBuf>>,
    pub(crate) linked: Linked,
    pub(crate) contents: Mutex<Contents>,
    /// The copy that makes it, if another may want to know.
    copy: Mutex<Option<[u8; 32]>>,
    committed: bool,
}

/// Directories that overlays have worked in. They go away when this is dropped, which may be after the store is closed.
#[derive(Debug)]
pub struct WorkDirs {
    paths: Vec<PathBuf>,
    disk: Disk,
}

impl Drop for WorkDirs {
    fn drop(&mut self) {
        // What cannot be removed goes away with the run's directory.
        for path in &self.paths {
            let _ = self.disk.remove_tree(path);
        }
    }
}

impl Store {
    /// The kernel takes no more than 500 lower directories; the lower parts of longer chains are merged.
    pub const MAX_LAYER_DIRECTORIES: usize = 500;

    /// Begins a snapshot on top of `parent`. Its root directory has the owner, mode, times and extended attributes
    /// of the parent's; without a parent: root's, 0755.
    ///
    /// `parent` comes from this run: what it is given by another is not protected against prune.
    pub fn prepare(&self, parent: Option<&Snapshot>) -> Result<ActiveSnapshot, StoreError> {
        let disk = &self.shared.disk;
        let directory = self.fresh_path();
        let upper = directory.join(TREE);
        let lower_dirs = match (parent, self.snapshotter()) {
            (Some(parent), SnapshotterKind::Overlay) => self.layer_dirs(parent)?,
            _ => Vec::new(),
        };
        disk.create_dir(&directory, 0o755)?;
        let active = ActiveSnapshot {
            store: self.clone(),
            directory,
            upper,
            parent: parent.copied(),
            lower_dirs,
            work_dirs: Mutex::default(),
            linked: Linked::default(),
            contents: Mutex::default(),
            copy: Mutex::default(),
            committed: false,
        };
        disk.create_dir(&active.upper, 0o755)?;
        let write = |error| StoreError::io("write", &active.upper, error);
        match (parent, self.snapshotter()) {
            (None, _) => duplicate::set_default_mode(&active.upper).map_err(write)?,
            (Some(parent), SnapshotterKind::Overlay) => {
                let below = self.own_dir(&parent.id);
                duplicate::copy_root_attributes(&below, &active.upper, Overlay::Yes).map_err(write)?;
            }
            (Some(parent), SnapshotterKind::Copy) => {
                disk.step().map_err(write)?;
                duplicate::copy_tree(&self.own_dir(&parent.id), &active.upper).map_err(write)?;
            }
        }
        Ok(active)
    }

    /// The snapshot of that name. It stays in place for as long as this run lives.
    pub fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        if let Some(known) = self.shared.memory().snapshots.get(id) {
            return Ok(Some(*known));
        }
        let found = self.acquire(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, parent, depth, used FROM snapshots WHERE id = ?1 AND kind = ?2 AND doomed = 0",
                )?
                .query_row(params![id.0, kind_number(self.snapshotter())], |row| {
                    Ok((read_snapshot_row(row)?, row.get(3)?))
                })
                .optional()
        })?;
        Ok(found.map(|(snapshot, _)| snapshot))
    }

    /// The snapshot that a copy made when it was last done; see [`ActiveSnapshot::set_copy`]. It stays in place for as
    /// long as this run lives.
    pub fn last_copy(&self, copy: &[u8; 32]) -> Result<Option<Snapshot>, StoreError> {
        let pending = self.shared.database.pending().copies.get(copy).copied();
        if let Some(id) = pending {
            return self.snapshot(&id);
        }
        let found = self.acquire(|connection| {
            connection
                .prepare_cached(
                    "SELECT s.id, s.parent, s.depth, s.used FROM copies c JOIN snapshots s ON s.id = c.snapshot
                     WHERE c.copy = ?1 AND s.kind = ?2 AND s.doomed = 0",
                )?
                .query_row(params![copy, kind_number(self.snapshotter())], |row| {
                    Ok((read_snapshot_row(row)?, row.get(3)?))
                })
                .optional()
        })?;
        Ok(found.map(|(snapshot, _)| snapshot))
    }

    /// The snapshot that holds the image layers of that chain ID. It stays in place for as long as this run lives.
    pub fn snapshot_by_chain(&self, chain: &ChainId) -> Result<Option<Snapshot>, StoreError> {
        let found = self.acquire(|connection| self.read_chain(connection, chain))?;
        let Some((snapshot, used)) = found else { return Ok(None) };
        if is_outdated(used) {
            self.shared.database.pending().used_snapshots.insert(snapshot.id);
        }
        Ok(Some(snapshot))
    }

    fn read_chain(
        &self,
        connection: &Connection,
        chain: &ChainId,
    ) -> rusqlite::Result<Option<(Snapshot, i64)>> {
        connection
            .prepare_cached(
                "SELECT id, parent, depth, used FROM snapshots WHERE chain = ?1 AND kind = ?2 AND doomed = 0",
            )?
            .query_row(params![chain.0.as_str(), kind_number(self.snapshotter())], |row| {
                Ok((read_snapshot_row(row)?, row.get(3)?))
            })
            .optional()
    }

    /// The snapshot and all it lies on, bottom first.
    pub fn chain(&self, snapshot: &Snapshot) -> Result<Vec<Snapshot>, StoreError> {
        let mut chain = vec![*snapshot];
        let mut next = snapshot.parent;
        while let Some(id) = next {
            let below = self.below(id)?;
            chain.push(below);
            next = below.parent;
        }
        chain.reverse();
        Ok(chain)
    }

    /// A snapshot of a chain whose top is in use: it cannot go away.
    pub(crate) fn below(&self, id: SnapshotId) -> Result<Snapshot, StoreError> {
        if let Some(known) = self.shared.memory().snapshots.get(&id) {
            return Ok(*known);
        }
        let found = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT id, parent, depth FROM snapshots WHERE id = ?1")?
                .query_row([id.0], read_snapshot_row)
                .optional()
        })?;
        let found = found.ok_or(StoreError::NoSnapshot(id))?;
        self.shared.memory().snapshots.insert(id, found);
        Ok(found)
    }

    /// The directories that make up the snapshot's tree, top first, at most [`Store::MAX_LAYER_DIRECTORIES`]: lower
    /// directories of an overlay, or the one directory with the whole tree under [`SnapshotterKind::Copy`].
    pub fn layer_dirs(&self, snapshot: &Snapshot) -> Result<Vec<PathBuf>, StoreError> {
        match self.snapshotter() {
            SnapshotterKind::Copy => Ok(vec![self.own_dir(&snapshot.id)]),
            SnapshotterKind::Overlay => self.overlay_dirs(snapshot),
        }
    }

    /// The one directory that the snapshot itself has: what differs from its parent, or the whole tree under
    /// [`SnapshotterKind::Copy`].
    pub fn own_dir(&self, snapshot: &SnapshotId) -> PathBuf {
        let mut path = self.snapshot_directory(*snapshot);
        path.push(TREE);
        path
    }

    /// What the layer of a snapshot is made from. The snapshot is in use.
    pub fn layer_source(&self, snapshot: &Snapshot) -> Result<LayerSource, StoreError> {
        let parent = snapshot.parent.map(|id| self.below(id)).transpose()?;
        self.layer_source_of(self.own_dir(&snapshot.id), parent.as_ref())
    }

    /// What all that a snapshot has on top of `below`, or of nothing, is made from. Both are in use.
    pub fn merged_source(&self, below: Option<&Snapshot>, top: &Snapshot) -> Result<LayerSource, StoreError> {
        let old = below.map_or_else(|| Ok(Vec::new()), |below| self.layer_dirs(below))?;
        Ok(LayerSource::Trees { old, new: self.layer_dirs(top)?, mode: self.tree_mode() })
    }

    /// The same for a directory that is to be that of a snapshot on top of `parent`.
    pub(crate) fn layer_source_of(
        &self,
        own: PathBuf,
        parent: Option<&Snapshot>,
    ) -> Result<LayerSource, StoreError> {
        let mode = self.tree_mode();
        Ok(match self.snapshotter() {
            SnapshotterKind::Overlay => LayerSource::Overlay {
                upper: own,
                lower_dirs: parent.map_or_else(|| Ok(Vec::new()), |parent| self.layer_dirs(parent))?,
                mode,
            },
            SnapshotterKind::Copy => {
                let old = parent.map(|parent| self.own_dir(&parent.id)).into_iter().collect();
                LayerSource::Trees { old, new: vec![own], mode }
            }
        })
    }

    pub(crate) fn snapshot_directory(&self, snapshot: SnapshotId) -> PathBuf {
        let mut path = self.shared.snapshots_directory();
        path.push(snapshot.to_string());
        path
    }

    fn insert_chain(
        &self,
        transaction: &Transaction<'_>,
        chain: &ChainId,
        snapshot: &Snapshot,
    ) -> Result<Snapshot, crate::database::Failed> {
        if let Some((earlier, _)) = self.read_chain(transaction, chain)? {
            self.shared.run.hold(Use::snapshot(earlier.id))?;
            return Ok(earlier);
        }
        // One that is about to be pruned has lost its name already.
        transaction.execute(
            "UPDATE snapshots SET chain = NULL WHERE chain = ?1 AND kind = ?2",
            params![chain.0.as_str(), kind_number(self.snapshotter())],
        )?;
        transaction.execute(
            "UPDATE snapshots SET chain = ?1 WHERE id = ?2",
            params![chain.0.as_str(), snapshot.id.0],
        )?;
        Ok(*snapshot)
    }
}

/// Reads `id, parent, depth`.
pub(crate) fn read_snapshot_row(row: &Row<'_>) -> rusqlite::Result<Snapshot> {
    let parent: Option<i64> = row.get(1)?;
    Ok(Snapshot { id: SnapshotId(row.get(0)?), parent: parent.map(SnapshotId), depth: row.get(2)? })
}

impl ActiveSnapshot {
    /// The directory that is written to.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// The directories below, top first; empty under [`SnapshotterKind::Copy`].
    pub fn lower_dirs(&self) -> &[PathBuf] {
        &self.lower_dirs
    }

    /// A fresh, empty directory on the same file system, for overlay's work directory. It goes away with this value.
    pub fn work_dir(&self) -> Result<PathBuf, StoreError> {
        let path = self.store.fresh_path();
        self.store.shared.disk.create_dir(&path, 0o700)?;
        self.work_dirs.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Ok(path)
    }

    /// What [`ActiveSnapshot::work_dir`] has made, for whoever has the time to remove it.
    pub fn take_work_dirs(&self) -> WorkDirs {
        let paths = std::mem::take(&mut *self.work_dirs.lock().unwrap_or_else(PoisonError::into_inner));
        WorkDirs { paths, disk: self.store.shared.disk.clone() }
    }

    /// The snapshot below.
    pub fn parent(&self) -> Option<&Snapshot> {
        self.parent.as_ref()
    }

    /// Puts the snapshot on top of `parent`, so that layers can be written in parallel before those below them are
    /// there. Only for snapshots prepared without a parent, and not under [`SnapshotterKind::Copy`], where it would
    /// hide all of the parent. The root directory is left as it is.
    pub fn set_parent(&mut self, parent: &Snapshot) -> Result<(), StoreError> {
        self.lower_dirs = self.store.layer_dirs(parent)?;
        self.parent = Some(*parent);
        Ok(())
    }

    /// Finishes the snapshot. Nothing may write to it from now on.
    ///
    /// Other processes see it once it has a record.
    pub fn commit(mut self) -> Result<Snapshot, StoreError> {
        self.publish()
    }

    /// Finishes the snapshot as that of the image layers of `chain`. If there is one already, that one is returned
    /// and this one discarded.
    pub fn commit_as(mut self, chain: &ChainId) -> Result<Snapshot, StoreError> {
        if let Some(earlier) = self.store.snapshot_by_chain(chain)? {
            return Ok(earlier);
        }
        let snapshot = self.publish()?;
        let store = &self.store;
        let holds =
            store.shared.database.write(|transaction| store.insert_chain(transaction, chain, &snapshot))?;
        store.shared.memory().snapshots.insert(holds.id, holds);
        store.shared.mark_unsealed();
        Ok(holds)
    }

    /// Makes this the snapshot that [`Store::last_copy`] finds under `copy`, once it has a record.
    pub fn set_copy(&self, copy: [u8; 32]) {
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
    }

    fn publish(&mut self) -> Result<Snapshot, StoreError> {
        self.write_contents()?;
        let shared = &self.store.shared;
        let id = SnapshotId(shared.next_snapshot.fetch_add(1, Ordering::Relaxed).cast_signed());
        let depth = self.parent.map_or(0, |parent| parent.depth) + 1;
        let snapshot = Snapshot { id, parent: self.parent.map(|parent| parent.id), depth };
        // Declared first: a directory without a row is garbage unless a living run says that it uses it.
        shared.run.hold(Use::snapshot(id))?;
        shared.disk.rename(&self.directory, &self.store.snapshot_directory(id))?;
        self.committed = true;
        let origins = self.linked.origins(id);
        let mut memory = shared.memory();
        memory.snapshots.insert(id, snapshot);
        memory.origins.insert(id, origins.clone());
        drop(memory);
        let mut pending = shared.database.pending();
        pending.snapshots.push(PendingSnapshot { snapshot, kind: shared.snapshotter, origins });
        let copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner).take();
        pending.copies.extend(copy.map(|copy| (copy, id)));
        Ok(snapshot)
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        // What cannot be removed goes away with the run's directory.
        drop(self.take_work_dirs());
        if !self.committed {
            let _ = self.store.shared.disk.remove_tree(&self.directory);
        }
    }
}
