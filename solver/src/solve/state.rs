//! What a solve knows, what it has asked for, and who waits for it.

use std::collections::{HashMap, VecDeque};

use super::make::{Doubtful, Making, Origin};
use super::{CacheKey, ContentDigest, KnownContent, Solved};
use crate::graph::{Graph, Input, InputKey, Selector, VertexId};
use crate::key::{self, InputPart, Keyed};
use crate::op::{Identity, Op, RemoteIdentity};

/// One value of a memoized function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    /// The key of a vertex.
    Key(VertexId),
    /// The output of a vertex.
    Output(VertexId),
    /// The digest of a part of an output.
    Digest(DigestId),
}

/// The digest of one part of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DigestId(usize);

/// What the worker is to be asked.
pub(super) enum Request<'g, O> {
    /// What is the remote source?
    Identify { vertex: VertexId },
    /// Is there a result under the key?
    Lookup { vertex: VertexId, key: CacheKey },
    /// Is the digest known without the result?
    Known { id: DigestId, key: CacheKey, selector: &'g Selector },
    /// The digest of a part of the output.
    Digest { id: DigestId, output: O, key: Option<CacheKey>, selector: &'g Selector },
    /// The output of a vertex that is no step.
    Name { vertex: VertexId },
    /// The output of a step that is not in the cache.
    Make(Making<'g, O>),
}

/// How far a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// The key that it is looked up by is being made (of a key: what it is made of).
    NeedsKey,
    /// The worker looks whether it has it.
    LookingUp,
    /// Another vertex has the same key; its output will do.
    Following,
    /// It has to be made; what it is made from is awaited.
    NeedsInputs,
    /// The worker makes it.
    Making,
}

#[derive(Debug, Default)]
struct Progress {
    stage: Stage,
    /// How many nodes it waits for.
    missing: usize,
    /// Whether a step has to be executed before it can be known.
    slow: bool,
    waiters: Vec<Node>,
}

struct VertexState<O> {
    no_cache: bool,
    key: Option<CacheKey>,
    /// What a remote source was found to be.
    remote: Option<RemoteIdentity>,
    /// What its inputs bring into the key; there once the key is.
    parts: Vec<InputPart>,
    output: Option<(O, Origin)>,
    key_progress: Progress,
    output_progress: Progress,
    /// Whether its chain inputs have been asked for early.
    started_early: bool,
}

struct DigestState<'g> {
    vertex: VertexId,
    selector: &'g Selector,
    value: Option<ContentDigest>,
    /// Whether the worker knew it without the output.
    known: bool,
    progress: Progress,
}

impl DigestState<'_> {
    fn content(&self) -> Option<KnownContent> {
        let digest = self.value?;
        Some(KnownContent { vertex: self.vertex, selector: self.selector.digest(), digest })
    }
}

/// What is left to be done without the worker.
enum Work {
    Advance(Node),
    /// Tell those who wait for the node that it is slow.
    Slow(Node),
}

/// All of it.
pub(super) struct State<'g, O> {
    graph: &'g Graph,
    salt: &'g [u8],
    vertices: Vec<VertexState<O>>,
    digests: Vec<DigestState<'g>>,
    digest_ids: HashMap<(VertexId, &'g Selector), DigestId>,
    /// Which vertex makes the result of a key (with or without looking it up): different vertices may come to one
    /// key, as copies of equal files from two places do.
    makers: HashMap<(CacheKey, bool), VertexId>,
    adopted: Vec<VertexId>,
    expected: Vec<VertexId>,
    // First in, first out: what is nearest to the targets is asked for first.
    work: VecDeque<Work>,
    requests: VecDeque<Request<'g, O>>,
}

impl<'g, O: Clone> State<'g, O> {
    pub(super) fn new(graph: &'g Graph, salt: &'g [u8]) -> Self {
        let vertices = graph.vertices().iter().zip(graph.without_cache());
        let vertices = vertices
            .map(|(vertex, no_cache)| VertexState {
                no_cache,
                key: None,
                remote: match vertex.op.identity() {
                    Identity::Pinned(identity) => Some(identity),
                    Identity::Written | Identity::Asked => None,
                },
                parts: Vec::new(),
                output: None,
                key_progress: Progress::default(),
                output_progress: Progress::default(),
                started_early: false,
            })
            .collect();
        Self {
            graph,
            salt,
            vertices,
            digests: Vec::new(),
            digest_ids: HashMap::new(),
            makers: HashMap::new(),
            adopted: Vec::new(),
            expected: Vec::new(),
            work: VecDeque::new(),
            requests: VecDeque::new(),
        }
    }

