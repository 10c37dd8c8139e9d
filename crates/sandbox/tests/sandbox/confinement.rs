//! What a process in a sandbox sees and may do, as it reports it itself.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use sandbox::{Exit, Network};

use crate::Test;
use crate::fixture::{Fixture, chain, in_user_namespace, run, words};
use crate::inside::{CALLS, Mounted, OTHER_GATES, Report};

pub(crate) const TESTS: &[Test] =
    &[("the_probe_finds_nothing", check), ("insecure_does_not_share_the_session_keyring", keyring)];

/// Things of the tests' own that a sandbox must not reach: shared memory, semaphores, messages, a message queue and an
/// abstract socket.
struct Lures {
    key: libc::key_t,
    identifiers: [libc::c_int; 3],
    name: String,
    _listener: UnixListener,
}

impl Lures {
    fn lay() -> Self {
        let pid = std::process::id();
        let name = format!("rbuild-probe-{pid}");
        let key = libc::key_t::try_from(0x5242_0000 + u64::from(pid)).unwrap();
        let flags = libc::IPC_CREAT | 0o666;
        // SAFETY: no pointers.
        let identifiers = unsafe {
            [libc::shmget(key, 4096, flags), libc::semget(key, 1, flags), libc::msgget(key, flags)]
        };
        assert!(identifiers.iter().all(|identifier| *identifier >= 0), "{identifiers:?}");
        let queue = CString::new(format!("/{name}")).unwrap();
        // SAFETY: the name ends in a null byte; without attributes the defaults are taken.
        let opened = unsafe {
            libc::mq_open(
                queue.as_ptr(),
                libc::O_CREAT | libc::O_RDONLY,
                0o666,
                std::ptr::null_mut::<libc::mq_attr>(),
            )
        };
        assert!(opened >= 0, "{}", std::io::Error::last_os_error());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self { key, identifiers, name, _listener: UnixListener::bind_addr(&address).unwrap() }
    }
}

impl Drop for Lures {
    fn drop(&mut self) {
        let [memory, semaphores, messages] = self.identifiers;
        let queue = CString::new(format!("/{}", self.name)).unwrap();
        // SAFETY: what is removed was made by this value; null is not read for a removal.
        unsafe {
            libc::shmctl(memory, libc::IPC_RMID, std::ptr::null_mut());
            libc::semctl(semaphores, 0, libc::IPC_RMID);
            libc::msgctl(messages, libc::IPC_RMID, std::ptr::null_mut());
            libc::mq_unlink(queue.as_ptr());
        }
    }
}

/// Runs the probe and compares all that it reports. For root and ordinary users alike.
pub(crate) fn check(fixture: &Fixture) {
    let lures = Lures::lay();
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "");
    let (pid, key) = (std::process::id().to_string(), lures.key.to_string());
    spec.args = words(&["/bin/tests", "inside", "report", &pid, &key, &lures.name]);
    spec.network = Network::None;
    let outcome = run(&spec).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((outcome.exit, outcome.stderr.as_str()), (Exit::Code(0), ""));
    let report: Report = serde_json::from_str(&outcome.stdout).unwrap();
    identity(&report);
    calls(&report);
    mounts(&report);
    devices(&report);
    surroundings(&report);
    namespaces(&report);
    signals(fixture);
}

fn identity(report: &Report) {
    let all = "0 0 0 0";
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    for (name, value) in [
        ("Uid", all),
        ("Gid", all),
        ("Pid", "1"),
        ("PPid", "0"),
        ("NSpid", "1"),
        ("TracerPid", "0"),
        ("CapEff", default),
        ("CapPrm", default),
        ("CapBnd", default),
        ("CapInh", none),
        ("CapAmb", none),
        ("NoNewPrivs", "0"),
        ("Seccomp", "2"),
        ("SigPnd", none),
        ("SigBlk", none),
    ] {
        assert_eq!(report.status[name], value, "{name}");
    }
}

fn calls(report: &Report) {
    let wanted = CALLS.iter().map(|(name, _, errno)| (*name, *errno)).chain(OTHER_GATES.iter().copied());
    let found = report.calls.iter().map(|(name, errno)| (name.as_str(), *errno));
    let different: Vec<_> =
        wanted.clone().zip(found.clone()).filter(|(wanted, found)| wanted != found).collect();
    assert!(different.is_empty() && wanted.count() == found.count(), "{different:?}");
}

