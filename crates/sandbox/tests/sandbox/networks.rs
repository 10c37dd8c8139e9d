//! Network namespaces that sandboxes share, and pasta, which connects them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sandbox::{ConnectedNetwork, Exit, Network, NetworkError, NetworkNamespace, PastaOptions};

use crate::Test;
use crate::fixture::{Fixture, chain};

pub(crate) const TESTS: &[Test] = &[
    ("sandboxes_share_a_network", shared),
    ("a_connection_leads_to_the_outside_alone", connected),
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
    ConnectedNetwork::start(&PastaOptions {
        program,
        start_deadline: Duration::from_millis(deadline_ms),
        ports: Vec::new(),
    })
}

/// An outside that is not the machine's: a default route, and an address of each kind.
const OUTSIDE: &str = "\
    ip link set lo up && ip link add outside type veth peer name far && ip link set far up && \
    ip addr add 10.77.0.1/24 dev outside && ip addr add fd77::1/64 dev outside nodad && ip link set outside up && \
    ip route add default via 10.77.0.254 && ip -6 route add default via fd77::fe && exec \"$@\"";

fn connected(_: &Fixture) {
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", OUTSIDE, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg("with-an-outside")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Answers whoever connects, with this word.
fn serve(address: &str, word: &'static str) -> String {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever is gone misses nothing.
            let _ = stream.unwrap().write_all(word.as_bytes());
        }
    });
    format!("tests call {address} {port}")
}

/// The part that has an outside of its own.
pub(crate) fn with_an_outside() {
    let fixture = &Fixture::new();
    let program = PathBuf::from("/usr/bin/pasta");
    assert!(program.exists(), "install passt");
    let network = start(program, 60_000).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let inside = |script: &str| {
        let network = Network::Namespace(network.namespace().clone());
        fixture.shell_with(script, |spec| spec.network = network).stdout
    };
    assert_eq!(inside("ls /sys/class/net"), "eth0\nlo\n");
    let outside = ["10.77.0.1", "fd77::1", "0.0.0.0"].map(|address| serve(address, "hello\n"));
    let outside = outside.map(|call| call.replace("0.0.0.0", "10.77.0.1"));
    assert_eq!(inside(&outside.join("; ")), "hello\n".repeat(3));
    // By their own names, by the gateway's, and by an address of the machine.
    let hidden = ["127.0.0.1", "::1"].map(|address| serve(address, "secret\n"));
    let others = ["192.0.0.1", "192.0.0.3", "10.77.0.1"].map(|other| hidden[0].replace("127.0.0.1", other));
    assert_eq!(inside(&format!("{} & {} & wait", hidden.join(" & "), others.join(" & "))), "");
    no_loopback_by_device(&inside);
    assert!(network.is_connected());
    network.kill();
    while network.is_connected() {
        std::thread::yield_now();
    }
}

/// Loopback addresses lead nowhere either if the packet is sent through the device on purpose.
fn no_loopback_by_device(inside: &dyn Fn(&str) -> String) {
    let [hidden, hidden_v6, any, open] =
        ["127.0.0.1", "::1", "0.0.0.0", "10.77.0.1"].map(|address| UdpSocket::bind((address, 0)).unwrap());
    let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let script = format!(
        "tests bound 127.0.0.1 {0}; tests bound ::1 {1}; tests bound ::ffff:127.0.0.1 {0}; tests bound 127.0.0.1 {2}; \
         tests bound 0.0.0.0 {2}; tests bound 10.77.0.1 {3}",
        port(&hidden),
        port(&hidden_v6),
        port(&any),
        port(&open)
    );
    inside(&script);
    // Packets are forwarded in their order.
    open.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(open.recv(&mut [0; 8]).expect("what is for the outside arrives"), 1);
    for socket in [hidden, hidden_v6, any] {
        socket.set_nonblocking(true).unwrap();
        let error = socket.recv(&mut [0; 8]).expect_err("nothing arrives");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
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
