//! The read side of a tree.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Entry, Follow, TreeError, TreeMode};

/// A chain of directories read as one tree. Cheap to share between threads.
///
/// Except for [`resolve`](Self::resolve), methods take canonical paths: no `.` or `..`, and no link among the
/// parents is followed (such a path is not a directory).
pub struct TreeView {}

impl TreeView {
    /// Opens the chain `dirs`, top first.
    pub fn open(dirs: &[PathBuf], mode: TreeMode) -> Result<Self, TreeError> {
        todo!()
    }

    /// How the directories are read.
    pub fn mode(&self) -> TreeMode {
        todo!()
    }

    /// What is at `path` (as `lstat`), or `None` if there is nothing or a parent is no directory.
    pub fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        todo!()
    }

    /// Follows links inside the tree: absolute targets start at its root, `..` stops there. The result is
    /// canonical. What does not exist is kept as it is written (`..` taken lexically).
    pub fn resolve(&self, path: &Path, follow: Follow) -> Result<PathBuf, TreeError> {
        todo!()
    }

    /// The entries of the directory `path`, merged, sorted by the bytes of their names.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Entry)>, TreeError> {
        todo!()
    }

    /// Opens the regular file `path` for reading.
    pub fn open_file(&self, path: &Path) -> Result<File, TreeError> {
        todo!()
    }

    /// The target of the symbolic link `path`.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        todo!()
    }

    /// The extended attributes of `path`, sorted by name; overlay's and our own are left out.
    pub fn xattrs(&self, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, TreeError> {
        todo!()
    }
}
