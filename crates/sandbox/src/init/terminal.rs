//! The terminal of an interactive process.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open as open_file};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{During, Step};
use crate::TerminalSize;

/// Makes a terminal the controlling one of this session, and stdin, stdout and stderr. Gives its outer side.
///
/// It is one of the sandbox's own `/dev/pts`: one of the caller's would have no name inside, and be the wrong one or
/// none for whatever opens it by that.
pub(super) fn open(size: TerminalSize) -> Step<OwnedFd> {
    let step = "open a terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let outer = open_file("/dev/pts/ptmx", flags, Mode::empty()).during(step, "/dev/pts/ptmx")?;
    unlockpt(&outer).during(step, "")?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&outer, size).during("set the size of a terminal", "")?;
    let inner = ioctl_tiocgptpeer(&outer, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .during(step, "")?;
    ioctl_tiocsctty(&inner).during("take control of a terminal", "")?;
    dup2_stdin(&inner)
        .and_then(|()| dup2_stdout(&inner))
        .and_then(|()| dup2_stderr(&inner))
        .during(step, "")?;
    Ok(outer)
}
