//! The worker of this machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cache::context_stat::ContextStats;
use cache::tree::TreeWriter;
use cache::{ActiveSnapshot, EntryKind, KeyLock, RecordDetails, RecordKey, Replace, Snapshot, Store};
use futures_util::future::try_join_all;
use sandbox::{CgroupLimits, Kept, OwnerChanges};
use solver::{
    CacheKey, Claim, ContentDigest, CopyOp, Event, ExecContext, HttpOp, Input, InputKey, Op, RemoteIdentity,
    Saving, Selector, Vertex, Worker,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::carry::Imports;
use crate::cdi::DeviceRegistry;
use crate::context::{Context, ContextSource};
use crate::copy::{self, CopyRequest, Selection, Selections, Sharing, SourceTree};
use crate::image::ImageStore;
use crate::output::{Images, Output, Until};
use crate::remote::{GitOptions, Remotes};
use crate::run::{DefaultNetwork, Emulators, Networks, Removals};
use crate::sources::Sources;
use crate::{
    Debugger, Secret, SourcePolicy, SourceVersions, SshAgent, TimeLimit, WorkerError, merge, mkdir, room, run,
};

/// The pauses between two looks at a claim that another holds.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(2);
pub(crate) const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// The agent that git asks.
pub(crate) const DEFAULT_AGENT: &str = "default";

/// What a [`LocalWorker`] works on.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where records and snapshots are kept.
    pub store: Store,
    /// Pulls images.
    pub registry: registry::Client,
    /// The directories that vertices may copy from, by the name of [`solver::ContextOp`].
    pub contexts: BTreeMap<String, ContextSource>,
    /// What steps may be shown of what is secret, and what servers of remote sources may want, by the name that a
    /// Dockerfile knows it under.
    pub secrets: Arc<BTreeMap<String, Secret>>,
    /// The ssh agents that steps may use, likewise. Git asks `default`.
    pub agents: BTreeMap<String, SshAgent>,
    /// How git is run, for repositories.
    pub git: GitOptions,
    /// Which versions of remote sources are taken.
    pub sources: SourcePolicy,
    /// The network of steps that ask for none in particular.
    pub network: DefaultNetwork,
    /// What steps may use of this machine.
    pub resources: Resources,
    /// The devices that steps may be given, by the names of [`solver::RunOp::devices`].
    pub devices: Arc<DeviceRegistry>,
    /// How long the process of a RUN may take; waiting for other builds and for caches is no part of that.
    pub step_timeout: Option<TimeLimit>,
    /// What becomes of changes of owners in steps.
    pub owner_changes: OwnerChanges,
    /// Looks into steps.
    pub debugger: Option<Arc<dyn Debugger>>,
    /// Directories in which emulators (`qemu-aarch64-static`) are looked for, in this order. What the machine itself
    /// executes needs none.
    pub emulators: Vec<PathBuf>,
    /// Caches that lie elsewhere.
    pub imports: Arc<Imports>,
}

impl WorkerOptions {
    /// A store and a client, no contexts and nothing secret; steps may use what the machine has, and its network.
    pub fn new(store: Store, registry: registry::Client) -> Self {
        Self {
            store,
            registry,
            contexts: BTreeMap::new(),
            secrets: Arc::default(),
            agents: BTreeMap::new(),
            git: GitOptions { environment: BTreeMap::new() },
            sources: SourcePolicy::default(),
            network: DefaultNetwork::Host,
            resources: Resources::default(),
            devices: Arc::default(),
            step_timeout: None,
            owner_changes: OwnerChanges::Made,
            debugger: None,
            emulators: Vec::new(),
            imports: Arc::default(),
        }
    }
}

/// What steps may use of this machine. It is in no key: what a step makes must not depend on it.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// Limits of each RUN.
    pub limits: CgroupLimits,
    /// The bytes of memory that have to be left before a RUN starts beside another step; 0 for any.
    pub reserve_bytes: u64,
}