fn mounts(report: &Report) {
    for Mounted { point, options, kind } in &report.mounts {
        let wanted: &[&str] = match point.as_str() {
            "/" => &["nodev"],
            "/proc" | "/dev/shm" | "/dev/mqueue" => &["nosuid", "nodev", "noexec"],
            "/dev" => &["nosuid", "nodev"],
            "/dev/pts" => &["nosuid", "noexec"],
            "/proc/bus" | "/proc/fs" | "/proc/irq" | "/proc/sys" | "/proc/sysrq-trigger" => {
                &["ro", "nosuid", "nodev", "noexec"]
            }
            path if path == "/sys" || path.starts_with("/sys/fs/cgroup") => {
                &["ro", "nosuid", "nodev", "noexec"]
            }
            path if path.starts_with("/sys/") => &["ro"],
            path if report.masked.contains_key(path) => &[],
            path => {
                let is_device = report.devices.get(path).is_some_and(|number| number.contains(':'));
                assert!(is_device, "mounted without a reason: `{path}` ({kind})");
                if in_user_namespace() { &["ro"] } else { &["nosuid"] }
            }
        };
        let missing: Vec<_> = wanted.iter().filter(|flag| !options.contains(&(**flag).to_owned())).collect();
        assert!(missing.is_empty(), "`{point}` ({kind}) lacks {missing:?}: {options:?}");
    }
    let shown: Vec<_> = report.masked.iter().filter(|(_, size)| **size > 0).collect();
    assert!(shown.is_empty() && report.masked.contains_key("/proc/keys"), "not masked: {shown:?}");
    assert_eq!(report.writable, [""; 0]);
}

fn devices(report: &Report) {
    let mut wanted = BTreeMap::from([
        ("/dev/full", "1:7"),
        ("/dev/null", "1:3"),
        ("/dev/random", "1:8"),
        ("/dev/tty", "5:0"),
        ("/dev/urandom", "1:9"),
        ("/dev/zero", "1:5"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/mqueue", "directory"),
        ("/dev/pts", "directory"),
        ("/dev/pts/ptmx", "5:2"),
        ("/dev/shm", "directory"),
    ]);
    // Not every kernel has this.
    wanted.extend(Path::new("/proc/kcore").exists().then_some(("/dev/core", "/proc/kcore")));
    let found: BTreeMap<&str, &str> =
        report.devices.iter().map(|(path, kind)| (path.as_str(), kind.as_str())).collect();
    assert_eq!(found, wanted);
    assert_eq!(report.opened_nodes, [""; 0]);
}

fn surroundings(report: &Report) {
    let targets: Vec<(i32, &str)> = report
        .descriptors
        .iter()
        .map(|(number, target)| (*number, target.split(':').next().unwrap()))
        .collect();
    assert_eq!(targets, [(0, "/dev/null"), (1, "pipe"), (2, "pipe")]);
    assert_eq!(report.processes, [1]);
    assert_eq!((report.signal_to_all, report.signal_to_tests), (libc::ESRCH, libc::ESRCH));
    assert_eq!(report.shared, [libc::ENOENT; 4]);
    assert_eq!(report.abstract_socket, libc::ECONNREFUSED);
    assert_eq!(report.environment, ["PATH", "HOME"]);
    assert_eq!((report.terminal, report.typing, report.session), (libc::ENXIO, libc::ENOTTY, 1));
    assert_eq!((report.directory.as_str(), report.umask), ("/", 0o022));
    assert_eq!(report.hostname, "buildkitsandbox");
    assert_eq!(report.limits, fs::read_to_string("/proc/self/limits").unwrap());
    assert_eq!(report.oom_score_adj, fs::read_to_string("/proc/self/oom_score_adj").unwrap());
}

fn namespaces(report: &Report) {
    assert!(report.cgroup.lines().all(|line| line.ends_with(":/")), "{}", report.cgroup);
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let inside = &report.namespaces[name];
        assert!(!inside.is_empty() && *inside != own.to_string_lossy(), "{name}");
    }
    // The sandbox's root is the one of the build: an ordinary user's is root of its own namespace only.
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    assert_eq!(report.namespaces["user"], own.to_string_lossy());
}

/// By a program that sets up no signals itself.
fn signals(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "");
    spec.args = words(&["grep", "-E", "^(Sig(Blk|Ign|Cgt)|ShdPnd)", "/proc/self/status"]);
    let none = "0000000000000000";
    let wanted = format!("ShdPnd:\t{none}\nSigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n");
    assert_eq!(run(&spec).unwrap().stdout, wanted);
}

/// Where the filter does not forbid to look: a key of the caller's session is not found.
fn keyring(fixture: &Fixture) {
    const SESSION_KEYRING: libc::c_long = -3;
    const SEARCH: libc::c_long = 10;
    const UNLINK: libc::c_long = 9;
    let (kind, name) = (c"user", CString::new(format!("rbuild-probe-{}", std::process::id())).unwrap());
    // SAFETY: both texts end in a null byte, and the payload is of the length that is told.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            kind.as_ptr(),
            name.as_ptr(),
            c"x".as_ptr(),
            1_usize,
            SESSION_KEYRING,
        )
    };
    assert!(key > 0, "{}", std::io::Error::last_os_error());
    let search = || {
        // SAFETY: both texts end in a null byte.
        unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION_KEYRING, kind.as_ptr(), name.as_ptr(), 0) }
    };
    assert_eq!(search(), key);
    // To read it by its number takes possession, or the owner's right to, which a key does not give by default.
    let script = format!("tests inside {} 11 {key} 0 0", libc::SYS_keyctl);
    let outcome = fixture.shell_with(&script, |spec| spec.security = sandbox::Security::Insecure);
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, key, SESSION_KEYRING) };
    assert_eq!(outcome.stdout, format!("{}\n", libc::EACCES));
}
