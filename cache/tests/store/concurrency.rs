//! Several threads and processes on one store.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use cache::{Claim, PruneOptions, RecordDetails, Replace, Snapshot, SnapshotterKind, Store};

use crate::children::{hear, start};
use crate::support::{key, open, options, read, save, snapshot, with_each_kind};

/// Looks the key up, or claims it and makes it, noting that in `log`: what a build does for a step.
pub(crate) fn make_once(store: &Store, number: u64, log: &Path) -> Snapshot {
    if let Some(found) = store.lookup(&key(number)).unwrap() {
        return found;
    }
    let _lock = match store.try_claim(&key(number)).unwrap() {
        Claim::Acquired(lock) => lock,
        Claim::Held { .. } => store.wait_claim(&key(number)).unwrap(),
    };
    if let Some(found) = store.lookup(&key(number)).unwrap() {
        return found;
    }
    let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    log.write_all(b"made\n").unwrap();
    let made = snapshot(store, None, "file", &number.to_string());
    store.save(&key(number), &RecordDetails::default(), &made, Replace::No).unwrap()
}

#[test]
fn eight_tasks_make_one_thing_once() {
    with_each_kind(|root, kind| {
        let log = root.join("log");
        let barrier = Barrier::new(8);
        let results: Vec<Snapshot> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        // Opening is part of the race: the store is not there yet.
                        make_once(&open(root, kind), 1, &log)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        assert_eq!(fs::read_to_string(&log).unwrap(), "made\n");
    });
}

#[test]
fn eight_processes_make_one_thing_once() {
    let directory = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..8).map(|_| start("make-once", directory.path(), 1)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(fs::read_to_string(directory.path().join("log")).unwrap(), "made\n");
}

#[test]
fn processes_fill_one_store_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4).map(|number| start("fill", directory.path(), number)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let store = open(directory.path(), SnapshotterKind::Overlay);
    for number in 0..4 {
        for step in 0..50 {
            let found = store.lookup(&key(number * 1000 + step)).unwrap().unwrap();
            assert_eq!(read(&store, &found, "file"), Some(format!("{number}-{step}")));
            assert_eq!(u64::from(found.depth), step + 1);
        }
    }
}

#[test]
fn a_claim_names_its_holder_and_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = start("hold", directory.path(), 7);
    assert_eq!(hear(&mut holder), "held");
    let store = open(directory.path(), SnapshotterKind::Overlay);
    match store.try_claim(&key(7)).unwrap() {
        Claim::Held { process } => assert_eq!(process, Some(holder.id())),
        Claim::Acquired(_) => panic!("it is held"),
    }
    assert!(matches!(store.try_claim(&key(8)).unwrap(), Claim::Acquired(_)));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| store.wait_claim(&key(7)).unwrap());
        holder.kill().unwrap();
        holder.wait().unwrap();
        let lock = waiter.join().unwrap();
        assert!(matches!(store.try_claim(&key(7)).unwrap(), Claim::Held { .. }));
        drop(lock);
        assert!(matches!(store.try_claim(&key(7)).unwrap(), Claim::Acquired(_)));
    });
}

#[test]
fn readers_do_not_wait_for_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let maker = open(directory.path(), SnapshotterKind::Overlay);
    let made = snapshot(&maker, None, "a", "1");
    save(&maker, 1, &made);
    let writer = rusqlite::Connection::open(directory.path().join("meta.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reader = Store::open(&options(directory.path(), SnapshotterKind::Overlay)).unwrap();
    assert_eq!(reader.lookup(&key(1)).unwrap(), Some(made));
    assert_eq!(maker.lookup(&key(1)).unwrap(), Some(made));
    writer.execute_batch("COMMIT").unwrap();
}

#[test]
fn prune_and_builds_do_not_disturb_each_other() {
    with_each_kind(|root, kind| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pruner = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    open(root, kind).prune(&PruneOptions::default()).unwrap();
                }
            });
            let builders: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..15 {
                            build_chain(&open(root, kind));
                        }
                    })
                })
                .collect();
            let results: Vec<_> = builders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::SeqCst);
            pruner.join().unwrap();
            assert!(results.iter().all(Result::is_ok));
        });
    });
}

fn build_chain(store: &Store) {
    let mut parent: Option<Snapshot> = None;
    for step in 0..5 {
        let found = if let Some(found) = store.lookup(&key(step)).unwrap() {
            found
        } else {
            let made = snapshot(store, parent.as_ref(), &format!("file-{step}"), &step.to_string());
            save(store, step, &made)
        };
        for below in 0..=step {
            let content = read(store, &found, &format!("file-{below}"));
            assert_eq!(content, Some(below.to_string()), "step {step}");
        }
        let blob = store.blobs().write_bytes(&step.to_be_bytes()).unwrap();
        assert_eq!(store.blobs().read(&blob).unwrap(), step.to_be_bytes());
        parent = Some(found);
    }
}
