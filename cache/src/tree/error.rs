//! What can go wrong with a tree.

use std::io;
use std::path::{Path, PathBuf};

/// Why a tree could not be read or written. Paths are those inside the tree, unless it could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A system call failed.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, such as `open`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is nothing at this path.
    #[error("`{}` does not exist", .0.display())]
    NotFound(PathBuf),
    /// A directory is needed here and something else is there.
    #[error("`{}` is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Not a regular file.
    #[error("`{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// More links than the kernel would follow.
    #[error("too many links on the way to `{}`", .0.display())]
    LinkLoop(PathBuf),
    /// A path with `.` or `..` where a canonical one is needed.
    #[error("`{}` is not a canonical path", .0.display())]
    NotCanonical(PathBuf),
}

impl TreeError {
    /// The error of a system call.
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }
}
