//! The store that a command works on, and the ids that it works with.

use std::path::{Path, PathBuf};

use cache::{IdMode, Store, StoreError, StoreOptions};
use sandbox::{IdChoice, IdMap, OneId, UserNamespaceError};
use tokio::task::JoinHandle;
use worker::WorkerError;

use crate::arguments::Ids;
use crate::report::{Failure, FailureKind};
use crate::settings::Environment;

/// The ids that this process has at its disposal.
pub(crate) struct Session {
    ids: IdMode,
    /// Why there is only one id, where there is.
    one_id: Option<OneId>,
}

impl Session {
    /// Makes an ordinary user root of a namespace of their own. Before any thread starts. `root` is the directory of
    /// the store: where that has one id, as many will do for those that cannot be mapped.
    pub(crate) fn begin(root: &Path, ids: Ids) -> Result<Self, Failure> {
        let map = enter(root, ids).map_err(|error| entry_failure(&error))?;
        let session = Self { ids: id_mode(&map), one_id: map.one_id };
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
    pub(crate) fn one_id(&self) -> Option<&OneId> {
        self.one_id.as_ref()
    }

    /// What to tell with a step that failed, and with the last lines that it wrote: where there is only one id, that
    /// may be why.
    pub(crate) fn hints(&self, error: &WorkerError, tail: &[String], ignore_chown: bool) -> Vec<String> {
        let Some(reason) = self.one_id() else { return Vec::new() };
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
        } else if ignore_chown {
            hints.push(format!(
                "this build has one id ({reason}): whoever becomes another user in RUN stays root with \
                 `--ignore-chown`, and `mknod` fails; they work with {more}"
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

    /// The same on this thread, which blocks.
    pub(crate) fn open_store_now(&self, root: PathBuf) -> Result<Store, Failure> {
        Store::open(&self.store_options(root)?).map_err(|error| self.store_failure(&error))
    }

    /// A store that cannot be opened or read.
    pub(crate) fn store_failure(&self, error: &StoreError) -> Failure {
        let failure = Failure::from_error(FailureKind::Environment, error);
        let elsewhere = "another directory can be named with `--root`";
        if let StoreError::DamagedMetadata { path, .. } = error {
            let store = path.parent().unwrap_or(path).display();
            return failure.with_hint(format!(
                "remove the store `{store}`: the next build makes a new one; images that were only kept there are lost"
            ));
        }
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
                self.one_id().unwrap_or(&OneId::Given)
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
    joined(tokio::task::spawn_blocking(work)).await
}

/// What a task came to. A panic there goes on here.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down with the program, and nobody waits for the value any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(ids: IdMode) -> Session {
        let one_id = (ids == IdMode::Single).then_some(OneId::Asked);
        Session { ids, one_id }
    }

    fn failed() -> WorkerError {
        WorkerError::Process { command: "x".to_owned(), failure: worker::ProcessFailure::Code(1) }
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn hints_come_where_one_id_may_be_the_reason() {
        let single = session(IdMode::Single);
        for line in [
            "chown: /tmp/f: Invalid argument",
            "mknod: /x: Operation not permitted",
            "su: can't set groups: Operation not permitted",
            "dpkg: error setting ownership of './etc/x'",
        ] {
            let hints = single.hints(&failed(), &lines(&["before", line, "after"]), false);
            assert_eq!(hints.len(), 1, "{line}: {hints:?}");
            assert!(hints[0].starts_with("this build has one id (one was asked for)"), "{hints:?}");
            assert!(hints[0].contains("`--ignore-chown`"), "{hints:?}");
        }
        let hints = single.hints(&failed(), &lines(&["mknod: /x: Operation not permitted"]), true);
        assert!(hints.len() == 1 && hints[0].contains("stays root with `--ignore-chown`"), "{hints:?}");
        assert_eq!(single.hints(&failed(), &lines(&["make: *** no rule"]), false), Vec::<String>::new());
        assert_eq!(single.hints(&WorkerError::Cancelled, &lines(&["chown"]), false), Vec::<String>::new());
        let mapped = session(IdMode::Mapped { map: String::new() });
        assert_eq!(
            mapped.hints(&failed(), &lines(&["chown: Invalid argument"]), false),
            Vec::<String>::new()
        );
        let user = WorkerError::OnlyOneId { command: "x".to_owned(), uid: 1000, gid: 1000 };
        let hints = single.hints(&user, &[], false);
        assert!(
            hints.len() == 1 && hints[0].contains("`USER`") && hints[0].contains("/etc/subuid"),
            "{hints:?}"
        );
    }

    #[test]
    fn apt_gets_a_hint_of_its_own() {
        for said in [
            &[
                "E: setgroups 65534 failed - setgroups (1: Operation not permitted)",
                "E: Method http has died",
            ][..],
            &[
                "W: chown to _apt:root of directory /x failed - SetupAPTPartialDirectory (22: Invalid argument)",
            ],
        ] {
            let hints = session(IdMode::Single).hints(&failed(), &lines(said), false);
            assert!(hints.len() == 2 && hints[1].contains("APT::Sandbox::User=root"), "{hints:?}");
        }
    }

    #[test]
    fn keys_know_how_many_ids_there_are() {
        let one = session(IdMode::Single);
        assert_ne!(one.salt(false), one.salt(true));
        assert!(!one.salt(false).is_empty());
        let mapped = session(IdMode::Mapped { map: "m".to_owned() });
        assert_eq!([mapped.salt(false), mapped.salt(true)], [session(IdMode::Root).salt(false), Vec::new()]);
    }
}