    pub(super) fn ask_for(&mut self, targets: &[VertexId]) {
        for &target in targets {
            self.ask(Node::Output(target));
            if self.has_key(target) {
                self.ask(Node::Key(target));
            }
        }
    }

    pub(super) fn has_all(&self, targets: &[VertexId]) -> bool {
        let has = |&target: &VertexId| {
            let vertex = &self.vertices[target.index()];
            vertex.output.is_some() && (vertex.key.is_some() || !self.has_key(target))
        };
        targets.iter().all(has)
    }

    pub(super) fn into_solved(self, targets: &[VertexId]) -> Solved<O> {
        let count = |wanted: Origin| {
            let is_wanted = |vertex: &&VertexState<O>| {
                vertex.output.as_ref().is_some_and(|(_, origin)| *origin == wanted)
            };
            self.vertices.iter().filter(is_wanted).count()
        };
        let output = |target: &VertexId| {
            let output = self.vertices[target.index()].output.as_ref();
            output.expect("the solve ended with all targets").0.clone()
        };
        Solved {
            outputs: targets.iter().map(output).collect(),
            keys: targets.iter().map(|target| self.vertices[target.index()].key).collect(),
            executed: count(Origin::Executed),
            cached: count(Origin::Cached) + count(Origin::Adopted),
            vertex_keys: self.vertices.iter().map(|vertex| vertex.key).collect(),
            contents: self.digests.iter().filter_map(DigestState::content).collect(),
        }
    }

