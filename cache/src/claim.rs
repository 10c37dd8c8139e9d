//! Advisory locks on keys, so that of several makers of one result only one works.
//!
//! A lock is a file `locks/<key>` that is locked by flock(2), so that it goes when its holder dies, and that holds the
//! holder's process ID. The holder removes it; a lock on a file that has been removed is no lock.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::run::try_lock;
use crate::{RecordKey, Store, StoreError};

/// A claim that is held; given up when dropped, and when its process dies.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _file: File,
}

/// What [`Store::try_claim`] found.
#[derive(Debug)]
pub enum Claim {
    /// The key is ours until the lock is dropped.
    Acquired(KeyLock),
    /// Another holds it: another process, or another task of this one.
    Held {
        /// The process, where it is known.
        process: Option<u32>,
    },
}

impl Store {
    /// Claims `key` if nobody holds it.
    pub fn try_claim(&self, key: &RecordKey) -> Result<Claim, StoreError> {
        let path = self.lock_path(key);
        loop {
            let file = self.shared.disk.open_or_create(&path)?;
            if !try_lock(&file).map_err(|error| StoreError::io("lock", &path, error))? {
                return Ok(Claim::Held { process: holder(&file) });
            }
            if let Some(lock) = KeyLock::of(file, &path)? {
                return Ok(Claim::Acquired(lock));
            }
        }
    }

    /// Claims `key`, waiting for as long as another holds it. Whoever gets it should look the key up again.
    pub fn wait_claim(&self, key: &RecordKey) -> Result<KeyLock, StoreError> {
        let path = self.lock_path(key);
        loop {
            let file = self.shared.disk.open_or_create(&path)?;
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(|error| StoreError::io("lock", &path, error.into()))?,
            }
            if let Some(lock) = KeyLock::of(file, &path)? {
                return Ok(lock);
            }
        }
    }

    fn lock_path(&self, key: &RecordKey) -> PathBuf {
        self.shared.locks_directory().join(key.to_string())
    }
}

impl KeyLock {
    /// The lock that `file` is, unless an earlier holder has removed the file before it was locked.
    fn of(file: File, path: &Path) -> Result<Option<Self>, StoreError> {
        let metadata = file.metadata().map_err(|error| StoreError::io("read", path, error))?;
        if metadata.nlink() == 0 {
            return Ok(None);
        }
        let process = format!("{}\n", std::process::id());
        // Only waiting people read it, so that a full disk is no reason to fail.
        let _ = file.write_at(process.as_bytes(), 0).and_then(|_| {
            let length = process.len() as u64;
            if metadata.len() > length { file.set_len(length) } else { Ok(()) }
        });
        Ok(Some(Self { path: path.to_owned(), _file: file }))
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // What cannot be removed is removed by prune; the lock itself ends with the open file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Removes the lock files that dead processes have left.
pub(crate) fn sweep_locks(directory: &Path) -> Result<(), StoreError> {
    let read = |error| StoreError::io("read", directory, error);
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let Ok(file) = File::open(&path) else { continue };
        let free = try_lock(&file).map_err(|error| StoreError::io("lock", &path, error))?;
        let is_current = file.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
        if free && is_current {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}
