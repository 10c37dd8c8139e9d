//! Remote sources: what they are at present, and their files.

mod error;
mod http;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cache::{Snapshot, Store};
use solver::{ExecContext, HttpOp, Op, RemoteIdentity, Vertex, VertexDigest};

use crate::WorkerError;

pub use error::RemoteError;

/// The secrets of a build.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// The value of the secret of that id; `None` if the build was not given one.
    fn secret(&self, id: &str) -> Option<Vec<u8>>;
}

impl SecretSource for BTreeMap<String, Vec<u8>> {
    fn secret(&self, id: &str) -> Option<Vec<u8>> {
        self.get(id).cloned()
    }
}

/// The remote sources of one build.
#[derive(Debug)]
pub(crate) struct Remotes {
    store: Store,
    client: registry::Client,
    secrets: Arc<dyn SecretSource>,
    /// What was fetched, or found to be what it was, to tell what a source is.
    fetched: Mutex<HashMap<VertexDigest, Snapshot>>,
}

impl Remotes {
    pub(crate) fn new(store: Store, client: registry::Client, secrets: Arc<dyn SecretSource>) -> Self {
        Self { store, client, secrets, fetched: Mutex::default() }
    }

    /// What the source that `vertex` names is at present.
    pub(crate) async fn identify(
        &self,
        vertex: &Vertex,
        context: &ExecContext,
    ) -> Result<RemoteIdentity, WorkerError> {
        match &vertex.op {
            Op::Http(op) => {
                let file = self.current_file(op, context).await?;
                self.fetched().insert(vertex.digest, file.snapshot);
                Ok(RemoteIdentity(file.digest.to_string()))
            }
            _ => unreachable!("the other operations say themselves what they are"),
        }
    }

    /// The file of a server, alone in a tree.
    pub(crate) async fn file(
        &self,
        vertex: &Vertex,
        op: &HttpOp,
        context: &ExecContext,
    ) -> Result<Snapshot, WorkerError> {
        let fetched = self.fetched().get(&vertex.digest).copied();
        match fetched {
            Some(snapshot) => Ok(snapshot),
            None => self.pinned_file(op, context).await,
        }
    }

    /// What was fetched; a thread that panicked leaves it whole, as every change is one insertion.
    fn fetched(&self) -> std::sync::MutexGuard<'_, HashMap<VertexDigest, Snapshot>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret that is to be a header's value or a part of one.
    fn secret_text(&self, id: &str) -> Option<String> {
        let bytes = self.secrets.secret(id)?;
        // Files with secrets end in a line break more often than not.
        Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())
    }
}
