//! Looking whether all of a store is what it should be, and repairing what can be: for disks that lose bytes and people
//! who tidy up by hand, as no crash of a build or of the machine damages a store.
//!
//! Other processes go on meanwhile. What seems to be wrong is looked at again once it is known that nobody was just
//! removing it, and snapshots are taken away as prune does it, never from beneath a build.

mod blobs;
mod rest;
mod rows;
mod snapshots;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::run::living_runs;
use crate::usage::names;
use crate::{Pruned, Store, StoreError};

/// What of a store was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Directories of the store itself, and rows of its metadata.
    Metadata,
    /// Blobs.
    Blobs,
    /// Snapshots.
    Snapshots,
    /// Local tags.
    Images,
    /// What `RUN --mount=type=cache` keeps.
    CacheMounts,
    /// What is known of build contexts.
    Contexts,
}

/// What became of something that was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone, and builds make or fetch it anew.
    Repaired,
    /// It is still there, as a running build uses it.
    InUse,
    /// Nothing that a store can do repairs it.
    Left,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Where.
    pub part: Part,
    /// What (`` blob `sha256:…` ``).
    pub name: String,
    /// What is wrong with it.
    pub detail: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of blobs that were read.
    pub blobs: u64,
    /// The number of snapshots.
    pub snapshots: u64,
    /// Those of them of which the content was compared with a digest: the others were never exported, nor copied from a
    /// context.
    pub compared_snapshots: u64,
    /// The number of cache records.
    pub records: u64,
    /// The number of local tags.
    pub images: u64,
    /// The number of cache mounts.
    pub cache_mounts: u64,
    /// The number of things that killed processes had left and that are removed now: not damage.
    pub leftovers: u64,
    /// All that was wrong.
    pub defects: Vec<Defect>,
}

impl Verified {
    fn defect(&mut self, part: Part, name: impl Into<String>, detail: impl Into<String>, outcome: Outcome) {
        self.defects.push(Defect { part, name: name.into(), detail: detail.into(), outcome });
    }
}

impl Store {
    /// Reads all of the store, compares it with what is known of it, and repairs what can be: what is damaged and can be
    /// had again is thrown away, with all that was made on top of it. Nobody may hold anything through this handle of
    /// the store but its caller.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        let mut found = Verified::default();
        self.shared.database.flush()?;
        self.verify_database()?;
        self.verify_directories(&mut found)?;
        self.verify_rows(&mut found)?;
        self.remove_leftovers(&mut found)?;
        self.verify_blobs(&mut found)?;
        self.verify_snapshots(&mut found)?;
        self.verify_merged(&mut found)?;
        self.verify_mounts(&mut found)?;
        self.verify_contexts(&mut found)?;
        self.verify_images(&mut found)?;
        Ok(found)
    }

    /// Whether no run but this one lives.
    fn is_alone(&self) -> Result<bool, StoreError> {
        Ok(living_runs(&self.shared.tmp_directory())?.len() <= 1)
    }

    /// The directories of the store are there, and nobody else can look into them: images hold programs that lend their
    /// owner's rights.
    fn verify_directories(&self, found: &mut Verified) -> Result<(), StoreError> {
        for (name, is_needed) in [
            ("blobs", true),
            ("blobs/sha256", true),
            ("snapshots", true),
            ("locks", true),
            ("tmp", true),
            ("mounts", false),
        ] {
            let path = self.root().join(name);
            let mode = match fs::metadata(&path) {
                Ok(metadata) => metadata.permissions().mode() & 0o7777,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if is_needed {
                        self.shared.disk.create_dir_all(&path)?;
                        found.defect(Part::Metadata, shown(name), "it was missing", Outcome::Repaired);
                    }
                    continue;
                }
                Err(error) => return Err(StoreError::io("read", &path, error)),
            };
            if mode & 0o077 != 0 || mode & 0o700 != 0o700 {
                fs::set_permissions(&path, Permissions::from_mode(0o700))
                    .map_err(|error| StoreError::io("change the mode of", &path, error))?;
                let detail = format!("its mode was {mode:04o} instead of 0700");
                found.defect(Part::Metadata, shown(name), detail, Outcome::Repaired);
            }
        }
        Ok(())
    }

    fn remove_leftovers(&self, found: &mut Verified) -> Result<(), StoreError> {
        let tmp = self.shared.tmp_directory();
        let (runs, living) = (names(&tmp)?.len(), living_runs(&tmp)?.len());
        let mut pruned = Pruned::default();
        let orphans = self.tidy(&mut pruned)?;
        found.leftovers += runs.saturating_sub(living) as u64 + orphans.len() as u64 + pruned.snapshots;
        Ok(())
    }
}

/// A directory of the store for people.
fn shown(name: &str) -> String {
    format!("directory `{name}`")
}
