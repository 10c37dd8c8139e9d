//! The calling side: starting a sandbox and waiting for it.

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Cgroup;
use crate::executable::{self, Protection};
use crate::kernel::{self, Launch};
use crate::seccomp::{self, Policy};
use crate::wire::{self, Answer, Execution, Request, Stub, Surroundings};
use crate::{
    Console, Emulation, Fallback, Kept, MountKind, MountSpec, Network, OwnerChanges, ProcessSpec, RootFs,
    SandboxError, Security, SetupFailure, guard, init, memory, stubs,
};

/// The first argument of an init.
const INIT: &CStr = c"sandbox-init";
/// Where an init or a guard finds its socket.
const SOCKET: i32 = 3;

/// Becomes the init of a sandbox if this process was started as one, and never returns then. To be called first thing
/// in `main`, before any thread starts.
pub fn run_init_if_requested() {
    let Some(name) = std::env::args_os().next() else { return };
    let is_init = name.as_encoded_bytes() == INIT.to_bytes();
    if !is_init && name.as_encoded_bytes() != guard::NAME.to_bytes() {
        return;
    }
    // SAFETY: whoever starts this program under one of these names hands over this descriptor, and nothing in this
    // process has had the time to open another.
    let Some(socket) = (unsafe { kernel::adopt(SOCKET) }) else { kernel::exit_now(1) };
    if is_init { init::run(socket) } else { guard::run(&socket) }
}

/// Starts a process that reads nothing; see [`spawn_on`].
pub fn spawn(spec: &ProcessSpec) -> Result<Running, SandboxError> {
    spawn_on(spec, Console::Output)
}

/// Starts a process in a sandbox. Blocks for the few milliseconds that the set-up takes.
///
/// A program that cannot be found or executed is no error here: it is told on the sandbox's stderr, with exit code 1
/// (255 if the kernel refuses it), as runc does.
pub fn spawn_on(spec: &ProcessSpec, console: Console<'_>) -> Result<Running, SandboxError> {
    check(spec)?;
    let killed_before = memory::kills();
    let null = File::open("/dev/null").map_err(start("opening /dev/null"))?;
    let (stdin, size) = match console {
        Console::Output => (null.as_fd(), None),
        Console::Input(stdin) => (stdin, None),
        // The init opens it, and has nothing to say before.
        Console::Terminal(size) => (null.as_fd(), Some(size)),
    };
    let (stdout, stdout_inside) = pipe_with(PipeFlags::CLOEXEC).map_err(start("making a pipe"))?;
    let (stderr, stderr_inside) = pipe_with(PipeFlags::CLOEXEC).map_err(start("making a pipe"))?;
    let cgroup = Cgroup::for_process(spec)?;
    let in_memory = spec.fallbacks.contains(&Fallback::ExecutableInMemory);
    let protection = if in_memory { Protection::Copy } else { Protection::Mount };
    let mut init = Init::start(
        [stdin, stdout_inside.as_fd(), stderr_inside.as_fd()],
        &Namespaces::of(&spec.network),
        protection,
        cgroup.as_ref(),
    )?;
    drop((stdout_inside, stderr_inside));
    let (spec_inside, execution) = with_emulation(spec);
    let request = Request::Run {
        spec: Box::new(spec_inside),
        surroundings: surroundings(),
        has_new_network: spec.network == Network::None,
        terminal: size,
        execution,
    };
    let answer = init.run(&request, &filter_bytes(spec), &spec.emulation);
    let (stubs, kept) = match answer {
        Ok(Answer::Ready { stubs, kept }) => (stubs, kept),
        other => {
            init.end();
            return Err(refusal(other));
        }
    };
    let terminal = match size.map(|_| wire::receive_descriptor(init.socket.as_fd(), &mut [0])) {
        None => None,
        Some(Ok((_, Some(terminal)))) => Some(terminal),
        Some(_) => {
            init.end();
            return Err(SandboxError::InitDied);
        }
    };
    let is_piped = terminal.is_none();
    Ok(Running {
        pidfd: init.pidfd,
        last_words: init.socket,
        not_executed: None,
        stdout: is_piped.then_some(stdout),
        stderr: is_piped.then_some(stderr),
        terminal,
        written_to: match &spec.rootfs {
            RootFs::Overlay { upper: directory, .. } | RootFs::Directory(directory) => directory.clone(),
        },
        stubs,
        kept,
        cgroup,
        killed_before,
        exit: None,
    })
}

