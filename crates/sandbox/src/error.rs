//! What can go wrong outside of the program that is run.

use std::io;
use std::path::PathBuf;

/// Why a sandbox could not be started or waited for.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The specification makes no sense.
    #[error("invalid sandbox: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// A step on the calling side failed.
    #[error("cannot start a sandbox: {step} failed")]
    Start {
        /// Which step.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step inside the sandbox failed.
    #[error(transparent)]
    Setup(#[from] SetupFailure),
    /// The sandbox's init ended without a word.
    #[error("the sandbox's init ended before it was ready")]
    InitDied,
    /// An asked-for cgroup could not be made.
    #[error("cannot make a cgroup at `{}`", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting for the process failed.
    #[error("cannot wait for a sandbox")]
    Wait {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount point that had been made could not be removed.
    #[error("cannot remove the mount point `{}`", path.display())]
    MountPoint {
        /// Its path in the root file system.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A step of the set-up inside the sandbox that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the sandbox: {step}{}", path.as_ref().map(|path| format!(" `{}`", path.display())).unwrap_or_default())]
pub struct SetupFailure {
    /// Which step, in words (`mount the overlay at`).
    pub step: String,
    /// The path that it was about.
    pub path: Option<PathBuf>,
    /// Why.
    #[source]
    pub source: io::Error,
}
