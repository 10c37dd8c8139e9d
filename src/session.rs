//! The store that a command works on, and the ids that it works with.

use std::path::PathBuf;

use cache::{IdMode, Store, StoreOptions};
use sandbox::IdMap;

use crate::report::{Failure, FailureKind};
use crate::settings::Environment;

/// The ids that this process has at its disposal.
pub(crate) struct Session {
    ids: IdMode,
    /// Why there is only one id, where there is.
    note: Option<String>,
}

impl Session {
    /// Makes an ordinary user root of a namespace of their own. Before any thread starts.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let map = sandbox::enter_user_namespace().map_err(|error| {
            Failure::from_error(FailureKind::Environment, &error)
                .with_hint("an ordinary user needs user namespaces; root does not")
        })?;
        Ok(Self { ids: id_mode(&map), note: map.note })
    }

    /// What to tell with a build that failed: where there is only one id, that may be why.
    pub(crate) fn hint(&self) -> Option<String> {
        let IdMode::Single = self.ids else { return None };
        let reason = self.note.as_deref().unwrap_or("no others are mapped here");
        Some(format!(
            "this build has one id ({reason}), so that `chown` and `USER` to other ids fail in RUN; a line for the \
             user in /etc/subuid and /etc/subgid and the package `uidmap` give it more"
        ))
    }

    /// What enters every cache key: whether results were made with one id, where they may differ.
    pub(crate) fn salt(&self) -> Vec<u8> {
        match self.ids {
            IdMode::Single => b"one id".to_vec(),
            IdMode::Root | IdMode::Mapped { .. } => Vec::new(),
        }
    }

    /// Opens the store.
    pub(crate) async fn open_store(&self, root: PathBuf) -> Result<Store, Failure> {
        let options = StoreOptions {
            root,
            snapshotter: Environment::snapshotter()?,
            ids: self.ids.clone(),
            boot_id: None,
            links: Environment::links()?,
        };
        blocking(move || {
            Store::open(&options).map_err(|error| {
                Failure::from_error(FailureKind::Environment, &error)
                    .with_hint("another directory can be named with `--root`")
            })
        })
        .await
    }
}

fn id_mode(map: &IdMap) -> IdMode {
    match map.mode {
        sandbox::IdMode::Root => IdMode::Root,
        sandbox::IdMode::Mapped => IdMode::Mapped { map: format!("{}\n{}", map.uid_map, map.gid_map) },
        sandbox::IdMode::Single => IdMode::Single,
    }
}

/// Runs what blocks on a thread for that. A panic there goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The runtime is not shut down before the program ends, so nothing is ever cancelled.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