fn check(spec: &ProcessSpec) -> Result<(), SandboxError> {
    let roots: Vec<&Path> = match &spec.rootfs {
        RootFs::Overlay { lower_dirs, upper, work, .. } => {
            lower_dirs.iter().chain([upper, work]).map(PathBuf::as_path).collect()
        }
        RootFs::Directory(directory) => vec![directory],
    };
    let devices = spec.devices.iter().flat_map(|device| [device.path.as_path(), device.source.as_path()]);
    let inside =
        spec.mounts.iter().map(|mount| mount.target.as_path()).chain([spec.cwd.as_path()]).chain(devices);
    let relative = roots.into_iter().chain(inside).find(|path| !path.is_absolute());
    let climbs = |parent: &&String| parent.split('/').any(|name| name == "..");
    let reason = if spec.args.is_empty() {
        "no program is named".to_owned()
    } else if let Some(path) = relative {
        format!("the path `{}` is not absolute", path.display())
    } else if let Some(parent) = spec.cgroup_parent.as_ref().filter(climbs) {
        format!("the cgroup `{parent}` leads upwards")
    } else if spec.owner_changes == OwnerChanges::Ignored && (spec.uid, spec.gid) != (0, 0) {
        "changes of owners can be ignored for root only".to_owned()
    } else {
        return Ok(());
    };
    Err(SandboxError::Invalid { reason })
}

/// The specification with what the emulation needs.
fn with_emulation(spec: &ProcessSpec) -> (ProcessSpec, Execution) {
    let mut spec = spec.clone();
    let execution = match &spec.emulation {
        Emulation::Machine => Execution::Direct,
        Emulation::Handler(_) => Execution::InNamespace,
        Emulation::Prefix { format, emulator, .. } => {
            let kind = MountKind::Bind { source: emulator.clone(), read_only: true };
            spec.mounts.push(MountSpec { target: wire::EMULATOR.into(), kind });
            Execution::Emulated(*format)
        }
    };
    (spec, execution)
}

/// What an answer that was not hoped for tells.
pub(crate) fn refusal(answer: io::Result<Answer>) -> SandboxError {
    match answer {
        Ok(Answer::Failed { step, path, errno }) => SandboxError::Setup(setup_failure(step, path, errno)),
        _ => SandboxError::InitDied,
    }
}

fn setup_failure(step: String, path: PathBuf, errno: i32) -> SetupFailure {
    SetupFailure {
        step,
        path: Some(path).filter(|path| !path.as_os_str().is_empty()),
        source: io::Error::from_raw_os_error(errno),
    }
}

const ALWAYS_NEW: c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

/// The filter as it is sent, assembled once for each kind of program.
fn filter_bytes(spec: &ProcessSpec) -> Arc<[u8]> {
    static FILTERS: Mutex<Vec<(Policy, Arc<[u8]>)>> = Mutex::new(Vec::new());
    let policy = Policy { confined: spec.security == Security::Sandbox, owner_changes: spec.owner_changes };
    let mut filters = FILTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, bytes)) = filters.iter().find(|(known, _)| *known == policy) {
        return Arc::clone(bytes);
    }
    let bytes: Arc<[u8]> =
        seccomp::filter(policy).into_iter().flat_map(seccomp::Instruction::to_bytes).collect();
    filters.push((policy, Arc::clone(&bytes)));
    bytes
}

/// What this process knows about itself; it does not change once there are threads.
pub(crate) fn surroundings() -> Surroundings {
    static FOUND: OnceLock<Surroundings> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let map = read("/proc/self/uid_map");
        let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
        Surroundings { in_user_namespace: !all, groups_denied: read("/proc/self/setgroups").trim() == "deny" }
    })
}

