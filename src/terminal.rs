//! The terminal, or what stands in its place, while a shell in a sandbox has it.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use sandbox::{Console, RawTerminal, Running, TerminalSize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;

/// No more than what a pipe that can be written to takes at once.
const CHUNK_BYTES: usize = 4096;

/// Where the user is.
#[derive(Debug)]
pub(crate) struct Station {
    input: OwnedFd,
    output: OwnedFd,
    is_terminal: bool,
}

impl Station {
    /// Standard input, and where its answers are shown: on its terminal if it is one, else on standard error.
    pub(crate) fn find() -> io::Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let is_terminal = stdin.is_terminal();
        let output = if !is_terminal || stderr.is_terminal() {
            stderr.as_fd().try_clone_to_owned()?
        } else if stdout.is_terminal() {
            stdout.as_fd().try_clone_to_owned()?
        } else {
            File::options().write(true).open("/dev/tty")?.into()
        };
        Ok(Self { input: stdin.as_fd().try_clone_to_owned()?, output, is_terminal })
    }

    /// Whether there is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What a program that is to be started for the user is connected to.
    pub(crate) fn connection(&self) -> io::Result<Connection> {
        if self.is_terminal {
            return Ok(Connection::Terminal(TerminalSize::of(&self.input)?));
        }
        let (inner, outer) = io::pipe()?;
        Ok(Connection::Pipe { inner: inner.into(), outer: outer.into() })
    }
}

/// What a program is connected to.
pub(crate) enum Connection {
    /// A terminal of this size.
    Terminal(TerminalSize),
    /// A pipe, which it reads from.
    Pipe { inner: OwnedFd, outer: OwnedFd },
}

impl Connection {
    /// The same for the sandbox.
    pub(crate) fn console(&self) -> Console<'_> {
        match self {
            Self::Terminal(size) => Console::Terminal(*size),
            Self::Pipe { inner, .. } => Console::Input(inner.as_fd()),
        }
    }
}

/// A program that has the user's terminal, which is in raw mode until this is dropped.
pub(crate) struct Session {
    relay: Relay,
    _raw: Option<RawTerminal>,
    resizing: Option<AbortHandle>,
}

impl Session {
    /// Connects a program that has been started. `pending` is what the one before has left of the input.
    pub(crate) fn begin(
        station: &Station,
        connection: Connection,
        running: &mut Running,
        pending: Vec<u8>,
    ) -> io::Result<Self> {
        let (input, output) = (station.input.try_clone()?, station.output.try_clone()?);
        let (to, from, raw, resizing) = match (connection, running.terminal()) {
            (Connection::Pipe { outer, .. }, _) => {
                (outer, running.stdout().into_iter().chain(running.stderr()).collect(), None, None)
            }
            (Connection::Terminal(_), None) => return Err(io::ErrorKind::NotConnected.into()),
            (Connection::Terminal(_), Some(terminal)) => {
                let resizing = follow_size(input.try_clone()?, terminal.try_clone()?)?;
                let raw = RawTerminal::enter(&input)?;
                (terminal.try_clone()?, vec![terminal], Some(raw), Some(resizing))
            }
        };
        fcntl_setfl(&to, fcntl_getfl(&to)? | OFlags::NONBLOCK)?;
        let relay = Relay { input: Some(input), output, to: Some(to), from, pending };
        Ok(Self { relay, _raw: raw, resizing })
    }

    /// Passes on what is typed and what is answered, until the program and all that it has started are gone. Gives what is
    /// left of the input. Blocks.
    pub(crate) fn run(mut self) -> io::Result<Vec<u8>> {
        while !self.relay.from.is_empty() {
            self.relay.step()?;
        }
        Ok(std::mem::take(&mut self.relay.pending))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(resizing) = &self.resizing {
            resizing.abort();
        }
    }
}

/// Gives a terminal the size of another whenever that changes.
fn follow_size(of: OwnedFd, inner: OwnedFd) -> io::Result<AbortHandle> {
    let mut changes = signal(SignalKind::window_change())?;
    let task = tokio::spawn(async move {
        while changes.recv().await.is_some() {
            // A terminal that is gone has no size.
            let _ = TerminalSize::of(&of).and_then(|size| size.set(&inner));
        }
    });
    Ok(task.abort_handle())
}

/// Bytes on their way.
struct Relay {
    /// Until it ends.
    input: Option<OwnedFd>,
    /// Until the program reads no more.
    to: Option<OwnedFd>,
    from: Vec<OwnedFd>,
    output: OwnedFd,
    /// Input that the program has not got yet.
    pending: Vec<u8>,
}

/// What can be done without waiting.
struct Ready {
    input: bool,
    to: bool,
    from: Vec<bool>,
}

impl Relay {
    fn step(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.input {
            self.read_input();
        }
        if ready.to {
            self.write_pending();
        }
        // The program is to see the end of the input where there is one.
        if self.input.is_none() && self.pending.is_empty() {
            self.to = None;
        }
        let mut index = 0;
        let mut outcome = Ok(());
        let output = self.output.as_fd();
        self.from.retain(|from| {
            let is_ready = ready.from[index];
            index += 1;
            !is_ready
                || pass_on(from, output).unwrap_or_else(|error| {
                    outcome = Err(error);
                    false
                })
        });
        outcome
    }

    fn wait(&self) -> io::Result<Ready> {
        let input = self.input.as_ref().filter(|_| self.to.is_some() && self.pending.is_empty());
        let to = self.to.as_ref().filter(|_| !self.pending.is_empty());
        let mut polled: Vec<PollFd<'_>> = Vec::new();
        polled.extend(input.map(|input| PollFd::new(input, PollFlags::IN)));
        polled.extend(to.map(|to| PollFd::new(to, PollFlags::OUT)));
        polled.extend(self.from.iter().map(|from| PollFd::new(from, PollFlags::IN)));
        while let Err(error) = poll(&mut polled, None) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        let mut ready = polled.iter().map(|one| !one.revents().is_empty());
        let mut next = |is_there: bool| is_there && ready.next().unwrap_or(false);
        let (input, to) = (next(input.is_some()), next(to.is_some()));
        Ok(Ready { input, to, from: self.from.iter().map(|_| next(true)).collect() })
    }

    fn read_input(&mut self) {
        let Some(input) = &self.input else { return };
        let mut bytes = [0; CHUNK_BYTES];
        match rustix::io::read(input, &mut bytes) {
            Ok(0) => self.input = None,
            Ok(length) => self.pending.extend_from_slice(&bytes[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that is gone.
            Err(_) => self.input = None,
        }
    }

    fn write_pending(&mut self) {
        let Some(to) = &self.to else { return };
        match rustix::io::write(to, &self.pending) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.to = None,
        }
    }
}

/// Passes on what there is. Gives whether there may be more.
fn pass_on(from: &OwnedFd, output: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes = [0; CHUNK_BYTES];
    let mut rest = match rustix::io::read(from, &mut bytes) {
        // A terminal ends like that.
        Ok(0) | Err(Errno::IO) => return Ok(false),
        Ok(length) => &bytes[..length],
        Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    while !rest.is_empty() {
        match rustix::io::write(output, rest) {
            Ok(length) => rest = &rest[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&output, PollFlags::OUT)], None)),
            // Nobody looks any more; the program is to end by itself all the same.
            Err(_) => return Ok(true),
        }
    }
    Ok(true)
}
