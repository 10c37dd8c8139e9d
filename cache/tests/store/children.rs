//! Other processes: this test program again, told by its environment what to do.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use cache::{Claim, FaultKind, Faults, SnapshotterKind, Store};

use crate::concurrency::make_once;
use crate::crashes::build;
use crate::support::{key, open, options, save, snapshot};

const ROLE: &str = "STORE_TEST_ROLE";
const ROOT: &str = "STORE_TEST_ROOT";
const NUMBER: &str = "STORE_TEST_NUMBER";

/// Written by whoever starts a process. Between fork and exec that has what this one has open, and with it the locks of
/// all stores.
static STARTING: RwLock<()> = RwLock::new(());

/// No process is started as long as this lives, so that a store that is dropped is unlocked.
pub(crate) fn without_starts() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _lock = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// A process that plays `role` on the store in `root`.
pub(crate) fn command(program: &Path, role: &str, root: &Path, number: u64) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--exact", "children::child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ROOT, root)
        .env(NUMBER, number.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Starts a process that plays `role`.
pub(crate) fn start(role: &str, root: &Path, number: u64) -> Child {
    spawn(&mut command(&std::env::current_exe().unwrap(), role, root, number))
}

/// Waits for the line that a child prints with [`say`], and returns what it says.
pub(crate) fn hear(child: &mut Child) -> String {
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    let line = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("SAYS ").map(|(_, said)| said.to_owned()));
    line.unwrap()
}

fn say(what: &str) {
    println!("SAYS {what}");
    std::io::stdout().flush().unwrap();
}

/// Not a test of its own: what the other processes do. In the process that runs the tests there is nothing to do.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let root = std::env::var(ROOT).unwrap();
    let root = Path::new(&root);
    let number: u64 = std::env::var(NUMBER).unwrap().parse().unwrap();
    match role.as_str() {
        "hold" => {
            let store = open(root, SnapshotterKind::Overlay);
            let claim = store.try_claim(&key(number)).unwrap();
            assert!(matches!(claim, Claim::Acquired(_)));
            say("held");
            std::thread::park();
        }
        "make-once" => {
            let store = open(root, SnapshotterKind::Overlay);
            make_once(&store, number, &root.join("log"));
        }
        "fill" => {
            let store = open(root, SnapshotterKind::Overlay);
            let mut parent = None;
            for step in 0..50 {
                let made = snapshot(&store, parent.as_ref(), "file", &format!("{number}-{step}"));
                parent = Some(save(&store, number * 1000 + step, &made));
            }
        }
        "crash" => {
            let faults = Faults::new(number, FaultKind::Kill);
            // It is killed somewhere in here.
            let store = Store::open_with_faults(&options(root, SnapshotterKind::Overlay), faults).unwrap();
            build(&store).unwrap();
        }
        "use" => {
            let store = open(root, SnapshotterKind::Overlay);
            assert!(store.lookup(&key(number)).unwrap().is_some());
            say("used");
            std::thread::park();
        }
        "open" => match Store::open(&options(root, SnapshotterKind::Overlay)) {
            Ok(_) => say("opened"),
            Err(error) => say(&error.to_string()),
        },
        other => panic!("unknown role {other}"),
    }
}
