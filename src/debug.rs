//! What a user can do when a step fails, and before one is executed: `--on-failure`, `--break`, `rbuild debug`.

mod afterwards;
mod flags;
mod program;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use frontend::Breakpoint;
use sandbox::Exit;
use solver::{ExecContext, Op, RunOp, VertexId};
use tokio_util::sync::CancellationToken;
use worker::{Debugger, Looking, ProcessFailure, Scene, WorkerError};

use crate::build::Build;
use crate::progress::Progress;
use crate::report;
use crate::session::{blocking, joined};
use crate::terminal::{self, Station};
use flags::WantedBreakpoint;
use program::{Choice, choose};

pub(crate) use flags::{Wanted, want_shell};
pub(crate) use program::is_static_program;

/// Opens shells, one at a time.
pub(crate) struct Shells {
    after_failure: bool,
    command: Option<Vec<String>>,
    breakpoints: Vec<WantedBreakpoint>,
    progress: Arc<Progress>,
    /// Weak: what the build knows asks the worker, which has these shells.
    build: OnceLock<Weak<Build>>,
    /// Whether the solve of the build has ended. Others have graphs of their own.
    has_ended: AtomicBool,
    /// The breakpoints that were reached, by their numbers.
    reached: Mutex<BTreeSet<usize>>,
    turn: tokio::sync::Mutex<Turn>,
}

impl std::fmt::Debug for Shells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shells").field("breakpoints", &self.breakpoints).finish_non_exhaustive()
    }
}

/// What a shell takes over from the one before.
#[derive(Default)]
struct Turn {
    /// Whether the build has failed, so that there are to be no more.
    is_over: bool,
    /// Input that has been read and not used.
    pending: Vec<u8>,
}

/// Why a shell is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// A breakpoint before a step.
    Before,
    /// A process that has failed, and left files.
    Failed,
    /// A step that has failed and left nothing.
    FailedToBegin,
}