/// Does the work of one build on this machine. Clones share everything.
///
/// It needs a tokio runtime with I/O and time enabled. Whatever blocks runs on the runtime's blocking threads; look-ups
/// in the store do not, as they take some microseconds and handing them over would take longer.
#[derive(Debug, Clone)]
pub struct LocalWorker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    images: Images,
    remotes: Remotes,
    sources: Arc<Sources>,
    contexts: BTreeMap<String, OpenContext>,
    selections: Selections,
    secrets: Arc<BTreeMap<String, Secret>>,
    agents: BTreeMap<String, SshAgent>,
    networks: Arc<Networks>,
    resources: Resources,
    devices: Arc<DeviceRegistry>,
    step_timeout: Option<TimeLimit>,
    owner_changes: OwnerChanges,
    /// What steps have in common with this process, as far as it was told.
    told_of: Mutex<Vec<Kept>>,
    removals: Arc<Removals>,
    debugger: Option<Arc<dyn Debugger>>,
    emulators: Emulators,
    imports: Arc<Imports>,
}

/// A context, opened when a vertex reads it.
struct OpenContext {
    source: ContextSource,
    open: OnceCell<Arc<Context>>,
}

impl std::fmt::Debug for OpenContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenContext").field("source", &self.source).finish_non_exhaustive()
    }
}

