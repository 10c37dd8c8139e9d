//! Whether programs of another architecture are executed here, and a handler for them.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, setrlimit, waitpid};

use super::{During, Step, mounts};
use crate::emulation::ElfFormat;
use crate::{executable, kernel};

const NAME: &CStr = c"probe";

/// Whether programs of the format are executed in any root file system: the machine's processors can, or there is a
/// handler that has its emulator open.
pub(super) fn executes(format: ElfFormat) -> io::Result<bool> {
    let program = executable::sealed(&mut format.probe().as_slice())?;
    let (answer, tell) = io::pipe()?;
    let Some(child) = kernel::fork()? else {
        drop(answer);
        let error = execute_in_empty_root(&program);
        // Closed by an execution, without a word.
        let _ = { tell }.write_all(&error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes());
        kernel::exit_now(1)
    };
    drop(tell);
    let errno = read_errno(answer);
    if let Some(child) = Pid::from_raw(child) {
        // What it would do is of no interest.
        let _ = kill_process(child, Signal::KILL);
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
    Ok(errno.is_none())
}

fn read_errno(mut answer: PipeReader) -> Option<i32> {
    let mut bytes = [0; 4];
    answer.read_exact(&mut bytes).is_ok().then(|| i32::from_ne_bytes(bytes))
}

/// Comes back only with the reason why not.
fn execute_in_empty_root(program: &OwnedFd) -> io::Error {
    let enter = || {
        let root = mounts::empty_root()?;
        rustix::process::fchdir(&root)?;
        rustix::process::chroot(".")?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        // A handler refuses a program that will be closed before its emulator can open it.
        rustix::io::fcntl_setfd(program, rustix::io::FdFlags::empty())
    };
    match enter() {
        Ok(()) => kernel::execute_descriptor(program.as_fd(), NAME),
        Err(error) => error.into(),
    }
}

/// Moves this process into a user namespace, whose ids are still to be mapped.
pub(super) fn make_namespace() -> Step {
    kernel::unshare_user_and_mounts().during("make a user namespace", "")
}

/// Registers the emulator in this process's user namespace. Gives the namespace, and what keeps the handler in it.
pub(super) fn register(format: ElfFormat, emulator: &Path) -> Step<[OwnedFd; 2]> {
    let handlers = mounts::fresh_binfmt_misc().during("mount binfmt_misc", "")?;
    let line = format.registration(emulator).during("register the emulator", emulator)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let register =
        openat(&handlers, "register", flags, Mode::empty()).during("register the emulator", emulator)?;
    File::from(register).write_all(&line).during("register the emulator", emulator)?;
    let namespace = "/proc/self/ns/user";
    let own = File::open(namespace).during("open", namespace)?;
    Ok([own.into(), handlers])
}
