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
        /// What `--checksum` or a lock file says.
        expected: Digest,
    },
    /// There is no git program.
    #[error("cannot run `git`, which git repositories need: there is no such program")]
    NoGit,
    /// The git program could not be run.
    #[error("cannot run `git`")]
    GitStart {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The git program failed.
    #[error("failed to fetch remote {url}: `git {command}` failed: {message}")]
    Git {
        /// What it was to do.
        command: String,
        /// The repository.
        url: String,
        /// The end of what it said.
        message: String,
    },
    /// No such branch or tag.
    #[error("failed to fetch remote {url}: repository does not contain ref {reference}")]
    NoReference {
        /// The repository.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// A repository that is empty, or says nothing of a default.
    #[error("could not find default branch for repository: {url}")]
    NoDefaultBranch {
        /// The repository.
        url: String,
    },
    /// The commit is not the one that was wanted.
    #[error("expected checksum to match {expected}, got {actual}")]
    CommitMismatch {
        /// What `--checksum` says.
        expected: String,
        /// The commit, or the tag and its commit.
        actual: String,
    },
    /// A source that was never seen, or whose files are no longer in the store, while no server may be asked.
    #[error("the store lacks {url}, and `--offline` keeps it from being fetched")]
    Offline {
        /// Its URL.
        url: String,
    },
    /// A source that a lock file should name.
    #[error("{source_name} is not in the lock file")]
    NotLocked {
        /// Its URL, and the reference of a repository.
        source_name: String,
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
            Self::NoGit => Some("install the package `git`".to_owned()),
            Self::Git { message, .. } if wants_credentials(message) => Some(
                "give a token for the repository's host as the secret `GIT_AUTH_TOKEN`, or the header as \
                 `GIT_AUTH_HEADER`; for one host alone, with `.` and the host behind the name"
                    .to_owned(),
            ),
            Self::Offline { .. } => Some("build once without the option".to_owned()),
            Self::NotLocked { .. } => Some(crate::image::NOT_LOCKED_HINT.to_owned()),
            Self::NoDefaultBranch { .. } => Some("name a branch: `…#branch`".to_owned()),
            Self::CommitMismatch { .. }
            | Self::NoReference { .. }
            | Self::Git { .. }
            | Self::GitStart { .. }
            | Self::Write { .. } => None,
        }
    }

    /// Whether a fetch may have failed for a server that gives out nothing by its hash, or nothing without history.
    pub(super) fn is_about_hashes_or_depth(&self) -> bool {
        let texts =
            ["not our ref", "unadvertised object", "shallow", "--depth", "did not contain", "dumb http"];
        matches!(self, Self::Git { message, .. } if texts.iter().any(|text| message.contains(text)))
    }

    /// Whether a repository may be had a little later. git tells it in words alone.
    pub(super) fn is_passing(&self) -> bool {
        let texts = [
            "returned error: 408",
            "returned error: 429",
            "returned error: 5",
            "Connection reset",
            "Recv failure",
            "Empty reply",
            "hung up unexpectedly",
            "early EOF",
            "timed out",
            "Temporary failure in name resolution",
        ];
        matches!(self, Self::Git { message, .. } if texts.iter().any(|text| message.contains(text)))
    }

    /// Whether it may be a damaged mirror that a fetch failed for, and not the server.
    pub(super) fn may_be_the_mirrors(&self) -> bool {
        let texts =
            ["could not read from remote", "unable to access", "unable to connect", "Could not resolve"];
        matches!(self, Self::Git { message, .. } if !texts.iter().any(|text| message.contains(text)))
    }
}

fn wants_credentials(message: &str) -> bool {
    let texts =
        ["could not read Username", "Authentication failed", "Permission denied", "returned error: 40"];
    texts.iter().any(|text| message.contains(text))
}
