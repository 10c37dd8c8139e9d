//! Why a vertex failed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cache::StoreError;
use cache::tree::TreeError;
use oci::Platform;
use sandbox::SandboxError;

use crate::cdi::DeviceError;
use crate::context::ContextError;
use crate::copy::CopyError;
use crate::image::ImageError;
use crate::remote::RemoteError;
use crate::user::UserError;

/// Why a vertex failed. The words are the peers' where those are known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The build was cancelled while the step ran.
    #[error("cancelled")]
    Cancelled,
    /// The process of a RUN ended, and not well.
    #[error("process {} did not complete successfully: {failure}", quoted(command))]
    Process {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// How it ended.
        failure: ProcessFailure,
    },
    /// The process of a RUN took longer than the steps of this build may.
    #[error("process {} did not complete within {limit}", quoted(command))]
    ProcessTimeout {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// How long it was given.
        limit: TimeLimit,
    },
    /// The program of a RUN is for another platform, and nothing here executes it.
    #[error(
        "process {} did not complete successfully: exec {}: exec format error: this machine does not run programs of \
         {platform}",
        quoted(command),
        program.display()
    )]
    NotExecuted {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// The program, in the root file system.
        program: PathBuf,
        /// The platform of the step.
        platform: Box<Platform>,
    },
    /// The process of a RUN, which was started by an emulator, ended, and not well. What it started was not emulated.
    #[error("process {} did not complete successfully: {failure}", quoted(command))]
    PartlyEmulated {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// How it ended.
        failure: ProcessFailure,
        /// Why what it started was not emulated.
        reason: Arc<SandboxError>,
    },
    /// The process of a RUN could not be started as that user.
    #[error("process {} did not complete successfully", quoted(command))]
    ProcessUser {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// Why not.
        #[source]
        cause: UserError,
    },
    /// The process of a RUN was to be somebody who does not exist in a user namespace of one id.
    #[error(
        "process {} cannot run as user {uid}:{gid}: this build has one id, which is root's",
        quoted(command)
    )]
    OnlyOneId {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// The sandbox of a RUN failed, not the process in it.
    #[error("cannot run {} in a sandbox", quoted(command))]
    Sandbox {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// Why.
        #[source]
        cause: SandboxError,
    },
    /// A RUN was to have a network of its own, and cannot.
    #[error("no network of their own for RUN steps: {0}")]
    NoNetwork(String),
    /// A device could not be given to the process of a RUN.
    #[error("cannot run {}", quoted(command))]
    Device {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// Why.
        #[source]
        cause: DeviceError,
    },
    /// Whoever looked at the files before a step wanted no more of the build.
    #[error("the build was ended at a breakpoint ({0})")]
    Stopped(ProcessFailure),
    /// The output of a RUN could not be read.
    #[error("cannot read the output of {}", quoted(command))]
    ProcessOutput {
        /// The program and its arguments, joined by spaces.
        command: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A vertex names a context that the build was not given.
    #[error("the build has no context `{0}`")]
    UnknownContext(String),
    /// A step requires a secret that the build was not given.
    #[error("secret {0}: not found")]
    SecretNotFound(String),
    /// A step requires an ssh agent that the build was not given.
    #[error("unset ssh forward key {0}")]
    AgentNotFound(String),
    /// The socket of an ssh agent could not be made for a step.
    #[error("cannot make a socket for the ssh agent `{id}`")]
    Agent {
        /// The ID of the agent.
        id: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A cache was to begin with something that is no directory.
    #[error("the cache `{id}` cannot begin with `{}`, which is no directory", path.display())]
    CacheFromFile {
        /// The ID of the cache.
        id: String,
        /// The path in the stage, image or context.
        path: PathBuf,
    },
    /// A copy failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A build context could not be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// An image could not be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A remote source could not be had.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A user or group could not be told.
    #[error(transparent)]
    User(#[from] UserError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A link between snapshots could not be made.
    #[error(transparent)]
    Link(#[from] cache::LinkError),
    /// A tree could not be read or written.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// How long something may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLimit {
    /// The limit.
    pub duration: Duration,
    /// As people wrote it (`1h30m`).
    pub text: String,
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl WorkerError {
    /// What a person can do about it, where that is known: a sentence without capital and period.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Copy(error) => error.hint(),
            Self::Remote(error) => error.hint(),
            Self::Sandbox { cause, .. } => cause.hint(),
            Self::NoNetwork(_) => Some(
                "`--network=host` or `networkMode = \"auto\"` in config.toml let steps use the network of this machine"
                    .to_owned(),
            ),
            Self::ProcessTimeout { .. } => Some("`--step-timeout` sets the limit".to_owned()),
            Self::NotExecuted { platform, .. } => Some(format!(
                "install emulators (package `qemu-user-static`), or have binfmt_misc run programs of {platform}"
            )),
            Self::PartlyEmulated { reason, .. } => {
                let cause = std::error::Error::source(&**reason).map(|cause| format!(": {cause}"));
                let cause = cause.unwrap_or_default();
                Some(format!(
                    "the emulator ran this program, but not what it started ({reason}{cause}): that takes Linux 6.7 with \
                     user namespaces, or a handler in binfmt_misc"
                ))
            }
            _ => None,
        }
    }
}

/// How a process ended that did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessFailure {
    /// With this exit code.
    Code(i32),
    /// By a signal of this number.
    Signal(i32),
    /// Killed, because memory ran out.
    OutOfMemory,
}

/// An exit code by a signal is 128 and its number, as shells have it.
const SIGNAL_BASE: i32 = 128;
const SIGKILL: i32 = 9;

impl ProcessFailure {
    /// The exit code as a shell would give it.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => SIGNAL_BASE + signal,
            Self::OutOfMemory => SIGNAL_BASE + SIGKILL,
        }
    }
}

impl fmt::Display for ProcessFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code: {}", self.exit_code())?;
        match self {
            Self::Code(_) => Ok(()),
            Self::Signal(signal) => write!(f, " (killed by signal {signal})"),
            Self::OutOfMemory => f.write_str(" (killed: cannot allocate memory)"),
        }
    }
}

/// A text in quotes as the peers write them (Go's `%q`): what would not show is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            control if control.is_ascii_control() => {
                quoted.push_str(&format_escape("\\x", u32::from(control), 2));
            }
            control if control.is_control() => {
                quoted.push_str(&format_escape("\\u", u32::from(control), 4));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn format_escape(prefix: &str, code: u32, digits: usize) -> String {
    format!("{prefix}{code:0digits$x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(command: &str, failure: ProcessFailure) -> String {
        WorkerError::Process { command: command.to_owned(), failure }.to_string()
    }

    #[test]
    fn a_failed_process_is_told_in_the_words_of_the_peers() {
        assert_eq!(
            process("/bin/sh -c exit 42", ProcessFailure::Code(42)),
            r#"process "/bin/sh -c exit 42" did not complete successfully: exit code: 42"#
        );
        assert_eq!(
            process("/bin/sh -c kill -9 $$", ProcessFailure::Signal(9)),
            r#"process "/bin/sh -c kill -9 $$" did not complete successfully: exit code: 137 (killed by signal 9)"#
        );
        assert_eq!(
            process("make", ProcessFailure::OutOfMemory),
            r#"process "make" did not complete successfully: exit code: 137 (killed: cannot allocate memory)"#
        );
    }

    #[test]
    fn commands_are_quoted_on_one_line() {
        assert_eq!(quoted("echo \"a\\b\"\n\t'ü' \u{1}\u{85}"), r#""echo \"a\\b\"\n\t'ü' \x01\u0085""#);
    }
}
