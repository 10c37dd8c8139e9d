//! A plan says what a solve then does.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::memory_worker::{Draft, MemoryWorker, Records, build};
use crate::{Fate, Graph, VertexId, plan};

fn records() -> Arc<Mutex<Records>> {
    Arc::default()
}

/// The fates of all vertices by their names, and what was executed meanwhile.
async fn fates(worker: &MemoryWorker, graph: &Graph, target: VertexId) -> Vec<(String, &'static str)> {
    let fates = plan(graph, &[target], worker, b"root", &CancellationToken::new()).await.unwrap();
    assert!(worker.calls().executed.is_empty(), "a plan executes nothing");
    let word = |fate: &Fate| match fate {
        Fate::Unneeded => "unneeded",
        Fate::Cached => "cached",
        Fate::Executed { parts, .. } => {
            assert!(!parts.0.is_empty());
            "executed"
        }
        Fate::Undecided => "undecided",
        Fate::Named => "named",
    };
    graph.vertices().iter().zip(&fates).map(|(vertex, fate)| (vertex.meta.name.clone(), word(fate))).collect()
}

fn expected(fates: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    fates.iter().map(|(name, fate)| ((*name).to_owned(), *fate)).collect()
}

/// A stage that is copied from, beside one that nobody needs.
fn draft(made: &str) -> (Graph, VertexId) {
    let mut draft = Draft::default();
    let context = draft.context("context");
    let image = draft.image("image");
    let stage = draft.run(image, made);
    draft.run(image, "other");
    let copy = draft.copy(image, stage, made, "copy");
    let with_context = draft.copy(copy, context, "c", "last");
    (draft.graph(), with_context)
}

#[tokio::test]
async fn a_plan_knows_what_is_cached_and_what_depends_on_a_result() {
    let records = records();
    let (graph, target) = draft("f");
    let worker = || MemoryWorker::new(&records).with_context("context", &[("c", 1)]);
    let cold = fates(&worker(), &graph, target).await;
    let named = [("context", "named"), ("image", "named")];
    let all = [("f", "executed"), ("other", "unneeded"), ("copy", "undecided"), ("last", "undecided")];
    assert_eq!(cold, expected(&[&named[..], &all[..]].concat()));
    build(worker(), &graph, target).await.result.unwrap();
    let warm = fates(&worker(), &graph, target).await;
    let all = ["context", "image", "f", "other", "copy"].map(|name| (name, "unneeded"));
    assert_eq!(warm, expected(&[&all[..], &[("last", "cached")]].concat()));
    // Another context: what is below is cached and not needed to know it.
    let worker = MemoryWorker::new(&records).with_context("context", &[("c", 2)]);
    let changed = fates(&worker, &graph, target).await;
    let all = [
        ("context", "named"),
        ("image", "unneeded"),
        ("f", "unneeded"),
        ("other", "unneeded"),
        ("copy", "cached"),
        ("last", "executed"),
    ];
    assert_eq!(changed, expected(&all));
}

#[tokio::test]
async fn a_plan_of_no_cache_looks_nothing_up() {
    let records = records();
    let graph = |no_cache| {
        let mut draft = Draft::default();
        let image = draft.image("image");
        let first = if no_cache { draft.run_uncached(image, "a") } else { draft.run(image, "a") };
        let second = draft.run(first, "b");
        (draft.graph(), second)
    };
    let (cached, target) = graph(false);
    build(MemoryWorker::new(&records), &cached, target).await.result.unwrap();
    let (uncached, target) = graph(true);
    let fates = fates(&MemoryWorker::new(&records), &uncached, target).await;
    assert_eq!(fates, expected(&[("image", "named"), ("a", "executed"), ("b", "executed")]));
}
