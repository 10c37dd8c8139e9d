//! Random graphs over a shared store, against an oracle that never caches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::collection::vec;
use proptest::prelude::*;

use super::memory_worker::{Draft, MemoryWorker, Records, Tree, chain, content, options, oracle};
use super::{copy_op, run_op, run_with_mount};
use crate::{Graph, MkdirOp, Op, VertexId, solve};

const FILES: [&str; 3] = ["f0", "f1", "f2"];
const CONTEXTS: [&str; 2] = ["context", "other"];

/// A vertex in the raw: numbers that are read modulo what there is.
#[derive(Debug, Clone)]
struct Raw {
    kind: u8,
    base: usize,
    from: usize,
    argument: u8,
    no_cache: bool,
}

/// A build: what changes before it.
#[derive(Debug, Clone)]
struct Change {
    files: Vec<(usize, usize, u64)>,
    /// A record whose key begins with a byte below this is forgotten.
    forget: u8,
    /// Vertices whose argument changes.
    arguments: Vec<(usize, u8)>,
    parallelism: usize,
    target: usize,
}

fn raw() -> impl Strategy<Value = Raw> {
    (0..9_u8, any::<usize>(), any::<usize>(), 0..3_u8, prop::bool::weighted(0.1))
        .prop_map(|(kind, base, from, argument, no_cache)| Raw { kind, base, from, argument, no_cache })
}

fn change() -> impl Strategy<Value = Change> {
    let files = vec((0..CONTEXTS.len(), 0..FILES.len(), 0..3_u64), 0..3);
    let forget = prop_oneof![Just(0), Just(0), any::<u8>()];
    let arguments = vec((any::<usize>(), 0..3_u8), 0..2);
    (files, forget, arguments, 1..5_usize, any::<usize>()).prop_map(
        |(files, forget, arguments, parallelism, target)| Change {
            files,
            forget,
            arguments,
            parallelism,
            target,
        },
    )
}

/// The graph, and which of its vertices may be inputs by chain.
fn graph(vertices: &[Raw], no_cache: bool) -> (Graph, Vec<VertexId>) {
    let mut draft = Draft::default();
    let contexts: Vec<_> = CONTEXTS.iter().map(|name| draft.context(name)).collect();
    let mut trees = vec![draft.add(Op::Scratch, Vec::new(), "scratch", false), draft.image("image")];
    for (index, raw) in vertices.iter().enumerate() {
        let base = trees[raw.base % trees.len()];
        let from = raw.from % (trees.len() + contexts.len());
        let from_any = contexts.iter().chain(&trees).nth(from).copied().unwrap();
        let from_tree = trees[raw.from % trees.len()];
        let file = FILES[usize::from(raw.argument)];
        let (op, inputs) = match raw.kind {
            0 | 1 => (run_op(&format!("run{}", raw.argument)), vec![chain(base)]),
            2 => {
                let path = format!("dir{}", raw.argument);
                (Op::Mkdir(MkdirOp { path, owner: None, mtime: None }), vec![chain(base)])
            }
            3 => (Op::Merge, vec![chain(base), chain(from_tree)]),
            4 => (copy_op(&FILES, ""), vec![chain(base), content(from_any, &FILES)]),
            8 => {
                let mounting = run_with_mount(&format!("run{}", raw.argument));
                (mounting, vec![chain(base), content(from_any, &[file])])
            }
            5 => (copy_op(&["run0"], "kept"), vec![chain(base), content(from_any, &["run0"])]),
            _ => (copy_op(&[file], "dir"), vec![chain(base), content(from_any, &[file])]),
        };
        trees.push(draft.add(op, inputs, &format!("vertex {index}"), raw.no_cache && no_cache));
    }
    (draft.graph(), trees)
}

fn apply(change: &Change, vertices: &mut [Raw], contexts: &mut HashMap<String, Tree>, records: &mut Records) {
    for (context, file, value) in &change.files {
        let tree = contexts.get_mut(CONTEXTS[*context]).unwrap();
        tree.insert(FILES[*file].to_owned(), *value);
    }
    for (index, argument) in &change.arguments {
        let index = index % vertices.len();
        vertices[index].argument = *argument;
    }
    let forgotten: Vec<_> = records.trees.keys().filter(|key| key.0[0] < change.forget).copied().collect();
    for key in forgotten {
        records.prune(key);
    }
}

fn check(mut vertices: Vec<Raw>, changes: &[Change]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let records = Arc::new(Mutex::new(Records::default()));
    let file = |value| FILES.iter().map(|name| ((*name).to_owned(), value)).collect::<Tree>();
    let mut contexts: HashMap<_, _> = CONTEXTS.iter().map(|name| ((*name).to_owned(), file(0))).collect();
    for change in changes {
        apply(change, &mut vertices, &mut contexts, &mut records.lock().unwrap());
        let build = |no_cache: bool| {
            let (graph, trees) = graph(&vertices, no_cache);
            let target = trees[change.target % trees.len()];
            let mut worker = MemoryWorker::new(&records);
            worker.contexts.clone_from(&contexts);
            let worker = Arc::new(worker);
            let graph = Arc::new(graph);
            let (_, options) = options(change.parallelism, tokio_util::sync::CancellationToken::new());
            let targets = [target];
            let solving = solve(Arc::clone(&graph), &targets, Arc::clone(&worker), options);
            let solved = runtime.block_on(solving).unwrap();
            (solved, worker.calls(), oracle(&graph, target, &contexts))
        };
        let (solved, calls, expected) = build(true);
        prop_assert_eq!(&solved.outputs[0], &expected);
        prop_assert_eq!(solved.executed, calls.executed.len());
        prop_assert!(calls.most_running <= change.parallelism);
        let (solved, calls, expected) = build(false);
        prop_assert_eq!(&solved.outputs[0], &expected);
        prop_assert_eq!(calls.executed, Vec::<String>::new());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_never_changes_a_result(
        vertices in vec(raw(), 1..25),
        changes in vec(change(), 1..6),
    ) {
        check(vertices, &changes)?;
    }
}
