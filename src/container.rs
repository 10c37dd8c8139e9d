//! `rbuild run`: a command in an image, in the sandbox that a RUN has.

mod command;
mod flags;
mod image;
mod mounts;
mod ports;
mod program;

use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Signal, pidfd_send_signal};
use sandbox::{Exit, PortForward, Running};
use solver::{Event, ExecContext, NetworkMode, RunOp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use worker::{
    DefaultNetwork, LocalWorker, Otherwise, Program, Resources, Scene, SourcePolicy, WorkerOptions,
};

use crate::arguments::Ids;
use crate::images;
use crate::interrupt::Interrupt;
use crate::report::{self, Failure, FailureKind};
use crate::session::{Session, blocking, joined};
use crate::settings::Environment;
use crate::stderr;
use crate::terminal::{self, Remains, Station, Wishes};
use crate::{Answer, block_on};

pub(crate) use flags::RunArguments;

/// After so many signals that ask for its end, the command is killed, as with docker.
const PATIENCE: usize = 3;
/// What a shell says of a program that cannot be executed, and of one that is not there.
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// The code of a command that was killed for want of memory: that of SIGKILL.
const KILLED: i32 = 137;
/// `ENOENT`.
const NO_ENTRY: i32 = 2;

/// Runs a command; the answer has its exit code.
pub(crate) fn begin(arguments: &RunArguments, root: PathBuf, ids: Ids) -> Result<Answer, Failure> {
    let of_kind = |failure: Failure| {
        // A wrong command line is one here too.
        if failure.is_usage() { failure } else { failure.of_kind(FailureKind::NotRun) }
    };
    let session = Session::begin(&root, ids).map_err(of_kind)?;
    let code = block_on(async |interrupt| Box::pin(run(arguments, (&session, root), &interrupt)).await);
    code.map(|code| Answer { code, ..Answer::from(None) }).map_err(|failure| match failure.signal() {
        Some(_) => failure,
        None => of_kind(failure),
    })
}

async fn run(
    arguments: &RunArguments,
    (session, root): (&Session, PathBuf),
    interrupt: &Interrupt,
) -> Result<i32, Failure> {
    let wishes = wishes(arguments)?;
    let settings = command::Settings::of(arguments)?;
    let store = interrupt.unless(session.open_store(root)).await?;
    interrupt.uses(&store);
    let progress = images::progress(arguments.quiet);
    let client = images::client(&arguments.registries)?;
    let worker = LocalWorker::new(WorkerOptions {
        network: network(&settings)?,
        resources: Resources { limits: settings.limits.clone(), reserve_bytes: 0 },
        emulators: Environment::emulator_directories(),
        sources: SourcePolicy { pull: arguments.pull, ..SourcePolicy::default() },
        ..WorkerOptions::new(store.clone(), client.clone())
    });
    let found =
        image::Search { arguments, store: &store, client: &client, worker: &worker, progress: &progress };
    let ready = interrupt.unless(Box::pin(found.find(interrupt))).await?;
    let op = settings.operation(arguments, &ready)?;
    let context = ExecContext {
        vertex: ready.vertex,
        cancel: interrupt.token().clone(),
        events: Arc::new(|event| {
            if let Event::Warning { message, .. } = event {
                stderr::write(format!("WARNING: {message}\n").as_bytes());
            }
        }),
    };
    let scene = interrupt.unless(scene(&worker, &ready, &op, (&context, session))).await?;
    let program = program::program(arguments, &settings, &op)?;
    stderr::flush();
    let code = execute(scene, program, wishes, interrupt).await;
    let finishing = worker.clone();
    // Nothing was learned that would be lost.
    let _ = blocking(move || finishing.finish()).await;
    code
}

/// What the command is connected to.
fn wishes(arguments: &RunArguments) -> Result<Wishes, Failure> {
    use std::io::IsTerminal as _;
    if arguments.interactive && arguments.tty && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("the input device is not a TTY")
            .with_hint("without `-t`, `-i` hands on what comes from a file or a pipe"));
    }
    Ok(Wishes { wants_input: arguments.interactive, wants_terminal: arguments.tty })
}

