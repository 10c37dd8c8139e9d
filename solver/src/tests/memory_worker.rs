//! A worker whose file systems are maps in memory. It refuses whatever a real one would suffer from: an execution
//! without a claim or out of order, a second execution, a look-up that was not to be made. And it counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::{
    CacheKey, Claim, ContentDigest, CopySource, Event, EventSink, ExecContext, Graph, GraphBuilder, Input,
    InputKey, Op, RemoteIdentity, Saving, Selector, SolveError, SolveOptions, Solved, Vertex, VertexId,
    VertexMeta, Worker, solve,
};

/// A file system: paths and what is there.
pub(crate) type Tree = BTreeMap<String, u64>;

/// What outlives a build.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) trees: HashMap<CacheKey, Tree>,
    pub(crate) digests: HashMap<(CacheKey, [u8; 32]), ContentDigest>,
}

impl Records {
    /// Forgets the record of a key and all that was known by it.
    pub(crate) fn prune(&mut self, key: CacheKey) {
        self.trees.remove(&key);
        self.digests.retain(|(of, _), _| *of != key);
    }
}

/// How the execution of a vertex goes.
#[derive(Clone)]
pub(crate) enum Conduct {
    Fails,
    Panics,
    /// Writes this to the file `f`, as if it were told by the world outside.
    Writes(u64),
    /// Ends when told to, whatever happens meanwhile.
    Waits(Arc<Notify>),
    /// Ends when the build is cancelled, with an error.
    RunsUntilCancelled,
}

/// A machine that is short of memory.
#[derive(Clone, Default)]
pub(crate) struct Room {
    /// Told whenever a step has to wait.
    pub(crate) asked: Arc<Notify>,
    /// Lets one that waits go on.
    pub(crate) given: Arc<Notify>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("`{0}` was to fail")]
    Scripted(String),
    #[error("`{0}` was cancelled")]
    Cancelled(String),
    #[error("nothing at `{0}`")]
    Missing(String),
}

/// What was asked, by the name of the vertex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) lookups: usize,
    pub(crate) known_digests: usize,
    pub(crate) digests: usize,
    pub(crate) expected: Vec<String>,
    pub(crate) prepared: Vec<String>,
    pub(crate) executed: Vec<String>,
    pub(crate) named: Vec<String>,
    pub(crate) identified: Vec<String>,
    /// Executions that were begun and not ended.
    pub(crate) running: usize,
    pub(crate) most_running: usize,
}

#[derive(Default)]
struct Inside {
    calls: Calls,
    looked_up: HashSet<CacheKey>,
    /// Keys, and whether their vertices look them up.
    claimed: HashSet<(CacheKey, bool)>,
    /// Whether a vertex asks for room.
    asking: bool,
}

/// One build's worker.
pub(crate) struct MemoryWorker {
    pub(crate) records: Arc<Mutex<Records>>,
    pub(crate) contexts: HashMap<String, Tree>,
    pub(crate) conduct: HashMap<String, Conduct>,
    /// Told whenever an execution begins.
    pub(crate) began: Arc<Notify>,
    /// What lets a further RUN start beside others, if not everything does.
    pub(crate) room: Option<Room>,
    /// Whether a missing source of a copy is an error.
    pub(crate) strict_sources: bool,
    /// Whether all records vanish as soon as a digest was known, as in a store that is pruned carelessly.
    pub(crate) prune_after_known: bool,
    inside: Mutex<Inside>,
}

impl MemoryWorker {
    pub(crate) fn new(records: &Arc<Mutex<Records>>) -> Self {
        Self {
            records: Arc::clone(records),
            contexts: HashMap::new(),
            conduct: HashMap::new(),
            began: Arc::default(),
            room: None,
            strict_sources: false,
            prune_after_known: false,
            inside: Mutex::default(),
        }
    }

    pub(crate) fn with_context(mut self, name: &str, files: &[(&str, u64)]) -> Self {
        let tree = files.iter().map(|(path, content)| ((*path).to_owned(), *content)).collect();
        self.contexts.insert(name.to_owned(), tree);
        self
    }

    pub(crate) fn conducting(mut self, vertex: &str, conduct: Conduct) -> Self {
        self.conduct.insert(vertex.to_owned(), conduct);
        self
    }

    pub(crate) fn calls(&self) -> Calls {
        self.inside().calls.clone()
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap()
    }
}

/// The claim of a key.
pub(crate) struct Guard(CacheKey, bool);

