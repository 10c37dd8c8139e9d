//! Hard links between snapshots: files that move without their bytes.
//!
//! A program in a RUN sees inodes. Two names of one inode are one file to it: `cp` refuses to copy the one over the
//! other, `mv` removes one, `tar` stores a link. So a tree must not come to hold an inode twice that its Dockerfile
//! did not link. Each snapshot therefore has a set of *origins*, such that whenever two snapshots hold the same inode
//! their sets have a member in common: the set of a snapshot that holds no link to another's files is that snapshot
//! alone, the set of one that does is the union of those whose files it holds (what it made itself counts as made by
//! any of these). A snapshot links another's files only if the sets of its own chain are disjoint from the other's,
//! and no inode twice.
//!
//! An inode that has been committed is never written again, whoever links to it: every writer of a tree unlinks what
//! is in its way, and a RUN sees it below an overlay.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use rusqlite::OptionalExtension;

use crate::tree::{Entry, Holder, TreeError, TreeWriter};
use crate::{ActiveSnapshot, Snapshot, SnapshotId, SnapshotterKind, Store, StoreError};

/// Whether files of one snapshot may be hard links to those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkPolicy {
    /// Where it cannot be told from a copy.
    #[default]
    Allowed,
    /// Never: all files are cloned or copied.
    Never,
}

/// Snapshots whose files another may hold; see the module.
///
/// Stored as their numbers, 8 bytes each, big endian, sorted; nothing for the snapshot alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(BTreeSet<SnapshotId>);

impl Origins {
    /// Those of a snapshot that holds nothing but what it made itself.
    pub(crate) fn own(snapshot: SnapshotId) -> Self {
        Self(BTreeSet::from([snapshot]))
    }

    /// The stored form; `None` for `snapshot` alone.
    pub(crate) fn encode(&self, snapshot: SnapshotId) -> Option<Vec<u8>> {
        (*self != Self::own(snapshot)).then(|| self.0.iter().flat_map(|id| id.0.to_be_bytes()).collect())
    }

    /// What the stored form means; `None` for one that this program does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (ids, rest) = bytes.as_chunks::<8>();
        let ids = ids.iter().map(|id| SnapshotId(i64::from_be_bytes(*id))).collect();
        rest.is_empty().then_some(Self(ids))
    }

    /// Whether the snapshots that they belong to may hold the same inode.
    pub(crate) fn meet(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }
}

/// What a snapshot that is being made has linked.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// The origins of the chain below, once they were asked for.
    below: OnceLock<HashSet<SnapshotId>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    origins: BTreeSet<SnapshotId>,
    inodes: HashSet<(u64, u64)>,
}

impl Linked {
    /// The origins of the snapshot, which is to be called `id`.
    pub(crate) fn origins(&self, id: SnapshotId) -> Origins {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.origins.is_empty() { Origins::own(id) } else { Origins(state.origins.clone()) }
    }

    /// Notes a link that is about to be made; false if the inode has one already.
    fn note(&self, origins: &Origins, inode: (u64, u64)) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.inodes.insert(inode) {
            return false;
        }
        state.origins.extend(&origins.0);
        true
    }
}

/// A file of a committed snapshot that a link may be made to.
#[derive(Debug)]
pub struct LinkSource<'a> {
    /// The directory that holds it.
    pub holder: &'a Holder,
    /// Its name there.
    pub name: &'a OsStr,
    /// What it is.
    pub entry: &'a Entry,
    /// The origins of the snapshot that it is in.
    pub origins: &'a Origins,
}

impl ActiveSnapshot {
    /// Makes `new` a link to a file of another snapshot, where nobody can tell that from a copy: the caller sees to it
    /// that both are to have the same metadata. Returns false, and there is nothing at `new` in the upper directory,
    /// where that cannot be: the chain below may hold the inode already, this snapshot does, links are not wanted, or
    /// the file system allows none or no more.
    pub fn link(&self, writer: &TreeWriter, source: &LinkSource<'_>, new: &Path) -> Result<bool, LinkError> {
        if !self.may_link(source.origins)? || !self.linked.note(source.origins, inode(source.entry)) {
            return Ok(false);
        }
        let step = self.store.shared.disk.step();
        step.map_err(|error| StoreError::io("link", &self.upper().join(source.name), error))?;
        Ok(writer.link_from(source.holder.directory(), source.name, new)?)
    }

    /// Whether files of a snapshot with these origins may be linked at all.
    pub fn may_link(&self, origins: &Origins) -> Result<bool, StoreError> {
        if !self.store.makes_links() {
            return Ok(false);
        }
        let below = if let Some(below) = self.linked.below.get() {
            below
        } else {
            let below = self.store.chain_origins(self.parent())?;
            self.linked.below.get_or_init(|| below)
        };
        Ok(origins.0.iter().all(|origin| !below.contains(origin)))
    }
}

/// Why a link that could be made was not.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The origins could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The link could not be made.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

fn inode(entry: &Entry) -> (u64, u64) {
    (entry.dev, entry.ino)
}

impl Store {
    /// Whether snapshots of this store hold links to each other's files. Whole trees, as the copying snapshotter keeps
    /// them, do not: a RUN writes into one in place.
    pub(crate) fn makes_links(&self) -> bool {
        self.snapshotter() == SnapshotterKind::Overlay && self.shared.links == LinkPolicy::Allowed
    }

    /// The origins of one snapshot.
    pub(crate) fn origins(&self, snapshot: SnapshotId) -> Result<Origins, StoreError> {
        if let Some(known) = self.shared.memory().origins.get(&snapshot) {
            return Ok(known.clone());
        }
        let stored: Option<Option<Vec<u8>>> = self.shared.database.read(|connection| {
            connection
                .prepare_cached("SELECT origins FROM snapshots WHERE id = ?1")?
                .query_row([snapshot.0], |row| row.get(0))
                .optional()
        })?;
        let origins = match stored.ok_or(StoreError::NoSnapshot(snapshot))? {
            None => Origins::own(snapshot),
            Some(bytes) => {
                Origins::decode(&bytes).ok_or_else(|| self.invalid("set of origins", hex::encode(&bytes)))?
            }
        };
        self.shared.memory().origins.insert(snapshot, origins.clone());
        Ok(origins)
    }

    /// The origins of all that `top` consists of.
    fn chain_origins(&self, top: Option<&Snapshot>) -> Result<HashSet<SnapshotId>, StoreError> {
        let mut all = HashSet::new();
        let chain = top.map_or_else(|| Ok(Vec::new()), |top| self.chain(top))?;
        for snapshot in chain {
            all.extend(self.origins(snapshot.id)?.0);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_survive_their_stored_form() {
        let (own, other) = (SnapshotId(7), SnapshotId(-2));
        assert_eq!(Origins::own(own).encode(own), None);
        for origins in [Origins::own(other), Origins(BTreeSet::from([own, other]))] {
            let stored = origins.encode(own).unwrap();
            assert_eq!(Origins::decode(&stored), Some(origins));
        }
        assert_eq!(Origins::decode(&[0; 9]), None);
    }
}
