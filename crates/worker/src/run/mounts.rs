//! What a RUN mounts: from what its inputs are to what the sandbox mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::tree::TreeKind;
use cache::{ActiveSnapshot, EntryKind, RecordDetails, RecordKey, Replace, Snapshot, Store};
use sandbox::{MountKind, MountSpec, OverlaySpec, UpperSpec};
use solver::{ContentDigest, Input, InputKey, RunMountKind, RunOp, SecretVariable, Selector};
use tokio_util::sync::CancellationToken;

use super::agent::AgentSocket;
use super::caches::Caches;
use super::one_id;
use super::redaction::Redaction;
use crate::carry::Imports;
use crate::context::Context;
use crate::copy::{self, CopyError, Selection, SourceTree};
use crate::local::{Execution, LocalWorker, write_snapshot};
use crate::output::Output;
use crate::{Secret, WorkerError};

/// What an input of a RUN is made of.
enum Source {
    /// A directory of this machine.
    Context(Arc<Context>),
    /// The files of a step or an image; none if there are not any.
    Snapshot(Option<Snapshot>),
}

impl Source {
    /// The sources of all inputs but the first, which no mount shows.
    async fn all(worker: &LocalWorker, execution: &Execution<'_>) -> Result<Vec<Self>, WorkerError> {
        let mut sources = vec![Self::Snapshot(None)];
        for output in execution.inputs.iter().skip(1) {
            sources.push(match output {
                Output::Context(name) => Self::Context(worker.context(name).await?),
                other => Self::Snapshot(worker.snapshot_of(other).await?),
            });
        }
        Ok(sources)
    }
}

/// Makes the mounts of a RUN. Blocks.
pub(super) struct Preparation {
    pub(super) store: Store,
    pub(super) imports: Arc<Imports>,
    /// The inputs of the vertex, what they are made of, and what of them went into the key.
    inputs: Vec<Input>,
    sources: Vec<Source>,
    pub(super) digests: Vec<Option<ContentDigest>>,
    /// The secrets that the step is shown and that the build was given.
    secrets: BTreeMap<String, Secret>,
    /// The sockets that lead to agents, by the number of the mount.
    agents: BTreeMap<usize, AgentSocket>,
    /// Ends when the build is to stop.
    pub(super) cancel: CancellationToken,
}

/// What is mounted, with what has to be there for as long as it is.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) specs: Vec<MountSpec>,
    /// What is written to them, or is in the place of what is not there; thrown away in the end.
    scratch: Vec<ActiveSnapshot>,
    /// What is kept.
    _caches: Caches,
}

impl Mounts {
    /// Gives overlays that have been mounted other work directories.
    pub(super) fn renew(&self, specs: &mut [MountSpec]) -> Result<(), WorkerError> {
        for spec in specs {
            if let MountKind::Overlay { overlay: OverlaySpec { upper: Some(upper), .. }, .. } = &mut spec.kind
                && let Some(scratch) = self.scratch.iter().find(|scratch| scratch.upper() == upper.directory)
            {
                upper.work = scratch.work_dir()?;
            }
        }
        Ok(())
    }
}

/// A file or a directory of a snapshot.
struct Part {
    snapshot: Option<Snapshot>,
    /// Its path from the root, without links.
    path: PathBuf,
}

impl Preparation {
    /// Opens the inputs of a RUN, and finds its secrets and agents.
    pub(super) async fn new(
        worker: &LocalWorker,
        op: &RunOp,
        execution: &Execution<'_>,
    ) -> Result<Self, WorkerError> {
        let files = op.mounts.iter().filter_map(|mount| match &mount.kind {
            RunMountKind::Secret(secret) => Some((&secret.id, secret.required)),
            _ => None,
        });
        let variables = op.secret_env.iter().map(|variable| (&variable.id, variable.required));
        let mut secrets = BTreeMap::new();
        for (id, required) in files.chain(variables) {
            secrets.extend(worker.secret(id, required)?.map(|secret| (id.clone(), secret)));
        }
        Ok(Self {
            secrets,
            agents: agents(worker, op)?,
            store: worker.store().clone(),
            imports: Arc::clone(worker.imports()),
            inputs: execution.vertex.inputs.clone(),
            sources: Source::all(worker, execution).await?,
            digests: execution.digests.to_vec(),
            cancel: execution.context.cancel.clone(),
        })
    }

