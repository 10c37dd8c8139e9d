//! Network namespaces that sandboxes share, and the program that connects them; played by scripts here.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use sandbox::{ConnectedNetwork, Exit, Network, NetworkError, NetworkNamespace, PastaOptions};

use crate::Test;
use crate::fixture::{Fixture, chain};

pub(crate) const TESTS: &[Test] = &[
    ("sandboxes_share_a_network", shared),
    ("a_connection_that_is_ready", ready),
    ("a_connection_that_fails", failing),
    ("a_connection_that_is_never_ready", late),
];

/// Two sandboxes, one after the other, in one namespace that is not the machine's.
pub(crate) fn shared(fixture: &Fixture) {
    let name = format!("rbuild-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let script = format!(
        "readlink /proc/self/ns/net; grep -c @{name} /proc/net/unix; ls /sys/class/net; \
         ping -c 1 -w 2 127.0.0.1 > /dev/null && echo up; awk '$2 == \"/sys\" {{print $3}}' /proc/mounts"
    );
    let namespace = NetworkNamespace::new().unwrap();
    let shown = || {
        let network = Network::Namespace(namespace.clone());
        let outcome = fixture.shell_with(&script, |spec| spec.network = network);
        assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
        outcome.stdout
    };
    let first = shown();
    let (link, rest) = first.split_once('\n').unwrap();
    assert_eq!(rest, "0\nlo\nup\nsysfs\n");
    assert_ne!(link, fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    assert_eq!(shown(), first);
    let host = fixture.shell(&script);
    assert_eq!(host.stdout.lines().nth(1), Some("1"), "{host:?}");
}

/// A program that stands for pasta.
fn program(fixture: &Fixture, name: &str, script: &str) -> PathBuf {
    let path = fixture.path(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start(program: PathBuf, deadline_ms: u64) -> Result<ConnectedNetwork, NetworkError> {
    ConnectedNetwork::start(&PastaOptions { program, start_deadline: Duration::from_millis(deadline_ms) })
}

fn ready(fixture: &Fixture) {
    let script =
        format!("readlink /proc/self/fd/0 > {}; echo $$; exec sleep 1000", fixture.path("link").display());
    let mut network = start(program(fixture, "ready", &script), 60_000).unwrap();
    assert!(network.is_connected());
    let inside = Network::Namespace(network.namespace().clone());
    let link = fixture.shell_with("readlink /proc/self/ns/net", |spec| spec.network = inside).stdout;
    assert_eq!(fs::read_to_string(fixture.path("link")).unwrap(), link);
    network.kill();
    while network.is_connected() {
        std::thread::yield_now();
    }
}

fn failing(fixture: &Fixture) {
    let path = program(fixture, "failing", "echo first >&2; echo 'no such device' >&2; exit 1");
    let error = chain(&start(path.clone(), 60_000).unwrap_err());
    assert_eq!(error, format!("`{}` failed: no such device", path.display()));
    let path = fixture.path("no-such-program");
    let error = chain(&start(path.clone(), 60_000).unwrap_err());
    assert_eq!(error, format!("cannot run `{}`: No such file or directory (os error 2)", path.display()));
}

fn late(fixture: &Fixture) {
    let pid = fixture.path("pid");
    let path = program(fixture, "late", &format!("echo $$ > {}; exec sleep 1000", pid.display()));
    // It may be killed before it has written its number.
    let mut number = String::new();
    while number.is_empty() {
        let error = chain(&start(path.clone(), 50).unwrap_err());
        assert_eq!(error, format!("`{}` was not ready after 50 ms", path.display()));
        number = fs::read_to_string(&pid).unwrap_or_default();
    }
    assert!(!fs::exists(format!("/proc/{}", number.trim())).unwrap(), "it lives on");
}
