//! The graph: vertices with one output each, whose identity is their content.

use std::collections::HashMap;
use std::fmt;

use crate::key;
use crate::op::Op;

/// The index of a vertex in its graph. Inputs always have smaller indexes than the vertices that take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub(crate) u32);

impl VertexId {
    /// The position of the vertex in [`Graph::vertices`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The identity of a vertex: a hash of its operation and of the identities of its inputs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexDigest(pub [u8; 32]);

impl fmt::Display for VertexDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VertexDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One step of a build.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// What it does it to.
    pub inputs: Vec<Input>,
    /// Its identity.
    pub digest: VertexDigest,
    /// What people see of it, and what must not change its identity.
    pub meta: VertexMeta,
}

/// An input of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The vertex whose output it is.
    pub vertex: VertexId,
    /// How it enters the cache key.
    pub key: InputKey,
}

/// How an input enters a cache key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKey {
    /// By what made it.
    Chain,
    /// By what is in the selected part of it. Safe only where the operation cannot write outside that part.
    Content(Selector),
}

/// The part of a tree that an operation reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The paths, from the root of the tree, as COPY takes them.
    pub paths: Vec<String>,
    /// Whether `*`, `?` and `[…]` in the paths are wildcards.
    pub wildcards: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// Whether the names of the directories above the selected ones matter (`--parents`).
    pub parents: bool,
}

impl Selector {
    /// A name of the selector that never changes, under which the digest of what it selects can be stored.
    pub fn digest(&self) -> [u8; 32] {
        key::selector_digest(self)
    }
}

/// What stands beside the operation of a vertex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VertexMeta {
    /// What people see: `[build 2/5] RUN make`.
    pub name: String,
    /// The lines of the Dockerfile, where it comes from one.
    pub lines: Option<SourceLines>,
    /// Whether look-ups in the cache are skipped.
    pub no_cache: bool,
}

/// Lines of a source file, counted from 1, the last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLines {
    /// The first line.
    pub first: u32,
    /// The last line.
    pub last: u32,
}

/// A graph. Made with [`GraphBuilder`], so that it never has a cycle and inputs come first.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

impl Graph {
    /// All vertices; inputs before those that take them.
    pub fn vertices(&self) -> &[Vertex] {
        &self.vertices
    }

    /// One vertex.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.index()]
    }

    /// The identifiers of all vertices, in the order of [`Graph::vertices`].
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = VertexId> + use<> {
        let count = u32::try_from(self.vertices.len()).expect("the builder bounds the number of vertices");
        (0..count).map(VertexId)
    }

    /// All that `targets` are made of, themselves included: for each vertex whether it is.
    pub fn reached(&self, targets: &[VertexId]) -> Vec<bool> {
        let mut reached = vec![false; self.vertices.len()];
        for target in targets {
            reached[target.index()] = true;
        }
        for (index, vertex) in self.vertices.iter().enumerate().rev() {
            if reached[index] {
                for input in &vertex.inputs {
                    reached[input.vertex.index()] = true;
                }
            }
        }
        reached
    }

    /// For each vertex whether it is not looked up: for [its own sake](VertexMeta::no_cache), or for that of an input by
    /// chain.
    pub fn without_cache(&self) -> Vec<bool> {
        let mut without: Vec<bool> = Vec::with_capacity(self.vertices.len());
        for vertex in &self.vertices {
            let spreads = |input: &Input| input.key == InputKey::Chain && without[input.vertex.index()];
            without.push(vertex.meta.no_cache || vertex.inputs.iter().any(spreads));
        }
        without
    }
}

/// Why a vertex cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A context was to be an input by chain: it has no identity that outlives the build.
    #[error("`{vertex}` takes a build context by chain: a context may be an input by content only")]
    ContextByChain {
        /// The name of the vertex.
        vertex: String,
    },
    /// A mount of a RUN was to show an input that is not there, or is one by chain.
    #[error("`{vertex}` mounts input {input}, which is no input by content")]
    MountOfNoContent {
        /// The name of the vertex.
        vertex: String,
        /// The index of the input.
        input: usize,
    },
    /// More than [`GraphBuilder::MAX_VERTICES`].
    #[error("a build has more than {} steps", GraphBuilder::MAX_VERTICES)]
    TooManyVertices,
}

/// Makes a [`Graph`]. Vertices of the same identity become one; the first one's metadata stays, save that
/// `no_cache` holds if any of them has it.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    by_digest: HashMap<VertexDigest, VertexId>,
}

impl From<Graph> for GraphBuilder {
    /// Goes on with a graph; its vertices keep their indexes.
    fn from(graph: Graph) -> Self {
        let by_digest = graph.ids().map(|id| (graph.vertex(id).digest, id)).collect();
        Self { graph, by_digest }
    }
}

impl GraphBuilder {
    /// The most vertices that a graph may have.
    pub const MAX_VERTICES: usize = 1 << 20;

    /// A builder of an empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex, or finds the one that is the same.
    pub fn add(&mut self, op: Op, inputs: Vec<Input>, meta: VertexMeta) -> Result<VertexId, GraphError> {
        for input in &inputs {
            let takes_chain = input.key == InputKey::Chain;
            if takes_chain && matches!(self.graph.vertex(input.vertex).op, Op::Context(_)) {
                return Err(GraphError::ContextByChain { vertex: meta.name });
            }
        }
        let has_content =
            |input: &usize| inputs.get(*input).is_some_and(|input| matches!(input.key, InputKey::Content(_)));
        if let Some(input) = op.mounted_inputs().into_iter().find(|input| !has_content(input)) {
            return Err(GraphError::MountOfNoContent { vertex: meta.name, input });
        }
        let input_digests: Vec<_> =
            inputs.iter().map(|input| self.graph.vertex(input.vertex).digest).collect();
        let digest = key::vertex_digest(&op, &inputs, &input_digests);
        if let Some(&id) = self.by_digest.get(&digest) {
            self.graph.vertices[id.index()].meta.no_cache |= meta.no_cache;
            return Ok(id);
        }
        if self.graph.vertices.len() >= Self::MAX_VERTICES {
            return Err(GraphError::TooManyVertices);
        }
        let id = VertexId(u32::try_from(self.graph.vertices.len()).expect("below the bound"));
        self.graph.vertices.push(Vertex { op, inputs, digest, meta });
        self.by_digest.insert(digest, id);
        Ok(id)
    }

    /// Has look-ups of a vertex skipped, as [`VertexMeta::no_cache`] does.
    pub fn skip_lookups(&mut self, id: VertexId) {
        self.graph.vertices[id.index()].meta.no_cache = true;
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
}
