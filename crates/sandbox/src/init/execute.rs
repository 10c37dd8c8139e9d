//! Becoming the program: the working directory, the look-up on `PATH`, `HOME`, and the execution. The texts of what
//! goes wrong are those of runc, whose users search for them.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, accessat};
use rustix::io::Errno;

use super::{During, Step};
use crate::emulation::ElfFormat;
use crate::wire::{self, Answer, EMULATOR, Execution};
use crate::{ProcessSpec, kernel};

/// The exit code for a program that is not found or may not be executed.
const NOT_STARTED: i32 = 1;
/// The exit code for a program that the kernel does not execute.
const NOT_EXECUTED: i32 = 255;
/// No real `/etc/passwd` comes near this.
const MAX_PASSWD_BYTES: u64 = 8 << 20;

/// Enters the working directory, which is made (0755, owned by root) where it is missing.
pub(super) fn enter_working_directory(path: &Path) -> Step {
    make_all(path).during("make the working directory", path)?;
    rustix::process::chdir(path).during("enter the working directory", path)?;
    // The kernel tells by the name when a directory is not beneath the root: some link of `/proc` led out of it.
    let entered = rustix::process::getcwd(Vec::new()).during("enter the working directory", path)?;
    if !entered.to_bytes().starts_with(b"/") {
        return Err(rustix::io::Errno::XDEV).during("enter the working directory", path);
    }
    Ok(())
}

/// Links are followed, also to directories that are missing.
fn make_all(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok() {
        return Ok(());
    }
    let path = super::points::canonical(path)?;
    let mut prefix = PathBuf::new();
    for component in path.components() {
        prefix.push(component);
        if prefix.symlink_metadata().is_err() {
            rustix::fs::mkdir(&prefix, Mode::from_raw_mode(0o755))?;
        }
    }
    Ok(())
}

/// Replaces this process by the program, or tells on stderr why not and ends. What the kernel does not execute is told to
/// the calling side, too; the socket is closed by the execution.
pub(super) fn become_program(spec: &ProcessSpec, execution: Execution, socket: &mut UnixStream) -> ! {
    let environment = environment(spec);
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix(b"PATH="));
    let name = OsStr::from_bytes(spec.args.first().map_or(b"".as_slice(), Vec::as_slice));
    let program = match look_up(name, path.unwrap_or_default()) {
        Ok(program) => program,
        Err(NotFound { reason, errno }) => {
            let step = "find".to_owned();
            let _ = wire::send(socket, &Answer::Failed { step, path: PathBuf::from(name), errno });
            let message = format!("unable to start process: exec: {:?}: {reason}", name.to_string_lossy());
            fail(NOT_STARTED, &message)
        }
    };
    let strings =
        |list: &[Vec<u8>]| list.iter().map(|one| CString::new(one.as_slice())).collect::<Result<Vec<_>, _>>();
    let executable = CString::new(program.as_os_str().as_bytes());
    let (Ok(mut executable), Ok(mut arguments), Ok(environment)) =
        (executable, strings(&spec.args), strings(&environment))
    else {
        fail(NOT_STARTED, "unable to start process: an argument or variable holds a null byte")
    };
    if let Execution::Emulated(format) = execution
        && is_of_format(&program, format)
    {
        (executable, arguments) = emulated(executable, arguments);
    }
    if let Err(error) = kernel::close_on_execute() {
        fail(NOT_STARTED, &format!("unable to start process: {}", words(&error)));
    }
    kernel::reset_signals();
    let error = kernel::execute(&executable, &arguments, &environment);
    let step = "execute".to_owned();
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let _ = wire::send(socket, &Answer::Failed { step, path: program.clone(), errno });
    fail(NOT_EXECUTED, &format!("exec {}: {}", program.display(), words(&error)))
}

/// Replaces this process by a program of the machine, with an empty environment; comes back only with why not.
pub(super) fn become_other(program: &Path, arguments: Vec<String>) -> io::Error {
    let become_it = || -> io::Result<io::Error> {
        let program = CString::new(program.as_os_str().as_bytes())?;
        let arguments = arguments.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        // The terminal's Ctrl-C is for the build.
        rustix::process::setsid()?;
        rustix::process::chdir("/")?;
        kernel::close_on_execute()?;
        kernel::reset_signals();
        Ok(kernel::execute(&program, &arguments, &[]))
    };
    become_it().unwrap_or_else(|error| error)
}

/// The emulator's own command line: `-0`, the program's first argument, the program and its other arguments.
fn emulated(program: CString, arguments: Vec<CString>) -> (CString, Vec<CString>) {
    let emulator = CString::new(EMULATOR).expect("the path holds no null byte");
    let mut arguments = arguments.into_iter();
    let own_name = arguments.next().unwrap_or_default();
    let before = [emulator.clone(), c"-0".to_owned(), own_name, program];
    (emulator, before.into_iter().chain(arguments).collect())
}

/// Whether a program begins like those of the format.
fn is_of_format(program: &Path, format: ElfFormat) -> bool {
    let mut begin = Vec::new();
    let read = File::open(program).and_then(|file| file.take(64).read_to_end(&mut begin));
    read.is_ok() && format.matches(&begin)
}