    /// What to ask the worker next; `None` while it has all questions.
    pub(super) fn next_request(&mut self) -> Option<Request<'g, O>> {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Advance(Node::Key(vertex)) => self.advance_key(vertex),
                Work::Advance(Node::Output(vertex)) => self.advance_output(vertex),
                Work::Advance(Node::Digest(id)) => self.advance_digest(id),
                Work::Slow(node) => self.spread_slow(node),
            }
        }
        self.requests.pop_front()
    }

    /// The vertices that took the output of another since this was asked.
    pub(super) fn take_adopted(&mut self) -> Vec<VertexId> {
        std::mem::take(&mut self.adopted)
    }

    /// The vertices that were found to have to be made since this was asked.
    pub(super) fn take_expected(&mut self) -> Vec<VertexId> {
        std::mem::take(&mut self.expected)
    }

    /// Who reads the digest, to be named when it cannot be had: it has a line in the Dockerfile.
    pub(super) fn reader(&self, id: DigestId) -> VertexId {
        let digest = &self.digests[id.0];
        let reader = digest.progress.waiters.iter().find_map(|waiter| match waiter {
            Node::Key(vertex) => Some(*vertex),
            Node::Output(_) | Node::Digest(_) => None,
        });
        reader.unwrap_or(digest.vertex)
    }

    pub(super) fn identified(&mut self, vertex: VertexId, identity: RemoteIdentity) {
        self.vertices[vertex.index()].remote = Some(identity);
        self.work.push_back(Work::Advance(Node::Key(vertex)));
    }

    pub(super) fn looked_up(&mut self, vertex: VertexId, found: Option<O>) {
        match found {
            Some(output) => self.made(vertex, output, Origin::Cached),
            None => self.needs_making(vertex),
        }
    }

    pub(super) fn digest_known(&mut self, id: DigestId, known: Option<ContentDigest>) {
        if let Some(digest) = known {
            self.digests[id.0].known = true;
            self.digested(id, digest);
        } else {
            self.digests[id.0].progress.stage = Stage::NeedsInputs;
            self.work.push_back(Work::Advance(Node::Digest(id)));
        }
    }

    pub(super) fn digested(&mut self, id: DigestId, digest: ContentDigest) {
        self.digests[id.0].value = Some(digest);
        self.wake_waiters(Node::Digest(id));
    }

    pub(super) fn made(&mut self, vertex: VertexId, output: O, origin: Origin) {
        self.vertices[vertex.index()].output = Some((output, origin));
        self.wake_waiters(Node::Output(vertex));
    }

    fn advance_key(&mut self, vertex: VertexId) {
        let graph = self.graph;
        let node = Node::Key(vertex);
        for input in &graph.vertex(vertex).inputs {
            let needed = match &input.key {
                InputKey::Chain => Node::Key(input.vertex),
                InputKey::Content(selector) => Node::Digest(self.digest_id(input.vertex, selector)),
            };
            self.need(needed, node);
        }
        if self.progress(node).missing > 0 {
            return;
        }
        let op = &graph.vertex(vertex).op;
        let is_unknown = self.vertices[vertex.index()].remote.is_none() && op.identity() == Identity::Asked;
        if is_unknown {
            self.progress(node).stage = Stage::LookingUp;
            self.requests.push_back(Request::Identify { vertex });
            return;
        }
        let parts: Vec<_> = graph.vertex(vertex).inputs.iter().map(|input| self.part(input)).collect();
        let remote = self.vertices[vertex.index()].remote.as_ref();
        let key = key::cache_key(Keyed { op, remote }, &parts, self.salt);
        let state = &mut self.vertices[vertex.index()];
        state.parts = parts;
        state.key = Some(key);
        self.wake_waiters(node);
    }

    fn advance_output(&mut self, vertex: VertexId) {
        match self.progress(Node::Output(vertex)).stage {
            Stage::NeedsKey => self.find_output(vertex),
            Stage::Following => self.adopt(vertex),
            _ => self.make_output(vertex),
        }
    }

    fn find_output(&mut self, vertex: VertexId) {
        let node = Node::Output(vertex);
        if !self.graph.vertex(vertex).op.is_step() {
            self.progress(node).stage = Stage::Making;
            self.requests.push_back(Request::Name { vertex });
            return;
        }
        self.need(Node::Key(vertex), node);
        if self.progress(node).missing > 0 {
            return;
        }
        let key = self.key(vertex);
        let no_cache = self.vertices[vertex.index()].no_cache;
        if *self.makers.entry((key, no_cache)).or_insert(vertex) != vertex {
            self.progress(node).stage = Stage::Following;
            self.adopt(vertex);
        } else if no_cache {
            self.needs_making(vertex);
        } else {
            self.progress(node).stage = Stage::LookingUp;
            self.requests.push_back(Request::Lookup { vertex, key });
        }
    }

    fn adopt(&mut self, vertex: VertexId) {
        let node = Node::Output(vertex);
        let maker = self.makers[&(self.key(vertex), self.vertices[vertex.index()].no_cache)];
        self.need(Node::Output(maker), node);
        if self.progress(node).missing == 0 {
            let (output, _) = self.output(maker);
            self.adopted.push(vertex);
            self.made(vertex, output, Origin::Adopted);
        }
    }

    fn make_output(&mut self, vertex: VertexId) {
        let node = Node::Output(vertex);
        let graph = self.graph;
        for input in &graph.vertex(vertex).inputs {
            self.need(Node::Output(input.vertex), node);
        }
        if self.progress(node).missing == 0 {
            self.progress(node).stage = Stage::Making;
            let making = self.making(vertex);
            self.requests.push_back(Request::Make(making));
        }
    }

    fn advance_digest(&mut self, id: DigestId) {
        let node = Node::Digest(id);
        let DigestState { vertex, selector, .. } = self.digests[id.0];
        let has_key = self.has_key(vertex);
        if has_key {
            self.need(Node::Key(vertex), node);
            if self.progress(node).missing > 0 {
                return;
            }
        }
        // What is known of the result of an earlier build is a look-up too.
        let may_be_known = has_key && !self.vertices[vertex.index()].no_cache;
        if self.progress(node).stage == Stage::NeedsKey && may_be_known {
            let key = self.key(vertex);
            self.progress(node).stage = Stage::LookingUp;
            self.requests.push_back(Request::Known { id, key, selector });
            return;
        }
        self.progress(node).stage = Stage::NeedsInputs;
        self.need(Node::Output(vertex), node);
        if self.progress(node).missing == 0 {
            self.progress(node).stage = Stage::Making;
            let output = self.output(vertex).0;
            let key = self.vertices[vertex.index()].key;
            self.requests.push_back(Request::Digest { id, output, key, selector });
        }
    }

    fn needs_making(&mut self, vertex: VertexId) {
        self.expected.push(vertex);
        self.progress(Node::Output(vertex)).stage = Stage::NeedsInputs;
        self.work.push_back(Work::Advance(Node::Output(vertex)));
        self.mark_slow(Node::Output(vertex));
    }

    fn making(&self, vertex: VertexId) -> Making<'g, O> {
        let graph = self.graph;
        let state = &self.vertices[vertex.index()];
        let inputs = &graph.vertex(vertex).inputs;
        Making {
            vertex,
            key: self.key(vertex),
            no_cache: state.no_cache,
            inputs: inputs.iter().map(|input| self.output(input.vertex).0).collect(),
            remote: state.remote.clone(),
            parts: state.parts.clone(),
            doubtful: inputs
                .iter()
                .enumerate()
                .filter_map(|(index, input)| self.doubtful(index, input))
                .collect(),
        }
    }

    fn doubtful(&self, index: usize, input: &'g Input) -> Option<Doubtful<'g>> {
        let InputKey::Content(selector) = &input.key else { return None };
        let id = self.digest_ids[&(input.vertex, selector)];
        let digest = &self.digests[id.0];
        let is_new = matches!(self.output(input.vertex).1, Origin::Executed | Origin::Adopted);
        if !digest.known || !is_new {
            return None;
        }
        let expected = digest.value.expect("a known digest has a value");
        Some(Doubtful { index, vertex: input.vertex, key: self.key(input.vertex), selector, expected })
    }

    fn part(&self, input: &'g Input) -> InputPart {
        match &input.key {
            InputKey::Chain => InputPart::Chain(self.key(input.vertex)),
            InputKey::Content(selector) => {
                let id = self.digest_ids[&(input.vertex, selector)];
                InputPart::Content(self.digests[id.0].value.expect("the key waited for its digests"))
            }
        }
    }

    fn key(&self, vertex: VertexId) -> CacheKey {
        self.vertices[vertex.index()].key.expect("whoever needs a key has waited for it")
    }

    fn output(&self, vertex: VertexId) -> (O, Origin) {
        let output = self.vertices[vertex.index()].output.as_ref();
        output.expect("whoever needs an output has waited for it").clone()
    }

    /// A context has no key: what is in it is not known from what it is.
    fn has_key(&self, vertex: VertexId) -> bool {
        !matches!(self.graph.vertex(vertex).op, Op::Context(_))
    }

    fn digest_id(&mut self, vertex: VertexId, selector: &'g Selector) -> DigestId {
        let next = DigestId(self.digests.len());
        let id = *self.digest_ids.entry((vertex, selector)).or_insert(next);
        if id == next {
            let progress = Progress::default();
            self.digests.push(DigestState { vertex, selector, value: None, known: false, progress });
        }
        id
    }

    fn progress(&mut self, node: Node) -> &mut Progress {
        match node {
            Node::Key(vertex) => &mut self.vertices[vertex.index()].key_progress,
            Node::Output(vertex) => &mut self.vertices[vertex.index()].output_progress,
            Node::Digest(id) => &mut self.digests[id.0].progress,
        }
    }

    fn is_there(&self, node: Node) -> bool {
        match node {
            Node::Key(vertex) => self.vertices[vertex.index()].key.is_some(),
            Node::Output(vertex) => self.vertices[vertex.index()].output.is_some(),
            Node::Digest(id) => self.digests[id.0].value.is_some(),
        }
    }

    /// Sees to it that `node` will be there.
    fn ask(&mut self, node: Node) {
        let progress = self.progress(node);
        if progress.stage == Stage::Unasked {
            progress.stage = Stage::NeedsKey;
            self.work.push_back(Work::Advance(node));
        }
    }

    /// Lets `by` wait for `needed`, unless that is there.
    fn need(&mut self, needed: Node, by: Node) {
        if self.is_there(needed) {
            return;
        }
        self.ask(needed);
        self.progress(by).missing += 1;
        let progress = self.progress(needed);
        progress.waiters.push(by);
        if progress.slow {
            self.inherit_slow(needed, by);
        }
    }

    fn wake_waiters(&mut self, node: Node) {
        for waiter in std::mem::take(&mut self.progress(node).waiters) {
            let progress = self.progress(waiter);
            progress.missing -= 1;
            if progress.missing == 0 {
                self.work.push_back(Work::Advance(waiter));
            }
        }
    }

    fn mark_slow(&mut self, node: Node) {
        let progress = self.progress(node);
        if !progress.slow {
            progress.slow = true;
            self.work.push_back(Work::Slow(node));
        }
    }

    fn spread_slow(&mut self, node: Node) {
        for waiter in self.progress(node).waiters.clone() {
            self.inherit_slow(node, waiter);
        }
    }

    /// `by` waits for `needed`, which is slow.
    fn inherit_slow(&mut self, needed: Node, by: Node) {
        match (needed, by) {
            (Node::Key(_), Node::Output(vertex)) => self.start_early(vertex),
            (Node::Output(_), Node::Output(_)) if self.progress(by).stage != Stage::Following => {}
            _ => self.mark_slow(by),
        }
    }

    /// Asks for the nearest outputs that `vertex` is made from by chain and that can be looked up already. Those
    /// between are not asked for: where `vertex` turns out to be cached, they need not be.
    fn start_early(&mut self, vertex: VertexId) {
        let graph = self.graph;
        let mut slow = vec![vertex];
        while let Some(vertex) = slow.pop() {
            if std::mem::replace(&mut self.vertices[vertex.index()].started_early, true) {
                continue;
            }
            for input in &graph.vertex(vertex).inputs {
                if input.key != InputKey::Chain {
                    continue;
                }
                let key = Node::Key(input.vertex);
                if self.progress(key).slow && !self.is_there(key) {
                    slow.push(input.vertex);
                } else {
                    self.ask(Node::Output(input.vertex));
                }
            }
        }
    }
}
