//! Remote sources: what they are at present, and their files.

mod error;
mod git;
mod http;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::{Snapshot, Store};
use oci::Digest;
use registry::redacted;
use solver::{ExecContext, GitOp, HttpOp, Op, RemoteIdentity, Vertex, VertexDigest};

use crate::carry::Imports;
use crate::sources::Sources;
use crate::{Secret, SshAgent, WorkerError};

use git::FoundReference;

pub use error::RemoteError;
pub use git::GitOptions;
pub(crate) use http::validators_key;

/// The remote sources of one build.
#[derive(Debug)]
pub(crate) struct Remotes {
    store: Store,
    client: registry::Client,
    secrets: Arc<BTreeMap<String, Secret>>,
    git: GitOptions,
    sources: Arc<Sources>,
    imports: Arc<Imports>,
    /// What signs for git, instead of the agent that its environment may name.
    agent: Option<SshAgent>,
    /// What was found, to tell what a source is.
    found: Mutex<HashMap<VertexDigest, Found>>,
}

/// What a source was found to be.
#[derive(Debug, Clone)]
enum Found {
    /// A file. Where a cache that lies elsewhere told what it is, it is not in the store yet.
    File { digest: Digest, snapshot: Option<Snapshot> },
    /// A commit.
    Reference(FoundReference),
}

impl Remotes {
    pub(crate) fn new(
        (store, client): (Store, registry::Client),
        secrets: Arc<BTreeMap<String, Secret>>,
        (git, agent): (GitOptions, Option<SshAgent>),
        (sources, imports): (Arc<Sources>, Arc<Imports>),
    ) -> Self {
        Self { store, client, secrets, git, sources, imports, agent, found: Mutex::default() }
    }

    /// What the source that `vertex` names is at present.
    pub(crate) async fn identify(
        &self,
        vertex: &Vertex,
        context: &ExecContext,
    ) -> Result<RemoteIdentity, WorkerError> {
        let (identity, found) = match &vertex.op {
            Op::Http(op) => {
                let file = self.current_file(op, context).await?;
                let digest = file.digest.to_string();
                (digest, Found::File { digest: file.digest, snapshot: file.snapshot })
            }
            Op::Git(op) => {
                let reference = self.reference(op).await?;
                (reference.identity(op.repository).to_owned(), Found::Reference(reference))
            }
            _ => unreachable!("the other operations say themselves what they are"),
        };
        self.found().insert(vertex.digest, found);
        Ok(RemoteIdentity(identity))
    }

    /// The file of a server, alone in a tree.
    pub(crate) async fn file(
        &self,
        vertex: &Vertex,
        op: &HttpOp,
        context: &ExecContext,
    ) -> Result<Snapshot, WorkerError> {
        let found = self.found().get(&vertex.digest).cloned();
        match found {
            Some(Found::File { snapshot: Some(snapshot), .. }) => Ok(snapshot),
            Some(Found::File { digest, snapshot: None }) => {
                let file = self.file_of(op, Some(&digest), context).await;
                // What a lock file says is not to be doubted.
                if let Err(WorkerError::Remote(error @ RemoteError::DigestMismatch { .. })) = &file
                    && self.sources.policy.locked.is_none()
                {
                    self.imports.distrust_hints(error);
                }
                file
            }
            _ => self.file_of(op, op.checksum.as_ref(), context).await,
        }
    }

    /// The files of a commit.
    pub(crate) async fn tree(
        &self,
        vertex: &Vertex,
        op: &GitOp,
        context: &ExecContext,
    ) -> Result<Snapshot, WorkerError> {
        let found = self.found().get(&vertex.digest).cloned();
        let reference = match found {
            Some(Found::Reference(reference)) => reference,
            _ => FoundReference::pinned(op.reference.as_deref().unwrap_or_default()),
        };
        self.checkout(op, &reference, context).await
    }

    /// An error if nothing may be fetched.
    fn may_fetch(&self, url: &str) -> Result<(), RemoteError> {
        if self.sources.policy.offline { Err(RemoteError::Offline { url: redacted(url) }) } else { Ok(()) }
    }

    /// What was found; a thread that panicked leaves it whole, as every change is one insertion.
    fn found(&self) -> MutexGuard<'_, HashMap<VertexDigest, Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret that is to be a header's value or a part of one.
    fn secret_text(&self, id: &str) -> Option<String> {
        let bytes = self.secrets.get(id)?.bytes();
        // Files with secrets end in a line break more often than not.
        Some(String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned())
    }
}