fn fail(code: i32, text: &str) -> ! {
    // The reader may be gone; the exit code stays.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
    kernel::exit_now(code)
}

/// An error's text in lower case and without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// Why a program cannot be executed: in runc's words, and as a number of the kernel's.
#[derive(Debug)]
struct NotFound {
    reason: String,
    errno: i32,
}

impl NotFound {
    fn new(reason: impl Into<String>, errno: Errno) -> Self {
        Self { reason: reason.into(), errno: errno.raw_os_error() }
    }

    fn of(error: &io::Error) -> Self {
        Self { reason: words(error), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// The program's path. Only names without a slash are looked up.
fn look_up(name: &OsStr, path: &[u8]) -> Result<PathBuf, NotFound> {
    if name.as_bytes().contains(&b'/') {
        return executable(Path::new(name)).map(|()| PathBuf::from(name));
    }
    for directory in path.split(|&byte| byte == b':').filter(|_| !path.is_empty()) {
        let directory = if directory.is_empty() { b".".as_slice() } else { directory };
        let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
        if !name.is_empty() && executable(&candidate).is_ok() {
            if candidate.is_relative() {
                let reason = "cannot run executable found relative to current directory";
                return Err(NotFound::new(reason, Errno::ACCESS));
            }
            return Ok(candidate);
        }
    }
    Err(NotFound::new("executable file not found in $PATH", Errno::NOENT))
}

fn executable(path: &Path) -> Result<(), NotFound> {
    let metadata = fs::metadata(path).map_err(|error| {
        let NotFound { reason, errno } = NotFound::of(&error);
        NotFound { reason: format!("stat {}: {reason}", path.display()), errno }
    })?;
    if metadata.is_dir() {
        return Err(NotFound::new("is a directory", Errno::ACCESS));
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|error| NotFound::of(&error.into()))
}

/// The environment, of each name the last value at its first place, with `HOME`.
fn environment(spec: &ProcessSpec) -> Vec<Vec<u8>> {
    let name = |entry: &[u8]| entry.split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
    let mut result: Vec<Vec<u8>> = Vec::with_capacity(spec.env.len() + 1);
    for entry in &spec.env {
        match result.iter_mut().find(|known| name(known) == name(entry)) {
            Some(known) => known.clone_from(entry),
            None => result.push(entry.clone()),
        }
    }
    if !result.iter().any(|entry| name(entry) == b"HOME") {
        let mut entry = OsString::from("HOME=");
        entry.push(read_passwd().and_then(|passwd| home(&passwd, spec.uid)).unwrap_or_else(|| "/".into()));
        result.push(entry.into_vec());
    }
    result
}

fn read_passwd() -> Option<Vec<u8>> {
    // Not blocking: an image may have a fifo there.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open("/etc/passwd")
        .ok()?;
    let mut content = Vec::new();
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    file.take(MAX_PASSWD_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

/// The home directory of the first line with this user (passwd(5)).
fn home(passwd: &[u8], uid: u32) -> Option<OsString> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let found = std::str::from_utf8(fields.get(2)?).ok()?.parse::<u32>().ok()?;
        (found == uid).then(|| OsString::from_vec(fields.get(5).copied().unwrap_or_default().to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootFs;

    #[test]
    fn home_is_the_first_matching_line() {
        let passwd = b"root:x:0:0::/root:/bin/sh\n# x\nbroken\na:x:7:7::/a:\nb:x:7:7::/b:\nc:x:8:8:::\n";
        assert_eq!(home(passwd, 0).unwrap(), "/root");
        assert_eq!(home(passwd, 7).unwrap(), "/a");
        assert_eq!(home(passwd, 8).unwrap(), "");
        assert_eq!(home(passwd, 9), None);
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let mut spec = ProcessSpec::new(RootFs::Directory("/".into()), vec![b"x".to_vec()]);
        spec.env = [b"A=1".as_slice(), b"HOME=", b"A=2", b"AB=3"].map(<[u8]>::to_vec).to_vec();
        let entries: Vec<String> =
            environment(&spec).into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect();
        assert_eq!(entries, ["A=2", "HOME=", "AB=3"]);
    }

    #[test]
    fn what_is_wrong_with_a_program() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let path = directory.path().as_os_str().as_bytes();
        assert_eq!(look_up(plain.as_os_str(), b"").unwrap_err().reason, "permission denied");
        assert_eq!(look_up(directory.path().as_os_str(), b"").unwrap_err().reason, "is a directory");
        assert_eq!(
            look_up(OsStr::new("/no/x"), b"").unwrap_err().reason,
            "stat /no/x: no such file or directory"
        );
        assert_eq!(
            look_up(OsStr::new("plain"), path).unwrap_err().reason,
            "executable file not found in $PATH"
        );
        assert_eq!(
            look_up(OsStr::new(""), b"/bin").unwrap_err().reason,
            "executable file not found in $PATH"
        );
        assert_eq!(look_up(OsStr::new("sh"), b"/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
    }
}
