//! The caller's terminal, while a process in a sandbox has another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::executable::{self, Protection};
use crate::{TerminalSize, guard};

impl TerminalSize {
    /// The size of a terminal.
    pub fn of(terminal: impl AsFd) -> io::Result<Self> {
        let Winsize { ws_row: rows, ws_col: columns, .. } = tcgetwinsize(terminal)?;
        Ok(Self { rows, columns })
    }

    /// Makes it the size of a terminal, by either side. Programs on it are told by `SIGWINCH`.
    pub fn set(self, terminal: impl AsFd) -> io::Result<()> {
        let size = Winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(terminal, size)?)
    }
}

/// A terminal in raw mode: every byte goes on as it was typed, also those that otherwise make signals. It gets back the
/// modes that it had when this is dropped, and when the process ends in whatever way.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Puts a terminal in raw mode; an error for what is none. One at a time.
    pub fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        guard::keep_terminal(executable::own(Protection::Mount)?, terminal.as_fd())?;
        let raw_terminal = Self { terminal, before };
        let mut raw = raw_terminal.before.clone();
        raw.make_raw();
        tcsetattr(&raw_terminal.terminal, OptionalActions::Drain, &raw)?;
        Ok(raw_terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        guard::release_terminal();
    }
}
