//! The SQLite file: connections, transactions, and the rows that wait for the next transaction.
//!
//! Readers use a connection of their own and never wait for a writer. A transaction costs no fsync (WAL,
//! `synchronous=NORMAL`, no checkpoint at close); what brings everything to the disk is [`crate::Seal`].

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oci::Digest;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};

use crate::disk::Disk;
use crate::image::Layer;
use crate::links::Origins;
use crate::schema;
use crate::store::now;
use crate::{RecordKey, Snapshot, SnapshotId, SnapshotterKind, StoreError};

const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
const STATEMENTS_KEPT: usize = 64;
/// In pages of 4 KiB. Only a stop for the log of builds that all fail: others are checkpointed after their seal.
const AUTOMATIC_CHECKPOINT_PAGES: u32 = 8192;
/// A log larger than this is worth a checkpoint: the first to open the store after a while reads all of it.
const CHECKPOINT_BYTES: u64 = 256 << 10;

/// The metadata of a store.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Mutex<Option<Connection>>,
    pending: Mutex<Pending>,
    disk: Disk,
}

/// Rows that nobody but this process needs yet. They go along with the next transaction.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Snapshots without a record, parents first.
    pub(crate) snapshots: Vec<PendingSnapshot>,
    /// The snapshots that copies made last.
    pub(crate) copies: HashMap<[u8; 32], SnapshotId>,
    /// Memoized digests by snapshot and selector.
    pub(crate) digests: HashMap<(SnapshotId, [u8; 32]), [u8; 32]>,
    /// The layers of snapshots.
    pub(crate) layers: HashMap<SnapshotId, Layer>,
    /// Records that have been used.
    pub(crate) used: HashSet<RecordKey>,
    /// Snapshots of image layers that have been used.
    pub(crate) used_snapshots: HashSet<SnapshotId>,
    /// Blobs that have been used.
    pub(crate) used_blobs: HashSet<Digest>,
}

/// A snapshot that has no row yet.
#[derive(Debug)]
pub(crate) struct PendingSnapshot {
    pub(crate) snapshot: Snapshot,
    pub(crate) kind: SnapshotterKind,
    pub(crate) origins: Origins,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
            && self.copies.is_empty()
            && self.digests.is_empty()
            && self.layers.is_empty()
            && self.used.is_empty()
            && self.used_snapshots.is_empty()
            && self.used_blobs.is_empty()
    }
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Failed {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is on the disk after the next seal.
    Later,
    /// It is on the disk on return, with everything committed before it.
    Now,
}

impl Database {
    /// Opens the file in `root`, making it (in `scratch`, a directory of this run) if it is not there.
    pub(crate) fn open(root: &Path, scratch: &Path, disk: &Disk) -> Result<Self, StoreError> {
        let path = root.join("meta.db");
        if fs::metadata(&path).is_err() {
            create(&path, &scratch.join("meta.db"), disk)?;
        }
        let reader = connect(&path)?;
        schema::check_version(&reader, root, &path)?;
        Ok(Self {
            path,
            reader: Mutex::new(reader),
            writer: Mutex::default(),
            pending: Mutex::default(),
            disk: disk.clone(),
        })
    }

    /// Reads from the file in `root`, if it is there and can be read.
    pub(crate) fn read_once<T>(
        root: &Path,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        query(&connect(&root.join("meta.db")).ok()?).ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads.
    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        query(&reader).map_err(|error| StoreError::database("read", &self.path, error))
    }

    /// The rows that wait.
    pub(crate) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the rows that wait and what `change` does, all or nothing.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        self.write_durably(Durability::Later, change)
    }

    /// [`Database::write`], and waits for the disk if told to.
    pub(crate) fn write_durably<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            *writer = Some(connect(&self.path)?);
        }
        let connection = writer.as_mut().expect("it has just been opened");
        let waiting = std::mem::take(&mut *self.pending());
        let result = self.transact(connection, durability, &waiting, change);
        result.map_err(|failed| {
            self.put_back(waiting);
            match failed {
                Failed::Sql(error) => StoreError::database("write", &self.path, error),
                Failed::Store(error) => error,
            }
        })
    }

    fn transact<T>(
        &self,
        connection: &mut Connection,
        durability: Durability,
        waiting: &Pending,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        if durability == Durability::Now {
            connection.pragma_update(None, "synchronous", "FULL")?;
        }
        self.step()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_pending(&transaction, waiting)?;
        let value = change(&transaction)?;
        self.step()?;
        transaction.commit()?;
        // Not a write: a point at which a test may kill the process after the commit.
        let _ = self.disk.step();
        if durability == Durability::Now {
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
        Ok(value)
    }

    /// Writes the rows that wait, if there are any.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        if self.pending().is_empty() {
            return Ok(());
        }
        self.write(|_| Ok(()))
    }

    /// Moves a large log into the database file, as far as readers let it. Right after a seal little of it waits
    /// for the disk.
    pub(crate) fn checkpoint(&self) {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if fs::metadata(&log).map_or(0, |metadata| metadata.len()) < CHECKPOINT_BYTES {
            return;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = writer.as_ref() {
            // A checkpoint that cannot be done changes nothing, and a later one will do. It must not wait for the
            // readers of other processes.
            let _ = connection.busy_timeout(Duration::ZERO);
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let _ = connection.busy_timeout(BUSY_TIMEOUT);
        }
    }

    fn step(&self) -> Result<(), Failed> {
        self.disk.step().map_err(|error| Failed::Store(StoreError::io("write", &self.path, error)))
    }

    fn put_back(&self, mut waiting: Pending) {
        let mut pending = self.pending();
        waiting.snapshots.append(&mut pending.snapshots);
        pending.snapshots = waiting.snapshots;
        // What came since is newer.
        let newer = std::mem::replace(&mut pending.copies, waiting.copies);
        pending.copies.extend(newer);
        pending.digests.extend(waiting.digests);
        pending.layers.extend(waiting.layers);
        pending.used.extend(waiting.used);
        pending.used_snapshots.extend(waiting.used_snapshots);
        pending.used_blobs.extend(waiting.used_blobs);
    }
}

