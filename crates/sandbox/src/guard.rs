//! A process beside this one that ends its sandboxes, and programs that it has started, if it dies, in whatever way.
//!
//! So it does with processes that serve them. It holds their pidfds and one end of a socket, and kills them when the
//! other end closes. Then it also restores the terminal, if one was in raw mode. (The kernel's own signal at a parent's
//! death follows the thread that started the child, and is lost when the child runs a set-user-ID program.)

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cgroup;
use crate::executable::{self, Protection};
use crate::kernel::{self, Launch};
use crate::wire;

/// The first argument of a guard.
pub(crate) const NAME: &std::ffi::CStr = c"sandbox-guard";

/// No sandbox has more than a few cgroups, each with a path of at most 4096 bytes.
const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// How long a guard waits for a killed process before it gives up on removing its cgroups.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);

/// The message that comes with a terminal; those that come with a process begin with another letter.
const TERMINAL: &[u8] = b"terminal";
/// The message that takes it back.
const RESTORED: &[u8] = b"restored";

static SOCKET: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Puts a process under guard: a sandbox, with the cgroups that are to be removed after it. Starts the guard if there is none.
pub(crate) fn watch(
    executable: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
    cgroups: &[PathBuf],
) -> std::io::Result<()> {
    let after = if cgroups.is_empty() { After::Nothing } else { After::Remove(cgroups.to_owned()) };
    put_under_guard(executable, pidfd, &after)
}

/// Has a program, which is the first of its process group, and its group end with this process, in whatever way that
/// ends. What the program starts in other groups is not reached.
pub fn guard_process_group(leader: Pid) -> std::io::Result<()> {
    let pidfd = pidfd_open(leader, PidfdFlags::empty())?;
    let executable = executable::own(Protection::Mount)?;
    put_under_guard(executable, pidfd.as_fd(), &After::KillGroup(leader))
}

fn put_under_guard(executable: BorrowedFd<'_>, pidfd: BorrowedFd<'_>, after: &After) -> std::io::Result<()> {
    let mut socket = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = socket.as_ref() {
        match hand_over(known.as_fd(), pidfd, after) {
            // The guard has died; this one gets a new one.
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            result => return Ok(result?),
        }
    }
    let started = start(executable)?;
    hand_over(started.as_fd(), pidfd, after)?;
    *socket = Some(started);
    Ok(())
}

/// Has a terminal restored to the modes that it has now, if this process dies. Starts the guard if there is none.
pub(crate) fn keep_terminal(executable: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut guard = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = match guard.take() {
        Some(socket) => socket,
        None => start(executable)?,
    };
    let socket = guard.insert(socket);
    wire::send_descriptor(socket.as_fd(), TERMINAL, Some(terminal))?;
    // It has read the modes by then.
    wire::receive_descriptor(socket.as_fd(), &mut [0])?;
    Ok(())
}

/// Has the terminal left as it is from now on.
pub(crate) fn release_terminal() {
    let guard = SOCKET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(socket) = guard.as_ref() {
        // One that has died restores nothing.
        let _ = wire::send_descriptor(socket.as_fd(), RESTORED, None);
    }
}

fn start(executable: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let high = crate::process::above_standard(theirs.as_fd())?;
    let null = crate::process::above_standard(null.as_fd())?;
    kernel::launch(&Launch {
        executable,
        name: NAME,
        descriptors: [null.as_fd(), null.as_fd(), null.as_fd(), high.as_fd()],
        namespaces: 0,
        network: None,
        cgroup: None,
    })?;
    Ok(ours)
}

/// What a guard does beside killing the process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum After {
    Nothing,
    /// Removes the cgroups.
    Remove(Vec<PathBuf>),
    /// Kills the process group first, of which the process is the leader: while that is there, its number is taken by
    /// nobody else.
    KillGroup(Pid),
}

impl After {
    /// Written format: a letter, and paths with a null byte after each, or a number in digits.
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Nothing => b"-".to_vec(),
            Self::Remove(paths) => {
                let paths = paths.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat());
                std::iter::once(b'c').chain(paths).collect()
            }
            Self::KillGroup(pid) => format!("g{}", pid.as_raw_nonzero()).into_bytes(),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            Some((b'c', text)) => {
                let paths = text.split(|&byte| byte == 0).filter(|path| !path.is_empty());
                Self::Remove(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
            }
            Some((b'g', digits)) => {
                let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                number.and_then(Pid::from_raw).map_or(Self::Nothing, Self::KillGroup)
            }
            _ => Self::Nothing,
        }
    }
}

