//! Merged directories, cache mounts, what is known of contexts, and local tags.

use std::collections::{BTreeSet, HashSet};
use std::fs;

use super::{Outcome, Part, Verified};
use crate::context_stat;
use crate::image::collect_blobs;
use crate::snapshot::TREE;
use crate::usage::names;
use crate::{SnapshotId, Store, StoreError, contents};

impl Store {
    /// Merged directories are there, and whatever else is in the directories of snapshots is not.
    pub(super) fn verify_merged(&self, found: &mut Verified) -> Result<(), StoreError> {
        let query = |connection: &rusqlite::Connection| {
            connection
                .prepare("SELECT snapshot, directory FROM merged")?
                .query_map([], |row| Ok((SnapshotId(row.get(0)?), row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(SnapshotId, String)>>>()
        };
        for (id, directory) in self.shared.database.read(query)? {
            if self.snapshot_directory(id).join(&directory).is_dir() {
                continue;
            }
            let rows = self.shared.database.write(|transaction| {
                Ok(transaction.execute("DELETE FROM merged WHERE directory = ?1", [&directory])?)
            })?;
            if rows > 0 {
                let name = format!("directory `{directory}` of snapshot `{id}`");
                found.defect(Part::Snapshots, name, "it is missing", Outcome::Repaired);
            }
        }
        // A directory is moved into place before its row is written, by a run that lives.
        if self.is_alone()? {
            let known: HashSet<(SnapshotId, String)> =
                self.shared.database.read(query)?.into_iter().collect();
            for name in names(&self.shared.snapshots_directory())? {
                let Some(id) = SnapshotId::from_directory_name(&name) else { continue };
                for part in names(&self.snapshot_directory(id))? {
                    if part != TREE && part != contents::FILE && !known.contains(&(id, part.clone())) {
                        self.shared.disk.remove_tree(&self.snapshot_directory(id).join(part))?;
                        found.leftovers += 1;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn verify_mounts(&self, found: &mut Verified) -> Result<(), StoreError> {
        for mount in self.cache_mounts()? {
            found.cache_mounts += 1;
            let Some(part) = self.lacks_of_mount(&mount.name) else { continue };
            // One that was just pruned lacks everything.
            if !self.mounts_directory().join(&mount.name).exists() {
                continue;
            }
            let outcome = match self.remove_mount(&mount.name)? {
                Some(_) => Outcome::Repaired,
                None => Outcome::InUse,
            };
            let name = format!("cache mount `{}`", mount.name);
            found.defect(Part::CacheMounts, name, format!("`{part}` is missing in it"), outcome);
        }
        Ok(())
    }

    pub(super) fn verify_contexts(&self, found: &mut Verified) -> Result<(), StoreError> {
        let directory = self.contexts_directory();
        if fs::metadata(&directory).is_err() {
            return Ok(());
        }
        let is_alone = self.is_alone()?;
        for name in names(&directory)? {
            let path = directory.join(&name);
            if path.extension().is_some_and(|extension| extension == "tmp") {
                if is_alone {
                    self.shared.disk.remove_tree(&path)?;
                    found.leftovers += 1;
                }
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            if context_stat::checked(bytes).is_none() {
                self.shared.disk.remove_tree(&path)?;
                let name = format!("digests `{name}` of a context");
                found.defect(Part::Contexts, name, "they are damaged", Outcome::Repaired);
            }
        }
        Ok(())
    }

    /// What local tags name is in the store, or can be fetched.
    pub(super) fn verify_images(&self, found: &mut Verified) -> Result<(), StoreError> {
        for tag in self.images()? {
            found.images += 1;
            let mut blobs = BTreeSet::new();
            collect_blobs(self.blobs(), &tag.target.digest, &mut blobs)?;
            for digest in blobs {
                if !self.blobs().contains(&digest)? && self.blob_locations(&digest)?.is_empty() {
                    let name = format!("image `{}`", tag.reference);
                    found.defect(Part::Images, name, format!("blob `{digest}` is missing"), Outcome::Left);
                }
            }
        }
        Ok(())
    }
}
