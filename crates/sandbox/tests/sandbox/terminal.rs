//! Sandboxes on terminals, and the caller's terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use sandbox::{Console, Exit, RawTerminal, Running, TerminalSize, spawn_on};

use crate::Test;
use crate::fixture::{Fixture, words};

pub(crate) const TESTS: &[Test] = &[
    ("a_shell_on_a_terminal", shell_on_a_terminal),
    ("a_terminal_of_another_user", another_user),
    ("what_is_read_from_a_pipe", piped),
    ("a_raw_terminal_is_restored", restored),
    ("a_raw_terminal_is_restored_when_the_caller_is_killed", restored_after_kill),
];

/// A shell that is typed to.
struct Typist {
    running: Running,
    terminal: File,
    seen: String,
}

impl Typist {
    fn new(fixture: &Fixture, upper: &crate::fixture::Upper, uid: u32) -> Self {
        let mut spec = fixture.script_on(upper, "");
        spec.args = words(&["/bin/sh", "-i"]);
        spec.env = words(&["PATH=/usr/bin:/bin", "PS1="]);
        spec.uid = uid;
        let size = TerminalSize { rows: 24, columns: 80 };
        let mut running = spawn_on(&spec, Console::Terminal(size)).unwrap();
        assert!(running.stdout().is_none() && running.stderr().is_none());
        let terminal = File::from(running.terminal().unwrap());
        let mut typist = Self { running, terminal, seen: String::new() };
        // The quotes keep what is echoed from being taken for what is answered.
        typist.ask("stty -echo; echo rea''dy", "ready");
        typist
    }

    fn type_in(&mut self, bytes: &[u8]) {
        self.terminal.write_all(bytes).unwrap();
    }

    /// What comes until `end`, a line of its own, after typing `line`.
    fn ask(&mut self, line: &str, end: &str) -> String {
        self.type_in(format!("{line}\n").as_bytes());
        let end = format!("{end}\r\n");
        while !self.seen.contains(&end) {
            assert!(self.read(), "it ended: {}", self.seen);
        }
        let (answer, rest) = self.seen.split_once(&end).unwrap();
        let (answer, rest) = (answer.replace('\r', ""), rest.to_owned());
        self.seen = rest;
        answer
    }

    /// The answer to a line.
    fn says(&mut self, line: &str) -> String {
        self.ask(&format!("{line}; echo --"), "--")
    }

    /// Whether there was more.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.terminal.read(&mut bytes) {
            Ok(length) => {
                self.seen += &String::from_utf8_lossy(&bytes[..length]);
                length > 0
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                false
            }
        }
    }
}

pub(crate) fn shell_on_a_terminal(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut shell = Typist::new(fixture, &upper, 0);
    assert_eq!(
        shell.says("tty; stty size; echo /dev/pts/*"),
        "/dev/pts/0\n24 80\n/dev/pts/0 /dev/pts/ptmx\n"
    );
    assert_eq!(shell.says("echo by name > /dev/tty; echo x > /dev/pts/0"), "by name\nx\n");
    TerminalSize { rows: 50, columns: 132 }.set(&shell.terminal).unwrap();
    assert_eq!(TerminalSize::of(&shell.terminal).unwrap(), TerminalSize { rows: 50, columns: 132 });
    assert_eq!(shell.says("stty size"), "50 132\n");
    shell.ask("sh -c 'echo begun; sleep 1000'", "begun");
    shell.type_in(b"\x03");
    assert_eq!(shell.says("echo $?").trim(), "130", "Ctrl-C is for the program, not for the shell");
    shell.ask("sh -c 'echo begun; sleep 1000'", "begun");
    shell.type_in(b"\x1a");
    assert!(shell.says("jobs").contains("Stopped"), "there is job control");
    shell.says("echo x > /written");
    // A shell with stopped jobs has to be told twice.
    shell.type_in(b"exit 7\nexit 7\n");
    while shell.read() {}
    assert_eq!(shell.running.wait().unwrap(), Exit::Code(7));
    assert!(upper.path().join("written").exists());
}

fn another_user(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut shell = Typist::new(fixture, &upper, 1000);
    assert_eq!(shell.says("id -u; stat -c '%u %a' /dev/pts/0; echo x > /dev/tty"), "1000\n1000 620\nx\n");
    shell.running.kill();
    while shell.read() {}
    assert_eq!(shell.running.wait().unwrap(), Exit::Signal(libc::SIGKILL));
}

fn piped(fixture: &Fixture) {
    let upper = fixture.upper();
    let mut spec = fixture.script_on(&upper, "");
    spec.args = words(&["/bin/sh"]);
    let (input, mut to) = std::io::pipe().unwrap();
    to.write_all(b"echo one\nsh -c 'echo two >&2'; exit 3\n").unwrap();
    let mut running = spawn_on(&spec, Console::Input(input.as_fd())).unwrap();
    assert!(running.terminal().is_none());
    let read = |descriptor: Option<OwnedFd>| {
        let mut text = String::new();
        File::from(descriptor.unwrap()).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((read(running.stdout()), read(running.stderr())), ("one\n".to_owned(), "two\n".to_owned()));
    assert_eq!(running.wait().unwrap(), Exit::Code(3));
}

/// The two sides of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    unlockpt(&outer).unwrap();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let inner = ioctl_tiocgptpeer(&outer, flags).unwrap();
    (outer, inner)
}

fn is_raw(terminal: &OwnedFd) -> bool {
    let modes = tcgetattr(terminal).unwrap().local_modes;
    !modes.intersects(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON)
}

fn restored(_: &Fixture) {
    let (outer, inner) = terminal();
    for _ in 0..2 {
        let raw = RawTerminal::enter(&inner).unwrap();
        assert!(is_raw(&outer));
        drop(raw);
        assert!(!is_raw(&outer));
    }
    let panicked = std::panic::catch_unwind(|| {
        let _raw = RawTerminal::enter(&inner).unwrap();
        std::panic::resume_unwind(Box::new("panic"));
    });
    assert!(panicked.is_err() && !is_raw(&outer));
    assert!(RawTerminal::enter(File::open("/dev/null").unwrap()).is_err());
}

/// Puts stdin in raw mode and waits to be killed.
pub(crate) fn raw_caller() {
    let _raw = RawTerminal::enter(std::io::stdin()).unwrap();
    println!("raw");
    std::thread::park();
}

fn restored_after_kill(_: &Fixture) {
    let (outer, inner) = terminal();
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .arg("raw-caller")
        .stdin(Stdio::from(inner))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line == "raw\n" && is_raw(&outer));
    caller.kill().unwrap();
    caller.wait().unwrap();
    // The end comes when the last of them has closed the terminal: the guard.
    let mut outer = File::from(outer);
    assert_eq!(outer.read(&mut [0; 64]).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(!is_raw(&OwnedFd::from(outer)));
}
