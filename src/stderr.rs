//! Standard error as progress is written to it: by a thread of its own, so that whoever reads slowly or not at all
//! never holds up what is no output.
//!
//! Only those wait that bring the output of processes, so that the processes wait in their turn
//! ([`wait_for_room`]): nothing is lost, and what waits to be written is bounded.

use std::io::{self, Write as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// What may wait to be written before those who bring more have to wait.
const ROOM_BYTES: usize = 1 << 20;

static QUEUE: Queue = Queue {
    state: Mutex::new(State {
        text: Vec::new(),
        has_thread: false,
        is_writing: false,
        reader: Reader::WaitedFor,
        is_closed: false,
    }),
    changed: Condvar::new(),
};

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What is to be written.
    text: Vec<u8>,
    has_thread: bool,
    /// Whether the thread is writing what it has taken.
    is_writing: bool,
    reader: Reader,
    /// Whether the last words have been said.
    is_closed: bool,
}

/// Whoever reads standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Nothing is lost, however slow it is.
    WaitedFor,
    /// What finds no room is dropped.
    GivenUp,
    /// Everything is dropped.
    Gone,
}

impl State {
    fn has_room(&self) -> bool {
        self.text.len() < ROOM_BYTES || self.reader != Reader::WaitedFor
    }

    fn is_done(&self) -> bool {
        self.reader == Reader::Gone || (self.text.is_empty() && !self.is_writing)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a text written after all that came before. Never waits.
pub(crate) fn write(text: &[u8]) {
    let mut state = QUEUE.lock();
    let is_dropped = match state.reader {
        Reader::WaitedFor => false,
        Reader::GivenUp => state.text.len() >= ROOM_BYTES,
        Reader::Gone => true,
    };
    if text.is_empty() || is_dropped || state.is_closed {
        return;
    }
    state.text.extend_from_slice(text);
    if !state.has_thread {
        let thread = std::thread::Builder::new().name("stderr".to_owned()).spawn(write_all_that_comes);
        state.has_thread = thread.is_ok();
        if thread.is_err() {
            let text = std::mem::take(&mut state.text);
            // Without a thread there is no other way.
            if write_now(&text).is_err() {
                state.reader = Reader::Gone;
            }
        }
    }
    drop(state);
    QUEUE.changed.notify_all();
}

/// Has a text written after all that came before, and nothing after it: the program ends.
pub(crate) fn write_last(text: &[u8]) {
    write(text);
    QUEUE.lock().is_closed = true;
}

/// Whether something waits to be written.
pub(crate) fn is_behind() -> bool {
    !QUEUE.lock().is_done()
}

/// Waits while more is to be written than should be kept in memory. For threads that may block.
pub(crate) fn wait_for_room() {
    let state = QUEUE.lock();
    let waited = QUEUE.changed.wait_while(state, |state| !state.has_room());
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

/// Waits until everything has been written.
pub(crate) fn flush() {
    let state = QUEUE.lock();
    let waited = QUEUE.changed.wait_while(state, |state| !state.is_done());
    drop(waited.unwrap_or_else(PoisonError::into_inner));
}

/// The same, but no longer than `limit`.
pub(crate) fn flush_for(limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut state = QUEUE.lock();
    while !state.is_done() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let waited = QUEUE.changed.wait_timeout(state, left);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Nobody waits for a reader from now on, as the program ends: what finds no room is dropped.
pub(crate) fn give_up() {
    let mut state = QUEUE.lock();
    if state.reader == Reader::WaitedFor {
        state.reader = Reader::GivenUp;
    }
    drop(state);
    QUEUE.changed.notify_all();
}

fn write_all_that_comes() {
    let mut taken = Vec::new();
    loop {
        let state = QUEUE.lock();
        let waited = QUEUE.changed.wait_while(state, |state| state.text.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        // The two buffers take turns, so that nothing is allocated while it goes on.
        std::mem::swap(&mut state.text, &mut taken);
        state.is_writing = true;
        drop(state);
        QUEUE.changed.notify_all();
        let written = write_now(&taken);
        taken.clear();
        let mut state = QUEUE.lock();
        state.is_writing = false;
        // A closed standard error is no reason to end a build.
        if written.is_err() {
            state.reader = Reader::Gone;
            state.text = Vec::new();
        }
        drop(state);
        QUEUE.changed.notify_all();
    }
}

/// Writes to standard error, also where somebody who shares it has made it one that does not block.
fn write_now(mut text: &[u8]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    while !text.is_empty() {
        match stderr.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
