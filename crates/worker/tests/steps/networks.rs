//! Steps where a network of their own cannot be had.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cache::SnapshotterKind;
use sandbox::PastaOptions;
use solver::{Event, SolveError};
use worker::{DefaultNetwork, Otherwise, WorkerError};

use crate::bench::{Bench, Built, Draft};
use crate::cases::Test;

pub(crate) const ALL: &[(&str, Test)] = &[
    ("without_pasta_steps_share_the_network", without_pasta_steps_share_the_network),
    ("a_pasta_that_hangs_is_waited_for_once", a_pasta_that_hangs_is_waited_for_once),
    ("steps_that_must_be_isolated_fail_without_pasta", steps_that_must_be_isolated_fail_without_pasta),
    ("the_default_network_may_be_none", the_default_network_may_be_none),
];

/// A bench whose pasta is this script.
fn bench(kind: SnapshotterKind, script: &str, otherwise: Otherwise) -> Bench {
    let mut bench = Bench::new(kind);
    let program = bench.directory.path().join("pasta");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let start_deadline = Duration::from_millis(300);
    bench.network = DefaultNetwork::Isolated {
        pasta: Some(PastaOptions { program, start_deadline, ports: Vec::new() }),
        otherwise,
    };
    bench
}

/// Two steps, one after the other, that tell in which network they are.
fn two_steps(bench: &Bench) -> Built {
    let mut draft = Draft::default();
    let base = draft.add(bench.busybox(), Vec::new());
    let first = draft.run(base, "readlink /proc/self/ns/net");
    let second = draft.run(first, "readlink /proc/self/ns/net; ls /sys/class/net | wc -l");
    bench.solve(draft.graph(), second)
}

fn warnings(built: &Built) -> Vec<&str> {
    let mut found = Vec::new();
    for event in &built.events {
        if let Event::Warning { message, .. } = event {
            found.push(message.as_str());
        }
    }
    found
}

/// Whether both steps ran in the network of this machine.
fn share_the_network(built: &Built) -> bool {
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    built.result.is_ok() && built.log.lines().take(2).all(|line| line == own)
}

fn without_pasta_steps_share_the_network(kind: SnapshotterKind) {
    let mut bench = Bench::new(kind);
    bench.network = DefaultNetwork::Isolated { pasta: None, otherwise: Otherwise::Host };
    let built = two_steps(&bench);
    assert!(share_the_network(&built), "{}", built.log);
    let told = "the network of this machine is shared: `pasta` is not installed (package `passt`)";
    assert_eq!(warnings(&built), [told]);
    let again = two_steps(&bench);
    assert_eq!(warnings(&again), [""; 0], "nothing ran");
}

fn a_pasta_that_hangs_is_waited_for_once(kind: SnapshotterKind) {
    let started = |root: &Path| fs::read_to_string(root.join("started")).unwrap_or_default().lines().count();
    let bench = bench(kind, "", Otherwise::Host);
    let root = bench.directory.path().to_owned();
    let script = format!("#!/bin/sh\necho x >> {}\nexec sleep 1000\n", root.join("started").display());
    fs::write(root.join("pasta"), script).unwrap();
    let built = two_steps(&bench);
    assert!(share_the_network(&built), "{}", built.log);
    assert!(started(&root) <= 1);
    let told = warnings(&built);
    assert!(matches!(told[..], [one] if one.ends_with("/pasta` was not ready after 300 ms")), "{told:?}");
    // One that fails is told with its own words.
    let built = two_steps(&self::bench(kind, "echo no device >&2; exit 1", Otherwise::Host));
    let told = warnings(&built);
    assert!(matches!(told[..], [one] if one.ends_with("/pasta` failed: no device")), "{told:?}");
}

fn steps_that_must_be_isolated_fail_without_pasta(kind: SnapshotterKind) {
    let bench = bench(kind, "echo no device >&2; exit 1", Otherwise::Fail);
    let error = two_steps(&bench).result.unwrap_err();
    let SolveError::Vertex { error: WorkerError::NoNetwork(reason), .. } = error else { panic!("{error:?}") };
    assert!(reason.ends_with("/pasta` failed: no device"), "{reason}");
}

fn the_default_network_may_be_none(kind: SnapshotterKind) {
    let mut bench = Bench::new(kind);
    bench.network = DefaultNetwork::None;
    let built = two_steps(&bench);
    assert!(built.result.is_ok() && built.log.ends_with("\n1\n"), "{}", built.log);
}
