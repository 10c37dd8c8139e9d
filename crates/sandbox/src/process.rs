//! The calling side: starting a sandbox and waiting for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{ProcessSpec, SandboxError};

/// Becomes the init of a sandbox if this process was started as one, and never returns then. To be called first thing
/// in `main`, before any thread starts.
pub fn run_init_if_requested() {}

/// Starts a process in a sandbox. Blocks for the few milliseconds that the set-up takes.
///
/// A program that cannot be found or executed is no error here: it is told on the sandbox's stderr, with exit code 1,
/// as BuildKit does.
pub fn spawn(spec: &ProcessSpec) -> Result<Running, SandboxError> {
    let _ = spec;
    Err(SandboxError::InitDied)
}

/// A process in its sandbox. It is killed, with everything that it started, when this is dropped and when the calling
/// process ends in whatever way.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Running {
    /// The reading end of its stdout, once. It ends when the sandbox has ended.
    pub fn stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }

    /// The reading end of its stderr, once.
    pub fn stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// A descriptor that becomes readable when the process has ended (`pidfd_open(2)`).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills the process and everything that it started, at once. Does not wait. Harmless once it has ended.
    pub fn kill(&self) {}

    /// Blocks until the process has ended and its mount points are cleaned up. Read its output meanwhile.
    pub fn wait(&mut self) -> Result<Exit, SandboxError> {
        Err(SandboxError::InitDied)
    }

    /// The same as [`Self::wait`] for a task of a tokio runtime with I/O enabled. Dropping the future loses nothing.
    pub async fn wait_async(&mut self) -> Result<Exit, SandboxError> {
        Err(SandboxError::InitDied)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// It, or a process of its, was killed because memory ran out, and it ended by that.
    OutOfMemory,
}
