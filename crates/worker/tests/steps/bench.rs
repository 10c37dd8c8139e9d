//! A bench to build on: a store of its own, graphs in few words, and what came of a solve.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cache::tree::{FileKind, TreeView};
use cache::{IdMode, LinkPolicy, SnapshotterKind, Store, StoreOptions};
use oci::{ChainId, Platform};
use solver::{
    CacheSharing, ContextOp, CopyOp, CopySource, Event, Graph, GraphBuilder, ImageLocation, ImageOp, Input,
    InputKey, MkdirOp, NetworkMode, Op, RunCache, RunMount, RunMountKind, RunOp, SecurityMode, Selector,
    SolveError, SolveOptions, Solved, Unpack, VertexId, VertexMeta, solve,
};
use tokio_util::sync::CancellationToken;
use worker::{
    ContextSource, Debugger, DefaultNetwork, GitOptions, ImageError, LocalWorker, Output, Secret, SshAgent,
    WorkerError, WorkerOptions,
};

pub(crate) type Result = std::result::Result<Solved<Output>, SolveError<WorkerError>>;

/// A store in a directory of its own, and a context.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    /// The environment of git.
    pub(crate) git: BTreeMap<OsString, OsString>,
    pub(crate) network: DefaultNetwork,
    pub(crate) debugger: Option<Arc<dyn Debugger>>,
}

/// What a solve did.
pub(crate) struct Built {
    pub(crate) worker: LocalWorker,
    pub(crate) result: Result,
    pub(crate) log: String,
    pub(crate) events: Vec<Event>,
}

impl Bench {
    pub(crate) fn new(kind: SnapshotterKind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Self::options(&directory.path().join("store"), kind)).unwrap();
        Self::with_store(directory, store)
    }

    /// Options for a store in `root`.
    pub(crate) fn options(root: &Path, kind: SnapshotterKind) -> StoreOptions {
        StoreOptions {
            root: root.to_owned(),
            snapshotter: Some(kind),
            ids: IdMode::Root,
            boot_id: None,
            links: LinkPolicy::Allowed,
        }
    }

    /// A bench with a store that is open already.
    pub(crate) fn with_store(directory: tempfile::TempDir, store: Store) -> Self {
        std::fs::create_dir(directory.path().join("context")).unwrap();
        Self {
            store,
            runtime: tokio::runtime::Runtime::new().unwrap(),
            secrets: BTreeMap::from([("token".to_owned(), b"s3cret\n".to_vec())]),
            git: std::env::vars_os().filter(|(name, _)| name == "PATH").collect(),
            network: DefaultNetwork::Host,
            debugger: None,
            directory,
        }
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.directory.path().join("context")
    }

    /// The socket of the agent `default`; nobody listens there unless a test does.
    pub(crate) fn agent(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    pub(crate) fn worker(&self) -> LocalWorker {
        let ignore = pattern::PatternSet::new::<String>(&[]).unwrap();
        let source =
            ContextSource { directory: self.context(), ignore: worker::IgnoreRules::Patterns(ignore) };
        let secrets = self.secrets.iter();
        let client = registry::Client::new(registry::ClientOptions::default());
        LocalWorker::new(WorkerOptions {
            contexts: BTreeMap::from([("context".to_owned(), source)]),
            secrets: Arc::new(secrets.map(|(id, bytes)| (id.clone(), Secret::new(bytes.clone()))).collect()),
            agents: BTreeMap::from([("default".to_owned(), SshAgent::Socket(self.agent()))]),
            git: GitOptions { environment: self.git.clone() },
            network: self.network.clone(),
            debugger: self.debugger.clone(),
            emulators: vec!["/usr/bin".into()],
            ..WorkerOptions::new(self.store.clone(), client)
        })
    }

    /// The base image that the repository brings.
    pub(crate) fn busybox(&self) -> Op {
        self.try_busybox().unwrap()
    }

    /// The same where it may fail.
    pub(crate) fn try_busybox(&self) -> std::result::Result<Op, ImageError> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bases/oci");
        let location = ImageLocation::OciLayout { path, tag_or_digest: "busybox:latest".to_owned() };
        let worker = self.worker();
        let platform = Platform::new("linux", "amd64", None);
        let resolved = self.runtime.block_on(worker.images().resolve(&location, &platform, "busybox"))?;
        let chain = ChainId::of_each(&resolved.config.rootfs.diff_ids);
        let chain_id = chain.last().cloned().unwrap();
        Ok(Op::Image(ImageOp { chain_id, source: resolved.source }))
    }

    pub(crate) fn solve(&self, graph: Graph, target: VertexId) -> Built {
        self.solve_until(graph, target, |_, _| {})
    }

    /// Solves; `watch` sees every event and may cancel.
    pub(crate) fn solve_until(
        &self,
        graph: Graph,
        target: VertexId,
        watch: impl Fn(&Event, &CancellationToken) + Send + Sync + 'static,
    ) -> Built {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let cancel = CancellationToken::new();
        let (kept, token) = (Arc::clone(&events), cancel.clone());
        let sink = move |event: Event| {
            watch(&event, &token);
            kept.lock().unwrap().push(event);
        };
        let options = SolveOptions { parallelism: 4, salt: b"root".to_vec(), cancel, events: Arc::new(sink) };
        let worker = self.worker();
        let targets = [target];
        let solving = solve(Arc::new(graph), &targets, Arc::new(worker.clone()), options);
        let result = self.runtime.block_on(solving);
        worker.finish().unwrap();
        let events = std::mem::take(&mut *events.lock().unwrap());
        let mut log = Vec::new();
        for event in &events {
            if let Event::Log { data, .. } = event {
                log.extend_from_slice(data);
            }
        }
        Built { worker, result, log: String::from_utf8(log).unwrap(), events }
    }

    /// Everything in an output but what is in the base image: path, kind, mode, owner, and a file's content.
    pub(crate) fn listing(&self, output: &Output, of: &[&str]) -> Vec<String> {
        let Output::Snapshot(snapshot) = output else { panic!("a step's output is a snapshot") };
        let dirs = self.store.layer_dirs(snapshot).unwrap();
        let view = TreeView::open(&dirs, self.store.tree_mode()).unwrap();
        let mut lines = Vec::new();
        for path in of {
            list(&view, Path::new(path), &mut lines);
        }
        lines
    }
}