/// Ends the asking for room, even where the answer is not waited for.
struct Asking<'a>(&'a MemoryWorker);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.inside().asking = false;
    }
}

/// Ends the count of a running execution, even one that panics.
struct Running<'a>(&'a MemoryWorker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.inside().calls.running -= 1;
    }
}

impl Worker for MemoryWorker {
    type Output = Tree;
    type Error = MemoryError;
    type Guard = Guard;

    async fn lookup(&self, key: &CacheKey, _: &ExecContext) -> Result<Option<Tree>, MemoryError> {
        assert!(self.inside().looked_up.insert(*key), "one key is looked up once");
        self.inside().calls.lookups += 1;
        Ok(self.records().trees.get(key).cloned())
    }

    async fn known_digest(
        &self,
        key: &CacheKey,
        selector: &Selector,
    ) -> Result<Option<ContentDigest>, MemoryError> {
        self.inside().calls.known_digests += 1;
        let known = self.records().digests.get(&(*key, selector.digest())).copied();
        if known.is_some() && self.prune_after_known {
            self.records().trees.clear();
        }
        Ok(known)
    }

    async fn digest(
        &self,
        output: &Tree,
        key: Option<&CacheKey>,
        selector: &Selector,
    ) -> Result<ContentDigest, MemoryError> {
        self.inside().calls.digests += 1;
        if self.strict_sources
            && let Some(missing) = selector.paths.iter().find(|path| !output.contains_key(*path))
        {
            return Err(MemoryError::Missing(missing.clone()));
        }
        let digest = digest_of(output, selector);
        if let Some(key) = key {
            self.records().digests.insert((*key, selector.digest()), digest);
        }
        Ok(digest)
    }

    async fn identify(&self, vertex: &Vertex, _: &ExecContext) -> Result<RemoteIdentity, MemoryError> {
        let Op::Http(http) = &vertex.op else { panic!("`{}` is no remote source", vertex.meta.name) };
        assert!(http.checksum.is_none(), "what is pinned is not asked for");
        self.inside().calls.identified.push(vertex.meta.name.clone());
        let tree = self.contexts.get(&http.url);
        let tree = tree.ok_or_else(|| MemoryError::Missing(http.url.clone()))?;
        Ok(RemoteIdentity(hex::encode(hash(tree))))
    }

    fn expect(&self, vertex: &Vertex) {
        self.inside().calls.expected.push(vertex.meta.name.clone());
    }

    async fn claim(
        &self,
        vertex: &Vertex,
        key: &CacheKey,
        _context: &ExecContext,
        lookup: bool,
    ) -> Result<Claim<Tree, Guard>, MemoryError> {
        assert!(vertex.op.is_step());
        let mut inside = self.inside();
        assert!(!lookup || inside.looked_up.contains(key), "a claim follows the look-up, if there is one");
        assert!(inside.claimed.insert((*key, lookup)), "one key is claimed once");
        Ok(Claim::Execute(Guard(*key, lookup)))
    }

    async fn prepare(
        &self,
        vertex: &Vertex,
        inputs: &[Tree],
        _context: &ExecContext,
    ) -> Result<(), MemoryError> {
        assert_eq!(vertex.inputs.len(), inputs.len());
        self.inside().calls.prepared.push(vertex.meta.name.clone());
        Ok(())
    }

    async fn room(&self, vertex: &Vertex, _context: &ExecContext) -> Result<(), MemoryError> {
        assert!(matches!(vertex.op, Op::Run(_)), "only processes take memory");
        assert!(self.inside().calls.running > 0, "what is alone needs no room");
        assert!(!std::mem::replace(&mut self.inside().asking, true), "one asks at a time");
        let _asking = Asking(self);
        if let Some(Room { asked, given }) = &self.room {
            asked.notify_one();
            given.notified().await;
        }
        Ok(())
    }