    /// What a RUN without mounts takes.
    pub(super) fn bare(store: Store, cancel: CancellationToken) -> Self {
        Self {
            store,
            imports: Arc::default(),
            inputs: Vec::new(),
            sources: Vec::new(),
            digests: Vec::new(),
            secrets: BTreeMap::new(),
            agents: BTreeMap::new(),
            cancel,
        }
    }

    /// The variables that hold secrets: `NAME=value`.
    pub(super) fn variables(&self, op: &RunOp) -> Vec<Vec<u8>> {
        let variable = |variable: &SecretVariable| {
            let value = self.secrets.get(&variable.id).map_or(&[][..], Secret::bytes);
            [variable.name.as_bytes(), b"=", value].concat()
        };
        op.secret_env.iter().map(variable).collect()
    }

    /// What keeps the secrets out of the output.
    pub(super) fn redaction(&self) -> Redaction {
        Redaction::of(self.secrets.values().map(Secret::bytes))
    }

    /// All mounts of `op`, in their order.
    pub(super) fn mounts(&self, op: &RunOp, caches: Caches) -> Result<Mounts, WorkerError> {
        let mut mounts = Mounts::default();
        for (number, mount) in op.mounts.iter().enumerate() {
            let kind = match &mount.kind {
                RunMountKind::Inline { content, mode } => {
                    MountKind::File { content: content.clone(), mode: *mode, uid: 0, gid: 0 }
                }
                RunMountKind::Tmpfs { size_bytes, read_only } => {
                    MountKind::Tmpfs { size_bytes: *size_bytes, read_only: *read_only }
                }
                RunMountKind::Secret(secret) => match self.secrets.get(&secret.id) {
                    Some(found) => {
                        let (uid, gid) = one_id::owner(&self.store, (secret.uid, secret.gid));
                        let content = found.bytes().to_vec();
                        MountKind::File { content, mode: secret.mode, uid, gid }
                    }
                    None => continue,
                },
                // A socket that is mounted read-only takes connections all the same.
                RunMountKind::Ssh(_) => match self.agents.get(&number) {
                    Some(socket) => MountKind::Bind { source: socket.path().to_owned(), read_only: true },
                    None => continue,
                },
                RunMountKind::Cache(cache) => MountKind::Bind {
                    source: caches.directory(&self.cache_key(cache)),
                    read_only: cache.read_only,
                },
                RunMountKind::Bind { input, read_only } => {
                    let part = self.part(*input)?;
                    let made = if *read_only { self.read_only(&part) } else { self.writable(&part) };
                    made.map(|(kind, scratch)| {
                        mounts.scratch.extend(scratch);
                        kind
                    })?
                }
            };
            mounts.specs.push(MountSpec { target: PathBuf::from(&mount.target), kind });
        }
        Ok(Mounts { _caches: caches, ..mounts })
    }

    fn selector(&self, input: usize) -> &Selector {
        match &self.inputs[input].key {
            InputKey::Content(selector) => selector,
            InputKey::Chain => unreachable!("a graph has no mount of an input by chain"),
        }
    }

    /// The files of an input, and what is selected of them: one thing, as it is one path without wildcards.
    pub(super) fn selected(&self, input: usize) -> Result<(SourceTree, Arc<Selection>), WorkerError> {
        let tree = match &self.sources[input] {
            Source::Context(context) => SourceTree::Context(Arc::clone(context)),
            Source::Snapshot(snapshot) => self.tree(snapshot.as_ref())?,
        };
        let selection = copy::selection(&tree, self.selector(input), self.digests[input])?;
        Ok((tree, selection))
    }

    fn tree(&self, snapshot: Option<&Snapshot>) -> Result<SourceTree, WorkerError> {
        let Some(snapshot) = snapshot else { return Ok(SourceTree::Empty) };
        Ok(SourceTree::open(&self.store, snapshot)?)
    }

    /// What the selector of an input selects.
    fn part(&self, input: usize) -> Result<Part, WorkerError> {
        let Source::Snapshot(snapshot) = &self.sources[input] else { return self.copied(input) };
        let tree = self.tree(snapshot.as_ref())?;
        let path = self.selector(input).paths.first().map_or("/", String::as_str);
        let found = tree.resolve(Path::new(path))?.ok_or_else(|| CopyError::NotFound {
            path: path.to_owned(),
            reference: tree.reference().to_owned(),
            ignored: false,
        })?;
        Ok(Part { snapshot: *snapshot, path: found.path })
    }