fn list(view: &TreeView, path: &Path, lines: &mut Vec<String>) {
    let Some(entry) = view.entry(path).unwrap() else {
        lines.push(format!("{} -", path.display()));
        return;
    };
    let mut line = format!("{} {:o} {}:{}", path.display(), entry.mode, entry.uid, entry.gid);
    match entry.kind {
        FileKind::File => {
            let text = std::io::read_to_string(view.open_file(path).unwrap()).unwrap();
            write!(line, " {text:?}").unwrap();
        }
        FileKind::Symlink => write!(line, " -> {}", view.read_link(path).unwrap().display()).unwrap(),
        _ => {}
    }
    lines.push(line);
    if entry.kind == FileKind::Directory {
        for (name, _) in view.read_dir(path).unwrap() {
            list(view, &path.join(name), lines);
        }
    }
}

/// What a step may do to what is mounted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Makes graphs in few words.
#[derive(Default)]
pub(crate) struct Draft(GraphBuilder);

impl Draft {
    pub(crate) fn add(&mut self, op: Op, inputs: Vec<Input>) -> VertexId {
        self.0.add(op, inputs, VertexMeta::default()).unwrap()
    }

    pub(crate) fn run(&mut self, base: VertexId, script: &str) -> VertexId {
        self.run_op(base, run_op(script))
    }

    pub(crate) fn run_op(&mut self, base: VertexId, op: RunOp) -> VertexId {
        self.add(Op::Run(op), vec![chain(base)])
    }

    /// A RUN with a mount at `/m` of `path` of another vertex.
    pub(crate) fn run_with(
        &mut self,
        base: VertexId,
        mounted: (VertexId, &str),
        access: Access,
        script: &str,
    ) -> VertexId {
        let kind = RunMountKind::Bind { input: 1, read_only: access == Access::Read };
        let op = RunOp { mounts: vec![RunMount { target: "/m".to_owned(), kind }], ..run_op(script) };
        self.add(Op::Run(op), vec![chain(base), part(mounted.0, mounted.1)])
    }

    /// A RUN with a cache at `/m`, which begins with a path of another vertex.
    pub(crate) fn run_caching(
        &mut self,
        base: VertexId,
        beginning: Option<(VertexId, &str)>,
        cache: RunCache,
        script: &str,
    ) -> VertexId {
        let cache = RunCache { input: beginning.map(|_| 1), ..cache };
        let mounts = vec![RunMount { target: "/m".to_owned(), kind: RunMountKind::Cache(cache) }];
        let part = beginning.map(|(from, path)| part(from, path));
        self.add(
            Op::Run(RunOp { mounts, ..run_op(script) }),
            std::iter::once(chain(base)).chain(part).collect(),
        )
    }

    pub(crate) fn workdir(&mut self, base: VertexId, path: &str, owner: Option<&str>) -> VertexId {
        let op = MkdirOp { path: path.to_owned(), owner: owner.map(str::to_owned), mtime: None };
        self.add(Op::Mkdir(op), vec![chain(base)])
    }

    pub(crate) fn context(&mut self) -> VertexId {
        self.add(Op::Context(ContextOp { name: "context".to_owned() }), Vec::new())
    }

    pub(crate) fn copy(&mut self, base: VertexId, from: VertexId, path: &str, to: &str) -> VertexId {
        let selector =
            Selector { paths: vec![path.to_owned()], wildcards: true, exclude: Vec::new(), parents: false };
        let op = CopyOp {
            sources: vec![CopySource::Path { input: 1, path: path.to_owned() }],
            destination: to.to_owned(),
            chown: None,
            chmod: None,
            unpack: Unpack::Never,
            parents: false,
            exclude: Vec::new(),
        };
        let source = Input { vertex: from, key: InputKey::Content(selector) };
        self.add(Op::Copy(op), vec![chain(base), source])
    }

    pub(crate) fn graph(self) -> Graph {
        self.0.finish()
    }
}

pub(crate) fn chain(vertex: VertexId) -> Input {
    Input { vertex, key: InputKey::Chain }
}

/// A path of a vertex, by its content.
pub(crate) fn part(vertex: VertexId, path: &str) -> Input {
    let paths = vec![path.to_owned()];
    let selector = Selector { paths, wildcards: false, exclude: Vec::new(), parents: false };
    Input { vertex, key: InputKey::Content(selector) }
}

/// A cache without anything special.
pub(crate) fn cache(id: &str) -> RunCache {
    RunCache {
        id: id.to_owned(),
        sharing: CacheSharing::Shared,
        input: None,
        read_only: false,
        mode: None,
        uid: None,
        gid: None,
    }
}

pub(crate) fn run_op(script: &str) -> RunOp {
    let text = |text: &str| text.to_owned();
    RunOp {
        args: vec![text("/bin/sh"), text("-c"), text(script)],
        env: vec![text("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")],
        proxy_env: Vec::new(),
        cwd: text("/"),
        user: String::new(),
        hostname: None,
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        mounts: Vec::new(),
        secret_env: Vec::new(),
        devices: Vec::new(),
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        shm_size_bytes: None,
        cgroup_parent: None,
        platform: Platform::new("linux", "amd64", None),
    }
}
