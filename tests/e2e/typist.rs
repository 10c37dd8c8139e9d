//! A user at a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// The size of the terminal, unless it is changed.
const ROWS: u16 = 33;
const COLUMNS: u16 = 101;

/// A build at a terminal, at which a user types.
pub(crate) struct Typist {
    child: Child,
    terminal: File,
    seen: String,
}

impl Typist {
    pub(crate) fn new(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let outer = openpt(flags).expect("a terminal can be made");
        unlockpt(&outer).expect("a terminal can be unlocked");
        let inner = ioctl_tiocgptpeer(&outer, flags).expect("a terminal can be opened");
        let terminal = File::from(outer);
        resize(&terminal, ROWS, COLUMNS);
        // It becomes the program, with the terminal as the one that signals come from.
        let mut at_terminal = Command::new("setsid");
        at_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        at_terminal.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        at_terminal.current_dir(command.get_current_dir().expect("a lab has a directory"));
        let side = || Stdio::from(inner.try_clone().expect("a descriptor can be copied"));
        at_terminal.stdin(side()).stdout(side()).stderr(side());
        let child = at_terminal.spawn().expect("install util-linux");
        Self { child, terminal, seen: String::new() }
    }

    pub(crate) fn type_in(&mut self, bytes: &str) {
        self.terminal.write_all(bytes.as_bytes()).expect("a terminal can be written to");
    }

    /// What is shown until `end`.
    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> String {
        while !self.seen.contains(end) {
            assert!(self.read(), "`{end}` did not come:\n{}", self.seen);
        }
        let (before, after) = self.seen.split_once(end).expect("it was found");
        let (before, after) = (before.replace('\r', ""), after.to_owned());
        self.seen = after;
        before
    }

    /// Waits for the shell, and stops the echo, so that commands are not taken for their answers.
    #[track_caller]
    pub(crate) fn greet(&mut self) -> String {
        let banner = self.until("thrown away");
        self.type_in("PS1=; stty -echo; echo rea''dy\n");
        self.until("ready\r\n");
        banner
    }

    /// The answer to a command.
    #[track_caller]
    pub(crate) fn says(&mut self, command: &str) -> String {
        self.type_in(&format!("{command}; echo --\n"));
        self.until("--\r\n")
    }

    /// Whether there was more.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.terminal.read(&mut bytes) {
            Ok(length) => {
                self.seen += &String::from_utf8_lossy(&bytes[..length]);
                length > 0
            }
            // All have closed it.
            Err(_) => false,
        }
    }

    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("a terminal has modes").local_modes;
        !modes.intersects(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a child has a pid");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        resize(&self.terminal, rows, columns);
    }

    /// The exit code, and what the terminal shows of all that it was told, without the spaces at the ends of lines.
    pub(crate) fn end_with_screen(mut self) -> (Option<i32>, String) {
        while self.read() {}
        let status = self.child.wait().expect("a child can be waited for");
        let size = |number| NonZero::new(number).expect("a terminal has a size");
        let mut screen = vt100::Parser::new(size(ROWS), size(COLUMNS), 0);
        screen.process(self.seen.as_bytes());
        assert!(!screen.screen().hide_cursor());
        let rows = screen.screen().rows(0, COLUMNS).map(|row| row.trim_end().to_owned());
        (status.code(), rows.collect::<Vec<_>>().join("\n").trim_end().to_owned())
    }

    /// The exit code, and what was shown last. The terminal is as it was.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        assert!(!self.is_raw());
        let status = self.child.wait().expect("a child can be waited for");
        (status.code(), self.seen.replace('\r', ""))
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}