fn hand_over(socket: BorrowedFd<'_>, pidfd: BorrowedFd<'_>, after: &After) -> rustix::io::Result<()> {
    wire::send_descriptor(socket, &after.to_bytes(), Some(pidfd))
}

struct Watched {
    pidfd: OwnedFd,
    after: After,
}

/// A terminal, and the modes that it is to have in the end.
struct Kept {
    terminal: OwnedFd,
    modes: Termios,
}

impl Kept {
    fn of(terminal: OwnedFd) -> Option<Self> {
        let modes = tcgetattr(&terminal).ok()?;
        Some(Self { terminal, modes })
    }
}

/// What a guard is told.
enum News {
    Process(Watched),
    Terminal(OwnedFd),
    Restored,
    End,
}

/// The guard's life.
pub(crate) fn run(socket: &OwnedFd) -> ! {
    // The terminal's signals are not for it, and others must not end it before the build.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let mut watched: Vec<Watched> = Vec::new();
    let mut kept = None;
    loop {
        let ready = wait_for_news(socket, &watched);
        if ready.first().copied().unwrap_or(true) {
            match receive(socket) {
                Ok(News::Process(one)) => watched.push(one),
                Ok(News::Terminal(terminal)) => {
                    kept = Kept::of(terminal);
                    let _ = wire::send_descriptor(socket.as_fd(), b"k", None);
                }
                Ok(News::Restored) => kept = None,
                Err(Errno::INTR) => {}
                Ok(News::End) | Err(_) => break,
            }
        }
        // Ended ones are the caller's to clean up, as it lives.
        let mut ended = ready.into_iter().skip(1);
        watched.retain(|_| !ended.next().unwrap_or(false));
    }
    for one in &watched {
        if let After::KillGroup(leader) = one.after
            && pidfd_send_signal(&one.pidfd, Signal::STOP).is_ok()
        {
            let _ = kill_process_group(leader, Signal::KILL);
        }
        let _ = pidfd_send_signal(&one.pidfd, Signal::KILL);
    }
    if let Some(Kept { terminal, modes }) = kept {
        let _ = tcsetattr(&terminal, OptionalActions::Now, &modes);
    }
    for one in &watched {
        let After::Remove(cgroups) = &one.after else { continue };
        let timeout = Timespec::try_from(REMOVAL_PATIENCE).ok();
        let _ = poll(&mut [PollFd::new(&one.pidfd, PollFlags::IN)], timeout.as_ref());
        for path in cgroups {
            cgroup::remove(path);
        }
    }
    kernel::exit_now(0)
}

/// Waits, then tells for the socket and each process whether there is something.
fn wait_for_news(socket: &OwnedFd, watched: &[Watched]) -> Vec<bool> {
    let descriptors = std::iter::once(socket).chain(watched.iter().map(|one| &one.pidfd));
    let mut polled: Vec<PollFd<'_>> =
        descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    match poll(&mut polled, None) {
        Ok(_) => polled.iter().map(|one| !one.revents().is_empty()).collect(),
        Err(_) => vec![false; polled.len()],
    }
}

fn receive(socket: &OwnedFd) -> rustix::io::Result<News> {
    let mut text = vec![0; MAX_MESSAGE_BYTES];
    let (length, descriptor) = wire::receive_descriptor(socket.as_fd(), &mut text)?;
    text.truncate(length);
    Ok(match descriptor {
        Some(terminal) if text == TERMINAL => News::Terminal(terminal),
        Some(pidfd) => News::Process(Watched { pidfd, after: After::from_bytes(&text) }),
        None if text == RESTORED => News::Restored,
        None => News::End,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_is_sent_as_text() {
        let group = Pid::from_raw(4711).unwrap();
        for after in
            [After::Nothing, After::Remove(vec!["/sys/x".into(), "/sys/y".into()]), After::KillGroup(group)]
        {
            assert_eq!(After::from_bytes(&after.to_bytes()), after);
        }
        assert_eq!(After::from_bytes(b"gx"), After::Nothing);
        assert_eq!(After::from_bytes(b""), After::Nothing);
    }
}
