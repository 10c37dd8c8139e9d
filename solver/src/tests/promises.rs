//! One test for each promise of the solve.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::memory_worker::{
    Conduct, Draft, MemoryError, MemoryWorker, Records, Room, Tree, build, chain, content, options, result_of,
};
use super::{copy_op, run_op};
use crate::{Event, Graph, Op, SolveError, SolveOptions, Solved, VertexId, solve};

fn records() -> Arc<Mutex<Records>> {
    Arc::default()
}

fn forget(records: &Mutex<Records>, vertex: &str, of: impl Fn(&mut Draft) -> VertexId) {
    let mut draft = Draft::default();
    let target = of(&mut draft);
    let graph = draft.graph();
    let name = &graph.vertex(target).meta.name;
    assert_eq!(name, vertex);
    let key = key_of(&graph, target);
    records.lock().unwrap().prune(key);
}

/// The key of a chain.
fn key_of(graph: &Graph, vertex: VertexId) -> crate::CacheKey {
    let part = |input: &crate::Input| crate::key::InputPart::Chain(key_of(graph, input.vertex));
    let vertex = graph.vertex(vertex);
    let parts: Vec<_> = vertex.inputs.iter().map(part).collect();
    crate::key::cache_key(crate::key::Keyed { op: &vertex.op, remote: None }, &parts, b"root")
}

type Solving = tokio::task::JoinHandle<Result<Solved<Tree>, SolveError<MemoryError>>>;