    async fn exec(
        &self,
        vertex: &Vertex,
        inputs: &[Tree],
        digests: &[Option<ContentDigest>],
        context: &ExecContext,
    ) -> Result<Tree, MemoryError> {
        let name = &vertex.meta.name;
        if !vertex.op.is_step() {
            assert!(inputs.is_empty());
            self.inside().calls.named.push(name.clone());
            return Ok(result_of(&vertex.op, &vertex.inputs, inputs, &self.contexts));
        }
        assert!(!context.cancel.is_cancelled(), "nothing starts after the end");
        for ((input, tree), digest) in vertex.inputs.iter().zip(inputs).zip(digests) {
            let expected = match &input.key {
                InputKey::Chain => None,
                InputKey::Content(selector) => Some(digest_of(tree, selector)),
            };
            assert_eq!(*digest, expected, "the digest in the key is that of the input");
        }
        let running = self.begin(name);
        tokio::task::yield_now().await;
        match self.conduct.get(name) {
            None => {}
            Some(Conduct::Fails) => return Err(MemoryError::Scripted(name.clone())),
            Some(Conduct::Writes(value)) => {
                let mut tree = result_of(&vertex.op, &vertex.inputs, inputs, &self.contexts);
                tree.insert("f".to_owned(), *value);
                return Ok(tree);
            }
            Some(Conduct::Panics) => panic!("`{name}` was to panic"),
            Some(Conduct::Waits(until)) => until.notified().await,
            Some(Conduct::RunsUntilCancelled) => {
                context.cancel.cancelled().await;
                return Err(MemoryError::Cancelled(name.clone()));
            }
        }
        drop(running);
        Ok(result_of(&vertex.op, &vertex.inputs, inputs, &self.contexts))
    }

    async fn save(
        &self,
        key: &CacheKey,
        output: Tree,
        saving: Saving,
        guard: Guard,
    ) -> Result<Tree, MemoryError> {
        assert_eq!((guard.0, guard.1), (*key, !saving.replace));
        assert!(saving.parts.0.len() > 1);
        let mut records = self.records();
        if saving.replace {
            records.prune(*key);
        }
        Ok(records.trees.entry(*key).or_insert(output).clone())
    }
}

impl MemoryWorker {
    fn begin(&self, name: &str) -> Running<'_> {
        let mut inside = self.inside();
        let calls = &mut inside.calls;
        assert!(!calls.executed.iter().any(|executed| executed == name), "`{name}` is executed once");
        assert!(calls.expected.iter().any(|expected| expected == name), "`{name}` is expected first");
        assert!(calls.prepared.iter().any(|prepared| prepared == name), "`{name}` is prepared first");
        calls.executed.push(name.to_owned());
        calls.running += 1;
        calls.most_running = calls.most_running.max(calls.running);
        self.began.notify_one();
        Running(self)
    }
}

fn hash(value: impl std::fmt::Debug) -> [u8; 32] {
    *blake3::hash(format!("{value:?}").as_bytes()).as_bytes()
}

pub(crate) fn digest_of(tree: &Tree, selector: &Selector) -> ContentDigest {
    let selected: Vec<_> = selector.paths.iter().map(|path| (path, tree.get(path))).collect();
    ContentDigest(hash(selected))
}

/// What an op makes of the trees of its inputs.
pub(crate) fn result_of(
    op: &Op,
    described: &[Input],
    inputs: &[Tree],
    contexts: &HashMap<String, Tree>,
) -> Tree {
    let number = |value: [u8; 32]| u64::from_le_bytes(value[..8].try_into().unwrap());
    match op {
        Op::Scratch => Tree::new(),
        Op::Image(image) => Tree::from([("base".to_owned(), number(hash(&image.chain_id)))]),
        Op::Context(context) => contexts[&context.name].clone(),
        Op::Http(http) => contexts[&http.url].clone(),
        Op::Git(git) => contexts[&git.url].clone(),
        Op::Copy(copy) => {
            let mut tree = inputs[0].clone();
            for source in &copy.sources {
                let (CopySource::Path { input, path } | CopySource::Remote { input, path }) = source else {
                    continue;
                };
                if let Some(content) = inputs[*input].get(path) {
                    tree.insert(format!("{}{path}", copy.destination), *content);
                }
            }
            tree
        }
        Op::Mkdir(mkdir) => {
            let mut tree = inputs[0].clone();
            tree.entry(mkdir.path.clone()).or_insert(0);
            tree
        }
        Op::Run(run) => {
            let mut tree = inputs[0].clone();
            // A process sees what is selected for its mounts, and nothing else of those inputs.
            let mounted: Vec<_> = described
                .iter()
                .zip(inputs)
                .filter_map(|(input, tree)| match &input.key {
                    InputKey::Chain => None,
                    InputKey::Content(selector) => Some(digest_of(tree, selector)),
                })
                .collect();
            let made = number(hash((&run.args, &tree, mounted)));
            tree.insert(run.args.concat(), made);
            tree
        }
        Op::Merge => {
            let mut tree = inputs[0].clone();
            tree.extend(inputs[1].clone());
            tree
        }
    }
}

