//! One process in namespaces over a root file system: what a RUN needs of the kernel, and no more.
//!
//! The program re-executes itself as the single-threaded init of the sandbox ([`run_init_if_requested`]), which sets
//! up namespaces, mounts, capabilities and system call filter and then becomes the wanted program, which is process 1
//! of its own pid namespace. A terminal of the sandbox's own can stand in for its pipes, while [`RawTerminal`] passes on
//! what is typed at the caller's. [`enter_user_namespace`] makes an ordinary user root of a namespace of their own.
//!
//! Device nodes that a program makes can be stored but not opened: the root file system and `/dev` are mounted so that
//! only the few ordinary devices of `/dev` work, and those that the caller names.
//!
//! [`ConnectedNetwork`] is a network namespace that sandboxes can share one after another, from which `pasta` leads to
//! the outside.
//!
//! Deliberately absent: images, snapshots and layers (the caller names directories), users' names (the caller hands
//! over numbers), progress, reading the environment, and any long-lived daemon. The one process that stays beside the
//! caller's ends with it; its only work is to end the sandboxes too, what connects them, and other programs of the
//! caller's.

mod cgroup;
mod emulation;
mod error;
mod executable;
mod frame_filter;
mod guard;
mod init;
mod kernel;
mod memory;
mod network;
mod probe;
mod process;
mod seccomp;
mod spec;
mod stubs;
mod subordinate;
mod terminal;
mod user_namespace;
mod wire;

pub use cgroup::{CgroupSupport, cgroup_support};
pub use emulation::{ElfClass, ElfData, ElfFormat, Emulation, HandlerNamespace, emulation};
pub use error::{SandboxError, SetupFailure};
pub use guard::guard_process_group;
pub use memory::{available_memory_bytes, total_memory_bytes};
pub use network::{ConnectedNetwork, NetworkError, NetworkNamespace, PastaOptions, PortForward, Transport};
pub use probe::{HostSupport, Missing, probe_host};
pub use process::{Exit, Running, run_init_if_requested, spawn, spawn_on};
pub use spec::{
    CgroupLimits, Console, DEFAULT_SHM_SIZE_BYTES, DeviceKind, DeviceNode, Fallback, Kept, MountKind,
    MountSpec, Network, OverlaySpec, OwnerChanges, ProcessSpec, ResourceLimit, RootAccess, RootFs, Security,
    SwapLimit, TerminalSize, UpperSpec,
};
pub use terminal::RawTerminal;
pub use user_namespace::{IdChoice, IdMap, IdMode, OneId, Refusal, UserNamespaceError, enter_user_namespace};