fn spawn(graph: Graph, target: VertexId, worker: &Arc<MemoryWorker>, options: SolveOptions) -> Solving {
    let worker = Arc::clone(worker);
    tokio::spawn(async move { solve(Arc::new(graph), &[target], worker, options).await })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `image` → `base` → `top`
fn three(draft: &mut Draft) -> (VertexId, VertexId) {
    let image = draft.image("image");
    let base = draft.run(image, "base");
    (base, draft.run(base, "top"))
}

#[tokio::test]
async fn a_second_build_executes_nothing_and_asks_once() {
    let records = records();
    let mut draft = Draft::default();
    let (_, top) = three(&mut draft);
    let graph = draft.graph();
    let first = build(MemoryWorker::new(&records), &graph, top).await;
    assert_eq!(first.calls.expected, names(&["top", "base"]));
    assert_eq!(first.calls.executed, names(&["base", "top"]));
    let solved = first.result.unwrap();
    assert_eq!((solved.executed, solved.cached), (2, 0));
    assert_eq!(solved.keys, [Some(key_of(&graph, top))]);
    let second = build(MemoryWorker::new(&records), &graph, top).await;
    assert_eq!((second.calls.lookups, second.calls.executed, second.calls.named), (1, vec![], vec![]));
    assert_eq!(second.calls.expected, names(&[]));
    assert!(matches!(second.events[..], [Event::Cached(vertex)] if vertex == top));
    let again = second.result.unwrap();
    assert_eq!((again.executed, again.cached, again.outputs), (0, 1, solved.outputs));
}

#[tokio::test]
async fn a_hit_at_the_target_needs_no_record_of_its_base() {
    let records = records();
    let mut draft = Draft::default();
    let (_, top) = three(&mut draft);
    let graph = draft.graph();
    build(MemoryWorker::new(&records), &graph, top).await.result.unwrap();
    forget(&records, "base", |draft| three(draft).0);
    let second = build(MemoryWorker::new(&records), &graph, top).await;
    assert_eq!((second.calls.lookups, second.calls.executed), (1, vec![]));
    second.result.unwrap();
}

#[tokio::test]
async fn a_rebuilt_parent_with_the_same_content_still_hits() {
    let records = records();
    let stages = |command: &str| {
        let mut draft = Draft::default();
        let image = draft.image("image");
        let stage = draft.run(image, command);
        let target = draft.copy(image, stage, "f", "copy");
        (draft.graph(), target)
    };
    let (graph, target) = stages("make");
    let worker = MemoryWorker::new(&records).conducting("make", Conduct::Writes(7));
    build(worker, &graph, target).await.result.unwrap();
    let (graph, target) = stages("make # again");
    let worker = MemoryWorker::new(&records).conducting("make # again", Conduct::Writes(7));
    let second = build(worker, &graph, target).await;
    assert_eq!(second.calls.executed, names(&["make # again"]));
    let solved = second.result.unwrap();
    assert_eq!((solved.executed, solved.cached), (1, 1));
}

#[tokio::test]
async fn what_is_known_of_an_input_spares_the_input() {
    let records = records();
    let mut draft = Draft::default();
    let image = draft.image("image");
    let stage = draft.run(image, "f");
    let first = draft.copy(image, stage, "f", "first");
    let second = draft.copy(image, stage, "f", "second");
    let graph = draft.graph();
    build(MemoryWorker::new(&records), &graph, first).await.result.unwrap();
    // The copy is new, and the digest of what it copies is known: the stage is looked up, and not read again.
    let built = build(MemoryWorker::new(&records), &graph, second).await;
    assert_eq!((built.calls.known_digests, built.calls.digests), (1, 0));
    assert_eq!(built.calls.executed, names(&["second"]));
    let built = build(MemoryWorker::new(&records), &graph, second).await;
    assert_eq!((built.calls.known_digests, built.calls.lookups), (1, 1));
}

#[tokio::test]
async fn what_a_target_is_made_of_is_told_also_where_nothing_was_made() {
    let records = records();
    let mut draft = Draft::default();
    let image = draft.image("image");
    let stage = draft.run(image, "f");
    let other = draft.run(image, "other");
    let target = draft.copy(other, stage, "f", "copy");
    let graph = draft.graph();
    let first = build(MemoryWorker::new(&records), &graph, target).await.result.unwrap();
    let again = build(MemoryWorker::new(&records), &graph, target).await.result.unwrap();
    assert_eq!((again.executed, again.cached), (0, 1));
    assert_eq!(again.vertex_keys, first.vertex_keys);
    for vertex in [image, stage, other, target] {
        assert!(again.vertex_keys[vertex.index()].is_some(), "{vertex:?}");
    }
    assert_eq!(again.contents, first.contents);
    let of: Vec<_> = again.contents.iter().map(|content| content.vertex).collect();
    assert_eq!(of, [stage]);
}

#[tokio::test]
async fn a_run_depends_on_what_its_mounts_show_and_on_nothing_else_of_it() {
    let records = records();
    let mut draft = Draft::default();
    let context = draft.context("context");
    let image = draft.image("image");
    let run = draft.run_with(image, context, "f", "run");
    let graph = draft.graph();
    let build = async |files: &[(&str, u64)]| {
        let worker = MemoryWorker::new(&records).with_context("context", files);
        build(worker, &graph, run).await.result.unwrap().executed
    };
    assert_eq!(build(&[("f", 1), ("g", 1)]).await, 1);
    assert_eq!(build(&[("f", 1), ("g", 2), ("h", 3)]).await, 0);
    assert_eq!(build(&[("f", 2), ("g", 1)]).await, 1);
    assert_eq!(build(&[("f", 1)]).await, 0);
}

#[test]
fn the_builder_refuses_what_no_key_could_hold() {
    let mut builder = crate::GraphBuilder::new();
    let mut add = |op, inputs, name: &str| {
        let meta = crate::VertexMeta { name: name.to_owned(), ..crate::VertexMeta::default() };
        builder.add(op, inputs, meta).map_err(|error| error.to_string())
    };
    let context = crate::ContextOp { name: "context".to_owned() };
    let context = add(Op::Context(context), Vec::new(), "context").unwrap();
    let scratch = add(Op::Scratch, Vec::new(), "scratch").unwrap();
    let message = "`x` takes a build context by chain: a context may be an input by content only";
    assert_eq!(add(run_op("x"), vec![chain(context)], "x"), Err(message.to_owned()));
    let message = "`x` mounts input 1, which is no input by content";
    for inputs in [vec![chain(scratch)], vec![chain(scratch), chain(scratch)]] {
        assert_eq!(add(super::run_with_mount("x"), inputs, "x"), Err(message.to_owned()));
    }
}

#[tokio::test]
async fn one_part_of_one_input_is_digested_once() {
    let mut draft = Draft::default();
    let context = draft.context("context");
    let image = draft.image("image");
    let mut last = image;
    for copy in ["a", "b", "c"] {
        last = draft.copy(last, context, "f", copy);
    }
    let worker = MemoryWorker::new(&records()).with_context("context", &[("f", 1)]);
    let built = build(worker, &draft.graph(), last).await;
    assert_eq!((built.calls.digests, built.calls.known_digests), (1, 0));
}

#[tokio::test]
async fn no_cache_spreads_along_chains_and_not_through_content() {
    let records = records();
    let graph = |no_cache: bool| {
        let mut draft = Draft::default();
        let image = draft.image("image");
        let stage = if no_cache { draft.run_uncached(image, "f") } else { draft.run(image, "f") };
        let after = draft.run(stage, "after");
        let copy = draft.copy(image, after, "f", "copy");
        (draft.graph(), copy)
    };
    let (cached, target) = graph(false);
    build(MemoryWorker::new(&records), &cached, target).await.result.unwrap();
    let (uncached, target) = graph(true);
    let built = build(MemoryWorker::new(&records), &uncached, target).await;
    // Only the copy is looked up, by a content that was read anew.
    assert_eq!(built.calls.executed, names(&["f", "after"]));
    assert_eq!((built.calls.lookups, built.calls.known_digests, built.calls.digests), (1, 0, 1));
    let before = build(MemoryWorker::new(&records), &cached, target).await;
    assert_eq!(before.calls.executed, Vec::<String>::new());
}

#[tokio::test]
async fn results_of_no_cache_replace_those_that_were_there() {
    let records = records();
    let mut draft = Draft::default();
    let image = draft.image("image");
    let stage = draft.run_uncached(image, "stage");
    let graph = draft.graph();
    for value in [1, 2] {
        let worker = MemoryWorker::new(&records).conducting("stage", Conduct::Writes(value));
        let solved = build(worker, &graph, stage).await.result.unwrap();
        assert_eq!(solved.outputs[0]["f"], value);
    }
    let mut draft = Draft::default();
    let image = draft.image("image");
    let stage = draft.run(image, "stage");
    let solved = build(MemoryWorker::new(&records), &draft.graph(), stage).await.result.unwrap();
    assert_eq!((solved.outputs[0]["f"], solved.executed), (2, 0));
}

#[tokio::test]
async fn vertices_of_one_key_are_executed_once() {
    let mut draft = Draft::default();
    let (context, other) = (draft.context("context"), draft.context("other"));
    let image = draft.image("image");
    let first = draft.copy(image, context, "f", "copy");
    let second =
        draft.add(copy_op(&["f"], "copy"), vec![chain(image), content(other, &["f"])], "same", false);
    let both = draft.add(Op::Merge, vec![chain(first), chain(second)], "merge", false);
    let files = [("f", 1)];
    let worker = MemoryWorker::new(&records()).with_context("context", &files).with_context("other", &files);
    let built = build(worker, &draft.graph(), both).await;
    assert_eq!(built.calls.executed, names(&["copy", "merge"]));
    assert!(built.events.iter().any(|event| matches!(event, Event::Cached(vertex) if *vertex == second)));
    built.result.unwrap();
}

#[tokio::test]
async fn the_first_failure_wins_and_the_rest_is_waited_for() {
    let mut draft = Draft::default();
    let image = draft.image("image");
    let patient = draft.run(image, "patient");
    let bad = draft.run(image, "bad");
    let both = draft.add(Op::Merge, vec![chain(patient), chain(bad)], "both", false);
    let worker = MemoryWorker::new(&records())
        .conducting("patient", Conduct::RunsUntilCancelled)
        .conducting("bad", Conduct::Fails);
    let built = build(worker, &draft.graph(), both).await;
    let Err(SolveError::Vertex { vertex, error }) = built.result else { panic!("it fails") };
    assert_eq!((vertex, error), (bad, MemoryError::Scripted("bad".to_owned())));
    assert_eq!((built.calls.executed, built.calls.running), (names(&["patient", "bad"]), 0));
    let ended = |event: &Event| match event {
        Event::Finished { vertex, error, .. } => Some((*vertex, error.clone())),
        _ => None,
    };
    let ended: Vec<_> = built.events.iter().filter_map(ended).collect();
    let texts = [(bad, "`bad` was to fail"), (patient, "`patient` was cancelled")];
    assert_eq!(ended, texts.map(|(vertex, text)| (vertex, Some(text.to_owned()))));
}

#[tokio::test]
async fn a_cancelled_build_ends_when_what_runs_has_ended() {
    let mut draft = Draft::default();
    let (_, top) = three(&mut draft);
    let worker = Arc::new(MemoryWorker::new(&records()).conducting("base", Conduct::RunsUntilCancelled));
    let cancel = CancellationToken::new();
    let (_, options) = options(1, cancel.clone());
    let solving = spawn(draft.graph(), top, &worker, options);
    worker.began.notified().await;
    cancel.cancel();
    assert!(matches!(solving.await.unwrap(), Err(SolveError::Cancelled)));
    assert_eq!((worker.calls().executed, worker.calls().running), (names(&["base"]), 0));
}

#[tokio::test]
async fn a_build_that_was_cancelled_before_it_began_asks_nothing() {
    let mut draft = Draft::default();
    let (_, top) = three(&mut draft);
    let worker = Arc::new(MemoryWorker::new(&records()));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (_, options) = options(1, cancel);
    let result = solve(Arc::new(draft.graph()), &[top], Arc::clone(&worker), options).await;
    assert!(matches!(result, Err(SolveError::Cancelled)));
    assert_eq!(worker.calls(), super::memory_worker::Calls::default());
}

#[tokio::test]
async fn a_step_that_panics_strands_nobody() {
    let mut draft = Draft::default();
    let image = draft.image("image");
    let patient = draft.run(image, "patient");
    let bad = draft.run(image, "bad");
    let after = draft.run(bad, "after");
    let both = draft.add(Op::Merge, vec![chain(patient), chain(after)], "both", false);
    let worker = MemoryWorker::new(&records())
        .conducting("patient", Conduct::RunsUntilCancelled)
        .conducting("bad", Conduct::Panics);
    let worker = Arc::new(worker);
    let (_, options) = options(4, CancellationToken::new());
    let solving = spawn(draft.graph(), both, &worker, options);
    let panic = solving.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "`bad` was to panic");
    assert_eq!(worker.calls().running, 0);
}

