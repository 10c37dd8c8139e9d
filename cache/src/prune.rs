//! Throwing away what is not needed, while builds go on.
//!
//! In two transactions. The first hides what is to go: whoever looks no longer finds it. Then the prune is announced,
//! and the uses that living runs have declared are read: a run declares a use before it looks whether a prune has been
//! announced since it found the thing, so that it has either declared its use by now, or will look for it again. The second transaction brings back what is in use, with
//! everything below it, and deletes the other rows. Directories without rows are removed last, leaf first. A crash
//! leaves hidden rows, which the next prune considers anew, or directories without rows, which it removes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use oci::Digest;
use rusqlite::{Transaction, params};

use crate::claim::sweep_locks;
use crate::database::Failed;
use crate::run::{self, Use};
use crate::store::{USED_RESOLUTION_SECONDS, now, random_u64};
use crate::usage::{names, with_ancestors};
use crate::{Entry, EntryId, Filter, SnapshotId, Store, StoreError, Usage};

/// Where images can be fetched is remembered for at least that long.
const IMAGE_MEMORY_SECONDS: i64 = 30 * 24 * 3600;

/// What may be thrown away. What a living run uses and what local tags name always stays, and what nothing leads to
/// always goes.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Only what has not been used for that long; `None`: no matter when. Times of use are known to ten minutes.
    pub unused_for: Option<Duration>,
    /// Only what one of these means; empty: everything.
    pub filters: Vec<Filter>,
    /// Only as much as is needed, the least recently used first.
    pub bounds: SpaceBounds,
}

/// How much space a store may take, in bytes. With none of them everything that may go goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceBounds {
    /// So much may always stay.
    pub reserved: Option<u64>,
    /// No more than that may stay.
    pub max_used: Option<u64>,
    /// So much of the disk is to be free.
    pub min_free: Option<u64>,
}

impl SpaceBounds {
    /// How much may stay of a store of `total` bytes on a disk with `free` ones; all that may go has to go for `None`.
    pub(crate) fn kept(&self, total: u64, free: u64) -> Option<u64> {
        if *self == Self::default() {
            return None;
        }
        let most = match (self.max_used, self.min_free) {
            (None, None) => 0,
            (max_used, _) => max_used.unwrap_or(u64::MAX),
        };
        let lacking = self.min_free.map_or(0, |wanted| wanted.saturating_sub(free));
        let most = if lacking > 0 { most.min(total.saturating_sub(lacking)) } else { most };
        Some(most.max(self.reserved.unwrap_or(0)))
    }
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
    /// The number of cache mounts.
    pub cache_mounts: u64,
}

/// How large the store and all in it were when they were looked at; the whole is kept up to date.
struct Sizes {
    total: u64,
    entries: HashMap<EntryId, u64>,
}

impl Sizes {
    fn of(usage: Usage) -> Self {
        let entries = usage.entries.into_iter().map(|(entry, size)| (entry.id, size)).collect();
        Self { total: usage.total_bytes, entries }
    }
}

/// A row of the snapshots.
struct Row {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    depth: u32,
    doomed: i64,
}

