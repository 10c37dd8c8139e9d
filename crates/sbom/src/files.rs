//! The files that are scanned.

use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::path::Path;

/// A file that is read here and there.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// A file system. Paths are relative to its root, and nothing follows symbolic links.
pub trait Files {
    /// What is in a directory, sorted by name.
    fn entries(&self, directory: &Path) -> io::Result<Vec<FileEntry>>;

    /// Opens a regular file.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadSeek>>;
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size.
        size_bytes: u64,
        /// Whether somebody may execute it.
        executable: bool,
    },
    /// Anything else.
    Other,
}
