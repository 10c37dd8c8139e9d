//! A run: one process at work in a store. It has a directory for what it begins, and a list of what it uses, which
//! prune leaves alone for as long as the run lives.
//!
//! The list is the file `tmp/<run>/uses`: entries of 16 bytes, appended and never changed, locked by the run. A run finds
//! a thing, declares its use, and looks whether a prune has been announced since before it found it. Prune hides the
//! thing, announces itself (the file `prunes` gets another content), and reads the lists. So of a use and a prune that
//! meet, at least one sees the other, and neither waits. A file instead of rows in
//! SQLite, because a declaration costs one write(2) and goes away with the run whatever kills it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Digest;
use rustix::fs::FlockOperation;

use crate::disk::Disk;
use crate::{SnapshotId, StoreError};

const USES: &str = "uses";
const ENTRY_BYTES: usize = 16;

/// Something that a run uses: an entry of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Use([u8; ENTRY_BYTES]);

impl Use {
    /// `S`, and the number of the snapshot in the last 8 bytes.
    pub(crate) fn snapshot(id: SnapshotId) -> Self {
        let mut entry = [0; ENTRY_BYTES];
        entry[0] = b'S';
        entry[8..].copy_from_slice(&id.0.to_be_bytes());
        Self(entry)
    }

    /// `B`, and the first 15 bytes of the digest: enough to tell blobs apart, and one that is mistaken for another
    /// would only be kept longer.
    pub(crate) fn blob(digest: &Digest) -> Self {
        let mut entry = [0; ENTRY_BYTES];
        entry[0] = b'B';
        let start = digest.hex().get(..30).unwrap_or_default();
        if let Ok(bytes) = hex::decode(start) {
            entry[1..=bytes.len()].copy_from_slice(&bytes);
        }
        Self(entry)
    }
}

/// Whether a use was declared before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Just now: the thing used may have gone in the meantime.
    Now,
    /// Before, and the thing used is known to stay.
    Before,
}

/// A living run. Dropping it removes its directory.
#[derive(Debug)]
pub(crate) struct Run {
    directory: PathBuf,
    uses_path: PathBuf,
    uses_file: File,
    /// The uses of things that are known to stay.
    confirmed: Mutex<HashSet<Use>>,
    next: AtomicU64,
    disk: Disk,
}

impl Run {
    /// Begins a run in `tmp`, which is there.
    pub(crate) fn begin(tmp: &Path, disk: &Disk) -> Result<Self, StoreError> {
        loop {
            let name = format!("{}-{:016x}", std::process::id(), crate::store::random_u64());
            let directory = tmp.join(name);
            disk.create_dir(&directory, 0o755)?;
            // A sweep in another process may take the directory for a dead run's until the lock is held.
            let Some((uses_path, uses_file)) = lock_new(&directory, disk)? else { continue };
            return Ok(Self {
                directory,
                uses_path,
                uses_file,
                confirmed: Mutex::default(),
                next: AtomicU64::new(0),
                disk: disk.clone(),
            });
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in the run's directory that nobody has.
    pub(crate) fn fresh_path(&self) -> PathBuf {
        self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Declares a use. Whoever finds [`Declared::Now`] makes sure that the thing stays, and says so with
    /// [`Run::confirm`].
    pub(crate) fn declare(&self, used: Use) -> Result<Declared, StoreError> {
        if self.confirmed().contains(&used) {
            return Ok(Declared::Before);
        }
        self.disk.write_all(&self.uses_file, &self.uses_path, &used.0)?;
        Ok(Declared::Now)
    }

    /// Notes that a thing was still there after its use was declared.
    pub(crate) fn confirm(&self, used: Use) {
        self.confirmed().insert(used);
    }

    /// Whether the use of a thing was declared and the thing seen to be there after that.
    pub(crate) fn holds(&self, used: Use) -> bool {
        self.confirmed().contains(&used)
    }

    /// Declares the use of something that cannot be pruned at this moment.
    pub(crate) fn hold(&self, used: Use) -> Result<(), StoreError> {
        self.declare(used)?;
        self.confirm(used);
        Ok(())
    }

    /// Ends the run while it may still be written to. Everything that it has begun is moved into the store by its
    /// path: under another name nothing of it can be, so that it may be taken apart.
    pub(crate) fn abandon(&self, disk: &Disk) -> Result<(), StoreError> {
        let mut name = self.directory.clone().into_os_string();
        name.push("-abandoned");
        let abandoned = PathBuf::from(name);
        disk.rename(&self.directory, &abandoned)?;
        // What it uses stays in use until the process has ended.
        remove_all_but_uses(&abandoned, disk)?;
        Ok(())
    }

    fn confirmed(&self) -> MutexGuard<'_, HashSet<Use>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What cannot be removed is swept by a later run.
        let _ = remove_run(&self.directory, &self.disk);
    }
}

/// The file `prunes`: 8 bytes that change with every prune.
#[derive(Debug)]
pub(crate) struct Prunes {
    path: PathBuf,
    file: File,
    known: AtomicU64,
}

impl Prunes {
    /// Opens the file in `root`, making it if it is not there.
    pub(crate) fn open(root: &Path, disk: &Disk) -> Result<Self, StoreError> {
        let path = root.join("prunes");
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.open_or_create(&path)?,
            Err(error) => return Err(StoreError::io("open", &path, error)),
        };
        let prunes = Self { path, file, known: AtomicU64::new(0) };
        prunes.known.store(prunes.read()?, Ordering::Release);
        Ok(prunes)
    }

    /// The last content that was seen.
    pub(crate) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// Whether no prune has been announced since `before` was the last content that was seen.
    pub(crate) fn none_since(&self, before: u64) -> Result<bool, StoreError> {
        let now = self.read()?;
        self.known.store(now, Ordering::Release);
        Ok(now == before)
    }

    /// Announces a prune.
    pub(crate) fn announce(&self, disk: &Disk) -> Result<(), StoreError> {
        let content = crate::store::random_u64().to_ne_bytes();
        disk.step()
            .and_then(|()| self.file.write_all_at(&content, 0))
            .map_err(|error| StoreError::io("write", &self.path, error))
    }

    fn read(&self) -> Result<u64, StoreError> {
        let mut content = [0; 8];
        // An empty file is one that no prune has written to.
        match self.file.read_at(&mut content, 0) {
            Ok(_) => Ok(u64::from_ne_bytes(content)),
            Err(error) => Err(StoreError::io("read", &self.path, error)),
        }
    }
}

fn lock_new(directory: &Path, disk: &Disk) -> Result<Option<(PathBuf, File)>, StoreError> {
    let path = directory.join(USES);
    let file = match disk.create_file(&path) {
        Ok(file) => file,
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let locked = try_lock(&file).map_err(|error| StoreError::io("lock", &path, error))?;
    let links = file.metadata().map_err(|error| StoreError::io("read", &path, error))?.nlink();
    Ok((locked && links > 0).then_some((path, file)))
}

/// Takes the exclusive lock of a file if nobody has it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the directory of a run, the list last: without it, the directory is one that a run is just beginning.
fn remove_run(directory: &Path, disk: &Disk) -> Result<u64, StoreError> {
    let mut freed_bytes = remove_all_but_uses(directory, disk)?;
    freed_bytes += disk.remove_tree(&directory.join(USES))?;
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", directory, error))
        }
        _ => Ok(freed_bytes),
    }
}

