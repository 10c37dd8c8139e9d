//! All writes of the store to the disk (the trees inside snapshots aside, which [`crate::tree`] writes; of these the
//! links to other snapshots are counted), so that
//! tests can make any of them fail, or kill the process there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, RenameFlags};

use crate::StoreError;
use crate::removal::remove_tree;

/// What a test makes of the disk: the n-th write and perhaps all after it fail, or the process dies there.
#[doc(hidden)]
#[derive(Debug)]
pub struct Faults {
    at: u64,
    kind: FaultKind,
    steps: AtomicU64,
}

/// What happens at the chosen write.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It alone fails with an input/output error.
    FailOnce,
    /// It and all later ones fail for lack of space.
    Full,
    /// The process is killed instead.
    Kill,
}

impl Faults {
    /// A fault at the write number `at`, counted from 0.
    pub fn new(at: u64, kind: FaultKind) -> Arc<Self> {
        Arc::new(Self { at, kind, steps: AtomicU64::new(0) })
    }

    /// The number of writes so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        match self.kind {
            FaultKind::FailOnce if step == self.at => Err(rustix::io::Errno::IO.into()),
            FaultKind::Full if step >= self.at => Err(rustix::io::Errno::NOSPC.into()),
            FaultKind::Kill if step == self.at => {
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::KILL)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<Faults>>,
}

impl Disk {
    /// A disk that fails as told.
    pub(crate) fn with_faults(faults: Option<Arc<Faults>>) -> Self {
        Self { faults }
    }

    /// Counts a write that is about to happen.
    pub(crate) fn step(&self) -> io::Result<()> {
        match &self.faults {
            Some(faults) => faults.step(),
            None => Ok(()),
        }
    }

    fn run<T>(
        &self,
        action: &'static str,
        path: &Path,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        self.step().and_then(|()| operation()).map_err(|error| StoreError::io(action, path, error))
    }

    /// Makes one directory with `mode` (less the umask).
    pub(crate) fn create_dir(&self, path: &Path, mode: u32) -> Result<(), StoreError> {
        self.run("create", path, || fs::DirBuilder::new().mode(mode).create(path))
    }

    /// Makes a directory and those above it that are missing, for this user alone.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<(), StoreError> {
        self.run("create", path, || fs::DirBuilder::new().mode(0o700).recursive(true).create(path))
    }

    /// Makes a new file, open for reading and appending.
    pub(crate) fn create_file(&self, path: &Path) -> Result<File, StoreError> {
        self.run("create", path, || {
            OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(path)
        })
    }

    /// Opens a file for reading and writing, making it if it is not there.
    pub(crate) fn open_or_create(&self, path: &Path) -> Result<File, StoreError> {
        self.run("create", path, || {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        })
    }

    /// Writes all of `bytes` to the open file of `path`.
    pub(crate) fn write_all(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.run("write", path, || io::Write::write_all(&mut file, bytes))
    }

    /// Renames; an existing file there gives way.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.run("move into place", to, || fs::rename(from, to))
    }

    /// Gives the file `from` the name `to`, unless there is something already. Returns whether it did.
    pub(crate) fn publish(&self, from: &Path, to: &Path) -> Result<bool, StoreError> {
        self.run("move into place", to, || {
            // Not every file system knows NOREPLACE, and not every one knows hard links.
            let renamed = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
            match renamed {
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
                other => return exists_to_false(other),
            }
            let linked = exists_to_false(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()))?;
            fs::remove_file(from)?;
            Ok(linked)
        })
    }

    /// Removes a file.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        self.run("remove", path, || fs::remove_file(path))
    }

    /// Removes a directory with all that is in it, or whatever else is there. Returns the bytes that this frees on
    /// the disk. That nothing is there is not an error.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<u64, StoreError> {
        self.run("remove", path, || remove_tree(path))
    }

    /// Waits until the content of a file is on the disk.
    pub(crate) fn sync_file(&self, path: &Path) -> Result<(), StoreError> {
        self.run("sync", path, || File::open(path)?.sync_all())
    }

    /// Waits until everything on the file system of `path` is on the disk.
    pub(crate) fn sync_file_system(&self, path: &Path) -> Result<(), StoreError> {
        self.run("sync", path, || Ok(rustix::fs::syncfs(File::open(path)?)?))
    }
}

fn exists_to_false(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
