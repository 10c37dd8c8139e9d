//! Mapping ids from outside of the namespace.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{UserNamespaceError, step};
use crate::kernel;

/// How ids are mapped, groups first.
pub(super) enum Mapping {
    /// By `newgidmap` and `newuidmap`, each with its arguments after the process.
    ByPrograms([(PathBuf, Vec<String>); 2]),
    /// By this process's own capabilities: the texts of `gid_map` and `uid_map`.
    ByOwnRights([String; 2]),
}

/// A child that stays in the outer namespace, where ids have to be mapped, and maps this process's. It ends before
/// this process goes on, so that no process stays between the terminal and the build.
pub(super) struct Helper {
    child: Pid,
    go: fs::File,
    answer: fs::File,
}

impl Helper {
    pub(super) fn start(mapping: &Mapping) -> Result<Self, UserNamespaceError> {
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).map_err(step("making a pipe"))?;
        let (answer, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(step("making a pipe"))?;
        let own = std::process::id().to_string();
        if let Some(child) = kernel::fork().map_err(step("starting a helper"))? {
            let child = Pid::from_raw(child).expect("a child's number is not zero");
            return Ok(Self { child, go: go.into(), answer: answer.into() });
        }
        drop((go, answer));
        let mut byte = [0];
        if fs::File::from(wait).read_exact(&mut byte).is_ok()
            && let Err(reason) = mapping.apply(&own)
        {
            let _ = fs::File::from(tell).write_all(reason.as_bytes());
        }
        kernel::exit_now(0)
    }

    /// Maps the ids of this process, which is in its namespace by now; else gives the reason.
    pub(super) fn map(mut self) -> Result<(), String> {
        let told = self.go.write_all(b"g").and_then(|()| {
            let mut reason = String::new();
            self.answer.read_to_string(&mut reason).map(|_| reason)
        });
        let _ = waitpid(Some(self.child), WaitOptions::empty());
        match told {
            Ok(reason) if reason.is_empty() => Ok(()),
            Ok(reason) => Err(reason),
            Err(error) => Err(format!("the helper failed: {error}")),
        }
    }
}

impl Mapping {
    fn apply(&self, process: &str) -> Result<(), String> {
        match self {
            Self::ByPrograms(programs) => {
                programs.iter().try_for_each(|(program, arguments)| run(program, process, arguments))
            }
            Self::ByOwnRights(texts) => {
                ["gid_map", "uid_map"].iter().zip(texts).try_for_each(|(file, text)| {
                    let path = format!("/proc/{process}/{file}");
                    let written = fs::OpenOptions::new()
                        .write(true)
                        .open(&path)
                        .and_then(|mut file| file.write_all(text.as_bytes()));
                    written.map_err(|error| format!("`{file}` cannot be written: {error}"))
                })
            }
        }
    }
}

fn run(program: &Path, process: &str, arguments: &[String]) -> Result<(), String> {
    let shown = program.display();
    let output = Command::new(program)
        .arg(process)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = if words.trim().is_empty() { output.status.to_string() } else { words.trim().to_owned() };
    let why = if rustix::thread::no_new_privs().unwrap_or(false) {
        " (no program gains rights here: the bit no_new_privs is set, as by a container without privilege escalation)"
    } else {
        ""
    };
    Err(format!("`{shown}` failed: {words}{why}"))
}