impl LocalWorker {
    /// A worker for one build. Nothing is opened or read yet.
    pub fn new(options: WorkerOptions) -> Self {
        let WorkerOptions {
            store,
            registry,
            contexts,
            secrets,
            agents,
            git,
            sources,
            network,
            resources,
            devices,
            step_timeout,
            owner_changes,
            debugger,
            emulators,
            imports,
        } = options;
        let sources = Arc::new(Sources::new(sources));
        let open = |(name, source)| (name, OpenContext { source, open: OnceCell::new() });
        let clients = (store.clone(), registry.clone());
        let agent = agents.get(DEFAULT_AGENT).cloned();
        let remotes = Remotes::new(
            clients,
            Arc::clone(&secrets),
            (git, agent),
            (Arc::clone(&sources), Arc::clone(&imports)),
        );
        let images = ImageStore::with_sources(store.clone(), registry, Arc::clone(&sources));
        let images = Images::new(store.clone(), images);
        let contexts = contexts.into_iter().map(open).collect();
        let selections = Selections::default();
        let networks = Arc::new(Networks::new(network));
        let shared = Shared {
            store,
            images,
            remotes,
            sources,
            contexts,
            selections,
            secrets,
            agents,
            networks,
            resources,
            devices,
            step_timeout,
            owner_changes,
            told_of: Mutex::default(),
            removals: Arc::default(),
            debugger,
            emulators: Emulators::new(emulators),
            imports,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What the remote sources of the build were found to be so far: those that were not pinned.
    pub fn source_versions(&self) -> SourceVersions {
        self.shared.sources.versions()
    }

    /// The store that this worker works on.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The images that this worker pulls.
    pub fn images(&self) -> &ImageStore {
        self.shared.images.store()
    }

    /// The images that this build pulls, each once.
    pub(crate) fn pulls(&self) -> &Images {
        &self.shared.images
    }

    /// The caches that lie elsewhere.
    pub fn imports(&self) -> &Arc<Imports> {
        &self.shared.imports
    }

    /// What becomes of changes of owners in steps.
    pub(crate) fn owner_changes(&self) -> OwnerChanges {
        self.shared.owner_changes
    }

    /// Whether it is to be told that steps have something in common with this process: once in a build.
    pub(crate) fn is_to_tell_of(&self, kept: Kept) -> bool {
        let mut told = self.shared.told_of.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !told.contains(&kept);
        told.extend(is_new.then_some(kept));
        is_new
    }

    /// The secret of that name; an error if it is required and the build was not given it.
    pub(crate) fn secret(&self, id: &str, required: bool) -> Result<Option<Secret>, WorkerError> {
        match self.shared.secrets.get(id) {
            None if required => Err(WorkerError::SecretNotFound(id.to_owned())),
            found => Ok(found.cloned()),
        }
    }

    /// The ssh agent of that name; an error if it is required and the build was not given it.
    pub(crate) fn agent(&self, id: &str, required: bool) -> Result<Option<&SshAgent>, WorkerError> {
        match self.shared.agents.get(id) {
            None if required => Err(WorkerError::AgentNotFound(id.to_owned())),
            found => Ok(found),
        }
    }

    /// What runs programs of other platforms.
    pub(crate) fn emulators(&self) -> &Emulators {
        &self.shared.emulators
    }

    /// Who looks into steps.
    pub(crate) fn debugger(&self) -> Option<&dyn Debugger> {
        self.shared.debugger.as_deref()
    }

    /// What steps leave to be removed.
    pub(crate) fn removals(&self) -> &Arc<Removals> {
        &self.shared.removals
    }

    /// The networks of the steps.
    pub(crate) fn networks(&self) -> &Arc<Networks> {
        &self.shared.networks
    }

    /// The limits of each RUN.
    pub(crate) fn limits(&self) -> &CgroupLimits {
        &self.shared.resources.limits
    }

    /// The devices of this machine.
    pub(crate) fn devices(&self) -> &Arc<DeviceRegistry> {
        &self.shared.devices
    }

    /// How long the process of a RUN may take.
    pub(crate) fn step_timeout(&self) -> Option<&TimeLimit> {
        self.shared.step_timeout.as_ref()
    }

    /// When the server of a file that has been fetched said that it was last changed, in seconds since 1970. Blocks.
    pub fn modified_at(&self, file: &HttpOp) -> Result<Option<i64>, WorkerError> {
        self.shared.remotes.modified_at(file)
    }

    /// Ends the build: ends the networks of its steps, saves what was learned of the contexts, so that the next build need
    /// not read what has not changed, and waits for what is being removed. Blocks. To be called once, while the runtime
    /// lives, whether or not the build succeeded.
    pub fn finish(&self) -> Result<(), WorkerError> {
        self.shared.networks.end();
        self.shared.removals.wait();
        for context in self.shared.contexts.values().filter_map(|context| context.open.get()) {
            context.finish()?;
        }
        Ok(())
    }

    /// The snapshot that holds the files of `output`, pulling an image whose layers are not there yet. `None` for an
    /// output without any file.
    pub async fn snapshot_of(&self, output: &Output) -> Result<Option<Snapshot>, WorkerError> {
        self.snapshot_until(output, Until::SolveEnds).await
    }

    /// [`LocalWorker::snapshot_of`] after the end of the solve that made `output`, until `cancel` is cancelled.
    pub async fn snapshot_for_export(
        &self,
        output: &Output,
        cancel: &CancellationToken,
    ) -> Result<Option<Snapshot>, WorkerError> {
        self.snapshot_until(output, Until::Cancelled(cancel)).await
    }

    async fn snapshot_until(
        &self,
        output: &Output,
        until: Until<'_>,
    ) -> Result<Option<Snapshot>, WorkerError> {
        match output {
            Output::Scratch | Output::Context(_) => Ok(None),
            Output::Snapshot(snapshot) => Ok(Some(*snapshot)),
            Output::Image(image) => {
                let images = &self.shared.images;
                images.pull(images.store(), image, until).await
            }
            Output::Carried(carried) => self.carried_snapshot(carried, until).await.map(Some),
        }
    }

    /// The files of an output, for reading. Its image has been pulled.
    async fn source_tree(&self, output: &Output) -> Result<SourceTree, WorkerError> {
        if let Output::Context(name) = output {
            return Ok(SourceTree::Context(self.context(name).await?));
        }
        let Some(snapshot) = self.snapshot_of(output).await? else { return Ok(SourceTree::Empty) };
        let store = self.shared.store.clone();
        blocking(move || Ok(SourceTree::open(&store, &snapshot)?)).await
    }

    /// The context of that name, opened.
    pub(crate) async fn context(&self, name: &str) -> Result<Arc<Context>, WorkerError> {
        let context = self.shared.contexts.get(name);
        let context = context.ok_or_else(|| WorkerError::UnknownContext(name.to_owned()))?;
        let opened = context.open.get_or_try_init(|| {
            let (store, source) = (self.shared.store.clone(), context.source.clone());
            blocking(move || {
                let stats = ContextStats::load(&source.stats_directory(&store), &source.directory);
                Ok(Arc::new(Context::open(&source, stats)?))
            })
        });
        opened.await.cloned()
    }

    async fn copy(&self, op: &CopyOp, execution: &Execution<'_>) -> Result<Snapshot, WorkerError> {
        let base = execution.inputs.first().unwrap_or(&Output::Scratch);
        let parent = self.snapshot_of(base).await?;
        let (mut sources, mut selected) = (vec![SourceTree::Empty], vec![None]);
        for (output, input) in execution.inputs.iter().zip(&execution.vertex.inputs).skip(1) {
            sources.push(self.source_tree(output).await?);
            selected.push(self.selected(output, input).await?);
        }
        let on_empty_root = matches!(base, Output::Scratch);
        let (op, digests) = (op.clone(), execution.digests.to_vec());
        let vertex_inputs = execution.vertex.inputs.clone();
        let (store, cancel) = (self.shared.store.clone(), execution.context.cancel.clone());
        blocking(move || {
            write_snapshot(&store, parent.as_ref(), |writer, active| {
                let sharing = Sharing::new(&store, active, &op, &sources)?;
                let request = CopyRequest {
                    op: &op,
                    inputs: &vertex_inputs,
                    sources: &sources,
                    digests: &digests,
                    selected: &selected,
                    writer,
                    sharing: Some(&sharing),
                    on_empty_root,
                    cancel: &cancel,
                };
                Ok(copy::copy(&request)?)
            })
        })
        .await
    }

    /// What an input of a copy selects, where its digest was just made of that.
    async fn selected(&self, output: &Output, input: &Input) -> Result<Option<Arc<Selection>>, WorkerError> {
        let InputKey::Content(selector) = &input.key else { return Ok(None) };
        let snapshot = self.snapshot_of(output).await?;
        Ok(snapshot.and_then(|snapshot| self.shared.selections.take(snapshot.id, selector)))
    }

    /// The result stored under `key`: here, else in a cache that lies elsewhere. What such a cache has answered for once
    /// is asked there again.
    pub(crate) async fn stored(
        &self,
        key: &CacheKey,
        context: &ExecContext,
    ) -> Result<Option<Output>, WorkerError> {
        let imports = &self.shared.imports;
        let here =
            || Ok::<_, WorkerError>(self.shared.store.lookup(&RecordKey(key.0))?.map(Output::Snapshot));
        if imports.has_answered(key) {
            return Ok(imports.output(key, context).await.map(Arc::new).map(Output::Carried));
        }
        match here()? {
            Some(output) => Ok(Some(output)),
            None => Ok(imports.output(key, context).await.map(Arc::new).map(Output::Carried)),
        }
    }
}

/// What a vertex is executed with; see [`Worker::exec`].
pub(crate) struct Execution<'a> {
    pub(crate) vertex: &'a Vertex,
    pub(crate) inputs: &'a [Output],
    pub(crate) digests: &'a [Option<ContentDigest>],
    pub(crate) context: &'a ExecContext,
}

/// Makes a snapshot on top of `parent` by writing its files.
pub(crate) fn write_snapshot(
    store: &Store,
    parent: Option<&Snapshot>,
    write: impl FnOnce(&TreeWriter, &ActiveSnapshot) -> Result<(), WorkerError>,
) -> Result<Snapshot, WorkerError> {
    let active = store.prepare(parent)?;
    let writer = TreeWriter::new(active.upper(), active.lower_dirs(), store.tree_mode())?;
    write(&writer, &active)?;
    drop(writer);
    Ok(active.commit()?)
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and the build with it.
            Err(_) => Err(WorkerError::Cancelled),
        },
    }
}

