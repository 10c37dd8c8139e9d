//! Work that is done side by side and used in order.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};

/// Jobs on rayon's threads, whose results come in the order in which the jobs were begun.
///
/// Waits for rayon's threads, so it must not be used on one of them.
pub(crate) struct Ordered<T> {
    in_flight: VecDeque<Receiver<T>>,
}

impl<T: Send + 'static> Ordered<T> {
    /// Nothing to do yet.
    pub(crate) fn new() -> Self {
        Self { in_flight: VecDeque::new() }
    }

    /// Whether so much is in flight that a result should be taken before another job is begun. Twice as many jobs as
    /// threads keep every thread busy while the eldest result is waited for and used.
    pub(crate) fn is_full(&self) -> bool {
        self.in_flight.len() >= 2 * rayon::current_num_threads()
    }

    /// Begins a job.
    pub(crate) fn begin(&mut self, job: impl FnOnce() -> T + Send + 'static) {
        let (sender, receiver) = sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone when the encoder was dropped half-way; nobody wants the result then.
            let _ = sender.send(job());
        });
        self.in_flight.push_back(receiver);
    }

    /// Waits for the eldest job; `None` if there is none.
    pub(crate) fn next(&mut self) -> Option<io::Result<T>> {
        let eldest = self.in_flight.pop_front()?;
        Some(eldest.recv().map_err(|_| io::Error::other("the thread that compressed a layer is gone")))
    }
}
