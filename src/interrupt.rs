//! The end of a command before its time: by a signal, or because it has taken too long.
//!
//! The first signal has the command end in an orderly way. What does so in time leaves nothing behind; what does not
//! (a system call that takes long, a reader of standard error that is stuck) is not waited for: sandboxes and the
//! programs that we started end with this one, and nothing half-made can be taken for something whole. A second signal
//! ends the program at once.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cache::{Store, WeakStore};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use worker::TimeLimit;

use crate::progress::Progress;
use crate::report::{Failure, FailureKind};
use crate::stderr;

/// How long an orderly end may take. With what comes after it, the program has ended within a second.
const PATIENCE: Duration = Duration::from_millis(650);
/// What is left of the second to remove what the run has begun.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(150);
/// What a last message waits for whoever reads standard error.
const READER_PATIENCE: Duration = Duration::from_millis(50);

/// Ends a command. Clones are the same.
#[derive(Clone)]
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
}

struct Shared {
    cancel: CancellationToken,
    reason: OnceLock<Reason>,
    /// What has to be given up if an orderly end takes too long.
    store: Mutex<Option<WeakStore>>,
    /// Who gets the signals instead.
    passing: Mutex<Option<UnboundedSender<SignalKind>>>,
}

/// Why a command is to end.
enum Reason {
    Signal(SignalKind),
    Timeout { limit: TimeLimit, running: Vec<String> },
}

impl Interrupt {
    /// Begins to listen for SIGINT, SIGTERM and SIGHUP (the terminal is closed), unless whoever started this program
    /// has them ignored (nohup(1)).
    pub(crate) fn listen() -> Result<Self, Failure> {
        let shared = Shared {
            cancel: CancellationToken::new(),
            reason: OnceLock::new(),
            store: Mutex::default(),
            passing: Mutex::default(),
        };
        let interrupt = Self { shared: Arc::new(shared) };
        let environment = |error: std::io::Error| {
            Failure::new(FailureKind::Environment, format!("cannot start threads: {error}"))
        };
        // With a thread and a runtime of its own it works whatever the others are busy with.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(environment)?;
        let watching = interrupt.clone();
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || runtime.block_on(watching.watch()))
            .map_err(environment)?;
        Ok(interrupt)
    }

    /// Ends when the command is to end.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.shared.cancel
    }

    /// Says which store the command works on.
    pub(crate) fn uses(&self, store: &Store) {
        *self.shared.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.downgrade());
    }

    /// From now on signals do not end the command: they are handed over, until the receiver is dropped.
    pub(crate) fn hand_over(&self) -> UnboundedReceiver<SignalKind> {
        let (sender, receiver) = unbounded_channel();
        *self.shared.passing.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Whether somebody else took care of a signal.
    fn is_handed_over(&self, kind: SignalKind) -> bool {
        let passing = self.shared.passing.lock().unwrap_or_else(PoisonError::into_inner);
        passing.as_ref().is_some_and(|sender| sender.send(kind).is_ok())
    }

    /// Ends the command when `limit` is over.
    pub(crate) fn after(&self, limit: TimeLimit, progress: Arc<Progress>) {
        let interrupt = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit.duration).await;
            let running = progress.running();
            interrupt.end(Reason::Timeout { limit, running });
        });
    }

    /// The result of `work`, which is dropped when the command is to end.
    pub(crate) async fn unless<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.shared.cancel.cancelled() => Err(self.failure()),
            result = work => result,
        }
    }

    /// What to tell of a command that was ended.
    pub(crate) fn failure(&self) -> Failure {
        match self.shared.reason.get() {
            Some(Reason::Timeout { limit, running }) => {
                let running = if running.is_empty() {
                    String::new()
                } else {
                    format!("; still running: {}", running.join(", "))
                };
                Failure::solve(&format!("the build did not complete within {limit}{running}"))
                    .with_hint("`--timeout` sets the limit")
            }
            Some(Reason::Signal(kind)) => {
                let number = kind.as_raw_value();
                Failure::solve(&format!("canceled: {} was received", name_of(*kind)))
                    .of_kind(FailureKind::Signal(number))
            }
            None => Failure::solve("canceled"),
        }
    }

    /// The first reason counts.
    fn end(&self, reason: Reason) {
        let _ = self.shared.reason.set(reason);
        stderr::give_up();
        self.shared.cancel.cancel();
    }

    async fn watch(self) {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let ignored = ignored_signals();
        for kind in kinds.into_iter().filter(|kind| ignored & (1 << (kind.as_raw_value() - 1)) == 0) {
            // Where signals cannot be had, their default action ends the process, which is right too.
            let Ok(mut signals) = signal(kind) else { continue };
            let interrupt = self.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if interrupt.is_handed_over(kind) {
                        continue;
                    }
                    if interrupt.shared.cancel.is_cancelled() {
                        crate::exit_at_once(128 + kind.as_raw_value());
                    }
                    interrupt.end(Reason::Signal(kind));
                }
            });
        }
        self.shared.cancel.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
        self.give_up();
    }

    /// Ends the program in the midst of its work.
    fn give_up(&self) -> ! {
        let store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (removed, is_removed) = std::sync::mpsc::channel::<()>();
        let removal = std::thread::Builder::new().spawn(move || {
            if let Some(store) = store {
                // What stays is swept by the next build.
                let _ = store.abandon();
            }
            drop(removed);
        });
        if removal.is_ok() {
            let _ = is_removed.recv_timeout(REMOVAL_PATIENCE);
        }
        let failure = self.failure();
        // A picture of the live view that came after it would be drawn over it.
        stderr::write_last(failure.render().as_bytes());
        stderr::flush_for(READER_PATIENCE);
        crate::exit_at_once(failure.exit_code())
    }
}

fn name_of(kind: SignalKind) -> &'static str {
    match kind {
        kind if kind == SignalKind::interrupt() => "SIGINT",
        kind if kind == SignalKind::terminate() => "SIGTERM",
        _ => "SIGHUP",
    }
}

/// The signals that this process was started to ignore, a bit for each (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
