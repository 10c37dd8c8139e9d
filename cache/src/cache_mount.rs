//! Directories that outlive builds: what `RUN --mount=type=cache` mounts.
//!
//! ```text
//! mounts/<name>/          a hash of the ID and of what a new one begins with; `<name>.1` and so on for more of them
//!     id                  the ID, for people
//!     lock                flock(2): shared or exclusive; its time is that of the last use
//!     fs/                 what is mounted
//! ```
//!
//! One is made complete in the directory of the run, locked, and moved into place. Whoever locks one makes sure that
//! it still is where it was: prune locks it, moves it away and removes it.
//!
//! What programs write to them is theirs. It is not synced: after a power failure it is what the file system has kept.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use crate::usage::names;
use crate::{Store, StoreError};

const ID: &str = "id";
const LOCK: &str = "lock";
const FILES: &str = "fs";

/// Which directory is meant. The order is one in which any number of them can be locked without a circle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountKey {
    /// What a Dockerfile calls it, with its namespace.
    pub id: String,
    /// A digest of everything that a new one begins with: another beginning is another directory.
    pub beginning: [u8; 32],
}

impl MountKey {
    /// Written format: blake3 of `rbuild cache mount 1`, the length of the ID as eight bytes (little endian), the ID,
    /// and the beginning; half of it in hexadecimal digits.
    fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"rbuild cache mount 1");
        hasher.update(&(self.id.len() as u64).to_le_bytes());
        hasher.update(self.id.as_bytes());
        hasher.update(&self.beginning);
        hex::encode(&hasher.finalize().as_bytes()[..16])
    }
}

/// Who else may use a directory at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MountSharing {
    /// All who want it to be shared.
    Shared,
    /// Nobody. Others get another one, which is kept as well.
    Private,
    /// Nobody. Others wait.
    Locked,
}

/// A directory that is in use for as long as this lives.
#[derive(Debug)]
pub struct CacheMount {
    directory: PathBuf,
    _lock: File,
}

impl CacheMount {
    /// The directory that is to be mounted.
    pub fn directory(&self) -> PathBuf {
        self.directory.join(FILES)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.directory()).is_ok_and(|mut entries| entries.next().is_none())
    }
}

/// A directory, in use or not.
pub(crate) struct MountRow {
    /// The name of the directory.
    pub(crate) name: String,
    /// What a Dockerfile calls it.
    pub(crate) id: String,
    /// When it was last used, in seconds since 1970.
    pub(crate) used: i64,
}

/// What came of an attempt to take a directory.
#[derive(Debug)]
pub enum MountAttempt {
    /// It is in use.
    Taken(CacheMount),
    /// Others use it in a way that excludes this one.
    Busy,
    /// There is none.
    Missing,
}

