//! The terminal, or what stands in its place, while a program in a sandbox has it.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use sandbox::{Console, RawTerminal, Running, TerminalSize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, JoinHandle};
use worker::{Program, Scene};

use crate::report;
use crate::session::blocking;

/// No more than what a pipe that can be written to takes at once.
const CHUNK_BYTES: usize = 4096;
/// What is read of a program's output at once.
const OUTPUT_BYTES: usize = 16 << 10;

/// What terminals were long before they could tell.
const USUAL_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// Where the user is.
#[derive(Debug)]
pub(crate) struct Station {
    /// Where input comes from, if any is wanted.
    input: Option<OwnedFd>,
    /// Where the two outputs of a program go.
    outputs: [OwnedFd; 2],
    /// Whether programs get a terminal.
    is_terminal: bool,
    unread: Unread,
}

/// What becomes of a program whose output nobody takes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// It goes on.
    GoesOn,
    /// It is told as a pipe tells it, or loses its terminal.
    Closed,
}

/// What a program is to be connected to of the user's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Whether it reads standard input.
    pub(crate) wants_input: bool,
    /// Whether it gets a terminal.
    pub(crate) wants_terminal: bool,
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
        let input = Some(stdin.as_fd().try_clone_to_owned()?);
        Ok(Self { input, outputs: [output.try_clone()?, output], is_terminal, unread: Unread::GoesOn })
    }

    /// The standard streams, for a program that stands for this one.
    pub(crate) fn standard(wishes: Wishes) -> io::Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let input = wishes.wants_input.then(|| stdin.as_fd().try_clone_to_owned()).transpose()?;
        let outputs = [stdout.as_fd().try_clone_to_owned()?, stderr.as_fd().try_clone_to_owned()?];
        Ok(Self { input, outputs, is_terminal: wishes.wants_terminal, unread: Unread::Closed })
    }

    /// Whether there is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// What a program that is to be started for the user is connected to.
    fn connection(&self) -> io::Result<Connection> {
        if self.is_terminal {
            let size = self.screen().map_or(Ok(USUAL_SIZE), TerminalSize::of)?;
            return Ok(Connection::Terminal(size));
        }
        if self.input.is_none() {
            return Ok(Connection::Nothing);
        }
        let (inner, outer) = io::pipe()?;
        Ok(Connection::Pipe { inner: inner.into(), outer: outer.into() })
    }

    /// The user's terminal, if one can be told.
    fn screen(&self) -> Option<&OwnedFd> {
        self.input.iter().chain(&self.outputs).find(|descriptor| descriptor.is_terminal())
    }
}

/// What a program is connected to.
enum Connection {
    /// A terminal of this size.
    Terminal(TerminalSize),
    /// A pipe, which it reads from.
    Pipe { inner: OwnedFd, outer: OwnedFd },
    /// Nothing to read from.
    Nothing,
}

impl Connection {
    /// The same for the sandbox.
    fn console(&self) -> Console<'_> {
        match self {
            Self::Terminal(size) => Console::Terminal(*size),
            Self::Pipe { inner, .. } => Console::Input(inner.as_fd()),
            Self::Nothing => Console::Output,
        }
    }
}

/// A program that has the user's terminal, which is in raw mode until this is dropped.
struct Session {
    relay: Relay,
    _raw: Option<RawTerminal>,
    resizing: Option<AbortHandle>,
}

/// What is left of a session.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Input that has been read and not used.
    pub(crate) pending: Vec<u8>,
    /// Whether nobody takes the output any more.
    pub(crate) is_unread: bool,
}

impl Session {
    /// Connects a program that has been started. `pending` is what the one before has left of the input.
    fn begin(
        station: &Station,
        connection: Connection,
        running: &mut Running,
        pending: Vec<u8>,
    ) -> io::Result<Self> {
        let input = station.input.as_ref().map(OwnedFd::try_clone).transpose()?;
        let [output, errors] = &station.outputs;
        let (output, errors) = (output.try_clone()?, errors.try_clone()?);
        let mut from = Vec::new();
        let (mut to, mut raw, mut resizing) = (None, None, None);
        match (connection, running.terminal()) {
            (Connection::Terminal(_), None) => return Err(io::ErrorKind::NotConnected.into()),
            (Connection::Terminal(_), Some(terminal)) => {
                if let Some(screen) = station.screen() {
                    resizing = Some(follow_size(screen.try_clone()?, terminal.try_clone()?)?);
                }
                if let Some(input) = input.as_ref().filter(|input| input.is_terminal()) {
                    raw = Some(RawTerminal::enter(input)?);
                }
                to = Some(terminal.try_clone()?);
                from.push((terminal, output));
            }
            (connection, _) => {
                if let Connection::Pipe { outer, .. } = connection {
                    to = Some(outer);
                }
                from.extend(running.stdout().map(|stdout| (stdout, output)));
                from.extend(running.stderr().map(|stderr| (stderr, errors)));
            }
        }
        if let Some(to) = &to {
            fcntl_setfl(to, fcntl_getfl(to)? | OFlags::NONBLOCK)?;
        }
        let unread = station.unread;
        let relay = Relay { input, to, from, pending, unread, is_unread: false };
        Ok(Self { relay, _raw: raw, resizing })
    }

