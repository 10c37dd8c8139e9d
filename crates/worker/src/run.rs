//! RUN: one process in a sandbox over the snapshot of its input.

mod agent;
mod caches;
mod emulation;
mod hosts;
mod mounts;
mod network;
mod one_id;
mod output;
mod redaction;
mod removals;
mod scene;

use std::path::PathBuf;
use std::sync::Arc;

use cache::Snapshot;
use oci::Platform;
use sandbox::{Emulation, Exit, Kept, ProcessSpec, ResourceLimit, RootFs, Running, Security, SetupFailure};
use solver::{Event, ExecContext, LogStream, RunOp, SecurityMode};

use crate::error::ProcessFailure;
use crate::local::{Execution, blocking};
pub(crate) use crate::run::caches::mount_key;
use crate::run::network::Place;
use crate::run::output::forward;
use crate::run::redaction::Redaction;
use crate::user::ProcessUser;
use crate::{Debugger, LocalWorker, TimeLimit, WorkerError};

pub(crate) use agent::AgentSocket;
pub(crate) use emulation::Emulators;
pub(crate) use network::Networks;
pub use network::{DefaultNetwork, Otherwise};
pub(crate) use removals::Removals;
use scene::Setup;
pub use scene::{Program, Scene};

/// The kernel's answer to a program that it cannot execute.
const ENOEXEC: i32 = 8;

const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the process of a RUN on top of its first input, streaming its output, and makes a snapshot of what it leaves.
/// When the build is cancelled it is killed.
pub(crate) async fn run(
    worker: &LocalWorker,
    op: &RunOp,
    execution: &Execution<'_>,
) -> Result<Snapshot, WorkerError> {
    let setup = Setup::new(worker, op, execution).await?;
    let command = Arc::clone(&setup.command);
    let finishing = Finishing {
        command: Arc::clone(&command),
        redaction: Arc::new(setup.preparation.redaction()),
        limit: worker.step_timeout().cloned(),
    };
    let (mut scene, mut running) = blocking(move || setup.scene()?.start()).await?;
    for kept in running.kept().iter().filter(|kept| worker.is_to_tell_of(**kept)) {
        let message = told(*kept).to_owned();
        (execution.context.events)(Event::Warning { vertex: execution.context.vertex, message });
    }
    let ended = finishing.finish(&mut running, execution.context).await;
    let outcome = ended.and_then(|exit| {
        let (emulation, platform) = (scene.emulation().clone(), op.platform.clone());
        Ended { exit, not_executed: running.not_executed(), emulation, platform }.check(&command)
    });
    drop(running);
    if let (Err(error @ (WorkerError::Process { .. } | WorkerError::PartlyEmulated { .. })), Some(debugger)) =
        (&outcome, worker.debugger())
    {
        scene = debugger.after_failure(scene, execution.context, error).await;
    }
    blocking(move || scene.end(outcome)).await
}

/// Lets the debugger look at the files before a vertex is executed; an error ends the build.
pub(crate) async fn pause(
    worker: &LocalWorker,
    debugger: &dyn Debugger,
    execution: &Execution<'_>,
) -> Result<(), WorkerError> {
    let Some(op) = debugger.stops_before(execution.context.vertex).await else { return Ok(()) };
    // What is changed in it is thrown away with it: the step itself gets the files as they were.
    let setup = Setup::new(worker, &op, execution).await?;
    let scene = blocking(move || setup.scene()).await?;
    let (scene, outcome) = debugger.before(scene, execution.context).await;
    blocking(move || {
        drop(scene);
        outcome
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

/// How a process ended, and how it was executed.
struct Ended<'r> {
    exit: Exit,
    not_executed: Option<&'r SetupFailure>,
    emulation: Emulation,
    platform: Platform,
}

impl Ended<'_> {
    /// Tells a process that did not end well.
    fn check(self, command: &str) -> Result<(), WorkerError> {
        let failure = match self.exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(code) => ProcessFailure::Code(code),
            Exit::Signal(signal) => ProcessFailure::Signal(signal),
            Exit::OutOfMemory => ProcessFailure::OutOfMemory,
        };
        let command = command.to_owned();
        let no_format = |failure: &&SetupFailure| failure.source.raw_os_error() == Some(ENOEXEC);
        let not_executed =
            self.not_executed.filter(no_format).filter(|_| emulation::is_foreign(&self.platform));
        if let Some(SetupFailure { path, .. }) = not_executed {
            let program = path.clone().unwrap_or_default();
            let platform = Box::new(self.platform);
            return Err(WorkerError::NotExecuted { command, program, platform });
        }
        Err(match self.emulation {
            Emulation::Prefix { reason, .. } => WorkerError::PartlyEmulated { command, failure, reason },
            Emulation::Machine | Emulation::Handler(_) => WorkerError::Process { command, failure },
        })
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
    async fn finish(self, running: &mut Running, context: &ExecContext) -> Result<Exit, WorkerError> {
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
