//! Long and wide graphs.

use std::sync::{Arc, Mutex};

use super::memory_worker::{Draft, MemoryError, Tree, build, options};
use super::{copy_op, memory_worker, run_op};
use crate::{
    CacheKey, Claim, ContentDigest, ExecContext, Graph, Op, RemoteIdentity, Saving, Selector, Solved, Vertex,
    VertexId, VertexMeta, Worker, solve,
};

const STEPS: usize = 20_000;

/// Does nothing, at once.
struct Trivial;

impl Worker for Trivial {
    type Output = ();
    type Error = MemoryError;
    type Guard = ();

    async fn lookup(&self, _key: &CacheKey, _: &ExecContext) -> Result<Option<()>, MemoryError> {
        Ok(None)
    }

    async fn known_digest(&self, _: &CacheKey, _: &Selector) -> Result<Option<ContentDigest>, MemoryError> {
        Ok(None)
    }

    async fn digest(
        &self,
        _output: &(),
        _key: Option<&CacheKey>,
        _selector: &Selector,
    ) -> Result<ContentDigest, MemoryError> {
        Ok(ContentDigest([0; 32]))
    }

    async fn identify(&self, _: &Vertex, _: &ExecContext) -> Result<RemoteIdentity, MemoryError> {
        Ok(RemoteIdentity(String::new()))
    }

    async fn claim(
        &self,
        _vertex: &Vertex,
        _key: &CacheKey,
        _context: &ExecContext,
        _lookup: bool,
    ) -> Result<Claim<(), ()>, MemoryError> {
        Ok(Claim::Execute(()))
    }

    async fn prepare(&self, _: &Vertex, _: &[()], _: &ExecContext) -> Result<(), MemoryError> {
        Ok(())
    }

    async fn exec(
        &self,
        _vertex: &Vertex,
        _inputs: &[()],
        _content: &[Option<ContentDigest>],
        _context: &ExecContext,
    ) -> Result<(), MemoryError> {
        Ok(())
    }

    async fn save(
        &self,
        _key: &CacheKey,
        _output: (),
        _saving: Saving,
        _guard: (),
    ) -> Result<(), MemoryError> {
        Ok(())
    }
}

fn long_chain() -> (Graph, VertexId) {
    let mut builder = crate::GraphBuilder::new();
    let mut last = builder.add(Op::Scratch, Vec::new(), VertexMeta::default()).unwrap();
    for step in 0..STEPS {
        let op = run_op(&step.to_string());
        last = builder.add(op, vec![memory_worker::chain(last)], VertexMeta::default()).unwrap();
    }
    (builder.finish(), last)
}

fn solve_in_a_small_stack<W: Worker>(graph: Graph, target: VertexId, worker: W) -> Solved<W::Output> {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_, options) = options(4, tokio_util::sync::CancellationToken::new());
        runtime.block_on(solve(Arc::new(graph), &[target], Arc::new(worker), options)).unwrap()
    });
    thread.unwrap().join().unwrap()
}

#[test]
fn a_chain_of_20_000_steps_is_solved_in_a_stack_of_2_mib() {
    let (graph, target) = long_chain();
    let began = std::time::Instant::now();
    let solved = solve_in_a_small_stack(graph, target, Trivial);
    // Seen with `--nocapture` in a release build; a limit on time has no place in a test that shares its machine.
    println!("{STEPS} steps: {:?}", began.elapsed());
    assert_eq!((solved.executed, solved.cached), (STEPS, 0));
}

#[test]
fn a_failure_at_the_end_of_a_long_chain_unwinds_in_a_small_stack() {
    let (graph, target) = long_chain();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let cancel = tokio_util::sync::CancellationToken::new();
        cancel.cancel();
        let (_, options) = options(4, cancel);
        let result = runtime.block_on(solve(Arc::new(graph), &[target], Arc::new(Trivial), options));
        assert!(result.is_err());
    });
    thread.unwrap().join().unwrap();
}

/// 400 stages with a copy each, 100 of them copied into the last.
fn wide() -> (Graph, VertexId) {
    let mut draft = Draft::default();
    let context = draft.context("context");
    let scratch = draft.add(Op::Scratch, Vec::new(), "scratch", false);
    let mut stages = Vec::new();
    for stage in 0..400 {
        stages.push(draft.copy(scratch, context, "file", &format!("/stage{stage}")));
    }
    let mut last = scratch;
    for (index, stage) in stages.iter().take(100).enumerate() {
        let inputs = vec![memory_worker::chain(last), memory_worker::content(*stage, &["file"])];
        last = draft.add(copy_op(&["file"], "/x"), inputs, &format!("last {index}"), false);
    }
    (draft.graph(), last)
}

#[tokio::test]
async fn stages_that_nobody_needs_are_not_touched() {
    let (graph, target) = wide();
    let records = Arc::new(Mutex::default());
    let worker = || memory_worker::MemoryWorker::new(&records).with_context("context", &[("file", 1)]);
    let first = build(worker(), &graph, target).await;
    assert_eq!(first.calls.executed.len(), 200);
    let began = std::time::Instant::now();
    let second = build(worker(), &graph, target).await;
    println!("fully cached: {:?}", began.elapsed());
    assert_eq!(second.calls.executed, Vec::<String>::new());
    assert_eq!((second.calls.lookups, second.calls.known_digests, second.calls.digests), (1, 100, 1));
    let outputs: Vec<Tree> = second.result.unwrap().outputs;
    assert_eq!(outputs, first.result.unwrap().outputs);
}