/// The namespaces of an init.
struct Namespaces<'a> {
    /// New ones: `CLONE_NEW*`.
    new: c_int,
    /// The network that is joined.
    network: Option<BorrowedFd<'a>>,
}

impl<'a> Namespaces<'a> {
    /// Those of a sandbox.
    fn of(network: &'a Network) -> Self {
        match network {
            Network::Host => Self { new: ALWAYS_NEW, network: None },
            Network::None => Self { new: ALWAYS_NEW | libc::CLONE_NEWNET, network: None },
            Network::Namespace(namespace) => Self { new: ALWAYS_NEW, network: Some(namespace.as_fd()) },
        }
    }
}

/// An init that has been started and not yet been told what to do.
pub(crate) struct Init {
    pub(crate) pidfd: OwnedFd,
    pub(crate) socket: UnixStream,
}

impl Init {
    /// Starts it with these as stdin, stdout and stderr.
    fn start(
        standard: [BorrowedFd<'_>; 3],
        namespaces: &Namespaces<'_>,
        protection: Protection,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, SandboxError> {
        let executable = executable::own(protection).map_err(start("protecting the executable"))?;
        let (ours, theirs) = UnixStream::pair().map_err(start("making a socket"))?;
        let [stdin, stdout, stderr] = standard;
        let high = |descriptor| above_standard(descriptor).map_err(start("copying a descriptor"));
        let (stdin, stdout, stderr, theirs) =
            (high(stdin)?, high(stdout)?, high(stderr)?, high(theirs.as_fd())?);
        let pidfd = kernel::launch(&Launch {
            executable,
            name: INIT,
            descriptors: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), theirs.as_fd()],
            namespaces: namespaces.new,
            network: namespaces.network,
            cgroup: cgroup.and_then(Cgroup::start_in),
        })
        .map_err(start("starting the init"))?;
        let init = Self { pidfd, socket: ours };
        let guarded = guard::watch(executable, init.pidfd.as_fd(), cgroup.map_or(&[], Cgroup::directories))
            .map_err(start("starting the guard"))
            .and_then(|()| cgroup.map_or(Ok(()), |cgroup| cgroup.move_in(&init.pidfd)));
        if let Err(error) = guarded {
            init.end();
            return Err(error);
        }
        Ok(init)
    }

    /// Starts one that only answers questions, without a word of its own.
    pub(crate) fn start_probe() -> Result<Self, SandboxError> {
        let null =
            File::options().read(true).write(true).open("/dev/null").map_err(start("opening /dev/null"))?;
        Self::start([null.as_fd(); 3], &Namespaces::of(&Network::Host), Protection::Mount, None)
    }

    /// Has one become a program of the machine, with these as stdin, stdout and stderr, and gives its pidfd.
    pub(crate) fn execute(
        standard: [BorrowedFd<'_>; 3],
        program: &Path,
        arguments: Vec<String>,
    ) -> io::Result<OwnedFd> {
        let none = Namespaces { new: 0, network: None };
        let mut init = Self::start(standard, &none, Protection::Mount, None).map_err(io::Error::other)?;
        match init.ask(&Request::Execute { program: program.to_owned(), arguments }) {
            Ok(Answer::Failed { errno, .. }) => {
                init.end();
                Err(io::Error::from_raw_os_error(errno))
            }
            // It says no more once it is the program.
            _ => Ok(init.pidfd),
        }
    }

    /// Tells it what to do and gives its answer.
    pub(crate) fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        let sent = wire::send(&mut self.socket, request);
        self.answer(sent)
    }

    /// The same for a program, with its filter and the namespace that it is executed in.
    fn run(&mut self, request: &Request, filter: &[u8], emulation: &Emulation) -> io::Result<Answer> {
        let sent = wire::send(&mut self.socket, request)
            .and_then(|()| wire::send_bytes(&mut self.socket, filter))
            .and_then(|()| match emulation {
                Emulation::Handler(namespace) => {
                    Ok(wire::send_descriptor(self.socket.as_fd(), b"d", Some(namespace.user_namespace()))?)
                }
                Emulation::Machine | Emulation::Prefix { .. } => Ok(()),
            });
        self.answer(sent)
    }

