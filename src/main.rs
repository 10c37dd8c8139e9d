//! The `rbuild` command: arguments, wiring, progress and the rendering of errors.
//!
//! The only part of the program that prints, reads the environment or exits. What is deliberately absent: everything
//! that knows how a build is done; that is in the libraries.

mod agents;
mod arguments;
mod attestations;
mod bug;
mod build;
mod caches;
mod call;
mod container;
mod debug;
mod doctor;
mod engines;
mod entitlements;
mod explain;
mod export;
mod format;
mod history;
mod images;
mod inputs;
mod interrupt;
mod lockfile;
mod manual;
mod network;
mod notices;
mod preview;
mod programs;
mod progress;
mod registries;
mod remote;
mod report;
mod resolver;
mod resources;
mod revision;
mod secrets;
mod session;
mod settings;
mod space;
mod stderr;
mod terminal;
mod traces;
mod values;
mod variables;
mod warnings;

use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use arguments::{Action, CommandLine};
use images::ImageAction;
use interrupt::Interrupt;
use progress::Outcome;
use report::{Failure, FailureKind};
use session::Session;
use settings::Environment;

fn main() {
    // Inside a sandbox this program is the first process of a step, and nothing else of it may run.
    sandbox::run_init_if_requested();
    bug::watch();
    let line = match arguments::parse(std::env::args_os().collect()) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let result = run(line);
    // What is told now comes after all progress.
    stderr::flush();
    let code = match result {
        Ok(answer) => answer.tell(),
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    };
    // Graphs and stores of large builds take longer to take apart than a cached build takes.
    std::process::exit(code);
}

/// Ends the program from within: a second Ctrl-C, or one that work in progress does not heed.
pub(crate) fn exit_at_once(code: i32) -> ! {
    #[expect(clippy::exit, reason = "whoever asked for the end waits for nothing more")]
    std::process::exit(code)
}

/// How a command ends.
pub(crate) struct Answer {
    /// What goes to standard output.
    text: Option<String>,
    /// What goes to standard error, before that.
    note: Option<String>,
    /// The exit code, unless there is a failure.
    code: i32,
    /// What went wrong all the same.
    failure: Option<Failure>,
}

impl Answer {
    /// A success with what goes to standard output.
    pub(crate) fn text(text: String) -> Self {
        Some(text).into()
    }

    /// Writes it, and gives the exit code.
    fn tell(&self) -> i32 {
        if let Some(note) = &self.note {
            // Nobody is left to be told if standard error is closed.
            let _ = std::io::stderr().lock().write_all(note.as_bytes());
        }
        let written = write_result(self.text.as_deref());
        match &self.failure {
            Some(failure) => {
                failure.print();
                failure.exit_code()
            }
            None if written != 0 => written,
            None => self.code,
        }
    }
}

impl From<Option<String>> for Answer {
    fn from(text: Option<String>) -> Self {
        Self { text, note: None, code: 0, failure: None }
    }
}

fn write_result(text: Option<&str>) -> i32 {
    let Some(text) = text else { return 0 };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Failure::new(FailureKind::Environment, format!("cannot write to standard output: {error}"))
                .print();
            FailureKind::Environment.exit_code()
        }
        _ => 0,
    }
}

fn run(line: CommandLine) -> Result<Answer, Failure> {
    // Before the user namespace, in which everybody is root.
    let root = match line.action {
        // Packages are made where nobody has a home.
        Action::Manual(_) => PathBuf::new(),
        _ => Environment::store_root(line.root)?,
    };
    let ids = line.ids;
    match line.action {
        Action::Build(arguments) => return begin_build(build::plan(&arguments)?, root, ids),
        Action::Debug(mut arguments) => {
            debug::want_shell(&mut arguments);
            return begin_build(build::plan(&arguments)?, root, ids);
        }
        Action::Doctor { store: true, format } => {
            return doctor::verify(&Session::begin(&root, ids)?, &root, format);
        }
        Action::Doctor { store: false, format } => return Ok(doctor::run(&root, ids, format)),
        Action::Fmt(arguments) => return format::run(&arguments),
        Action::Manual(action) => return manual::run(&action),
        Action::Image(ImageAction::Run(arguments)) => return container::begin(&arguments, root, ids),
        Action::Image(action) => simple(images::act(Session::begin(&root, ids)?, root, action)),
        Action::Prune(arguments) => simple(space::prune(Session::begin(&root, ids)?, root, arguments)),
        Action::Du(arguments) => simple(space::usage(Session::begin(&root, ids)?, root, arguments)),
        Action::History(arguments) => simple(history::run(Session::begin(&root, ids)?, root, arguments)),
        Action::Explain(arguments) => simple(history::explain(Session::begin(&root, ids)?, root, arguments)),
        Action::Gc => simple(space::collect(Session::begin(&root, ids)?, root)),
    }
    .map(Answer::from)
}

fn begin_build(plan: build::Plan, root: PathBuf, ids: arguments::Ids) -> Result<Answer, Failure> {
    plan.prepare();
    let session = Session::begin(&root, ids)?;
    plan.tell_notices();
    let progress = Arc::clone(&plan.progress);
    let result = block_on(async |interrupt| {
        if let Some(timeout) = &plan.timeout {
            interrupt.after(timeout.clone(), Arc::clone(&plan.progress));
        }
        match plan.call {
            Some(call) => interrupt.unless(call::run(plan, call, (session, root), &interrupt)).await,
            None => Box::pin(build::run(plan, session, root, &interrupt)).await.map(Answer::from),
        }
    });
    progress.finish(if result.is_ok() { Outcome::Success } else { Outcome::Failure });
    result
}

/// A command that has nothing to put in order when it is interrupted.
fn simple<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on(async |interrupt| interrupt.unless(work).await)
}

fn block_on<T>(work: impl AsyncFnOnce(Interrupt) -> Result<T, Failure>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Environment, format!("cannot start threads: {error}")))?;
    let interrupt = Interrupt::listen()?;
    let result = runtime.block_on(work(interrupt.clone()));
    if interrupt.token().is_cancelled() {
        // What still runs ends soon and puts itself in order, or is not waited for: see `Interrupt`.
        drop(runtime);
    } else {
        // Its threads may be within a system call that takes long; the process ends anyway.
        runtime.shutdown_background();
    }
    result
}
