//! What each vertex of a build graph does, on top of the store, the registries and the sandbox.
//!
//! [`LocalWorker`] implements [`solver::Worker`] on this machine: records and snapshots come from [`cache::Store`],
//! images are pulled only when a step needs their files, and steps write snapshots.
//!
//! A [`Debugger`] may look into a step, on the [`Scene`] that it ran on or is going to run on.
//!
//! What is deliberately absent: the order of steps and their keys (`solver`), the form of anything on disk
//! (`cache`), namespaces (`sandbox`), and images as results (`exporter`).

mod carry;
mod cdi;
mod context;
mod copy;
mod debug;
mod error;
mod image;
mod local;
mod merge;
mod mkdir;
mod output;
mod remote;
mod room;
mod run;
mod secret;
mod sources;
mod ssh;
mod user;

pub use carry::{
    CarriedLayer, CarriedMount, CarriedOutput, CarriedResults, CarryMode, CarryRequest, Import, ImportSource,
    Imports, MountContent, MountFilter,
};
pub use cdi::{DEVICE_SPEC_DIRS, DeviceError, DeviceRegistry};
pub use context::{ContextError, ContextSource, IgnoreRules};
pub use copy::CopyError;
pub use debug::{Debugger, Looking};
pub use error::{ProcessFailure, TimeLimit, WorkerError};
pub use image::{ImageError, ImageStore, LazyImage, ResolvedImage};
pub use local::{LocalWorker, Resources, WorkerOptions};
pub use output::{Output, OutputLayer, PendingImage};
pub use remote::{GitOptions, RemoteError};
pub use run::{DefaultNetwork, Otherwise, Program, Scene};
pub use secret::Secret;
pub use sources::{GitVersion, PullPolicy, SourcePolicy, SourceVersions};
pub use ssh::{SshAgent, SshKey, SshKeyError};
pub use user::UserError;
