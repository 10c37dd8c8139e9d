//! The system calls that have no safe wrapper: all of this crate's unsafe code that talks to the kernel.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::mount::MountAttrFlags;

use crate::seccomp::Instruction;

/// A program to be started in a new process.
pub(crate) struct Launch<'a> {
    /// The executable.
    pub(crate) executable: BorrowedFd<'a>,
    /// Its only argument.
    pub(crate) name: &'a CStr,
    /// What becomes its descriptors 0, 1, 2 and 3. All numbers must be above 3, else one would overwrite another.
    pub(crate) descriptors: [BorrowedFd<'a>; 4],
    /// New namespaces: `CLONE_NEW*`.
    pub(crate) namespaces: c_int,
    /// The network namespace that it is in instead of this process's.
    pub(crate) network: Option<BorrowedFd<'a>>,
    /// The cgroup (version 2) that it starts in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// What the new process needs, prepared so that it neither allocates nor locks.
struct Child {
    executable: RawFd,
    network: Option<RawFd>,
    descriptors: [RawFd; 4],
    arguments: [*const libc::c_char; 2],
    environment: [*const libc::c_char; 1],
    errno: c_int,
}

/// Starts a process and gives its pidfd once it has become the executable.
pub(crate) fn launch(launch: &Launch<'_>) -> io::Result<OwnedFd> {
    // Were it one of the first four itself, it would be overwritten before it is executed.
    let executable = rustix::io::fcntl_dupfd_cloexec(launch.executable, 4)?;
    let mut child = Child {
        executable: executable.as_raw_fd(),
        network: launch.network.map(|network| network.as_raw_fd()),
        descriptors: launch.descriptors.map(|descriptor| descriptor.as_raw_fd()),
        arguments: [launch.name.as_ptr(), ptr::null()],
        environment: [ptr::null()],
        errno: 0,
    };
    let blocked = BlockedSignals::new();
    let pidfd = match launch.cgroup {
        None => clone_sharing_memory(launch.namespaces, &mut child),
        Some(cgroup) => clone_into_cgroup(launch.namespaces, cgroup, &mut child),
    };
    drop(blocked);
    let pidfd = pidfd?;
    if child.errno != 0 {
        // The process has ended already; nobody else waits for it.
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        );
        return Err(io::Error::from_raw_os_error(child.errno));
    }
    Ok(pidfd)
}

const CHILD_STACK_BYTES: usize = 64 << 10;

