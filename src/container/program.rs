//! The program for the sandbox.

use std::path::{Path, PathBuf};

use sandbox::{MountKind, MountSpec, RootAccess};
use solver::RunOp;
use worker::Program;

use super::command::Settings;
use super::flags::RunArguments;
use crate::debug::is_static_program;
use crate::report::{Failure, FailureKind};
use crate::settings::Environment;

/// Programs that hand on signals and wait for orphans, and take a command as it is after two dashes.
const INITS: [&str; 4] = ["tini-static", "catatonit", "docker-init", "tini"];
/// Where docker and podman have theirs.
const INIT_DIRECTORIES: [&str; 4] =
    ["/usr/libexec/docker", "/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"];
/// Where it is mounted: the file system there is the sandbox's own.
const INIT: &str = "/dev/init";
/// What programs on a terminal are told that it is, as with docker.
const TERMINAL_KIND: &str = "TERM=xterm";

/// The program of a command.
pub(super) fn program(arguments: &RunArguments, settings: &Settings, op: &RunOp) -> Result<Program, Failure> {
    let mut args = op.args.clone();
    let mut mounts = settings.mounts.clone();
    if arguments.init {
        let kind = MountKind::Bind { source: find_init()?, read_only: true };
        mounts.push(MountSpec { target: PathBuf::from(INIT), kind });
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let mut env = vec![format!("HOSTNAME={}", op.hostname.as_deref().unwrap_or_default()).into_bytes()];
    if arguments.tty {
        env.push(TERMINAL_KIND.to_owned().into_bytes());
    }
    let root_access = if arguments.read_only { RootAccess::ReadOnly } else { RootAccess::Writable };
    Ok(Program { args: args.into_iter().map(String::into_bytes).collect(), env, mounts, root_access })
}

/// One of this machine that needs no libraries of the image.
fn find_init() -> Result<PathBuf, Failure> {
    let path = Environment::path("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(INIT_DIRECTORIES.map(PathBuf::from));
    let directories: Vec<PathBuf> = directories.filter(|directory| directory.is_absolute()).collect();
    let candidates =
        INITS.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    candidates.into_iter().find(|path| is_static_program(Path::new(path))).ok_or_else(|| {
        Failure::new(FailureKind::NotRun, "there is no init for `--init` on this machine")
            .with_hint("the package `tini` has one")
    })
}
