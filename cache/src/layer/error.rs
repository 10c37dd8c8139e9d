//! What can go wrong with a layer.

use std::io;
use std::path::PathBuf;

use crate::tree::TreeError;

/// Why an archive could not be applied or written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive's stream could not be read or decompressed, or it ended too early.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The output could not be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A header makes no sense.
    #[error("invalid archive entry `{name}`: {reason}")]
    Header {
        /// The entry's name, or where in the stream it is.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link to something that is not there.
    #[error("archive entry `{}` is a hard link to `{}`, which does not exist", path.display(), target.display())]
    LinkTarget {
        /// The link.
        path: PathBuf,
        /// What it should be another name of.
        target: PathBuf,
    },
    /// The tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
