//! Why a remote source could not be had.

use std::io;
use std::path::PathBuf;

use oci::Digest;
use registry::FetchError;

/// Why a remote source could not be had. URLs are shown without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The server did not give the file.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The file is not the one that was wanted.
    #[error("digest mismatch for {url}: {actual} (expected: {expected})")]
    DigestMismatch {
        /// Its URL.
        url: String,
        /// What came.
        actual: Digest,
        /// What `--checksum` says.
        expected: Digest,
    },
    /// There is no room for the file, or something like that.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// A file of the store.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RemoteError {
    /// What a person can do about it, where that is known: a sentence without capital and period.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fetch(FetchError::Status { status: 401 | 403, host, .. }) => Some(format!(
                "the server wants credentials: give them as the secret `HTTP_AUTH_TOKEN_{host}` (a bearer token) or \
                 `HTTP_AUTH_HEADER_{host}` (the value of the header)"
            )),
            Self::Fetch(error) => error.hint(),
            Self::DigestMismatch { .. } => {
                Some("the file has changed, or it is not the one that the checksum was made of".to_owned())
            }
            Self::Write { .. } => None,
        }
    }
}