impl Shells {
    /// None is open yet.
    pub(crate) fn new(wanted: &Wanted, progress: Arc<Progress>) -> Self {
        Self {
            after_failure: wanted.shell,
            command: wanted.command.clone(),
            breakpoints: wanted.breakpoints.clone(),
            progress,
            build: OnceLock::new(),
            has_ended: AtomicBool::new(false),
            reached: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Says what is built. To be called once, before the solve.
    pub(crate) fn attach(&self, build: &Arc<Build>) {
        let _ = self.build.set(Arc::downgrade(build));
    }

    /// Says that no more steps are to be looked into: the solve has ended.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// The build, while it is being solved.
    fn solving(&self) -> Option<Arc<Build>> {
        self.build().filter(|_| !self.has_ended.load(Ordering::Relaxed))
    }

    fn build(&self) -> Option<Arc<Build>> {
        self.build.get()?.upgrade()
    }

    fn reached(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to tell of the breakpoints that a build came through without reaching them.
    pub(crate) fn missed_text(&self) -> String {
        let mut text = String::new();
        let reached = self.reached();
        for (number, breakpoint) in self.breakpoints.iter().enumerate() {
            if !reached.contains(&number) {
                let name = &breakpoint.text;
                let _ = match breakpoint.place {
                    Breakpoint::Stage(_) => writeln!(
                        text,
                        "\nbreakpoint `{name}` was not reached: the cache had all that was needed of the stage \
                         (`--no-cache-filter={name}` runs its steps anew)"
                    ),
                    Breakpoint::Line(_) => {
                        writeln!(
                            text,
                            "\nbreakpoint `{name}` was not reached: another step had the same result"
                        )
                    }
                };
            }
        }
        text
    }

    /// Whether a breakpoint before `vertex` was not reached yet; it is then.
    fn reaches(&self, build: &Build, vertex: VertexId) -> bool {
        let mut reached = self.reached();
        let mut is_new = false;
        for (number, vertices) in build.lowered.breakpoints().iter().enumerate() {
            is_new |= vertices.contains(&vertex) && reached.insert(number);
        }
        is_new
    }

    /// Opens a shell after a step failed that has no scene of its own.
    pub(crate) async fn after_failure_in(
        &self,
        scene: Scene,
        (vertex, error): (VertexId, &WorkerError),
        run: &RunOp,
        cancel: &CancellationToken,
    ) {
        let text = report::chain(error);
        self.open(scene, (vertex, &run.args), (Occasion::FailedToBegin, &text), cancel).await;
    }

    /// Whether a shell is wanted after a failure.
    pub(crate) fn opens_after_failure(&self) -> bool {
        self.after_failure
    }

    /// Opens a shell and waits for its end; `None` where there was none.
    async fn open(
        &self,
        scene: Scene,
        (vertex, words): (VertexId, &[String]),
        (occasion, reason): (Occasion, &str),
        cancel: &CancellationToken,
    ) -> (Scene, Option<Exit>) {
        let mut turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return (scene, None),
            turn = self.turn.lock() => turn,
        };
        if turn.is_over {
            return (scene, None);
        }
        let command = self.command.clone().filter(|_| occasion != Occasion::Before);
        let words = words.to_vec();
        let (scene, choice) = blocking(move || {
            let choice = choose(&scene, &words, command);
            (scene, choice)
        })
        .await;
        let heading = self.build().map_or_else(String::new, |build| build.heading(vertex));
        let found = choice.and_then(|choice| {
            let station = Station::find().map_err(|error| error.to_string())?;
            Ok((choice, station))
        });
        let (choice, station) = match found {
            Ok(found) => found,
            Err(message) => {
                self.progress.tell(&format!("{heading}cannot open a shell: {message}\n------\n"));
                return (scene, None);
            }
        };
        let told = banner(&choice, (occasion, reason), station.is_terminal());
        self.progress.tell(&format!("{heading}{told}------\n"));
        let hold = self.progress.hold();
        let pending = std::mem::take(&mut turn.pending);
        let (scene, outcome) = show(scene, choice, station, pending, cancel).await;
        turn.is_over = occasion != Occasion::Before;
        drop(hold);
        let exit = match outcome {
            Ok((exit, pending)) => {
                turn.pending = pending;
                turn.is_over |= exit != Some(Exit::Code(0));
                if exit.is_none() {
                    self.progress.tell("\nthe shell was ended: the build stops\n");
                }
                exit
            }
            Err(message) => {
                self.progress.tell(&format!("cannot open a shell: {message}\n"));
                None
            }
        };
        (scene, exit)
    }
}

/// Runs a program in a scene, at the user's terminal, until it ends or the build is to stop. Gives how it ended (`None`
/// where it was killed), and what it left of the input.
async fn show(
    scene: Scene,
    choice: Choice,
    station: Station,
    pending: Vec<u8>,
    cancel: &CancellationToken,
) -> (Scene, Result<(Option<Exit>, Vec<u8>), String>) {
    let program = choice.program(station.is_terminal());
    let (scene, started) = terminal::start(scene, program, &station, pending).await;
    let (mut running, relaying) = match started {
        Ok(started) => started,
        Err(message) => return (scene, Err(message)),
    };
    let exit = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        exit = running.wait_async() => Some(exit),
    };
    let ended = if let Some(exit) = exit {
        exit.map(Some)
    } else {
        running.kill();
        running.wait_async().await.map(|_| None)
    };
    let relayed = joined(relaying).await;
    let outcome = match (ended, relayed) {
        (Ok(exit), Ok(remains)) => Ok((exit, remains.pending)),
        (Err(error), _) => Err(report::chain(&error)),
        (_, Err(error)) => Err(error.to_string()),
    };
    (scene, outcome)
}

/// What a user is told before a shell.
fn banner(choice: &Choice, (occasion, reason): (Occasion, &str), is_terminal: bool) -> String {
    let name = choice.name();
    let thrown_away = "what you change is thrown away, save in caches";
    let mut text = match occasion {
        Occasion::Before => format!(
            "`{name}` before this step; {thrown_away}; `exit 0` goes on with the build, `exit 1` ends it\n"
        ),
        Occasion::Failed => {
            format!("{reason}\n`{name}` in its sandbox, on the files as it left them; {thrown_away}\n")
        }
        Occasion::FailedToBegin => {
            format!("{reason}\n`{name}` on the files of the stage before this step; {thrown_away}\n")
        }
    };
    text += choice.note;
    if !is_terminal {
        text += "standard input is no terminal: commands are read from it as they are\n";
    }
    text
}

fn failure_of(exit: Exit) -> Option<ProcessFailure> {
    match exit {
        Exit::Code(0) => None,
        Exit::Code(code) => Some(ProcessFailure::Code(code)),
        Exit::Signal(signal) => Some(ProcessFailure::Signal(signal)),
        Exit::OutOfMemory => Some(ProcessFailure::OutOfMemory),
    }
}

impl Shells {
    /// The words of a RUN, whose first is its shell.
    fn words(&self, vertex: VertexId) -> Vec<String> {
        let build = self.build();
        match build.as_ref().map(|build| &build.graph.vertex(vertex).op) {
            Some(Op::Run(run)) => run.args.clone(),
            _ => Vec::new(),
        }
    }
}

impl Debugger for Shells {
    fn stops_before(&self, vertex: VertexId) -> Looking<'_, Option<RunOp>> {
        Box::pin(async move {
            let build = self.solving().filter(|build| self.reaches(build, vertex))?;
            if let Op::Run(run) = &build.graph.vertex(vertex).op {
                return Some(run.clone());
            }
            // What was lowered once can be lowered again.
            blocking(move || build.before(vertex).ok().flatten()).await.map(|before| before.run)
        })
    }

    fn before<'a>(
        &'a self,
        scene: Scene,
        context: &'a ExecContext,
    ) -> Looking<'a, (Scene, Result<(), WorkerError>)> {
        Box::pin(async move {
            let words = self.words(context.vertex);
            let step = (context.vertex, words.as_slice());
            let (scene, exit) = self.open(scene, step, (Occasion::Before, ""), &context.cancel).await;
            let outcome = match exit {
                _ if context.cancel.is_cancelled() => Err(WorkerError::Cancelled),
                None => Ok(()),
                Some(exit) => failure_of(exit).map_or(Ok(()), |failure| Err(WorkerError::Stopped(failure))),
            };
            (scene, outcome)
        })
    }

    fn after_failure<'a>(
        &'a self,
        scene: Scene,
        context: &'a ExecContext,
        error: &'a WorkerError,
    ) -> Looking<'a, Scene> {
        Box::pin(async move {
            if !self.after_failure || self.solving().is_none() {
                return scene;
            }
            let (words, text) = (self.words(context.vertex), report::chain(error));
            let step = (context.vertex, words.as_slice());
            self.open(scene, step, (Occasion::Failed, &text), &context.cancel).await.0
        })
    }
}