    /// Passes on what is typed and what is answered, until the program and all that it has started are gone. Gives what is
    /// left. Blocks.
    fn run(mut self) -> io::Result<Remains> {
        while !self.relay.from.is_empty() {
            self.relay.step()?;
        }
        let pending = std::mem::take(&mut self.relay.pending);
        Ok(Remains { pending, is_unread: self.relay.is_unread })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(resizing) = &self.resizing {
            resizing.abort();
        }
    }
}

/// A program that was started, and what passes on its input and output.
pub(crate) type Started = (Running, JoinHandle<io::Result<Remains>>);

/// Starts a program in a scene, connected to where the user is; what goes wrong is told in words.
pub(crate) async fn start(
    mut scene: Scene,
    program: Program,
    station: &Station,
    pending: Vec<u8>,
) -> (Scene, Result<Started, String>) {
    let connection = match station.connection() {
        Ok(connection) => connection,
        Err(error) => return (scene, Err(error.to_string())),
    };
    let (scene, begun) = blocking(move || {
        let running = scene.spawn(program, connection.console());
        (scene, running.map(|running| (running, connection)))
    })
    .await;
    let (mut running, connection) = match begun {
        Ok(begun) => begun,
        Err(error) => return (scene, Err(report::chain(&error))),
    };
    match Session::begin(station, connection, &mut running, pending) {
        Ok(session) => (scene, Ok((running, tokio::task::spawn_blocking(move || session.run())))),
        Err(error) => (scene, Err(error.to_string())),
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
    /// The outputs of the program, and where they go.
    from: Vec<(OwnedFd, OwnedFd)>,
    /// Input that the program has not got yet.
    pending: Vec<u8>,
    unread: Unread,
    is_unread: bool,
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
        let (unread, is_unread) = (self.unread, &mut self.is_unread);
        self.from.retain(|(from, output)| {
            let is_ready = ready.from[index];
            index += 1;
            if !is_ready {
                return true;
            }
            match pass_on(from, output.as_fd()) {
                Ok(Passed::More) => true,
                Ok(Passed::End) => false,
                Ok(Passed::Unread) => {
                    *is_unread = true;
                    unread == Unread::GoesOn
                }
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        });
        outcome
    }

    fn wait(&self) -> io::Result<Ready> {
        let input = self.input.as_ref().filter(|_| self.to.is_some() && self.pending.is_empty());
        let to = self.to.as_ref().filter(|_| !self.pending.is_empty());
        let mut polled: Vec<PollFd<'_>> = Vec::new();
        polled.extend(input.map(|input| PollFd::new(input, PollFlags::IN)));
        polled.extend(to.map(|to| PollFd::new(to, PollFlags::OUT)));
        polled.extend(self.from.iter().map(|(from, _)| PollFd::new(from, PollFlags::IN)));
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

/// What came of passing something on.
enum Passed {
    /// There may be more.
    More,
    /// That was all.
    End,
    /// Nobody takes it.
    Unread,
}

/// Passes on what there is.
fn pass_on(from: &OwnedFd, output: BorrowedFd<'_>) -> io::Result<Passed> {
    let mut bytes = [0; OUTPUT_BYTES];
    let mut rest = match rustix::io::read(from, &mut bytes) {
        // A terminal ends like that.
        Ok(0) | Err(Errno::IO) => return Ok(Passed::End),
        Ok(length) => &bytes[..length],
        Err(Errno::INTR | Errno::AGAIN) => return Ok(Passed::More),
        Err(error) => return Err(error.into()),
    };
    while !rest.is_empty() {
        match rustix::io::write(output, rest) {
            Ok(length) => rest = &rest[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&output, PollFlags::OUT)], None)),
            Err(_) => return Ok(Passed::Unread),
        }
    }
    Ok(Passed::More)
}
