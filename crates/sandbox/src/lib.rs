//! One process in namespaces over a root file system: what a RUN needs of the kernel, and no more.
//!
//! The program re-executes itself as the single-threaded init of the sandbox ([`run_init_if_requested`]), which sets
//! up namespaces, mounts, capabilities and system call filter and then becomes the wanted program, which is process 1
//! of its own pid namespace. [`enter_user_namespace`] makes an ordinary user root of a namespace of their own.
//!
//! Deliberately absent: images, snapshots and layers (the caller names directories), users' names (the caller hands
//! over numbers), progress, reading the environment, and any long-lived daemon.

mod error;
mod probe;
mod process;
mod spec;
mod user_namespace;

pub use error::{SandboxError, SetupFailure};
pub use probe::{HostSupport, Missing, probe_host};
pub use process::{Exit, Running, run_init_if_requested, spawn};
pub use spec::{
    DEFAULT_SHM_SIZE_BYTES, Fallbacks, MountKind, MountSpec, Network, ProcessSpec, ResourceLimit, RootFs,
    Security,
};
pub use user_namespace::{IdMap, IdMode, UserNamespaceError, enter_user_namespace};