/// vfork(2) with namespaces: the memory is shared until the child has executed, so that the size of this process does
/// not count.
fn clone_sharing_memory(namespaces: c_int, child: &mut Child) -> io::Result<OwnedFd> {
    let mut stack: Vec<u128> = vec![0; CHILD_STACK_BYTES / size_of::<u128>()];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | namespaces;
    // SAFETY: the stack is writable, aligned to 16 bytes, grows down from its end, and outlives the child's use of it,
    // as CLONE_VFORK suspends this thread until the child has executed or exited. `child` is exclusively borrowed for
    // that time. The child function only makes async-signal-safe calls, with all signals blocked. CLONE_PIDFD writes
    // to the first extra argument.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(start_child, top, flags, ptr::from_mut(child).cast(), &raw mut pidfd)
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: clone succeeded, so that the kernel stored a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// `struct clone_args` of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Only clone3 starts a process in a cgroup, and moving it there later costs milliseconds of the kernel's locks. The
/// memory is copied (on write): sharing it would need a stack switch in assembly.
fn clone_into_cgroup(namespaces: c_int, cgroup: BorrowedFd<'_>, child: &mut Child) -> io::Result<OwnedFd> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VFORK | libc::CLONE_PIDFD | namespaces;
    let arguments = CloneArguments {
        flags: u64::from(flags.cast_unsigned()) | CLONE_INTO_CGROUP,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArguments::default()
    };
    // SAFETY: the structure is that of clone3(2) and of the size that is passed; without CLONE_VM and with a null
    // stack this returns twice as fork(2) does, and the child runs on a copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    if pid == 0 {
        start_child(ptr::from_mut(child).cast());
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: clone3 succeeded, so that the kernel stored a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Runs in the new process until it executes.
extern "C" fn start_child(child: *mut c_void) -> c_int {
    // SAFETY: the pointer is to the `Child` of `launch`, which waits. Only async-signal-safe calls follow, on
    // descriptors and strings that stay valid until the execution; the signal dispositions are this process's own.
    unsafe {
        let child = &mut *child.cast::<Child>();
        if let Some(network) = child.network
            && libc::setns(network, libc::CLONE_NEWNET) < 0
        {
            child.errno = *libc::__errno_location();
            libc::_exit(127);
        }
        for (wanted, &descriptor) in (0..).zip(&child.descriptors) {
            if libc::dup2(descriptor, wanted) < 0 {
                child.errno = *libc::__errno_location();
                libc::_exit(127);
            }
        }
        let mut empty = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut());
        libc::syscall(
            libc::SYS_execveat,
            child.executable,
            c"".as_ptr(),
            child.arguments.as_ptr(),
            child.environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        child.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// All signals are blocked in this thread while this lives: a handler must not run in the child.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are valid for the calls, which fail for no reason but a wrong first argument.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that pthread_sigmask stored.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Replaces this process by a program; comes back only with the reason why not.
pub(crate) fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings end in a null byte, both arrays in a null pointer, and they outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program in a file, without arguments but `name`; comes back only with the reason why
/// not.
pub(crate) fn execute_descriptor(program: BorrowedFd<'_>, name: &CStr) -> io::Error {
    let arguments = [name.as_ptr(), ptr::null()];
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: both arrays end in a null pointer, the strings in a null byte, and they outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Takes over a descriptor that this process was started with.
///
/// # Safety
/// Nothing else in the process may own the descriptor.
pub(crate) unsafe fn adopt(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: asking for flags has no effect on a descriptor that is not open or not ours.
    if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller vouches that it is nobody else's.
    let adopted = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&adopted, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(adopted)
}

/// Makes the standard input another file.
pub(crate) fn replace_stdin(by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number 0 is the standard input's for the whole life of the process; nothing owns what is behind it.
    if unsafe { libc::dup2(by.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Joins a new session keyring, so that the keys of the caller's session are not this process's (`keyctl(2)`).
pub(crate) fn leave_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let unnamed = ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for a keyring without a name; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, unnamed) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Marks every descriptor but 0, 1 and 2 to be closed by the next execution.
pub(crate) fn close_on_execute() -> io::Result<()> {
    // SAFETY: this closes nothing now and touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Every signal does again what it does by default: ignored ones stay ignored across executions, and Rust's runtime
/// ignores SIGPIPE. By the kernel's own call, as libc keeps two signals to itself.
pub(crate) fn reset_signals() {
    // `struct sigaction` of the kernel, of which this is the default on all architectures: all zero.
    let default = [0_u64; 4];
    let size_of_set = size_of::<u64>();
    for signal in 1..=64 {
        let former = ptr::null_mut::<u64>();
        // SAFETY: no handler is installed and the structure is no longer than the array; the call fails for SIGKILL
        // and SIGSTOP.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), former, size_of_set) };
    }
}

/// Attributes of a mount: `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Takes rights from a mount (and with `recursive` from those below): `mount_setattr(2)`.
pub(crate) fn restrict(mount: BorrowedFd<'_>, taken: MountAttrFlags, recursive: bool) -> io::Result<()> {
    let attributes =
        MountAttributes { set: u64::from(taken.bits()), clear: 0, propagation: 0, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends in a null byte and the structure is of the size that is passed; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

impl Program {
    fn of(filter: &[Instruction]) -> io::Result<Self> {
        let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self { length, instructions: filter.as_ptr() })
    }
}

/// Lets whoever reads frames from this tap device see only those that the filter keeps. Other processes that have the
/// device open do not notice.
pub(crate) fn attach_frame_filter(tap: BorrowedFd<'_>, filter: &[Instruction]) -> io::Result<()> {
    let program = Program::of(filter)?;
    // SAFETY: the pointer and length describe the slice, whose elements have the layout of `struct sock_filter`; the
    // kernel copies them during the call.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNATTACHFILTER as _, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Installs a system call filter for this process and all that it starts.
pub(crate) fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let program = Program::of(filter)?;
    // SAFETY: the pointer and length describe the slice, whose elements have the layout of `struct sock_filter`.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves the calling thread, and no other, into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: touches no memory; neither descriptors nor anything else that threads share is unshared.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings up the loopback device of this network namespace.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: a zeroed `ifreq` is valid: integers, and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("the flags fit 16 bits");
    // SAFETY: the request is valid for the call, which only reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forks this process, which must have one thread. Gives nothing in the child.
pub(crate) fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: with one thread the child is a full copy: no lock is held by a thread that is gone.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process at once, without destructors.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: always sound; nothing of the caller runs afterwards.
    unsafe { libc::_exit(code) }
}

/// Moves this process, which must have one thread, into new user and mount namespaces.
pub(crate) fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: touches no memory; no descriptor table is unshared.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves this process, which must have one thread, into a new mount namespace, which belongs to its user namespace.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: touches no memory; no descriptor table is unshared.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs::{self, File};
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    /// Where the second version of cgroups is mounted.
    fn cgroups() -> PathBuf {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("mount cgroup2 somewhere");
        line.split(' ').nth(4).unwrap().into()
    }

    /// What a shell says that is started with these namespaces, perhaps in a cgroup.
    fn shell(script: &str, namespaces: c_int, cgroup: Option<BorrowedFd<'_>>) -> String {
        let busybox = File::open("/bin/busybox").expect("install busybox-static");
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(script.as_bytes()).unwrap();
        input.rewind().unwrap();
        let (mut output, inside) = std::io::pipe().unwrap();
        let high = |descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, 10).unwrap();
        let (input, inside) = (high(input.as_fd()), high(OwnedFd::from(inside).as_fd()));
        let pidfd = launch(&Launch {
            executable: busybox.as_fd(),
            name: c"sh",
            descriptors: [input.as_fd(), inside.as_fd(), inside.as_fd(), inside.as_fd()],
            namespaces,
            network: None,
            cgroup,
        })
        .unwrap();
        drop(inside);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let status = rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        assert_eq!(status.unwrap().unwrap().exit_status(), Some(0), "{text}");
        text
    }

    #[test]
    fn a_process_starts_in_its_namespaces_and_cgroup() {
        assert_eq!(shell("echo $$", libc::CLONE_NEWPID, None), "1\n");
        let path = cgroups().join(format!("rbuild-unit-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let cgroup =
            rustix::fs::openat(CWD, &path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let shown = shell("echo $$; cat /proc/self/cgroup", libc::CLONE_NEWPID, Some(cgroup.as_fd()));
        fs::remove_dir(&path).unwrap();
        assert!(shown.starts_with("1\n"), "{shown}");
        assert!(shown.contains(&format!("/rbuild-unit-{}\n", std::process::id())), "{shown}");
    }

    #[test]
    fn what_cannot_be_executed_is_an_error() {
        let text = File::open("/etc/passwd").unwrap();
        let null = File::open("/dev/null").unwrap();
        let null = rustix::io::fcntl_dupfd_cloexec(&null, 10).unwrap();
        let error = launch(&Launch {
            executable: text.as_fd(),
            name: c"x",
            descriptors: [null.as_fd(); 4],
            namespaces: 0,
            network: None,
            cgroup: None,
        })
        .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
