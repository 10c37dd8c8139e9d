//! Whole solves on a disk that gets full, and in processes that are killed, at one write after the other: the store is
//! whole, and the next solve is right.
//!
//! A dozen writes of each are chosen; `RBUILD_EVERY_WRITE=1` takes all.

use std::error::Error;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cache::{FaultKind, Faults, SnapshotterKind, Store};
use solver::{SolveOptions, solve};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, Draft, cache};
use crate::cases::Test;

/// The word that makes this program a process that is killed.
pub(crate) const INSIDE: &str = "inside-crash";
/// In memory: each has a store of its own.
const MEMORY: &str = "/dev/shm";
/// So many writes are chosen.
const CHOSEN: u64 = 12;

pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_solve_after_one_that_was_killed_is_right", a_solve_after_one_that_was_killed_is_right),
    ("a_solve_after_a_full_disk_is_right", a_solve_after_a_full_disk_is_right),
];

/// Copies from a context, links between snapshots, a program, a cache, a merge of two.
fn build(bench: &Bench) -> Result<Vec<String>, Box<dyn Error>> {
    let mut draft = Draft::default();
    let base = draft.add(bench.try_busybox()?, Vec::new());
    let context = draft.context();
    let copied = draft.copy(base, context, "tree", "/in/");
    let summed = draft.run(copied, "cat /in/* | sha256sum > /sum");
    let linked = draft.copy(base, summed, "/in", "/out/");
    let both = draft.copy(linked, summed, "/sum", "/out/");
    let end = draft.run_caching(both, None, cache("c"), "echo x > /m/x; cat /out/sum /out/f1 > /end");
    let worker = bench.worker();
    let cancel = CancellationToken::new();
    let options = SolveOptions { parallelism: 2, salt: Vec::new(), cancel, events: Arc::new(|_| ()) };
    let targets = [end];
    let solving = solve(Arc::new(draft.graph()), &targets, Arc::new(worker.clone()), options);
    let solved = bench.runtime.block_on(solving)?;
    worker.finish()?;
    bench.store.finish()?;
    Ok(bench.listing(&solved.outputs[0], &["/in", "/out", "/sum", "/end"]))
}

/// A bench on the store in `root`, with the context of the build.
fn bench(root: &Path, kind: SnapshotterKind, faults: Arc<Faults>) -> Result<Bench, cache::StoreError> {
    let store = Store::open_with_faults(&Bench::options(root, kind), faults)?;
    let bench = Bench::with_store(tempfile::tempdir().unwrap(), store);
    let tree = bench.context().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for number in 0..4 {
        std::fs::write(tree.join(format!("f{number}")), format!("file {number}\n")).unwrap();
    }
    Ok(bench)
}

/// A disk on which nothing goes wrong.
fn no_faults() -> Arc<Faults> {
    Faults::new(u64::MAX, FaultKind::FailOnce)
}

/// What is right, and the writes that are to fail.
fn measure(kind: SnapshotterKind) -> (Vec<String>, Vec<u64>) {
    let directory = tempfile::tempdir_in(MEMORY).unwrap();
    let faults = no_faults();
    let bench = bench(&directory.path().join("store"), kind, Arc::clone(&faults)).unwrap();
    let right = build(&bench).unwrap();
    assert!(right.iter().any(|line| line.starts_with("/end ")), "{right:?}");
    drop(bench);
    let writes = faults.steps();
    assert!(writes > 60, "{writes}");
    let every = std::env::var_os("RBUILD_EVERY_WRITE").is_some();
    let stride = if every { 1 } else { usize::try_from(writes / CHOSEN).unwrap() };
    // Of the last of them none may come, as threads do not do the same each time.
    (right, (1..writes - 10).step_by(stride).collect())
}

/// Verifies the store, and builds in it.
fn check(root: &Path, kind: SnapshotterKind, right: &[String], at: u64) {
    let bench = bench(root, kind, no_faults()).unwrap();
    assert_eq!(bench.store.verify().unwrap().defects, [], "write {at}");
    assert_eq!(build(&bench).unwrap(), right, "write {at}");
    assert_eq!(bench.store.verify().unwrap().defects, [], "write {at}, after a build");
}

fn a_solve_after_a_full_disk_is_right(kind: SnapshotterKind) {
    let (right, writes) = measure(kind);
    for at in writes {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let root = directory.path().join("store");
        let result = bench(&root, kind, Faults::new(at, FaultKind::Full))
            .map_err(Into::into)
            .and_then(|bench| build(&bench));
        match result {
            // Not all that is written is needed.
            Ok(found) => assert_eq!(found, right, "write {at}"),
            Err(error) => {
                let told = chain(error.as_ref());
                assert!(told.to_lowercase().contains("no space"), "write {at}: {told}");
            }
        }
        check(&root, kind, &right, at);
    }
}

fn a_solve_after_one_that_was_killed_is_right(kind: SnapshotterKind) {
    let (right, writes) = measure(kind);
    for at in writes {
        let directory = tempfile::tempdir_in(MEMORY).unwrap();
        let root = directory.path().join("store");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([INSIDE, root.to_str().unwrap(), &format!("{kind:?}"), &at.to_string()]);
        // What it does not remove is in the directory of this.
        let output = command.env("TMPDIR", directory.path()).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "write {at}: {output:?}");
        check(&root, kind, &right, at);
    }
}

/// The process that is killed.
pub(crate) fn build_and_die() -> ! {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [root, kind, at] = &arguments[..] else { panic!("three arguments: {arguments:?}") };
    let kind = if kind == "Copy" { SnapshotterKind::Copy } else { SnapshotterKind::Overlay };
    let faults = Faults::new(at.parse().unwrap(), FaultKind::Kill);
    let bench = bench(Path::new(root), kind, faults).unwrap();
    build(&bench).unwrap();
    drop(bench);
    panic!("the build made fewer writes");
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        told = format!("{told}: {cause}");
        next = cause.source();
    }
    told
}