#[tokio::test]
async fn permits_are_held_by_executions_alone() {
    let mut draft = Draft::default();
    let image = draft.image("image");
    let runs: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| chain(draft.run(image, name))).collect();
    let mut last = runs[0].vertex;
    for run in &runs[1..] {
        last = draft.add(
            Op::Merge,
            vec![chain(last), run.clone()],
            &format!("merge {}", run.vertex.index()),
            false,
        );
    }
    let worker = Arc::new(MemoryWorker::new(&records()));
    let (_, options) = options(2, CancellationToken::new());
    solve(Arc::new(draft.graph()), &[last], Arc::clone(&worker), options).await.unwrap();
    let calls = worker.calls();
    assert_eq!((calls.most_running, calls.executed.len(), calls.running), (2, 7, 0));
    // Four were ready before two were allowed to run.
    assert!(["a", "b", "c", "d"].iter().all(|run| calls.prepared[..4].iter().any(|name| name == run)));
}

/// A build of several RUNs that have nothing to do with each other, each of which runs until told to end, on a machine
/// without room for a second one.
struct Short {
    worker: Arc<MemoryWorker>,
    room: Room,
    until: HashMap<String, Arc<Notify>>,
    cancel: CancellationToken,
    solving: Solving,
}

impl Short {
    /// Begins it, and waits until the first RUN runs and the second asks for room.
    async fn begin(runs: &[&str]) -> Self {
        let mut draft = Draft::default();
        let image = draft.image("image");
        let context = draft.context("ctx");
        let mut top = draft.copy(image, context, "/file", "copied");
        for run in runs {
            let made = draft.run(image, run);
            top = draft.copy(top, made, run, &format!("copy-{run}"));
        }
        let room = Room::default();
        let until: HashMap<_, _> = runs.iter().map(|run| ((*run).to_owned(), Arc::default())).collect();
        let mut worker = MemoryWorker::new(&records()).with_context("ctx", &[("/file", 1)]);
        worker.room = Some(room.clone());
        for (run, until) in &until {
            worker = worker.conducting(run, Conduct::Waits(Arc::clone(until)));
        }
        let (worker, cancel) = (Arc::new(worker), CancellationToken::new());
        let (_, options) = options(8, cancel.clone());
        let solving = spawn(draft.graph(), top, &worker, options);
        room.asked.notified().await;
        let short = Self { worker, room, until, cancel, solving };
        short.wait_for_runs(1).await;
        short
    }

