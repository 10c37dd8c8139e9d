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
    /// A limit needs a controller that the kernel does not have, or that is not mounted.
    #[error("cannot limit what a step uses: the kernel offers no cgroup controller `{controller}`")]
    NoController {
        /// Which.
        controller: &'static str,
    },
    /// A limit needs a cgroup, and this process may make none that has the controllers.
    #[error("cannot limit what a step uses: this user may make no cgroup with the controller {controllers}")]
    NotDelegated {
        /// Which, in backticks.
        controllers: String,
        /// The version of cgroups that they are in.
        version: u8,
    },
    /// A limit could not be set.
    #[error("cannot limit `{limit}`: the controller `{controller}` does not take `{value}` in `{}`", file.display())]
    Limit {
        /// Which controller.
        controller: &'static str,
        /// Which limit, by docker's name (`memory-swap`).
        limit: &'static str,
        /// What was written.
        value: String,
        /// The file of the cgroup.
        file: PathBuf,
        /// What the kernel said.
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

impl SandboxError {
    /// What may help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotDelegated { version: 2, .. } => Some(
                "start the build with `systemd-run --user --scope -p Delegate=yes`, or name a cgroup that the \
                 user may write to with `--cgroup-parent`"
                    .to_owned(),
            ),
            Self::Cgroup { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("name a cgroup that the user may write to".to_owned())
            }
            Self::NotDelegated { .. } => Some(
                "let root make a cgroup for the user (`mkdir` and `chown -R` in the hierarchy of each controller), \
                 and name it with `--cgroup-parent`"
                    .to_owned(),
            ),
            Self::Cgroup { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => Some(
                "processes in a cgroup of version 2 keep it from passing controllers on: move them to one beneath it, \
                 or name another with `--cgroup-parent`"
                    .to_owned(),
            ),
            _ => None,
        }
    }
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