fn write_pending(transaction: &Transaction<'_>, waiting: &Pending) -> rusqlite::Result<()> {
    let now = now();
    for snapshot in &waiting.snapshots {
        insert_snapshot(transaction, snapshot, now)?;
    }
    for (copy, snapshot) in &waiting.copies {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO copies (copy, snapshot) VALUES (?1, ?2)")?
            .execute(params![copy, snapshot.0])?;
    }
    for ((snapshot, selector), digest) in &waiting.digests {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO digests (snapshot, selector, digest) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![snapshot.0, selector, digest])?;
    }
    for (snapshot, layer) in &waiting.layers {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO layers (snapshot, diff_id, size) VALUES (?1, ?2, ?3)")?
            .execute(params![snapshot.0, layer.diff_id.0.as_str(), layer.size_bytes.cast_signed()])?;
    }
    for key in &waiting.used {
        transaction
            .prepare_cached("UPDATE records SET used = ?2 WHERE key = ?1")?
            .execute(params![key.0, now])?;
    }
    for id in &waiting.used_snapshots {
        transaction
            .prepare_cached("UPDATE snapshots SET used = ?2 WHERE id = ?1")?
            .execute(params![id.0, now])?;
    }
    for digest in &waiting.used_blobs {
        transaction
            .prepare_cached("UPDATE blobs SET used = ?2 WHERE digest = ?1")?
            .execute(params![digest.as_str(), now])?;
    }
    Ok(())
}

fn insert_snapshot(
    transaction: &Transaction<'_>,
    pending: &PendingSnapshot,
    now: i64,
) -> rusqlite::Result<()> {
    let PendingSnapshot { snapshot, kind, origins } = pending;
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO snapshots (id, parent, depth, kind, used, generation, doomed, origins)
             VALUES (?1, ?2, ?3, ?4, ?5, (SELECT max(id) FROM generations), 0, ?6)",
        )?
        .execute(params![
            snapshot.id.0,
            snapshot.parent.map(|parent| parent.0),
            snapshot.depth,
            kind_number(*kind),
            now,
            origins.encode(snapshot.id)
        ])?;
    Ok(())
}

/// The number of a snapshotter in the metadata.
pub(crate) fn kind_number(kind: SnapshotterKind) -> i64 {
    match kind {
        SnapshotterKind::Overlay => 0,
        SnapshotterKind::Copy => 1,
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Else some statements are prepared anew whenever a parameter is bound.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", AUTOMATIC_CHECKPOINT_PAGES)?;
        Ok(connection)
    };
    open().map_err(|error| match fs::File::options().read(true).write(true).open(path) {
        // SQLite says no more than that it cannot open the file; the system says why.
        Err(cause) if cannot_open(&error) => StoreError::io("open", path, cause),
        _ => StoreError::database("open", path, error),
    })
}

fn cannot_open(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen)
}

/// Makes the file complete under another name first, so that no process ever sees half of one. If another process
/// is faster, its file stays.
fn create(path: &Path, scratch: &Path, disk: &Disk) -> Result<(), StoreError> {
    let write = |error| StoreError::database("write", scratch, error);
    disk.step().map_err(|error| StoreError::io("create", scratch, error))?;
    let connection = Connection::open(scratch).map_err(write)?;
    schema::create(&connection).map_err(write)?;
    // Closing the last connection moves the log into the file.
    connection.close().map_err(|(_, error)| write(error))?;
    disk.sync_file(scratch)?;
    disk.publish(scratch, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meta.db");
        fs::write(&path, "not a database, but long enough to look at for SQLite".repeat(100)).unwrap();
        let error = Database::open(directory.path(), directory.path(), &Disk::default()).unwrap_err();
        let text = format!("the metadata in `{}` is damaged: file is not a database", path.display());
        assert_eq!(error.to_string(), text);
    }
}
