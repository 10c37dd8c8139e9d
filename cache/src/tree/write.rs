//! The write side of a tree.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::{Attributes, FileContent, FileKind, TreeError, TreeMode, TreeView};

/// Whether the bytes of a file are hashed while they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// No digest is wanted.
    Skip,
    /// The blake3 digest of the content is wanted.
    Blake3,
}

/// What [`TreeWriter::make_directory`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It made the directory.
    Created,
    /// There was one already, which is left as it was.
    Existed,
}

/// Writes the raw upper directory of a chain. All methods may be called from several threads at once, as long as
/// no two of them write the same path.
///
/// Nothing is ever written through an existing inode: what is in the way is unlinked (a directory with all that is
/// in it), then the new entry is made exclusively. The parent of a written path must exist in the tree as a
/// directory; where it only exists below, it is copied up with its metadata. Times of directories in which
/// something was written are put back by [`finish`](Self::finish), which must be called last.
pub struct TreeWriter {}

impl TreeWriter {
    /// A writer of `upper` over `lower_dirs` (top first).
    pub fn new(upper: &Path, lower_dirs: &[PathBuf], mode: TreeMode) -> Result<Self, TreeError> {
        todo!()
    }

    /// The merged tree, with what was written so far.
    pub fn view(&self) -> &TreeView {
        todo!()
    }

    /// Makes a directory, replacing anything else that has that name. A directory that exists is left alone.
    pub fn make_directory(&self, path: &Path, attributes: &Attributes) -> Result<Made, TreeError> {
        todo!()
    }

    /// Gives an existing directory new metadata. `xattrs` are added to those it has; `mtime: None` keeps its time.
    pub fn set_attributes(&self, path: &Path, attributes: &Attributes) -> Result<(), TreeError> {
        todo!()
    }

    /// Writes a regular file. Returns the digest of its bytes if `hashing` asks for it.
    pub fn file(
        &self,
        path: &Path,
        content: FileContent<'_>,
        attributes: &Attributes,
        hashing: Hashing,
    ) -> Result<Option<blake3::Hash>, TreeError> {
        todo!()
    }

    /// Makes `new` another name of `existing`, a file (or other non-directory) of the tree. If that is not in the
    /// upper directory yet, it is copied up first; if the file system allows no more links, `new` is a copy.
    pub fn hard_link(&self, existing: &Path, new: &Path) -> Result<(), TreeError> {
        todo!()
    }

    /// Makes `new` a link to the inode of `name` in `directory`, which may be anywhere on the same file system.
    /// Returns false, having done nothing, where that cannot be (`EXDEV`, `EMLINK`, `EPERM`).
    pub fn link_from(&self, directory: BorrowedFd<'_>, name: &OsStr, new: &Path) -> Result<bool, TreeError> {
        todo!()
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, path: &Path, target: &Path, attributes: &Attributes) -> Result<(), TreeError> {
        todo!()
    }

    /// Makes a fifo, socket or device.
    pub fn special(
        &self,
        path: &Path,
        kind: FileKind,
        rdev: (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), TreeError> {
        todo!()
    }

    /// Removes what is at `path`, with all below it, leaving a whiteout where a lower directory has that name.
    /// Returns whether there was anything.
    pub fn remove(&self, path: &Path) -> Result<bool, TreeError> {
        todo!()
    }

    /// Puts the times of directories right.
    pub fn finish(&self) -> Result<(), TreeError> {
        todo!()
    }
}
