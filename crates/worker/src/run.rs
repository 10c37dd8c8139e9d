//! RUN: one process in a sandbox over the snapshot of its input.

mod agent;
mod caches;
mod hosts;
mod mounts;
mod network;
mod one_id;
mod output;
mod redaction;
mod removals;

use std::path::PathBuf;
use std::sync::Arc;

use cache::tree::{TreeKind, TreeView};
use cache::{ActiveSnapshot, Snapshot};
use sandbox::{
    CgroupLimits, Exit, Kept, OwnerChanges, ProcessSpec, ResourceLimit, RootFs, Running, Security,
};
use solver::{Event, ExecContext, LogStream, RunOp, SecurityMode};

use crate::cdi::DeviceRegistry;
use crate::error::ProcessFailure;
use crate::local::{Execution, blocking};
use crate::run::caches::Caches;
use crate::run::mounts::{Mounts, Preparation};
pub(crate) use crate::run::network::Networks;
use crate::run::network::Place;
pub use crate::run::network::{DefaultNetwork, Otherwise};
use crate::run::output::forward;
use crate::run::redaction::Redaction;
pub(crate) use crate::run::removals::Removals;
use crate::user::{self, ProcessUser};
use crate::{LocalWorker, Output, TimeLimit, WorkerError};

pub(crate) use agent::AgentSocket;

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the process of a RUN on top of its first input, streaming its output, and makes a snapshot of what it leaves.
/// When the build is cancelled it is killed.
pub(crate) async fn run(
    worker: &LocalWorker,
    op: &RunOp,
    execution: &Execution<'_>,
) -> Result<Snapshot, WorkerError> {
    let parent = worker.snapshot_of(execution.inputs.first().unwrap_or(&Output::Scratch)).await?;
    let preparation = Arc::new(Preparation::new(worker, op, execution).await?);
    let caches = Caches::take(&preparation, op, execution.context).await?;
    let command: Arc<str> = op.args.join(" ").into();
    let redaction = Arc::new(preparation.redaction());
    let place = worker.networks().take(op, execution.context).await?;
    let start = Start {
        preparation: Arc::clone(&preparation),
        parent,
        op: op.clone(),
        limits: worker.limits().clone(),
        devices: Arc::clone(worker.devices()),
        command: Arc::clone(&command),
        owner_changes: worker.owner_changes(),
    };
    let Started { active, running, mounts, place } = blocking(move || start.start(caches, place)).await?;
    for kept in running.kept().iter().filter(|kept| worker.is_to_tell_of(**kept)) {
        let message = told(*kept).to_owned();
        (execution.context.events)(Event::Warning { vertex: execution.context.vertex, message });
    }
    let finishing =
        Finishing { command: Arc::clone(&command), redaction, limit: worker.step_timeout().cloned() };
    let ended = finishing.finish(running, execution.context).await;
    let removals = Arc::clone(worker.removals());
    blocking(move || {
        // Also what is thrown away takes its time. Agents are there until now.
        drop((place, mounts, preparation));
        check(ended?, &command)?;
        removals.remove(active.take_work_dirs());
        Ok(active.commit()?)
    })
    .await
}

/// What people are told of what is not the step's own.
fn told(kept: Kept) -> &'static str {
    match kept {
        Kept::Proc => {
            "the kernel refuses a fresh /proc here: RUN sees that of the container or machine around it, with its own \
             processes under other numbers than they have for themselves"
        }
        Kept::HostName => {
            "the container around this build does not let it set a host name: RUN has the container's"
        }
    }
}

/// Tells a process that did not end well.
fn check(exit: Exit, command: &str) -> Result<(), WorkerError> {
    let failure = match exit {
        Exit::Code(0) => return Ok(()),
        Exit::Code(code) => ProcessFailure::Code(code),
        Exit::Signal(signal) => ProcessFailure::Signal(signal),
        Exit::OutOfMemory => ProcessFailure::OutOfMemory,
    };
    Err(WorkerError::Process { command: command.to_owned(), failure })
}

/// Everything that a process is started with.
struct Start {
    preparation: Arc<Preparation>,
    parent: Option<Snapshot>,
    op: RunOp,
    limits: CgroupLimits,
    devices: Arc<DeviceRegistry>,
    command: Arc<str>,
    owner_changes: OwnerChanges,
}

/// A process that has been started, and what it runs on.
struct Started {
    active: ActiveSnapshot,
    running: Running,
    mounts: Mounts,
    place: Place,
}