/// The network, with the ports that lead into it.
fn network(settings: &command::Settings) -> Result<DefaultNetwork, Failure> {
    let mut network = Environment::default_network()?;
    if settings.ports.is_empty() {
        return Ok(network);
    }
    let refused =
        |reason: &str| Err(Failure::usage(format!("`--publish` has no ports to lead to: {reason}")));
    match (settings.network, &mut network) {
        (NetworkMode::Host, _) | (NetworkMode::Default, DefaultNetwork::Host) => {
            refused("the command shares the network of this machine, and is reached at its own ports")
        }
        (NetworkMode::None, _) | (NetworkMode::Default, DefaultNetwork::None) => {
            refused("the command has no network")
        }
        (NetworkMode::Default, DefaultNetwork::Isolated { pasta: None, .. }) => {
            refused("`pasta` is not installed (package `passt`)")
        }
        (NetworkMode::Default, DefaultNetwork::Isolated { pasta: Some(pasta), otherwise }) => {
            pasta.ports.clone_from(&settings.ports);
            // On this machine's network they would lead nowhere.
            *otherwise = Otherwise::Fail;
            Ok(network)
        }
    }
}

async fn scene(
    worker: &LocalWorker,
    ready: &image::Ready,
    op: &RunOp,
    (context, session): (&ExecContext, &Session),
) -> Result<Scene, Failure> {
    worker.scene(&ready.output, op, context).await.map_err(|error| {
        Failure::from_error(report::kind_of(&error), &error)
            .with_hints(error.hint())
            .with_hints(session.hints(&error, &[], false))
    })
}

/// Runs the program to its end, and gives its code.
async fn execute(
    scene: Scene,
    program: Program,
    wishes: Wishes,
    interrupt: &Interrupt,
) -> Result<i32, Failure> {
    let not_run = |message: String| Failure::new(FailureKind::NotRun, message);
    let station = Station::standard(wishes)
        .map_err(|error| not_run(format!("cannot use the standard streams: {error}")))?;
    let mut signals = signals(interrupt);
    let (scene, started) = terminal::start(scene, program, &station, Vec::new()).await;
    let (mut running, relaying) = started.map_err(not_run)?;
    let mut relaying = std::pin::pin!(joined(relaying));
    let mut remains = None;
    let mut ends = 0;
    let exit = loop {
        tokio::select! {
            biased;
            exit = running.wait_async() => break exit,
            Some(kind) = signals.recv() => {
                ends += usize::from(asks_for_end(kind));
                pass_on(&running, kind, ends);
            }
            relayed = &mut relaying, if remains.is_none() => {
                // A program whose terminal is gone would wait for ever.
                if wishes.wants_terminal && relayed.as_ref().is_ok_and(|remains: &Remains| remains.is_unread) {
                    running.kill();
                }
                remains = Some(relayed);
            }
        }
    };
    let relayed = match remains {
        Some(relayed) => relayed,
        None => relaying.await,
    };
    let code = exit.map(|exit| code_of(exit, &running)).map_err(|error| not_run(report::chain(&error)));
    blocking(move || drop((running, scene))).await;
    relayed
        .map_err(|error| not_run(format!("cannot pass on the input and output of the command: {error}")))?;
    code
}

fn code_of(exit: Exit, running: &Running) -> i32 {
    if let Some(failure) = running.not_executed() {
        return if failure.source.raw_os_error() == Some(NO_ENTRY) { NOT_FOUND } else { CANNOT_EXECUTE };
    }
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(number) => 128 + number,
        Exit::OutOfMemory => {
            stderr::write(b"the command was killed: there was not enough memory\n");
            KILLED
        }
    }
}

/// The signals that are for the command from now on.
fn signals(interrupt: &Interrupt) -> UnboundedReceiver<SignalKind> {
    let (sender, receiver) = unbounded_channel();
    let mut handed_over = interrupt.hand_over();
    let first = sender.clone();
    tokio::spawn(async move {
        while let Some(kind) = handed_over.recv().await {
            let _ = first.send(kind);
        }
    });
    let others =
        [SignalKind::quit(), SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()];
    for kind in others {
        tokio::spawn(listen(kind, sender.clone()));
    }
    receiver
}

async fn listen(kind: SignalKind, sender: UnboundedSender<SignalKind>) {
    let Ok(mut signals) = signal(kind) else { return };
    while signals.recv().await.is_some() {
        if sender.send(kind).is_err() {
            return;
        }
    }
}

fn asks_for_end(kind: SignalKind) -> bool {
    [SignalKind::interrupt(), SignalKind::terminate()].contains(&kind)
}

/// Hands a signal on. A first process without a handler ignores what others would end by, so that the third request kills.
fn pass_on(running: &Running, kind: SignalKind, ends: usize) {
    if ends >= PATIENCE && asks_for_end(kind) {
        running.kill();
    } else if let Some(signal) = Signal::from_named_raw(kind.as_raw_value()) {
        // The only error is that it has ended.
        let _ = pidfd_send_signal(running.pidfd(), signal);
    }
}

/// The ports of `--publish`.
fn forwards(texts: &[String]) -> Result<Vec<PortForward>, Failure> {
    texts.iter().map(|text| ports::publish(text).map_err(Failure::usage)).collect()
}