fn remove_all_but_uses(directory: &Path, disk: &Disk) -> Result<u64, StoreError> {
    let mut freed_bytes = 0;
    for entry in list(directory)? {
        if entry != USES {
            freed_bytes += disk.remove_tree(&directory.join(entry))?;
        }
    }
    Ok(freed_bytes)
}

fn list(directory: &Path) -> Result<Vec<std::ffi::OsString>, StoreError> {
    let read = |error| StoreError::io("read", directory, error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(read)?,
    };
    entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(read)).collect()
}

/// Removes what dead runs have left in `tmp`. Returns the bytes freed on the disk.
pub(crate) fn sweep_dead_runs(tmp: &Path, disk: &Disk) -> Result<u64, StoreError> {
    let mut freed_bytes = 0;
    for name in list(tmp)? {
        let directory = tmp.join(name);
        match File::open(directory.join(USES)) {
            Ok(file) => {
                // The lock is held while the directory is removed, so that two sweeps do not meet in it.
                let dead = try_lock(&file).map_err(|error| StoreError::io("lock", &directory, error))?;
                if dead {
                    freed_bytes += match remove_run(&directory, disk) {
                        // A program of a step outlives its killed build for a moment, and writes: a later sweep.
                        Err(StoreError::Io { source, .. })
                            if source.kind() == io::ErrorKind::DirectoryNotEmpty =>
                        {
                            0
                        }
                        removed => removed?,
                    };
                }
            }
            // Either a run that is just beginning, which then begins again, or the end of a removal.
            Err(_) => drop(fs::remove_dir(&directory)),
        }
    }
    Ok(freed_bytes)
}

/// The paths of the directories of living runs.
pub(crate) fn living_runs(tmp: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut living = Vec::new();
    for name in list(tmp)? {
        let directory = tmp.join(name);
        let Ok(file) = File::open(directory.join(USES)) else { continue };
        if !try_lock(&file).map_err(|error| StoreError::io("lock", &directory, error))? {
            living.push(directory);
        }
    }
    Ok(living)
}

/// Everything that living runs use.
pub(crate) fn uses_of_living_runs(tmp: &Path) -> Result<HashSet<Use>, StoreError> {
    let mut uses = HashSet::new();
    for directory in living_runs(tmp)? {
        let path = directory.join(USES);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("read", &path, error));
            }
            _ => {}
        }
        let (entries, _unfinished) = bytes.as_chunks::<ENTRY_BYTES>();
        uses.extend(entries.iter().map(|entry| Use(*entry)));
    }
    Ok(uses)
}
