//! The `rbuild` command: arguments, wiring, progress and the rendering of errors.
//!
//! The only part of the program that prints, reads the environment or exits. What is deliberately absent: everything
//! that knows how a build is done; that is in the libraries.

mod agents;
mod arguments;
mod build;
mod call;
mod entitlements;
mod export;
mod format;
mod images;
mod inputs;
mod lockfile;
mod network;
mod progress;
mod remote;
mod report;
mod resolver;
mod resources;
mod secrets;
mod session;
mod settings;
mod space;
mod values;

use std::future::Future;
use std::io::Write as _;

use arguments::{Action, CommandLine};
use report::{Failure, FailureKind};
use session::Session;
use settings::Environment;

fn main() {
    // Inside a sandbox this program is the first process of a step, and nothing else of it may run.
    sandbox::run_init_if_requested();
    let line = match arguments::parse(std::env::args_os().collect()) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let code = match run(line) {
        Ok(answer) => answer.tell(),
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    };
    // Graphs and stores of large builds take longer to take apart than a cached build takes.
    std::process::exit(code);
}

/// Ends the program from within: a second Ctrl-C.
pub(crate) fn exit_at_once(code: i32) -> ! {
    #[expect(clippy::exit, reason = "the user has asked twice")]
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
    let root = Environment::store_root(line.root)?;
    match line.action {
        Action::Build(arguments) => {
            let plan = build::plan(&arguments)?;
            let session = Session::begin()?;
            return block_on(async {
                match plan.call {
                    Some(call) => call::run(plan, call, session, root).await,
                    None => build::run(plan, session, root).await.map(Answer::from),
                }
            });
        }
        Action::Fmt(arguments) => return format::run(&arguments),
        Action::Images { format } => block_on(images::list(Session::begin()?, root, format)),
        Action::Push { image } => block_on(images::push(Session::begin()?, root, image)),
        Action::Rmi { images } => block_on(images::remove(Session::begin()?, root, images)),
        Action::Prune(arguments) => block_on(space::prune(Session::begin()?, root, arguments)),
        Action::Du(arguments) => block_on(space::usage(Session::begin()?, root, arguments)),
        Action::Gc => block_on(space::collect(Session::begin()?, root)),
    }
    .map(Answer::from)
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Environment, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(future);
    // Its threads may be within a system call that takes long; the process ends anyway.
    runtime.shutdown_background();
    result
}
