//! Why something could not be copied.

use std::io;
use std::path::PathBuf;

use cache::StoreError;
use cache::layer::LayerError;
use cache::tree::TreeError;

use crate::context::ContextError;
use crate::user::UserError;

/// Why something could not be copied. Where the peers' words are known, these are the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A source that is not there.
    #[error(
        "failed to compute cache key: failed to calculate checksum of ref {reference}: {path:?}: not found"
    )]
    NotFound {
        /// The source, from the root of its tree.
        path: String,
        /// What it was looked for in.
        reference: String,
        /// Whether it is there and the ignore file leaves it out.
        ignored: bool,
    },
    /// A file changed between the moment its digest entered the cache key and the moment it was copied.
    #[error("`{}` changed while the build was reading it", .0.display())]
    Changed(PathBuf),
    /// A directory was to be made where something else is.
    #[error("mkdir {}: not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A directory was to be copied over something else.
    #[error("cannot copy to non-directory: {}", .0.display())]
    DirectoryOverFile(PathBuf),
    /// Something else was to be copied over a directory.
    #[error("cannot replace to directory {} with file", .0.display())]
    FileOverDirectory(PathBuf),
    /// A chain of links without an end.
    #[error("too many links in the source `{0}`")]
    LinkLoop(String),
    /// A malformed pattern in a source or in `--exclude`.
    #[error(transparent)]
    Pattern(#[from] pattern::PatternError),
    /// A symbolic mode that makes no sense.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Chmod(String),
    /// A file of a source could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Its path in its tree.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `--chown` could not be understood.
    #[error(transparent)]
    User(#[from] UserError),
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// An archive could not be unpacked.
    #[error("cannot unpack `{}`", path.display())]
    Archive {
        /// Its path in its tree.
        path: PathBuf,
        /// Why.
        source: LayerError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The build context could not be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A link between snapshots could not be made.
    #[error(transparent)]
    Link(#[from] cache::LinkError),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl CopyError {
    /// What may help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { ignored: true, path, .. } => {
                Some(format!("`{path}` exists, but the ignore file leaves it out"))
            }
            Self::Changed(_) => Some("build again when nothing writes to the build context".to_owned()),
            _ => None,
        }
    }
}