impl Store {
    /// Throws away what is not needed, and what killed processes have left. Never waits for a build.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned, StoreError> {
        self.prune_by(std::slice::from_ref(options))
    }

    /// The same by several rules, one after the other.
    pub(crate) fn prune_by(&self, rules: &[PruneOptions]) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        self.tidy(&mut pruned)?;
        // Walking the store takes its time, so it is done once.
        let mut sizes: Option<Sizes> = None;
        for rule in rules {
            if rule.bounds == SpaceBounds::default() {
                let before = pruned.freed_bytes;
                self.prune_batch(&self.candidates(rule)?, &mut pruned)?;
                if let Some(sizes) = &mut sizes {
                    sizes.total = sizes.total.saturating_sub(pruned.freed_bytes - before);
                }
                continue;
            }
            let known = match sizes.take() {
                Some(known) => known,
                None => Sizes::of(self.usage()?),
            };
            self.prune_to(rule, sizes.insert(known), &mut pruned)?;
        }
        self.forget()?;
        self.shared.database.checkpoint();
        Ok(pruned)
    }

    /// Removes what killed processes have left, and what nothing leads to. Returns the paths of what had no row.
    pub(crate) fn tidy(&self, pruned: &mut Pruned) -> Result<Vec<PathBuf>, StoreError> {
        self.shared.database.flush()?;
        pruned.freed_bytes += run::sweep_dead_runs(&self.shared.tmp_directory(), &self.shared.disk)?;
        sweep_locks(&self.shared.locks_directory())?;
        self.mend_times()?;
        let orphans = self.remove_orphans(pruned)?;
        self.prune_batch(&[], pruned)?;
        Ok(orphans)
    }

    /// Times of use that are still to come are a mistake of the clock that is past: they count from now on. Else what
    /// has them would never be old, and would outlive what is really used.
    fn mend_times(&self) -> Result<(), StoreError> {
        let (now, latest) = (now(), now() + i64::from(USED_RESOLUTION_SECONDS));
        self.shared.database.write(|transaction| {
            for (table, column) in
                [("records", "used"), ("snapshots", "used"), ("blobs", "used"), ("images", "seen")]
            {
                let change = format!("UPDATE {table} SET {column} = ?1 WHERE {column} > ?2");
                transaction.execute(&change, [now, latest])?;
            }
            Ok(())
        })?;
        let mounts = self.cache_mounts()?.into_iter().filter(|mount| mount.used > latest);
        let contexts = self.context_entries()?.into_iter().filter(|entry| entry.used > latest);
        let mounts = mounts.map(|mount| self.mount_lock(&mount.name));
        for path in
            mounts.chain(contexts.map(|entry| self.entry_path(&entry.id)).collect::<Result<Vec<_>, _>>()?)
        {
            // One that has gone since has no time to mend.
            if let Ok(file) = File::options().write(true).open(path) {
                let _ = file.set_modified(SystemTime::now());
            }
        }
        Ok(())
    }

    /// Throws away what `rule` means until its bounds hold.
    fn prune_to(
        &self,
        rule: &PruneOptions,
        sizes: &mut Sizes,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let kept = rule.bounds.kept(sizes.total, self.free_bytes()?).unwrap_or(0);
        if sizes.total <= kept {
            return Ok(());
        }
        let candidates = self.candidates(rule)?;
        let mut rest = candidates.as_slice();
        while sizes.total > kept && !rest.is_empty() {
            // What others lie on, or have links to, does not go with it: so there may be several rounds.
            let mut wanted = sizes.total - kept;
            let is_enough = |id: &EntryId| {
                wanted = wanted.saturating_sub(sizes.entries.get(id).copied().unwrap_or(0));
                wanted == 0
            };
            let count = rest.iter().position(is_enough).map_or(rest.len(), |position| position + 1);
            let (batch, later) = rest.split_at(count);
            let before = pruned.freed_bytes;
            self.prune_batch(batch, pruned)?;
            sizes.total = sizes.total.saturating_sub(pruned.freed_bytes - before);
            rest = later;
        }
        Ok(())
    }

    /// What may be written to the disk, in bytes.
    fn free_bytes(&self) -> Result<u64, StoreError> {
        let space = rustix::fs::statvfs(self.root())
            .map_err(|error| StoreError::io("look at the disk of", self.root(), error.into()))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// What `options` mean, the least recently used first.
    fn candidates(&self, options: &PruneOptions) -> Result<Vec<EntryId>, StoreError> {
        let before = match options.unused_for {
            None => i64::MAX,
            Some(time) => now().saturating_sub_unsigned(time.as_secs()),
        };
        let is_meant = |entry: &Entry| {
            entry.used <= before
                && (options.filters.is_empty() || options.filters.iter().any(|filter| filter.matches(entry)))
        };
        let mut candidates: Vec<_> =
            self.entries()?.into_iter().filter(is_meant).map(|entry| (entry.used, entry.id)).collect();
        candidates.sort();
        Ok(candidates.into_iter().map(|(_, candidate)| candidate).collect())
    }

    /// Throws away the candidates that are not needed, and whatever nothing leads to.
    pub(crate) fn prune_batch(&self, candidates: &[EntryId], pruned: &mut Pruned) -> Result<(), StoreError> {
        let shared = &self.shared;
        let needed = self.needed()?;
        let token = random_u64().cast_signed() | 1;
        shared.database.write(|transaction| {
            let chosen = candidates.iter().filter_map(|candidate| match candidate {
                EntryId::Snapshot(id) => Some(*id),
                EntryId::Blob(_) | EntryId::CacheMount(_) | EntryId::ContextStats(_) => None,
            });
            hide_snapshots(transaction, token, &chosen.collect(), &needed.uses)?;
            transaction.execute("UPDATE blobs SET doomed = 0 WHERE doomed <> 0", [])?;
            for candidate in candidates {
                if let EntryId::Blob(digest) = candidate
                    && !needed.tagged.contains(digest)
                    && !needed.uses.contains(&Use::blob(digest))
                {
                    transaction.execute(
                        "UPDATE blobs SET doomed = ?1 WHERE digest = ?2",
                        params![token, digest.as_str()],
                    )?;
                }
            }
            Ok(())
        })?;
        shared.prunes.announce(&shared.disk)?;
        let uses = run::uses_of_living_runs(&shared.tmp_directory())?;
        let mut removed_blobs = Vec::new();
        let (directories, records) = shared.database.write(|transaction| {
            let directories = delete_snapshots(transaction, token, &uses)?;
            let records = delete_dependents(transaction)?;
            removed_blobs = self.delete_blobs(transaction, token, &uses)?;
            Ok((directories, records))
        })?;
        pruned.records += records;
        for id in directories {
            pruned.freed_bytes += shared.disk.remove_tree(&self.snapshot_directory(id))?;
            pruned.snapshots += 1;
            let mut memory = shared.memory();
            memory.snapshots.remove(&id);
            memory.origins.remove(&id);
        }
        for path in removed_blobs {
            pruned.freed_bytes += shared.disk.remove_tree(&path)?;
            pruned.blobs += 1;
        }
        for candidate in candidates {
            match candidate {
                EntryId::CacheMount(name) => {
                    if let Some(freed_bytes) = self.remove_mount(name)? {
                        pruned.freed_bytes += freed_bytes;
                        pruned.cache_mounts += 1;
                    }
                }
                // Who has read it writes it anew.
                EntryId::ContextStats(_) => {
                    pruned.freed_bytes += shared.disk.remove_tree(&self.entry_path(candidate)?)?;
                }
                EntryId::Snapshot(_) | EntryId::Blob(_) => {}
            }
        }
        Ok(())
    }

    /// Deletes the rows of hidden blobs that nobody uses, and moves their files away: within the transaction, so
    /// that no file that is just being written anew is taken for the old one.
    fn delete_blobs(
        &self,
        transaction: &Transaction<'_>,
        token: i64,
        uses: &HashSet<Use>,
    ) -> Result<Vec<PathBuf>, Failed> {
        let mut query = transaction.prepare("SELECT digest FROM blobs WHERE doomed = ?1")?;
        let doomed: Vec<String> = query.query_map([token], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut moved = Vec::new();
        for text in doomed {
            let Ok(digest) = text.parse::<Digest>() else { continue };
            if uses.contains(&Use::blob(&digest)) {
                transaction.execute("UPDATE blobs SET doomed = 0 WHERE digest = ?1", [&text])?;
                continue;
            }
            transaction.execute("DELETE FROM blobs WHERE digest = ?1", [&text])?;
            moved.extend(self.move_away(&self.blobs().path(&digest)?)?);
        }
        Ok(moved)
    }

    pub(crate) fn move_away(&self, path: &std::path::Path) -> Result<Option<PathBuf>, StoreError> {
        let target = self.fresh_path();
        match self.shared.disk.rename(path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes files and directories that have no row: what killed processes have left between moving something
    /// into place and writing its row. Returns their paths.
    fn remove_orphans(&self, pruned: &mut Pruned) -> Result<Vec<PathBuf>, StoreError> {
        let shared = &self.shared;
        let mut removed = Vec::new();
        // In this order. Whoever moves a directory into place has declared its use before; if that run has ended
        // since, its rows are written.
        let directories = names(&shared.snapshots_directory())?;
        let uses = run::uses_of_living_runs(&shared.tmp_directory())?;
        for name in directories {
            let id = SnapshotId::from_directory_name(&name);
            if let Some(id) = id
                && (uses.contains(&Use::snapshot(id)) || self.has_row(id)?)
            {
                continue;
            }
            let path = shared.snapshots_directory().join(name);
            pruned.freed_bytes += shared.disk.remove_tree(&path)?;
            removed.push(path);
        }
        let files = names(&shared.blobs_directory())?;
        let moved = shared.database.write(|transaction| {
            let mut moved = Vec::new();
            let mut known = transaction.prepare("SELECT 1 FROM blobs WHERE digest = ?1")?;
            for name in files {
                if !known.exists([format!("sha256:{name}")])? {
                    let path = shared.blobs_directory().join(name);
                    moved.extend(self.move_away(&path)?.map(|away| (path, away)));
                }
            }
            Ok(moved)
        })?;
        for (path, away) in moved {
            pruned.freed_bytes += shared.disk.remove_tree(&away)?;
            removed.push(path);
        }
        Ok(removed)
    }

    fn has_row(&self, id: SnapshotId) -> Result<bool, StoreError> {
        self.shared.database.read(|connection| {
            connection.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?.exists([id.0])
        })
    }

    /// Deletes what is known of things that are gone.
    fn forget(&self) -> Result<(), StoreError> {
        let tagged: BTreeSet<Digest> = self.needed()?.tagged;
        self.shared.database.write(|transaction| {
            transaction.execute(
                "DELETE FROM variants WHERE blob NOT IN (SELECT digest FROM blobs)
                     AND diff_id NOT IN (SELECT diff_id FROM layers)",
                [],
            )?;
            let mut query = transaction.prepare("SELECT manifest FROM images WHERE seen < ?1")?;
            let old: Vec<String> = query
                .query_map([now() - IMAGE_MEMORY_SECONDS], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for manifest in old {
                let mut query = transaction.prepare("SELECT blob FROM image_blobs WHERE manifest = ?1")?;
                let blobs: Vec<String> =
                    query.query_map([&manifest], |row| row.get(0))?.collect::<Result<_, _>>()?;
                let is_tagged =
                    |text: &String| text.parse().is_ok_and(|digest: Digest| tagged.contains(&digest));
                if !blobs.iter().any(is_tagged) {
                    transaction.execute("DELETE FROM images WHERE manifest = ?1", [&manifest])?;
                    transaction.execute("DELETE FROM image_blobs WHERE manifest = ?1", [&manifest])?;
                }
            }
            Ok(())
        })
    }
}

fn snapshot_rows(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Row>> {
    transaction
        .prepare("SELECT id, parent, depth, doomed FROM snapshots")?
        .query_map([], |row| {
            let parent: Option<i64> = row.get(1)?;
            Ok(Row {
                id: SnapshotId(row.get(0)?),
                parent: parent.map(SnapshotId),
                depth: row.get(2)?,
                doomed: row.get(3)?,
            })
        })?
        .collect()
}

fn parents_of(rows: &[Row]) -> HashMap<SnapshotId, Option<SnapshotId>> {
    rows.iter().map(|row| (row.id, row.parent)).collect()
}

/// Hides the snapshots that no record, no chain ID and no use would lead to if the chosen ones had neither.
fn hide_snapshots(
    transaction: &Transaction<'_>,
    token: i64,
    chosen: &HashSet<SnapshotId>,
    uses: &HashSet<Use>,
) -> Result<(), Failed> {
    // Those that a prune which was killed has left hidden.
    transaction.execute("UPDATE snapshots SET doomed = 0 WHERE doomed <> 0", [])?;
    let rows = snapshot_rows(transaction)?;
    let mut query = transaction
        .prepare("SELECT snapshot FROM records UNION SELECT id FROM snapshots WHERE chain IS NOT NULL")?;
    let named: Vec<i64> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let named = named.into_iter().map(SnapshotId).filter(|id| !chosen.contains(id));
    let in_use = rows.iter().map(|row| row.id).filter(|id| uses.contains(&Use::snapshot(*id)));
    let kept = with_ancestors(named.chain(in_use), &parents_of(&rows));
    let mut hide = transaction.prepare("UPDATE snapshots SET doomed = ?1 WHERE id = ?2")?;
    for row in rows.iter().filter(|row| !kept.contains(&row.id)) {
        hide.execute(params![token, row.id.0])?;
    }
    Ok(())
}

/// Brings back the hidden snapshots that are in use or below one that is not hidden, and deletes the rows of the
/// others. Returns the latter, leaves first.
fn delete_snapshots(
    transaction: &Transaction<'_>,
    token: i64,
    uses: &HashSet<Use>,
) -> Result<Vec<SnapshotId>, Failed> {
    let rows = snapshot_rows(transaction)?;
    let needed = rows
        .iter()
        .filter(|row| row.doomed != token || uses.contains(&Use::snapshot(row.id)))
        .map(|row| row.id);
    let kept = with_ancestors(needed, &parents_of(&rows));
    let mut deleted: Vec<(u32, SnapshotId)> = Vec::new();
    for row in rows.iter().filter(|row| row.doomed == token) {
        if kept.contains(&row.id) {
            transaction.execute("UPDATE snapshots SET doomed = 0 WHERE id = ?1", [row.id.0])?;
        } else {
            transaction.execute("DELETE FROM snapshots WHERE id = ?1", [row.id.0])?;
            deleted.push((row.depth, row.id));
        }
    }
    deleted.sort_unstable_by(|a, b| b.cmp(a));
    Ok(deleted.into_iter().map(|(_, id)| id).collect())
}

/// Deletes the rows that hang on snapshots that are gone. Returns the number of records among them.
pub(crate) fn delete_dependents(transaction: &Transaction<'_>) -> Result<u64, Failed> {
    let records =
        transaction.execute("DELETE FROM records WHERE snapshot NOT IN (SELECT id FROM snapshots)", [])?;
    transaction.execute_batch(
        "DELETE FROM digests WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM copies WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM layers WHERE snapshot NOT IN (SELECT id FROM snapshots);
         DELETE FROM merged WHERE snapshot NOT IN (SELECT id FROM snapshots);",
    )?;
    Ok(records as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stay() {
        let bounds = |reserved, max_used, min_free| SpaceBounds { reserved, max_used, min_free };
        for (bounds, expected) in [
            (bounds(None, None, None), None),
            (bounds(Some(10), None, None), Some(10)),
            (bounds(None, Some(60), None), Some(60)),
            (bounds(Some(70), Some(60), None), Some(70)),
            // 20 bytes are free.
            (bounds(None, None, Some(20)), Some(u64::MAX)),
            (bounds(None, None, Some(50)), Some(70)),
            (bounds(None, Some(60), Some(50)), Some(60)),
            (bounds(None, Some(80), Some(50)), Some(70)),
            (bounds(Some(75), Some(80), Some(500)), Some(75)),
        ] {
            assert_eq!(bounds.kept(100, 20), expected, "{bounds:?}");
        }
    }
}
