//! The build graph, its cache keys and the parallel solve.
//!
//! What is deliberately absent: files, processes, registries, Dockerfiles. The solve is driven through the
//! [`Worker`] trait and is tested without any of them.

mod graph;
mod key;
mod op;
mod plan;
mod solve;
mod worker;

pub use graph::{
    Graph, GraphBuilder, GraphError, Input, InputKey, Selector, SourceLines, Vertex, VertexDigest, VertexId,
    VertexMeta,
};
pub use key::{CacheKey, ContentDigest, KeyPart, KeyParts};
pub use op::{
    CacheSharing, Chmod, ContextOp, CopyOp, CopySource, ExtraHost, GitOp, GitRepository, HttpOp, Identity,
    ImageLocation, ImageOp, ImageSource, MkdirOp, NetworkMode, Op, RemoteIdentity, RunAgent, RunCache,
    RunMount, RunMountKind, RunOp, RunSecret, SecretVariable, SecurityMode, Ulimit, Unpack, is_commit,
};
pub use plan::{Fate, plan};
pub use solve::{KnownContent, SolveError, SolveOptions, Solved, solve};
pub use worker::{Claim, Event, EventSink, ExecContext, LogStream, Saving, Worker};

#[cfg(test)]
mod tests;