    /// The RUNs that have begun.
    fn runs(&self) -> Vec<String> {
        self.worker.calls().executed.into_iter().filter(|name| self.until.contains_key(name)).collect()
    }

    /// Lets the RUN end that began as this one.
    fn end(&self, number: usize) {
        self.until[&self.runs()[number - 1]].notify_one();
    }

    /// Waits until so many RUNs have begun; there are no more of them.
    async fn wait_for_runs(&self, number: usize) {
        while self.runs().len() < number {
            self.worker.began.notified().await;
        }
        assert_eq!(self.runs().len(), number);
    }
}

#[tokio::test]
async fn without_room_steps_run_one_after_the_other() {
    let short = Short::begin(&["a", "b", "c"]).await;
    for number in 1..=3 {
        short.wait_for_runs(number).await;
        // Nobody gives room: the next one starts because none runs.
        short.end(number);
    }
    short.solving.await.unwrap().unwrap();
    assert_eq!(short.worker.calls().running, 0);
}

#[tokio::test]
async fn a_step_that_gets_room_runs_beside_others() {
    let short = Short::begin(&["a", "b"]).await;
    short.room.given.notify_one();
    short.wait_for_runs(2).await;
    assert!(short.worker.calls().most_running >= 2);
    short.end(1);
    short.end(2);
    short.solving.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_waits_for_room_ends_with_the_build() {
    let short = Short::begin(&["a", "b"]).await;
    short.cancel.cancel();
    short.end(1);
    assert_eq!(short.runs().len(), 1);
    let worker = Arc::clone(&short.worker);
    assert!(matches!(short.solving.await.unwrap(), Err(SolveError::Cancelled)));
    assert_eq!(worker.calls().running, 0);
}

#[tokio::test]
async fn copies_need_no_room() {
    let short = Short::begin(&["a", "b"]).await;
    while !short.worker.calls().executed.contains(&"copied".to_owned()) {
        short.worker.began.notified().await;
    }
    assert_eq!(short.runs().len(), 1);
    short.end(1);
    short.wait_for_runs(2).await;
    short.end(2);
    short.solving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stage_starts_while_the_one_it_copies_from_is_made() {
    let mut draft = Draft::default();
    let image = draft.image("image");
    let slow = draft.run(image, "slow");
    let early = draft.run(image, "early");
    let copy = draft.copy(early, slow, "slow", "copy");
    let last = draft.run(copy, "last");
    let go = Arc::new(Notify::new());
    let worker = MemoryWorker::new(&records()).conducting("slow", Conduct::Waits(Arc::clone(&go)));
    let worker = Arc::new(worker);
    let (_, options) = options(4, CancellationToken::new());
    let solving = spawn(draft.graph(), last, &worker, options);
    // Both begin though `slow` has not ended.
    while worker.calls().executed.len() < 2 {
        worker.began.notified().await;
    }
    assert_eq!(worker.calls().executed, names(&["slow", "early"]));
    go.notify_one();
    solving.await.unwrap().unwrap();
    assert_eq!(worker.calls().executed, names(&["slow", "early", "copy", "last"]));
}

#[tokio::test]
async fn a_source_that_is_missing_is_told_of_the_copy() {
    let mut draft = Draft::default();
    let context = draft.context("context");
    let image = draft.image("image");
    let copy = draft.copy(image, context, "missing", "copy");
    let mut worker = MemoryWorker::new(&records()).with_context("context", &[]);
    worker.strict_sources = true;
    let built = build(worker, &draft.graph(), copy).await;
    let Err(SolveError::Vertex { vertex, error }) = built.result else { panic!("it fails") };
    assert_eq!((vertex, error), (copy, MemoryError::Missing("missing".to_owned())));
    assert!(matches!(&built.events[..], [Event::Finished { vertex, .. }] if *vertex == copy));
}

#[tokio::test]
async fn a_result_that_vanished_and_came_out_differently_is_an_error() {
    let records = records();
    let graph = |destination: &str| {
        let mut draft = Draft::default();
        let image = draft.image("image");
        let stage = draft.run(image, "stage");
        let copy = draft.copy(image, stage, "f", destination);
        (draft.graph(), stage, copy)
    };
    let (first, _, copy) = graph("first");
    let worker = MemoryWorker::new(&records).conducting("stage", Conduct::Writes(1));
    build(worker, &first, copy).await.result.unwrap();
    let (second, stage, copy) = graph("second");
    let mut worker = MemoryWorker::new(&records).conducting("stage", Conduct::Writes(2));
    worker.prune_after_known = true;
    let result = build(worker, &second, copy).await.result;
    assert!(matches!(result, Err(SolveError::Unstable { vertex }) if vertex == stage));
}

#[tokio::test]
async fn targets_may_be_anything_and_several() {
    let mut draft = Draft::default();
    let context = draft.context("context");
    let image = draft.image("image");
    let run = draft.run(image, "run");
    let graph = Arc::new(draft.graph());
    let worker = Arc::new(MemoryWorker::new(&records()).with_context("context", &[("f", 1)]));
    let (_, options) = options(1, CancellationToken::new());
    let solved = solve(graph, &[run, context, image, run], Arc::clone(&worker), options).await.unwrap();
    let base = result_of(&super::image_op("image"), &[], &[], &worker.contexts);
    let made = result_of(&run_op("run"), &[], std::slice::from_ref(&base), &worker.contexts);
    assert_eq!(solved.outputs, [made.clone(), worker.contexts["context"].clone(), base, made]);
    let has_key: Vec<_> = solved.keys.iter().map(Option::is_some).collect();
    assert_eq!((has_key, solved.executed), (vec![true, false, true, true], 1));
}

/// `ADD url /f/` on an image.
fn with_remote(url: &str, checksum: Option<oci::Digest>) -> (Graph, VertexId) {
    let mut draft = Draft::default();
    let base = draft.image("image");
    let remote = draft.http(url, checksum);
    let added = draft.add_remote(base, remote, "added");
    (draft.graph(), added)
}

#[tokio::test]
async fn a_remote_source_is_identified_in_each_build_and_fetched_once() {
    let records = records();
    let worker = |content| MemoryWorker::new(&records).with_context("url", &[("f", content)]);
    let (graph, target) = with_remote("url", None);
    let first = build(worker(1), &graph, target).await;
    assert_eq!(first.result.unwrap().outputs[0]["added/f"], 1);
    assert_eq!(first.calls.executed, names(&["url", "added"]));
    let second = build(worker(1), &graph, target).await;
    assert_eq!(second.calls.executed, names(&[]));
    assert_eq!((second.calls.identified, second.calls.lookups), (names(&["url"]), 1));
    let changed = build(worker(2), &graph, target).await;
    assert_eq!(changed.result.unwrap().outputs[0]["added/f"], 2);
    assert_eq!(changed.calls.identified, names(&["url"]));
}

#[tokio::test]
async fn equal_content_from_elsewhere_hits() {
    let records = records();
    let worker = |url| MemoryWorker::new(&records).with_context(url, &[("f", 1)]);
    let (graph, target) = with_remote("here", None);
    build(worker("here"), &graph, target).await.result.unwrap();
    let (graph, target) = with_remote("there", None);
    let moved = build(worker("there"), &graph, target).await;
    assert_eq!(moved.calls.executed, names(&[]));
    moved.result.unwrap();
}

#[tokio::test]
async fn what_is_pinned_is_not_asked_for() {
    let records = records();
    let (graph, target) = with_remote("url", Some(oci::Digest::sha256(b"content")));
    let worker = MemoryWorker::new(&records).with_context("url", &[("f", 1)]);
    let first = build(worker, &graph, target).await;
    assert_eq!(first.calls.identified, names(&[]));
    first.result.unwrap();
    let second = build(MemoryWorker::new(&records), &graph, target).await;
    assert_eq!((second.calls.executed, second.calls.identified), (names(&[]), names(&[])));
    second.result.unwrap();
}

#[tokio::test]
async fn a_remote_source_that_cannot_be_identified_fails_its_own_vertex() {
    let (graph, target) = with_remote("url", None);
    let failed = build(MemoryWorker::new(&records()), &graph, target).await;
    let Err(SolveError::Vertex { vertex, error }) = failed.result else { panic!("it fails") };
    assert_eq!((graph.vertex(vertex).meta.name.as_str(), error), ("url", MemoryError::Missing("url".into())));
    assert!(matches!(failed.events[..], [Event::Finished { .. }]), "{:?}", failed.events);
}
