//! The inside: the init of the sandbox, from its start to the program that it becomes. One thread; nobody else is in
//! the namespaces yet.

mod devices;
mod emulation;
mod execute;
mod mounts;
mod points;
mod privileges;
mod rootfs;
mod terminal;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::emulation::ElfFormat;
use crate::seccomp::Instruction;
use crate::wire::{self, Answer, Execution, Probed, Request, Stub, Surroundings};
use crate::{Kept, ProcessSpec, RootAccess, TerminalSize, kernel};

/// A step that failed.
struct Failed {
    step: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl Failed {
    fn into_answer(self) -> Answer {
        let Self { step, path, error } = self;
        Answer::Failed { step: step.to_owned(), path, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

type Step<T = ()> = Result<T, Failed>;

/// Names the step and the path of an error.
trait During<T> {
    /// For a step that is about a path.
    fn during(self, step: &'static str, path: impl AsRef<Path>) -> Step<T>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str, path: impl AsRef<Path>) -> Step<T> {
        self.map_err(|error| Failed { step, path: path.as_ref().to_owned(), error: error.into() })
    }
}

/// The exit code of an init that failed; the answer says why.
const FAILED: i32 = 1;

/// Does what the calling side asks for over the socket.
pub(crate) fn run(socket: OwnedFd) -> ! {
    let mut socket = UnixStream::from(socket);
    // The calling side is gone, or died while it asked: nobody to tell.
    let Ok(request) = wire::receive(&mut socket) else { kernel::exit_now(FAILED) };
    match request {
        Request::Run { spec, surroundings, has_new_network, terminal, execution } => {
            let Ok(filter) = wire::receive_bytes(&mut socket) else { kernel::exit_now(FAILED) };
            let namespace = match execution {
                Execution::InNamespace => match wire::receive_one_descriptor(&socket) {
                    Ok(namespace) => Some(namespace),
                    Err(_) => kernel::exit_now(FAILED),
                },
                Execution::Direct | Execution::Emulated(_) => None,
            };
            match set_up(&spec, (surroundings, terminal), has_new_network, (&filter, namespace.as_ref())) {
                Ok(SetUp { stubs, kept, terminal }) => {
                    let told = wire::send(&mut socket, &Answer::Ready { stubs, kept });
                    let handed_over = terminal.map_or(Ok(()), |outer| {
                        wire::send_descriptor(socket.as_fd(), b"t", Some(outer.as_fd()))
                    });
                    if told.is_err() || handed_over.is_err() {
                        kernel::exit_now(FAILED);
                    }
                    execute::become_program(&spec, execution, &mut socket)
                }
                Err(failed) => {
                    let _ = wire::send(&mut socket, &failed.into_answer());
                    kernel::exit_now(FAILED)
                }
            }
        }
        Request::Execute { program, arguments } => {
            let error = execute::become_other(&program, arguments);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let step = "execute".to_owned();
            let _ = wire::send(&mut socket, &Answer::Failed { step, path: program, errno });
            kernel::exit_now(FAILED)
        }
        Request::Probe => {
            let _ = wire::send(&mut socket, &Answer::Probed(probe()));
            kernel::exit_now(0)
        }
        Request::Executes(format) => {
            if let Err(failed) = emulate(&mut socket, format) {
                let _ = wire::send(&mut socket, &failed.into_answer());
            }
            kernel::exit_now(0)
        }
        // These follow another.
        Request::MakeNamespace | Request::Register(_) => kernel::exit_now(FAILED),
    }
}

/// What came of the steps.
struct SetUp {
    /// The mount points that were made.
    stubs: Vec<Stub>,
    /// What could not be the sandbox's own.
    kept: Vec<Kept>,
    /// The outer side of the terminal.
    terminal: Option<OwnedFd>,
}

/// Answers what is asked about programs of another architecture, step by step, until the calling side has enough.
fn emulate(socket: &mut UnixStream, format: ElfFormat) -> Step {
    let tell = "answer";
    // Where that cannot be tried out, an emulator does no harm, and without one the program itself tells.
    let executes = emulation::executes(format).unwrap_or(false);
    wire::send(&mut *socket, &Answer::Executes(executes)).during(tell, "")?;
    let Ok(Request::MakeNamespace) = wire::receive(&mut *socket) else { return Ok(()) };
    emulation::make_namespace()?;
    wire::send(&mut *socket, &Answer::NamespaceMade).during(tell, "")?;
    let Ok(Request::Register(emulator)) = wire::receive(&mut *socket) else { return Ok(()) };
    let descriptors = emulation::register(format, &emulator.0)?;
    wire::send(&mut *socket, &Answer::Registered).during(tell, "")?;
    for descriptor in &descriptors {
        wire::send_descriptor(socket.as_fd(), b"d", Some(descriptor.as_fd())).during(tell, "")?;
    }
    Ok(())
}

/// The steps, in their order.
fn set_up(
    spec: &ProcessSpec,
    (surroundings, terminal): (Surroundings, Option<TerminalSize>),
    has_new_network: bool,
    (filter, namespace): (&[u8], Option<&OwnedFd>),
) -> Step<SetUp> {
    // A session of its own: the terminal's Ctrl-C is for the build, which then kills the sandbox.
    rustix::process::setsid().during("make a session", "")?;
    // Without it, the program would possess the keys of the user's session. A kernel without keys has none to keep from
    // it, and where the call is forbidden it is so to the program.
    let _ = kernel::leave_session_keyring();
    // Modes of what is made below are exact, and the program's mask is this one whatever the caller's was.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut kept = Vec::new();
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        // The kernel lets this process do it in a namespace of its own: this is the filter of a container.
        Err(Errno::PERM) => kept.push(Kept::HostName),
        result => result.during("set the host name", &spec.hostname)?,
    }
    if has_new_network {
        kernel::bring_up_loopback().during("bring up the loopback device", "")?;
    }
    hide_mounts()?;
    // Everything from outside is opened before the root changes, attached after it.
    let gathered = mounts::gather(spec, surroundings)?;
    if !gathered.fresh_proc {
        kept.push(Kept::Proc);
    }
    rootfs::enter(spec)?;
    let stubs = mounts::attach(spec, gathered)?;
    let terminal = terminal.map(terminal::open).transpose()?;
    privileges::limit(&spec.limits)?;
    execute::enter_working_directory(&spec.cwd)?;
    // Mount points and the working directory are there by now.
    if spec.root_access == RootAccess::ReadOnly {
        mounts::make_root_read_only()?;
    }
    if let Some(namespace) = namespace {
        privileges::enter_namespace(namespace, spec.security)?;
    }
    privileges::drop_all(spec, surroundings, filter)?;
    Ok(SetUp { stubs, kept, terminal })
}

/// What is mounted from now on stays in this namespace.
fn hide_mounts() -> Step {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during("make the mounts private", "/")
}

fn probe() -> Probed {
    let errno = |result: io::Result<()>| result.err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
    Probed {
        mount: errno(mounts::try_fresh("tmpfs")),
        host_name: errno(rustix::system::sethostname(b"probe").map_err(Into::into)),
        fresh_proc: errno(mounts::try_fresh("proc")),
        fresh_sys: errno(mounts::try_fresh("sysfs")),
        mount_setattr: errno(mounts::try_read_only()),
        seccomp: errno(kernel::install_filter(&[Instruction {
            code: 0x06,
            jump_true: 0,
            jump_false: 0,
            operand: 0x7FFF_0000,
        }])),
    }
}
