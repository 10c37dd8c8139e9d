//! What is asked of a sandbox.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::NetworkNamespace;
use crate::emulation::Emulation;
use crate::wire::{raw_bytes, raw_path, raw_paths};

/// Bytes of `/dev/shm` where nothing else was asked for: 64 MiB, as Docker.
pub const DEFAULT_SHM_SIZE_BYTES: u64 = 64 << 20;

/// One process and its surroundings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its root file system.
    pub rootfs: RootFs,
    /// What the program may do to the root file system.
    pub root_access: RootAccess,
    /// The program and its arguments, as bytes; at least one. A program without a slash is looked up on the `PATH` of
    /// `env`, inside the root file system.
    pub args: Vec<Vec<u8>>,
    /// The environment, `NAME=value`; of several of one name the last counts. Without a `HOME` the one of `uid` in the
    /// root file system's `/etc/passwd` is added (`/` where the user is unknown), as runc does.
    pub env: Vec<Vec<u8>>,
    /// The working directory, absolute; made (mode 0755, root) where it does not exist.
    #[serde(with = "raw_path")]
    pub cwd: PathBuf,
    /// The user, as a number inside the current user namespace.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups (runc lists the primary one here too).
    pub groups: Vec<u32>,
    /// The host name.
    pub hostname: String,
    /// The network. The calling side puts the sandbox into it, so that the init is not told.
    #[serde(skip)]
    pub network: Network,
    /// The confinement.
    pub security: Security,
    /// Mounts beyond the fixed ones (`/proc`, `/sys`, `/dev` and what is below), in the order in which they are made.
    pub mounts: Vec<MountSpec>,
    /// Device nodes beyond the ordinary ones, which work.
    pub devices: Vec<DeviceNode>,
    /// The content of `/etc/resolv.conf`, mounted read-only; the image's own is left in place for `None`.
    pub resolv_conf: Option<Vec<u8>>,
    /// The content of `/etc/hosts`, mounted read-only; the image's own is left in place for `None`.
    pub hosts: Option<Vec<u8>>,
    /// Bytes of `/dev/shm`.
    pub shm_size_bytes: u64,
    /// Limits that differ from those of the calling process.
    pub limits: Vec<ResourceLimit>,
    /// The cgroup beneath which the sandbox's own is made, as a path in each hierarchy that has it or that the limits
    /// need; it is made if there is none. An asked-for cgroup that cannot be made is an error.
    pub cgroup_parent: Option<String>,
    /// Limits of what the sandbox may use, all of its processes together. One that cannot be set is an error.
    pub cgroup_limits: CgroupLimits,
    /// What becomes of changes of owners.
    pub owner_changes: OwnerChanges,
    /// How programs of another architecture are executed.
    #[serde(skip)]
    pub emulation: Emulation,
    /// Newer kernel calls that are to be left unused, so that tests run what stands in for them.
    pub fallbacks: BTreeSet<Fallback>,
}

impl ProcessSpec {
    /// A specification with the defaults of a RUN: root, `/`, host name `buildkitsandbox`, the host's network, Docker's
    /// confinement, nothing mounted, an empty environment.
    pub fn new(rootfs: RootFs, args: Vec<Vec<u8>>) -> Self {
        Self {
            rootfs,
            root_access: RootAccess::Writable,
            args,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            hostname: "buildkitsandbox".to_owned(),
            network: Network::Host,
            security: Security::Sandbox,
            mounts: Vec::new(),
            devices: Vec::new(),
            resolv_conf: None,
            hosts: None,
            shm_size_bytes: DEFAULT_SHM_SIZE_BYTES,
            limits: Vec::new(),
            cgroup_parent: None,
            cgroup_limits: CgroupLimits::default(),
            owner_changes: OwnerChanges::Made,
            emulation: Emulation::Machine,
            fallbacks: BTreeSet::new(),
        }
    }
}

/// What a process is connected to.
#[derive(Debug, Clone, Copy)]
pub enum Console<'a> {
    /// Nothing to read, and two pipes to write to.
    Output,
    /// This to read, and two pipes to write to.
    Input(BorrowedFd<'a>),
    /// A terminal of its own, of this size: the first one in the sandbox's `/dev/pts`. It controls the process, so that
    /// `/dev/tty` and job control work.
    Terminal(TerminalSize),
}

/// The size of a terminal, in characters: `tty_ioctl(4)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// How many lines.
    pub rows: u16,
    /// How many characters in a line.
    pub columns: u16,
}

/// What a program may do to its root file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAccess {
    /// Write to it.
    #[default]
    Writable,
    /// Read it. What is mounted in it is as writable as it is by itself.
    ReadOnly,
}

/// A root file system. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFs {
    /// An overlay, mounted for the sandbox alone and gone with it.
    Overlay {
        /// The lower directories, top first; may be empty.
        #[serde(with = "raw_paths")]
        lower_dirs: Vec<PathBuf>,
        /// Where writes go.
        #[serde(with = "raw_path")]
        upper: PathBuf,
        /// An empty directory on the file system of `upper`.
        #[serde(with = "raw_path")]
        work: PathBuf,
        /// Whether overlay keeps its marks in `user.overlay.*` (a user namespace) instead of `trusted.overlay.*`.
        user_xattrs: bool,
    },
    /// A directory that is written in place.
    Directory(#[serde(with = "raw_path")] PathBuf),
}

/// The network of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// The caller's.
    #[default]
    Host,
    /// Its own, with a loopback device that is up and nothing else.
    None,
    /// One that is there already, which other sandboxes may share.
    Namespace(NetworkNamespace),
}

