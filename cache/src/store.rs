//! The store as a whole.

use std::path::{Path, PathBuf};

use crate::tree::TreeMode;
use crate::{BlobStore, StoreError};

/// How snapshots are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotterKind {
    /// Each snapshot is an overlay upper directory: what differs from its parent.
    Overlay,
    /// Each snapshot is a whole tree, reflinked or copied from its parent. For a store on a file system over which
    /// overlay cannot be mounted.
    Copy,
}

/// How the user and group IDs in images relate to those of files on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMode {
    /// They are the same: this process is root of the machine.
    Root,
    /// A user namespace with several IDs.
    Mapped {
        /// The text of `uid_map` followed by that of `gid_map`.
        map: String,
    },
    /// A user namespace with one ID, in which every file belongs to root; owners are recorded beside the files.
    Single,
}

/// Where a store is and how it is used.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The directory; made if it is not there.
    pub root: PathBuf,
    /// The snapshotter; `None` tries whether overlay can be mounted there.
    pub snapshotter: Option<SnapshotterKind>,
    /// The mapping of IDs that this process runs under.
    pub ids: IdMode,
    /// The identifier of this boot of the machine; `None` asks the kernel. Tests give their own.
    pub boot_id: Option<String>,
}

/// A store. Clones are the same store and the same run in it: what one of them uses, [`Store::prune`] of no process
/// touches until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Store;

/// What has been saved up to some point; see [`Store::seal`].
#[derive(Debug)]
pub struct Seal;

impl Seal {
    /// Writes everything that was saved before the seal to the disk (one `syncfs`) and records that it is there.
    /// May take seconds.
    pub fn complete(self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Store {
    /// Opens the store, making it if need be, and begins a run in it.
    pub fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let _ = options;
        todo!()
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// How snapshots are kept.
    pub fn snapshotter(&self) -> SnapshotterKind {
        todo!()
    }

    /// The mapping of IDs.
    pub fn ids(&self) -> &IdMode {
        todo!()
    }

    /// How the directories of snapshots are to be read and written.
    pub fn tree_mode(&self) -> TreeMode {
        todo!()
    }

    /// The directory of this run, on the file system of the store, for whatever is begun and not finished. It goes
    /// away with the run.
    pub fn run_directory(&self) -> &Path {
        todo!()
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        todo!()
    }

    /// Draws a line under what has been saved so far, by this and all other processes: [`Seal::complete`] brings
    /// it to the disk, on another thread if one likes. `None` if there is nothing to bring.
    pub fn seal(&self) -> Result<Option<Seal>, StoreError> {
        todo!()
    }

    /// [`Store::seal`] and [`Seal::complete`] at once. Without it, what was saved does not outlive a power failure
    /// (it does outlive the process in any case).
    pub fn finish(&self) -> Result<(), StoreError> {
        todo!()
    }
}