/// What `vertex` is, without any cache.
pub(crate) fn oracle(graph: &Graph, vertex: VertexId, contexts: &HashMap<String, Tree>) -> Tree {
    let vertex = graph.vertex(vertex);
    let inputs: Vec<_> = vertex.inputs.iter().map(|input| oracle(graph, input.vertex, contexts)).collect();
    result_of(&vertex.op, &vertex.inputs, &inputs, contexts)
}

/// Everything about a finished build.
pub(crate) struct Built {
    pub(crate) result: Result<Solved<Tree>, SolveError<MemoryError>>,
    pub(crate) calls: Calls,
    pub(crate) events: Vec<Event>,
}

/// Solves for one target.
pub(crate) async fn build(worker: MemoryWorker, graph: &Graph, target: VertexId) -> Built {
    let cancel = tokio_util::sync::CancellationToken::new();
    let worker = Arc::new(worker);
    let (events, options) = options(4, cancel);
    let result = solve(Arc::new(graph.clone()), &[target], Arc::clone(&worker), options).await;
    let events = std::mem::take(&mut *events.lock().unwrap());
    Built { result, calls: worker.calls(), events }
}

/// Options that keep the events.
pub(crate) fn options(
    parallelism: usize,
    cancel: tokio_util::sync::CancellationToken,
) -> (Arc<Mutex<Vec<Event>>>, SolveOptions) {
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let kept = Arc::clone(&events);
    let sink: EventSink = Arc::new(move |event| kept.lock().unwrap().push(event));
    (events, SolveOptions { parallelism, salt: b"root".to_vec(), cancel, events: sink })
}

/// Makes graphs in few words.
#[derive(Default)]
pub(crate) struct Draft(GraphBuilder);

impl Draft {
    pub(crate) fn context(&mut self, name: &str) -> VertexId {
        self.add(Op::Context(crate::ContextOp { name: name.to_owned() }), Vec::new(), name, false)
    }

    pub(crate) fn image(&mut self, name: &str) -> VertexId {
        self.add(super::image_op(name), Vec::new(), name, false)
    }

    pub(crate) fn http(&mut self, url: &str, checksum: Option<oci::Digest>) -> VertexId {
        let op = crate::HttpOp { url: url.to_owned(), name: "f".to_owned(), checksum };
        self.add(Op::Http(op), Vec::new(), url, false)
    }

    /// `ADD url name/`
    pub(crate) fn add_remote(&mut self, base: VertexId, remote: VertexId, name: &str) -> VertexId {
        let mut op = super::copy_op(&[], name);
        if let Op::Copy(copy) = &mut op {
            copy.sources = vec![CopySource::Remote { input: 1, path: "f".to_owned() }];
        }
        self.add(op, vec![chain(base), chain(remote)], name, false)
    }

    pub(crate) fn run(&mut self, base: VertexId, name: &str) -> VertexId {
        self.add(super::run_op(name), vec![chain(base)], name, false)
    }

    pub(crate) fn run_uncached(&mut self, base: VertexId, name: &str) -> VertexId {
        self.add(super::run_op(name), vec![chain(base)], name, true)
    }

    /// `RUN --mount=from=from,source=path name`
    pub(crate) fn run_with(&mut self, base: VertexId, from: VertexId, path: &str, name: &str) -> VertexId {
        let inputs = vec![chain(base), content(from, &[path])];
        self.add(super::run_with_mount(name), inputs, name, false)
    }

    /// `COPY path name/`
    pub(crate) fn copy(&mut self, base: VertexId, from: VertexId, path: &str, name: &str) -> VertexId {
        let inputs = vec![chain(base), content(from, &[path])];
        self.add(super::copy_op(&[path], name), inputs, name, false)
    }

    pub(crate) fn add(&mut self, op: Op, inputs: Vec<Input>, name: &str, no_cache: bool) -> VertexId {
        let meta = VertexMeta { name: name.to_owned(), lines: None, no_cache };
        self.0.add(op, inputs, meta).unwrap()
    }

    pub(crate) fn graph(self) -> Graph {
        self.0.finish()
    }
}

pub(crate) fn chain(vertex: VertexId) -> Input {
    Input { vertex, key: InputKey::Chain }
}

pub(crate) fn content(vertex: VertexId, paths: &[&str]) -> Input {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let selector = Selector { paths, wildcards: false, exclude: Vec::new(), parents: false };
    Input { vertex, key: InputKey::Content(selector) }
}