/// The confinement of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default capabilities, masked paths and system call policy.
    Sandbox,
    /// All capabilities and devices of the caller, a writable `/sys`, no system call policy.
    Insecure,
}

/// What becomes of a program's attempts to change the owner of a file, or its own user and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerChanges {
    /// The kernel decides. In a user namespace of one id it refuses all ids but that one.
    Made,
    /// They succeed without any effect: `chown(2)`, `setgroups(2)`, `setuid(2)` and their like. For a user namespace of
    /// one id, in which there is nobody else to be.
    Ignored,
}

/// A mount beyond the fixed ones. A mount point that has to be made is removed after the process has ended, unless
/// something was put there, and leaves no trace in its parents' times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Where: an absolute path, whose links are followed inside the root file system.
    #[serde(with = "raw_path")]
    pub target: PathBuf,
    /// What.
    pub kind: MountKind,
}

/// What a mount shows. Device nodes in it work no more than those of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or a directory of the calling process.
    Bind {
        /// Its path.
        #[serde(with = "raw_path")]
        source: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
    },
    /// The same of what belongs to the machine itself, with less that it allows.
    HostBind {
        /// Its path.
        #[serde(with = "raw_path")]
        source: PathBuf,
        /// Whether it is mounted read-only.
        read_only: bool,
        /// Whether set-user-ID bits in it mean nothing.
        no_suid: bool,
        /// Whether no program in it can be executed.
        no_exec: bool,
    },
    /// A file or a directory of an overlay that is mounted for this alone. Without an upper directory it is read-only.
    Overlay {
        /// The overlay.
        overlay: OverlaySpec,
        /// The path from the root of the overlay; no part of it is a link.
        #[serde(with = "raw_path")]
        source: PathBuf,
    },
    /// An empty directory in memory, mode 1777.
    Tmpfs {
        /// Its size; half of the memory for `None`.
        size_bytes: Option<u64>,
        /// Whether it stays empty.
        read_only: bool,
    },
    /// A read-only file with this content, which stays in memory.
    File {
        /// Its bytes.
        #[serde(with = "raw_bytes")]
        content: Vec<u8>,
        /// Its mode, at most `0o7777`.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Directories that an overlay is made of. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// The lower directories, top first: at least one, and at least two without an upper one.
    #[serde(with = "raw_paths")]
    pub lower_dirs: Vec<PathBuf>,
    /// Where writes go.
    pub upper: Option<UpperSpec>,
    /// Whether overlay keeps its marks in `user.overlay.*` (a user namespace) instead of `trusted.overlay.*`.
    pub user_xattrs: bool,
}

/// Where the writes to an overlay go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperSpec {
    /// The upper directory.
    #[serde(with = "raw_path")]
    pub directory: PathBuf,
    /// An empty directory on the same file system.
    #[serde(with = "raw_path")]
    pub work: PathBuf,
}

/// A limit of the process: `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Its name without `RLIMIT_`, in lower case (`nofile`).
    pub name: String,
    /// The soft limit; -1 for none.
    pub soft: i64,
    /// The hard limit; -1 for none.
    pub hard: i64,
}

/// A device node that works in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Where it is to be: an absolute path. As with mounts, a file that has to be made there leaves no trace.
    #[serde(with = "raw_path")]
    pub path: PathBuf,
    /// The machine's node. It is shown as it is, with its owner and mode, where none can be made: in a user namespace.
    #[serde(with = "raw_path")]
    pub source: PathBuf,
    /// Its kind.
    pub kind: DeviceKind,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Its mode, at most `0o777`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// Limits of all processes of a sandbox together, which a cgroup keeps (cgroups(7)), in docker's units.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// The most memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most memory and swap.
    pub memory_swap: Option<SwapLimit>,
    /// The weight against others, 2 to 262,144; 1,024 is usual.
    pub cpu_shares: Option<u64>,
    /// The time after which the quota is renewed, in microseconds; 100,000 for `None`.
    pub cpu_period_us: Option<u64>,
    /// The time on processors within a period, in microseconds.
    pub cpu_quota_us: Option<u64>,
    /// The processors, as a list (`0-2,7`).
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, as a list.
    pub cpuset_mems: Option<String>,
}

/// How much memory and swap there may be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapLimit {
    /// As much swap as there is.
    Unlimited,
    /// So many bytes of memory and swap together; it needs a limit of memory, which is not above it.
    TotalBytes(u64),
}

/// What a process has in common with its caller, because the kernel or a system call filter around the caller refuses it
/// one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kept {
    /// `/proc`: it shows the caller's processes, and the sandbox's own by other numbers than these have for themselves.
    Proc,
    /// The host name.
    HostName,
}

/// A newer kernel call that is to be left unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fallback {
    /// Mount overlays with `mount(2)` instead of `fsopen(2)` and `lowerdir+` (Linux 6.7).
    OverlayByMount,
    /// Make mounts read-only by remounting instead of `mount_setattr(2)` (Linux 5.12).
    ReadOnlyByRemount,
    /// Run the init from a copy in memory instead of a read-only mount of the executable.
    ExecutableInMemory,
    /// Use the caller's `/proc`, as where the kernel refuses a fresh one.
    OuterProc,
    /// Use the caller's `/sys`, as where the kernel refuses a fresh one.
    OuterSys,
    /// Bind the caller's device nodes instead of making them.
    BindDevices,
    /// Move into the cgroup after the start instead of starting in it (`CLONE_INTO_CGROUP`).
    LateCgroup,
}