/// The pauses between looks at something that another holds. Looking again and again instead of a lock(2) that blocks:
/// a thread that waits for another process could not be called back when the build is cancelled.
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_LOOK)
    }
}

impl Pauses {
    /// Whether there was none yet.
    pub(crate) fn is_first(&self) -> bool {
        self.0 == FIRST_LOOK
    }

    /// The next one; an error when the build is cancelled.
    pub(crate) async fn next(&mut self, context: &ExecContext) -> Result<(), WorkerError> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_LOOK);
        unless_cancelled(context, async {
            tokio::time::sleep(pause).await;
            Ok(())
        })
        .await
    }
}

/// The end of `work`, or of the build.
pub(crate) async fn unless_cancelled<T>(
    context: &ExecContext,
    work: impl Future<Output = Result<T, WorkerError>>,
) -> Result<T, WorkerError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(WorkerError::Cancelled),
        result = work => result,
    }
}

impl Worker for LocalWorker {
    type Output = Output;
    type Error = WorkerError;
    type Guard = KeyLock;

    async fn lookup(&self, key: &CacheKey, context: &ExecContext) -> Result<Option<Output>, WorkerError> {
        self.stored(key, context).await
    }

    async fn known_digest(
        &self,
        key: &CacheKey,
        selector: &Selector,
    ) -> Result<Option<ContentDigest>, WorkerError> {
        let imports = &self.shared.imports;
        // The look-up also keeps the result from being pruned while this build may need it.
        let here =
            if imports.has_answered(key) { None } else { self.shared.store.lookup(&RecordKey(key.0))? };
        let Some(snapshot) = here else { return Ok(imports.known_digest(key, selector).await) };
        Ok(self.shared.store.content_digest(&snapshot.id, &selector.digest())?.map(ContentDigest))
    }