    /// An init that failed early may have answered without reading all.
    fn answer(&mut self, sent: io::Result<()>) -> io::Result<Answer> {
        let answer = wire::receive(&mut self.socket);
        sent.and(answer)
    }

    /// Kills it and waits for that.
    pub(crate) fn end(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// A copy of a descriptor with a number that none of the child's will have.
pub(crate) fn above_standard(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, SOCKET + 7)?)
}

/// Names the step of an error on the calling side.
pub(crate) fn start<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> SandboxError {
    move |source| SandboxError::Start { step, source: source.into() }
}

/// A process in its sandbox. It is killed, with everything that it started, when this is dropped and when the calling
/// process ends in whatever way.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    /// Where the init tells that it could not become the program.
    last_words: UnixStream,
    not_executed: Option<SetupFailure>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    written_to: PathBuf,
    stubs: Vec<Stub>,
    kept: Vec<Kept>,
    cgroup: Option<Cgroup>,
    killed_before: Option<u64>,
    exit: Option<Exit>,
}

impl Running {
    /// The outer side of its terminal, once: what it shows is read from it, and what is typed is written to it. When the
    /// sandbox has ended, reading fails with `EIO`.
    pub fn terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The reading end of its stdout, once; none of a process on a terminal. It ends when the sandbox has ended.
    pub fn stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.take()
    }

    /// The reading end of its stderr, likewise.
    pub fn stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// What it has in common with the caller against the rule.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Why the program was not executed, once it is known to have ended: `ENOENT` for one that is not there, `EACCES` for
    /// one that may not be, `ENOEXEC` for one of an architecture that neither the machine nor an emulator executes.
    pub fn not_executed(&self) -> Option<&SetupFailure> {
        self.not_executed.as_ref()
    }

    /// A descriptor that becomes readable when the process has ended (`pidfd_open(2)`).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills the process and everything that it started, at once. Does not wait. Harmless once it has ended.
    pub fn kill(&self) {
        // With process 1 the kernel ends its whole pid namespace. The only error is that it has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Blocks until the process has ended and its mount points are cleaned up. Read its output meanwhile.
    pub fn wait(&mut self) -> Result<Exit, SandboxError> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some(status)) => break status,
                Ok(None) => return Err(SandboxError::Wait { source: io::ErrorKind::WouldBlock.into() }),
                Err(source) => return Err(SandboxError::Wait { source: source.into() }),
            }
        };
        let exit = self.judge(&status);
        self.exit = Some(exit);
        // Whatever was said is there: it has ended.
        if self.last_words.set_nonblocking(true).is_ok()
            && let Ok(Answer::Failed { step, path, errno }) = wire::receive(&mut self.last_words)
        {
            self.not_executed = Some(setup_failure(step, path, errno));
        }
        self.cgroup = None;
        stubs::remove(&self.written_to, &self.stubs)?;
        Ok(exit)
    }

    /// The same as [`Self::wait`] for a task of a tokio runtime with I/O enabled. Dropping the future loses nothing.
    pub async fn wait_async(&mut self) -> Result<Exit, SandboxError> {
        if self.exit.is_none() {
            let failed = |source| SandboxError::Wait { source };
            let pidfd = self.pidfd.try_clone().map_err(failed)?;
            // SAFETY: the descriptor is owned by the wrapper and never replaced or closed before it.
            let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
                .map_err(|error| failed(error.into()))?;
            // One event, at the end.
            let _ready = pidfd.readable().await.map_err(failed)?;
        }
        self.wait()
    }

    fn judge(&self, status: &WaitIdStatus) -> Exit {
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
        };
        // A shell tells its child's death by the code.
        let killed = matches!(exit, Exit::Signal(libc::SIGKILL) | Exit::Code(137));
        let ran_out = || match self.cgroup.as_ref().and_then(Cgroup::memory_kills) {
            Some(kills) => kills > 0,
            None => self.killed_before.is_some() && memory::kills() > self.killed_before,
        };
        if killed && ran_out() { Exit::OutOfMemory } else { exit }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.kill();
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
    /// It, or a process of its, was killed because memory ran out, and it ended by that.
    OutOfMemory,
}
