//! Why the store could not do something.

use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;

/// Why the store could not do something. Each variant names the path or the digest it is about; a cause is the
/// error's source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// This user may not do that to that path.
    #[error("no permission to {action} `{}`", path.display())]
    Permission {
        /// What was tried (`create`, `open`).
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system of that path is full (or the user's quota of it).
    #[error("no space is left where `{}` is to be written", path.display())]
    DiskFull {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of an operation on a path.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried (`create`, `open`).
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite failed in a way that is neither a lack of permission nor of space.
    #[error("cannot {action} the metadata in `{}`", path.display())]
    Database {
        /// What was tried (`read`, `write`).
        action: &'static str,
        /// The path of the SQLite file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The SQLite file is damaged, or is none.
    #[error("the metadata in `{}` is damaged: {reason}", path.display())]
    DamagedMetadata {
        /// The path of the SQLite file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The store was written by a newer version of this program.
    #[error(
        "the store `{}` has format {found}, which is newer than format {supported} of this program",
        root.display()
    )]
    NewerFormat {
        /// The root of the store.
        root: PathBuf,
        /// The version found.
        found: i64,
        /// The newest version that this program reads.
        supported: i64,
    },
    /// The store was written under another mapping of user and group IDs: its files have other owners now.
    #[error(
        "the store `{}` was made under the ID mapping `{stored}`, and the mapping is `{current}` now",
        root.display()
    )]
    IdsChanged {
        /// The root of the store.
        root: PathBuf,
        /// The mapping that the store records, in one line.
        stored: String,
        /// The mapping of this process, in one line.
        current: String,
        /// Whether the store was made under one ID ([`crate::IdMode::Single`]).
        had_one: bool,
    },
    /// Something in the metadata is not what this program writes there.
    #[error("`{}` holds an invalid {what}: `{value}`", path.display())]
    InvalidMetadata {
        /// The path of the SQLite file.
        path: PathBuf,
        /// What it is (`descriptor`, `digest`).
        what: &'static str,
        /// The text found.
        value: String,
    },
    /// A blob is not in the store.
    #[error("blob `{0}` is not in the store")]
    NoBlob(Digest),
    /// The bytes of a blob do not have its digest. A blob of the store that turns out like this has been removed.
    #[error("blob `{expected}` has the wrong content: its digest is `{found}`")]
    WrongDigest {
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// A digest of an algorithm that the store does not compute.
    #[error("blob `{0}` cannot be stored: only sha256 is supported")]
    UnsupportedDigest(Digest),
    /// A blob that is to be read into memory is larger than allowed.
    #[error("blob `{digest}` has {size_bytes} bytes, more than the {limit_bytes} bytes it may have here")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// Its size.
        size_bytes: u64,
        /// The bound.
        limit_bytes: u64,
    },
    /// A snapshot is not in the store.
    #[error("snapshot `{0}` is not in the store")]
    NoSnapshot(crate::SnapshotId),
}

impl StoreError {
    /// The error for a failed operation on `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { action, path, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// The error for a failed operation of SQLite on the file `path`.
    pub(crate) fn database(action: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path, source: io::Error::other(source) },
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::Permission { action: "write", path, source: io::Error::other(source) }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::DamagedMetadata { path, reason: source.to_string() }
            }
            _ => Self::Database { action, path, source },
        }
    }
}