    /// Copies what is selected of a context, as a step must see neither what changes in it nor its owners. A copy of
    /// the same content and times will do, whenever it was made.
    fn copied(&self, input: usize) -> Result<Part, WorkerError> {
        let (tree, selection) = self.selected(input)?;
        let node = &selection.sources[0].matches[0].node;
        let path = PathBuf::from(if node.is_directory() { "/" } else { copy::LONE_ENTRY });
        let digest = self.digests[input].expect("an input by content has a digest in the key");
        let record = RecordKey(copy::dated_digest(&digest, node));
        if let Some(snapshot) = self.store.lookup(&record)? {
            return Ok(Part { snapshot: Some(snapshot), path });
        }
        let snapshot = write_snapshot(&self.store, None, |writer, _| {
            Ok(copy::copy_whole(&tree, node, writer, &self.cancel)?)
        })?;
        let details = RecordDetails {
            description: "files of a build context, as RUN mounts them".to_owned(),
            kind: EntryKind::LocalSource,
            parts: Vec::new(),
        };
        let snapshot = self.store.save(&record, &details, &snapshot, Replace::No)?;
        Ok(Part { snapshot: Some(snapshot), path })
    }

    /// A mount that shows the part as it is.
    fn read_only(&self, part: &Part) -> Result<(MountKind, Option<ActiveSnapshot>), WorkerError> {
        let Some(snapshot) = &part.snapshot else {
            let empty = self.store.prepare(None)?;
            let source = empty.upper().to_owned();
            return Ok((MountKind::Bind { source, read_only: true }, Some(empty)));
        };
        let mut lower_dirs = self.store.layer_dirs(snapshot)?;
        let TreeKind::Overlay { user_xattrs } = self.store.tree_mode().kind else {
            let source = beneath(&lower_dirs[0], &part.path);
            return Ok((MountKind::Bind { source, read_only: true }, None));
        };
        // Even a single directory may have marks of overlay in it, and two make one without an upper directory.
        let mut empty = None;
        if lower_dirs.len() == 1 {
            lower_dirs.push(empty.insert(self.store.prepare(None)?).upper().to_owned());
        }
        let overlay = OverlaySpec { lower_dirs, upper: None, user_xattrs };
        Ok((MountKind::Overlay { overlay, source: part.path.clone() }, empty))
    }

    /// A mount that takes writes, which go nowhere in the end.
    fn writable(&self, part: &Part) -> Result<(MountKind, Option<ActiveSnapshot>), WorkerError> {
        let scratch = self.store.prepare(part.snapshot.as_ref())?;
        let kind = match self.store.tree_mode().kind {
            TreeKind::Overlay { user_xattrs } if !scratch.lower_dirs().is_empty() => {
                let upper = UpperSpec { directory: scratch.upper().to_owned(), work: scratch.work_dir()? };
                let lower_dirs = scratch.lower_dirs().to_vec();
                let overlay = OverlaySpec { lower_dirs, upper: Some(upper), user_xattrs };
                MountKind::Overlay { overlay, source: part.path.clone() }
            }
            _ => MountKind::Bind { source: beneath(scratch.upper(), &part.path), read_only: false },
        };
        Ok((kind, Some(scratch)))
    }
}

/// Makes the sockets of the agents that `op` mounts and that the build was given.
fn agents(worker: &LocalWorker, op: &RunOp) -> Result<BTreeMap<usize, AgentSocket>, WorkerError> {
    let mut sockets = BTreeMap::new();
    for (number, mount) in op.mounts.iter().enumerate() {
        let RunMountKind::Ssh(wanted) = &mount.kind else { continue };
        let Some(agent) = worker.agent(&wanted.id, wanted.required)? else { continue };
        let socket = AgentSocket::open(worker.store(), agent)
            .and_then(|socket| socket.give(worker.store(), wanted).map(|()| socket))
            .map_err(|cause| WorkerError::Agent { id: wanted.id.clone(), cause })?;
        sockets.insert(number, socket);
    }
    Ok(sockets)
}

/// The path on this machine of what is at `path` in the tree in `directory`.
fn beneath(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path.strip_prefix("/").unwrap_or(path))
}