impl Store {
    /// Takes the directory of `key`. `None` while others use it in a way that excludes it, which never happens to
    /// [`MountSharing::Private`]: ask again later, as a process cannot wait for another and be stopped too. `fill` gets
    /// the new directory (0755, empty) where there is none yet; what it leaves there when it fails goes away.
    pub fn try_mount<E: From<StoreError>>(
        &self,
        key: &MountKey,
        sharing: MountSharing,
        fill: impl Fn(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let name = key.name();
        let mut number = 0;
        loop {
            let name = if number == 0 { name.clone() } else { format!("{name}.{number}") };
            let directory = self.mounts_directory().join(name);
            match attempt(&directory, sharing)? {
                MountAttempt::Taken(mount) => return Ok(Some(mount)),
                MountAttempt::Busy if sharing == MountSharing::Private => number += 1,
                MountAttempt::Busy => return Ok(None),
                // Another process may be faster; then its directory is taken.
                MountAttempt::Missing => self.make_mount(&directory, &key.id, &fill)?,
            }
        }
    }

    /// Takes the directory of `key` if there is one: of several, the first.
    pub fn try_existing_mount(
        &self,
        key: &MountKey,
        sharing: MountSharing,
    ) -> Result<MountAttempt, StoreError> {
        attempt(&self.mounts_directory().join(key.name()), sharing)
    }

    /// Removes the directory of `key` if there is nothing in it and nobody uses it.
    pub fn remove_empty_mount(&self, key: &MountKey) -> Result<(), StoreError> {
        match self.try_existing_mount(key, MountSharing::Locked)? {
            MountAttempt::Taken(mount) if mount.is_empty() => self.remove_locked(&mount.directory).map(drop),
            _ => Ok(()),
        }
    }

    fn make_mount<E: From<StoreError>>(
        &self,
        directory: &Path,
        id: &str,
        fill: &impl Fn(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let disk = &self.shared.disk;
        let scratch = self.fresh_path();
        let made = (|| -> Result<(), E> {
            disk.create_dir(&scratch, 0o700)?;
            let path = scratch.join(ID);
            disk.write_all(&disk.create_file(&path)?, &path, id.as_bytes())?;
            disk.create_file(&scratch.join(LOCK))?;
            let files = scratch.join(FILES);
            disk.create_dir(&files, 0o755)?;
            crate::duplicate::set_default_mode(&files)
                .map_err(|error| StoreError::io("write", &files, error))?;
            fill(&files)?;
            if fs::metadata(self.mounts_directory()).is_err() {
                disk.create_dir_all(&self.mounts_directory())?;
            }
            Ok(())
        })();
        let moved = made.and_then(|()| match disk.rename(&scratch, directory) {
            // A directory that is not empty never gives way to another.
            Err(StoreError::Io { source, .. }) if is_taken(&source) => {
                Ok(disk.remove_tree(&scratch).map(drop)?)
            }
            result => Ok(result?),
        });
        if moved.is_err() {
            // What cannot be removed goes away with the run's directory.
            let _ = disk.remove_tree(&scratch);
        }
        moved
    }

    pub(crate) fn mounts_directory(&self) -> PathBuf {
        self.shared.root.join("mounts")
    }

    /// All directories.
    pub(crate) fn cache_mounts(&self) -> Result<Vec<MountRow>, StoreError> {
        let mut found = Vec::new();
        let directory = self.mounts_directory();
        if fs::metadata(&directory).is_err() {
            return Ok(found);
        }
        for name in names(&directory)? {
            let path = directory.join(&name);
            let used = fs::metadata(path.join(LOCK)).map_or(0, |metadata| metadata.mtime());
            let id = fs::read(path.join(ID)).unwrap_or_default();
            found.push(MountRow { name, id: String::from_utf8_lossy(&id).into_owned(), used });
        }
        Ok(found)
    }

    /// The file of which the time is that of a directory's last use.
    pub(crate) fn mount_lock(&self, name: &str) -> PathBuf {
        self.mounts_directory().join(name).join(LOCK)
    }

    /// What a directory lacks, if it is not whole.
    pub(crate) fn lacks_of_mount(&self, name: &str) -> Option<&'static str> {
        let directory = self.mounts_directory().join(name);
        [ID, LOCK, FILES].into_iter().find(|part| fs::symlink_metadata(directory.join(part)).is_err())
    }

    /// Whether a directory is in use.
    pub(crate) fn is_mounted(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.mount_lock(name)) else { return false };
        !lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
    }

    /// Removes a directory that is not in use, and returns the bytes that this frees; `None` if it is.
    pub(crate) fn remove_mount(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let directory = self.mounts_directory().join(name);
        let path = directory.join(LOCK);
        let _lock = match File::open(&path) {
            Ok(file) => {
                let free = lock(&file, FlockOperation::NonBlockingLockExclusive)
                    .map_err(|error| StoreError::io("lock", &path, error))?;
                if !free || !is_at(&file, &path) {
                    return Ok(None);
                }
                Some(file)
            }
            // It did not get here by a rename of ours, or is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        self.remove_locked(&directory)
    }

    /// Removes a directory whose lock is held; `None` if it is gone already.
    fn remove_locked(&self, directory: &Path) -> Result<Option<u64>, StoreError> {
        let disk = &self.shared.disk;
        let away = self.fresh_path();
        match disk.rename(directory, &away) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(()) => disk.remove_tree(&away).map(Some),
        }
    }
}

fn attempt(directory: &Path, sharing: MountSharing) -> Result<MountAttempt, StoreError> {
    let path = directory.join(LOCK);
    let file = match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(MountAttempt::Missing),
        other => other.map_err(|error| StoreError::io("open", &path, error))?,
    };
    let operation = match sharing {
        MountSharing::Shared => FlockOperation::NonBlockingLockShared,
        MountSharing::Private | MountSharing::Locked => FlockOperation::NonBlockingLockExclusive,
    };
    if !lock(&file, operation).map_err(|error| StoreError::io("lock", &path, error))? {
        return Ok(MountAttempt::Busy);
    }
    if !is_at(&file, &path) {
        return Ok(MountAttempt::Missing);
    }
    // Only prune goes by it.
    let _ = file.set_modified(SystemTime::now());
    Ok(MountAttempt::Taken(CacheMount { directory: directory.to_owned(), _lock: file }))
}

/// Takes a lock if nobody's excludes it.
fn lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether an open file is what is at `path` now.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, there) = (file.metadata().map(inode), fs::metadata(path).map(inode));
    matches!((open, there), (Ok(open), Ok(there)) if open == there)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code)
        if code == rustix::io::Errno::NOTEMPTY.raw_os_error() || code == rustix::io::Errno::EXIST.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_made_differently() {
        let key = |id: &str, beginning| MountKey { id: id.to_owned(), beginning: [beginning; 32] };
        assert_eq!(key("/go", 0).name(), "5e53cd3177368d52aca4be6cf94f4042");
        assert_ne!(key("/go", 0).name(), key("/go", 1).name());
        assert_ne!(key("/go", 0).name(), key("/g", 0).name());
    }
}