impl Start {
    fn start(&self, caches: Caches, place: Place) -> Result<Started, WorkerError> {
        let Self { preparation, parent, op, .. } = self;
        let store = &preparation.store;
        let view = match parent {
            Some(parent) => Some(TreeView::open(&store.layer_dirs(parent)?, store.tree_mode())?),
            None => None,
        };
        let user = user::process_user(view.as_ref(), &op.user)
            .map_err(|cause| WorkerError::ProcessUser { command: self.command.to_string(), cause })?;
        one_id::check(store, &user, &self.command)?;
        let apt = match self.owner_changes {
            OwnerChanges::Ignored => one_id::apt_stays_root(view.as_ref())?,
            OwnerChanges::Made => None,
        };
        drop(view);
        let mut mounts = preparation.mounts(op, caches)?;
        let active = store.prepare(parent.as_ref())?;
        let rootfs = match store.tree_mode().kind {
            TreeKind::Plain => RootFs::Directory(active.upper().to_owned()),
            TreeKind::Overlay { user_xattrs } => RootFs::Overlay {
                lower_dirs: active.lower_dirs().to_vec(),
                upper: active.upper().to_owned(),
                work: active.work_dir()?,
                user_xattrs,
            },
        };
        let mut spec = process_spec(rootfs, op, &user, &place);
        spec.cgroup_limits = self.limits.clone();
        spec.owner_changes = self.owner_changes;
        spec.mounts = std::mem::take(&mut mounts.specs);
        spec.mounts.extend(apt);
        if !op.devices.is_empty() {
            let given = self.devices.give(&op.devices, &mut spec);
            given.map_err(|cause| WorkerError::Device { command: self.command.to_string(), cause })?;
        }
        spec.env.extend(preparation.variables(op));
        let running = sandbox::spawn(&spec)
            .map_err(|cause| WorkerError::Sandbox { command: self.command.to_string(), cause })?;
        Ok(Started { active, running, mounts, place })
    }
}

fn process_spec(rootfs: RootFs, op: &RunOp, user: &ProcessUser, place: &Place) -> ProcessSpec {
    let hostname = op.hostname.as_deref().unwrap_or(DEFAULT_HOSTNAME);
    let mut spec = ProcessSpec::new(rootfs, op.args.iter().map(|arg| arg.clone().into_bytes()).collect());
    spec.env = environment(op, user).into_iter().map(String::into_bytes).collect();
    spec.cwd = PathBuf::from(if op.cwd.is_empty() { "/" } else { &op.cwd });
    (spec.uid, spec.gid, spec.groups) = (user.uid, user.gid, user.groups.clone());
    hostname.clone_into(&mut spec.hostname);
    spec.network = place.network.clone();
    spec.security = match op.security {
        SecurityMode::Sandbox => Security::Sandbox,
        SecurityMode::Insecure => Security::Insecure,
    };
    spec.hosts = Some(hosts::hosts(hostname, &op.extra_hosts));
    spec.resolv_conf = Some(hosts::resolv_conf(place.is_isolated()));
    if let Some(bytes) = op.shm_size_bytes {
        spec.shm_size_bytes = bytes;
    }
    let limit = |limit: &solver::Ulimit| ResourceLimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    };
    spec.limits = op.ulimits.iter().map(limit).collect();
    spec.cgroup_parent.clone_from(&op.cgroup_parent);
    spec
}

/// The environment: what the Dockerfile says comes last and holds.
fn environment(op: &RunOp, user: &ProcessUser) -> Vec<String> {
    let has =
        |name: &str| op.env.iter().any(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name));
    let mut env = Vec::with_capacity(op.proxy_env.len() + op.env.len() + 2);
    if !has("PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !has("HOME") {
        env.push(format!("HOME={}", user.home));
    }
    env.extend_from_slice(&op.proxy_env);
    env.extend_from_slice(&op.env);
    env
}

/// What belongs to the end of a process.
struct Finishing {
    command: Arc<str>,
    redaction: Arc<Redaction>,
    limit: Option<TimeLimit>,
}

/// Why a process was killed.
enum Kill {
    Cancelled,
    TimedOut(TimeLimit),
}

impl Finishing {
    /// Forwards the output and waits for the end. All of the output has been forwarded when this returns.
    async fn finish(self, mut running: Running, context: &ExecContext) -> Result<Exit, WorkerError> {
        let stdout = forward(running.stdout(), LogStream::Stdout, &self.redaction, context);
        let stderr = forward(running.stderr(), LogStream::Stderr, &self.redaction, context);
        let exit = async {
            let kill = tokio::select! {
                biased;
                () = context.cancel.cancelled() => Kill::Cancelled,
                exit = running.wait_async() => return exit.map(Ok),
                limit = passed(self.limit) => Kill::TimedOut(limit),
            };
            running.kill();
            running.wait_async().await.map(|_| Err(kill))
        };
        let (exit, stdout, stderr) = tokio::join!(exit, stdout, stderr);
        let command = self.command.to_string();
        let exit = match exit {
            Ok(Ok(exit)) => exit,
            // A process that was killed says nothing about the step.
            Ok(Err(Kill::Cancelled)) => return Err(WorkerError::Cancelled),
            Ok(Err(Kill::TimedOut(limit))) => return Err(WorkerError::ProcessTimeout { command, limit }),
            Err(cause) => return Err(WorkerError::Sandbox { command, cause }),
        };
        stdout.and(stderr).map_err(|cause| WorkerError::ProcessOutput { command, cause })?;
        Ok(exit)
    }
}

/// Ends when the limit is over, which is never where there is none.
async fn passed(limit: Option<TimeLimit>) -> TimeLimit {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit.duration).await;
            limit
        }
        None => std::future::pending().await,
    }
}