    async fn digest(
        &self,
        output: &Output,
        key: Option<&CacheKey>,
        selector: &Selector,
    ) -> Result<ContentDigest, WorkerError> {
        let selector = selector.clone();
        if matches!(output, Output::Scratch | Output::Context(_)) {
            let tree = self.source_tree(output).await?;
            return blocking(move || Ok(copy::content_digest(&tree, &selector)?)).await;
        }
        let Some(snapshot) = self.snapshot_of(output).await? else {
            return blocking(move || Ok(copy::content_digest(&SourceTree::Empty, &selector)?)).await;
        };
        // A step's result has a record already. An image's gets one here, so that the next build knows the digest
        // without the image.
        let record = key.filter(|_| matches!(output, Output::Image(_))).map(|key| RecordKey(key.0));
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let store = &shared.store;
            let digest = copy::snapshot_digest(store, &snapshot, &selector, &shared.selections)?;
            if let Some(record) = record
                && store.lookup(&record)?.is_none()
            {
                store.save(&record, &RecordDetails::default(), &snapshot, Replace::No)?;
            }
            Ok(digest)
        })
        .await
    }

    async fn identify(&self, vertex: &Vertex, context: &ExecContext) -> Result<RemoteIdentity, WorkerError> {
        unless_cancelled(context, self.shared.remotes.identify(vertex, context)).await
    }

    fn expect(&self, vertex: &Vertex) {
        if let Op::Run(op) = &vertex.op {
            self.shared.networks.expect(op);
        }
    }

    async fn claim(
        &self,
        _vertex: &Vertex,
        key: &CacheKey,
        context: &ExecContext,
        lookup: bool,
    ) -> Result<Claim<Output, KeyLock>, WorkerError> {
        let mut pauses = Pauses::default();
        loop {
            let (store, record) = (self.shared.store.clone(), RecordKey(key.0));
            let claim = blocking(move || Ok(store.try_claim(&record)?)).await?;
            match claim {
                cache::Claim::Acquired(lock) => {
                    let stored = if lookup { self.stored(key, context).await? } else { None };
                    return Ok(stored.map_or(Claim::Execute(lock), Claim::Hit));
                }
                cache::Claim::Held { process } if pauses.is_first() => {
                    (context.events)(Event::Waiting { vertex: context.vertex, process });
                }
                cache::Claim::Held { .. } => {}
            }
            pauses.next(context).await?;
        }
    }

    async fn prepare(
        &self,
        _vertex: &Vertex,
        inputs: &[Output],
        context: &ExecContext,
    ) -> Result<(), WorkerError> {
        let pulls = inputs.iter().filter(|input| matches!(input, Output::Image(_) | Output::Carried(_)));
        unless_cancelled(context, try_join_all(pulls.map(|input| self.snapshot_of(input)))).await?;
        Ok(())
    }

    async fn room(&self, _vertex: &Vertex, context: &ExecContext) -> Result<(), WorkerError> {
        match self.shared.resources.reserve_bytes {
            0 => Ok(()),
            reserve => {
                room::wait(reserve, || blocking(|| Ok(sandbox::available_memory_bytes())), context).await
            }
        }
    }

    async fn exec(
        &self,
        vertex: &Vertex,
        inputs: &[Output],
        digests: &[Option<ContentDigest>],
        context: &ExecContext,
    ) -> Result<Output, WorkerError> {
        let base = async || match inputs.first() {
            Some(base) => self.snapshot_of(base).await,
            None => Ok(None),
        };
        let store = self.shared.store.clone();
        let execution = Execution { vertex, inputs, digests, context };
        if let Some(debugger) = self.debugger() {
            run::pause(self, debugger, &execution).await?;
        }
        let snapshot = match &vertex.op {
            Op::Scratch => return Ok(Output::Scratch),
            Op::Context(op) => return Ok(Output::Context(op.name.clone())),
            Op::Image(op) => return Ok(Output::Image(self.shared.images.name(&op.source, context).await?)),
            Op::Http(op) => unless_cancelled(context, self.shared.remotes.file(vertex, op, context)).await?,
            Op::Git(op) => unless_cancelled(context, self.shared.remotes.tree(vertex, op, context)).await?,
            Op::Copy(op) => self.copy(op, &execution).await?,
            Op::Mkdir(op) => {
                let (op, parent) = (op.clone(), base().await?);
                blocking(move || mkdir::mkdir(&store, parent.as_ref(), &op)).await?
            }
            Op::Run(op) => run::run(self, op, &execution).await?,
            Op::Merge => {
                let parent = base().await?;
                let added = match inputs.get(1) {
                    Some(added) => self.snapshot_of(added).await?,
                    None => None,
                };
                blocking(move || merge::merge(&store, parent.as_ref(), added.as_ref())).await?
            }
        };
        Ok(Output::Snapshot(snapshot))
    }

    async fn save(
        &self,
        key: &CacheKey,
        output: Output,
        saving: Saving,
        guard: KeyLock,
    ) -> Result<Output, WorkerError> {
        let Output::Snapshot(snapshot) = output else { return Ok(output) };
        let (store, key) = (self.shared.store.clone(), RecordKey(key.0));
        blocking(move || {
            let parts: Vec<_> =
                saving.parts.0.iter().map(|part| (part.name.clone(), part.value.clone())).collect();
            let details = RecordDetails { description: saving.name, kind: entry_kind(&parts), parts };
            let replace = if saving.replace { Replace::Yes } else { Replace::No };
            let holds = store.save(&key, &details, &snapshot, replace)?;
            // Whoever waits for the claim finds the record.
            drop(guard);
            Ok(Output::Snapshot(holds))
        })
        .await
    }
}

/// What kind of thing a step with a key of these parts makes.
pub(crate) fn entry_kind(parts: &[(String, String)]) -> EntryKind {
    let is_git = parts.iter().any(|(name, value)| name == "op" && value == "git");
    if is_git { EntryKind::GitCheckout } else { EntryKind::Regular }
}
