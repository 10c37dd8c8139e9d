//! Running programs and preparing files for tests of the whole binary.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// Runs `command` and collects what it prints.
///
/// # Panics
/// When the program cannot be started, or has not ended after `limit`: it is killed then.
pub fn run_with_timeout(mut command: Command, limit: Duration) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    // The readers end when the program does, or when its last descendant closes the pipes.
    let read = |receiver: mpsc::Receiver<Vec<u8>>| receiver.recv_timeout(limit);
    if let (Ok(stdout), Ok(stderr)) = (read(stdout), read(stderr)) {
        let status = child.wait().expect("a child can be waited for");
        return Output { status, stdout, stderr };
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    panic!("{command:?} has not ended after {limit:?}");
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A stream that breaks ends like one that is closed; what came before is what there is.
        let _ = stream.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Sets the access and modification times of `path`, which is not followed if it is a link.
///
/// # Panics
/// When the file system refuses.
pub fn set_times(path: &Path, time: SystemTime) {
    let since_epoch = time.duration_since(UNIX_EPOCH).expect("times of tests are past 1970");
    let time = Timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).expect("times of tests are near"),
        tv_nsec: since_epoch.subsec_nanos().into(),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|error| panic!("cannot set the times of {}: {error}", path.display()));
}
