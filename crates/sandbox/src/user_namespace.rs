//! A user namespace for an ordinary user.

use std::io;

/// The ids that the process has at its disposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Which kind.
    pub mode: IdMode,
    /// The text of `/proc/self/uid_map`, spaces normalised, one range per line: `inside outside count`.
    pub uid_map: String,
    /// The same for groups.
    pub gid_map: String,
    /// Why there is only one id, or why the ids are fewer than they could be, in words for people.
    pub note: Option<String>,
}

/// How many ids there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdMode {
    /// All of the machine's: root outside of any user namespace.
    Root,
    /// A range: a user namespace with subordinate ids.
    Mapped,
    /// One: root inside is the user, and nobody else exists.
    Single,
}

/// Why a user namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The process already has more than one thread.
    #[error("a user namespace can only be entered before the first thread starts")]
    Threads,
    /// The kernel refuses.
    #[error("cannot make a user namespace{}", setting.as_ref().map(|setting| format!(": {setting}")).unwrap_or_default())]
    Refused {
        /// The setting that forbids it (``the setting `user.max_user_namespaces` is 0``), where one is found.
        setting: Option<String>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step failed.
    #[error("cannot enter a user namespace: {step} failed")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the calling process root of a user and mount namespace of its own, with the user's subordinate ids
/// (`/etc/subuid`, `/etc/subgid`, by name or number, by way of `newuidmap` and `newgidmap`) or else with one id.
///
/// The process stays the same one: its pid, terminal, signals and exit code are untouched. Must be called before any
/// thread starts. Does nothing for a process whose effective user is 0, inside a namespace or not, but tell its ids.
pub fn enter_user_namespace() -> Result<IdMap, UserNamespaceError> {
    Err(UserNamespaceError::Threads)
}
