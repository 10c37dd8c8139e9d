//! The store that a command works on, and the ids that it works with.

use std::path::{Path, PathBuf};

use cache::{IdMode, Store, StoreError, StoreOptions};
use sandbox::{IdChoice, IdMap, UserNamespaceError};
use worker::WorkerError;

use crate::arguments::Ids;
use crate::report::{Failure, FailureKind};
use crate::settings::Environment;

/// The ids that this process has at its disposal.
pub(crate) struct Session {
    ids: IdMode,
    /// Why there is only one id, where there is.
    note: Option<String>,
}

impl Session {
    /// Makes an ordinary user root of a namespace of their own. Before any thread starts. `root` is the directory of
    /// the store: where that has one id, as many will do for those that cannot be mapped.
    pub(crate) fn begin(root: &Path, ids: Ids) -> Result<Self, Failure> {
        let map = enter(root, ids).map_err(|error| entry_failure(&error))?;
        let session = Self { ids: id_mode(&map), note: map.note };
        if ids == Ids::One && session.ids != IdMode::Single {
            return Err(Failure::usage(
                "`--ids=one` is for ordinary users: this process is root of more ids",
            ));
        }
        Ok(session)
    }

    /// The mapping of ids.
    pub(crate) fn ids(&self) -> &IdMode {
        &self.ids
    }

    /// Why there is only one id, where there is.
    pub(crate) fn note(&self) -> Option<&str> {
        let IdMode::Single = self.ids else { return None };
        Some(self.note.as_deref().unwrap_or("no others are mapped here"))
    }

    /// What to tell with a step that failed, and with the last lines that it wrote: where there is only one id, that
    /// may be why.
    pub(crate) fn hints(&self, error: &WorkerError, tail: &[String]) -> Vec<String> {
        let Some(reason) = self.note() else { return Vec::new() };
        match error {
            WorkerError::OnlyOneId { .. } => {}
            WorkerError::Process { .. } if speaks_of_ids(tail) => {}
            _ => return Vec::new(),
        }
        let mut hints = Vec::new();
        let more =
            "more ids: a line for the user in /etc/subuid and in /etc/subgid, and the package `uidmap`";
        if let WorkerError::OnlyOneId { .. } = error {
            hints.push(format!(
                "this build has one id ({reason}): RUN after a `USER` that is not root needs {more}"
            ));
        } else {
            hints.push(format!(
                "this build has one id ({reason}): `chown`, `setgroups`, becoming another user and `mknod` fail in \
                 RUN; `--ignore-chown` lets all but `mknod` succeed without effect; they work with {more}"
            ));
        }
        if tail.iter().any(|line| is_of_apt(line)) {
            hints.push(
                "apt gives its rights away to download; `-o APT::Sandbox::User=root` keeps it from that"
                    .to_owned(),
            );
        }
        hints
    }

    /// What enters every cache key: whether results were made with one id, where they may differ, and whether changes
    /// of owners had no effect in them.
    pub(crate) fn salt(&self, ignore_chown: bool) -> Vec<u8> {
        match (&self.ids, ignore_chown) {
            (IdMode::Single, false) => b"one id".to_vec(),
            (IdMode::Single, true) => b"one id, chown ignored".to_vec(),
            (IdMode::Root | IdMode::Mapped { .. }, _) => Vec::new(),
        }
    }

    /// How the store is opened.
    fn store_options(&self, root: PathBuf) -> Result<StoreOptions, Failure> {
        Ok(StoreOptions {
            root,
            snapshotter: Environment::snapshotter()?,
            ids: self.ids.clone(),
            boot_id: None,
            links: Environment::links()?,
        })
    }

    /// Opens the store.
    pub(crate) async fn open_store(&self, root: PathBuf) -> Result<Store, Failure> {
        let options = self.store_options(root)?;
        blocking(move || Store::open(&options)).await.map_err(|error| self.store_failure(&error))
    }

    /// A store that cannot be opened.
    fn store_failure(&self, error: &StoreError) -> Failure {
        let failure = Failure::from_error(FailureKind::Environment, error);
        let elsewhere = "another directory can be named with `--root`";
        let StoreError::IdsChanged { root, had_one, .. } = error else { return failure.with_hint(elsewhere) };
        let shown = root.display();
        let way = match (&self.ids, had_one) {
            (IdMode::Root, _) => format!("it belongs to another kind of user; {elsewhere}"),
            (_, true) => format!(
                "`--ids=one` (or RBUILD_IDS=one) keeps on with one id; a new store takes all: remove `{shown}`, \
                 which is all the user's"
            ),
            (IdMode::Single, false) => format!(
                "there is one id now ({}); its files belong to ids that have to be mapped again as they were; else \
                 {elsewhere}, and root can remove `{shown}`",
                self.note().unwrap_or_default()
            ),
            (IdMode::Mapped { .. }, false) => format!(
                "give the user the same ranges again in /etc/subuid and /etc/subgid; else {elsewhere}, and root can \
                 remove `{shown}`"
            ),
        };
        failure.with_hint(way)
    }
}

/// [`Session::begin`] without words for people.
fn enter(root: &Path, ids: Ids) -> Result<IdMap, UserNamespaceError> {
    let choice = match ids {
        Ids::All => IdChoice::All,
        Ids::One => IdChoice::One,
    };
    sandbox::enter_user_namespace(choice, || Store::has_one_id(root))
}

/// A namespace that could not be entered.
fn entry_failure(error: &UserNamespaceError) -> Failure {
    let failure = Failure::from_error(FailureKind::Environment, error);
    match error {
        UserNamespaceError::Mapping { .. } => failure.with_hint(
            "mend that, or build with one id: `--ids=one` (or RBUILD_IDS=one), in which `chown` and `USER` to other \
             ids fail in RUN",
        ),
        UserNamespaceError::Refused { .. } => failure
            .with_hint("an ordinary user needs user namespaces; root of the machine does not")
            .with_hints(error.remedy()),
        _ => failure,
    }
}

fn id_mode(map: &IdMap) -> IdMode {
    match map.mode {
        sandbox::IdMode::Root => IdMode::Root,
        sandbox::IdMode::Mapped => IdMode::Mapped { map: format!("{}\n{}", map.uid_map, map.gid_map) },
        sandbox::IdMode::Single => IdMode::Single,
    }
}

/// Whether a program said what it says when it is denied another id.
fn speaks_of_ids(tail: &[String]) -> bool {
    const WORDS: [&str; 10] = [
        "operation not permitted",
        "invalid argument",
        "chown",
        "chgrp",
        "ownership",
        "setgroups",
        "setuid",
        "setgid",
        "seteuid",
        "setegid",
    ];
    tail.iter().any(|line| {
        let line = line.to_ascii_lowercase();
        WORDS.iter().any(|word| line.contains(word)) || is_of_apt(&line)
    })
}

/// Whether a line is apt's, about becoming its user.
fn is_of_apt(line: &str) -> bool {
    ["_apt", "setgroups 65534 failed", "seteuid 42 failed"].iter().any(|words| line.contains(words))
}

/// Runs what blocks on a thread for that. A panic there goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The runtime is not shut down before the program ends, so nothing is ever cancelled.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
