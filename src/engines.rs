//! `--load`: images for the engines of this machine: docker's over its socket, containerd's and podman's by their commands.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cache::Store;
use exporter::{ArchiveKind, ExportError, ImageSet, LoadTarget, NamedImages};
use oci::{Digest, ImageReference};
use registry::{Engine, EngineAddress};
use serde::Deserialize;

use crate::programs;
use crate::report::{self, Failure, FailureKind};
use crate::session::blocking;
use crate::settings::{DOCKER_DAEMON, Environment};

/// The commands that load an archive from standard input into containerd.
const CONTAINERD: [(&str, &[&str]); 2] =
    [("nerdctl", &["load"]), ("ctr", &["--namespace", "default", "images", "import", "-"])];
/// Where containerd listens, which `ctr` is of no use without.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const PODMAN: (&str, &[&str]) = ("podman", &["load"]);

/// An image with its names.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) store: Store,
    pub(crate) images: Arc<ImageSet>,
    pub(crate) names: Vec<ImageReference>,
}

/// Who takes an image.
enum Taker {
    Engine(Engine),
    Command(PathBuf, &'static [&'static str]),
    Waiting(Waiting),
}

/// A program that waits for an archive on its standard input. Dropped before it got one, it is ended.
pub(crate) struct Waiting {
    name: String,
    child: Child,
    /// What it says.
    said: File,
}

/// The metadata of a docker context (`meta.json`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextMeta {
    endpoints: std::collections::BTreeMap<String, Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    host: String,
}

/// Begins the program that is to take an image, if the build is an ordinary user's: in the user namespace that such
/// builds enter it would take the root of the namespace for that of the machine.
pub(crate) fn begin(target: &LoadTarget) -> Option<Waiting> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let taker = match target {
        LoadTarget::Docker { .. } => None,
        LoadTarget::Containerd => containerd(),
        LoadTarget::Podman => podman(),
        LoadTarget::First => match address(None) {
            Ok(EngineAddress::Unix(socket)) if !may_write(&socket) => first_command(),
            _ => None,
        },
    };
    match taker {
        // What goes wrong here is told when the image is handed over.
        Some(Taker::Command(program, arguments)) => Waiting::start(&program, arguments).ok(),
        _ => None,
    }
}

/// Gives an image to an engine; the answer is what that says. A command is the one that was begun, if one was.
pub(crate) async fn load(
    load: Load,
    target: &LoadTarget,
    begun: Option<Waiting>,
) -> Result<Vec<String>, Failure> {
    let taker = match (taker(target).await?, begun) {
        (Taker::Command(..), Some(waiting)) => Taker::Waiting(waiting),
        (taker, _) => taker,
    };
    match taker {
        Taker::Engine(engine) => into_engine(load, &engine).await,
        Taker::Command(program, arguments) => blocking(move || by_command(&load, &program, arguments)).await,
        Taker::Waiting(waiting) => blocking(move || waiting.take(&load)).await,
    }
}

async fn taker(target: &LoadTarget) -> Result<Taker, Failure> {
    match target {
        LoadTarget::Docker { context } => {
            let address = address(context.as_deref())?;
            let engine = Engine::new(address).map_err(|error| engine_failure(&error))?;
            engine.ping().await.map_err(|error| engine_failure(&error))?;
            Ok(Taker::Engine(engine))
        }
        LoadTarget::Containerd => containerd().ok_or_else(|| {
            let names = CONTAINERD.map(|(name, _)| format!("`{name}`")).join(" nor ");
            none(&format!("there is neither {names} on the PATH"))
        }),
        LoadTarget::Podman => podman().ok_or_else(|| none("there is no `podman` on the PATH")),
        LoadTarget::First => {
            let docker = match address(None).map(Engine::new) {
                Ok(Ok(engine)) => engine.ping().await.map(|()| engine).map_err(|error| report::chain(&error)),
                Ok(Err(error)) => Err(report::chain(&error)),
                Err(failure) => return Err(failure),
            };
            match docker {
                Ok(engine) => Ok(Taker::Engine(engine)),
                Err(reason) => first_command().ok_or_else(|| {
                    none(&format!("{reason}; there is neither `nerdctl`, `ctr` nor `podman` that could"))
                }),
            }
        }
    }
}

fn none(reason: &str) -> Failure {
    let failure = Failure::new(FailureKind::Environment, format!("no engine takes the image: {reason}"));
    failure.with_hint("`-t` alone keeps the image in rbuild's store, for `rbuild run` and `rbuild save`")
}

fn engine_failure(error: &registry::EngineError) -> Failure {
    Failure::from_error(FailureKind::Environment, error)
}

/// Where docker's engine is: in the context that is asked for, else where docker's own client finds it.
fn address(context: Option<&str>) -> Result<EngineAddress, Failure> {
    let of_host = |host: &str| read_address(host).map_err(Failure::usage);
    if let Some(context) = context.filter(|context| !context.is_empty()) {
        return context_host(context).and_then(|host| of_host(&host));
    }
    if let Some(host) = Environment::docker_host() {
        return of_host(&host);
    }
    match Environment::docker_context()? {
        Some(context) => context_host(&context).and_then(|host| of_host(&host)),
        None => of_host(DOCKER_DAEMON),
    }
}

fn context_host(name: &str) -> Result<String, Failure> {
    if name == "default" {
        return Ok(DOCKER_DAEMON.to_owned());
    }
    let directory = Environment::docker_directory();
    let digest = Digest::sha256(name.as_bytes());
    let path = directory.unwrap_or_default().join("contexts/meta").join(digest.hex()).join("meta.json");
    let wrong = |problem: String| Failure::usage(format!("there is no docker context `{name}`: {problem}"));
    let text =
        std::fs::read(&path).map_err(|error| wrong(format!("cannot read `{}`: {error}", path.display())))?;
    let meta: ContextMeta =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("`{}`: {error}", path.display())))?;
    let endpoint = meta.endpoints.get("docker").map(|endpoint| endpoint.host.clone());
    endpoint.ok_or_else(|| wrong(format!("`{}` names no engine", path.display())))
}

fn read_address(host: &str) -> Result<EngineAddress, String> {
    match host.split_once("://") {
        Some(("unix", path)) => Ok(EngineAddress::Unix(PathBuf::from(path))),
        Some(("tcp" | "http", address)) => {
            let address = address.trim_end_matches('/');
            let has_port = address.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
            Ok(EngineAddress::Tcp(if has_port { address.to_owned() } else { format!("{address}:2375") }))
        }
        _ => Err(format!("the docker engine at `{host}` cannot be spoken to: `unix://` and `tcp://` can")),
    }
}

fn containerd() -> Option<Taker> {
    CONTAINERD.iter().find_map(|(name, arguments)| Some(Taker::Command(find(name)?, arguments)))
}

/// The command that takes an image where docker's engine does not. Where containerd does not run, `ctr` may be there all
/// the same: docker's package brings it.
fn first_command() -> Option<Taker> {
    let socket = Environment::path("CONTAINERD_ADDRESS").unwrap_or_else(|| CONTAINERD_SOCKET.into());
    let has_containerd = find(CONTAINERD[0].0).is_some() || may_write(&socket);
    containerd().filter(|_| has_containerd).or_else(podman)
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

fn podman() -> Option<Taker> {
    Some(Taker::Command(find(PODMAN.0)?, PODMAN.1))
}

fn find(name: &str) -> Option<PathBuf> {
    programs::find(name, Environment::path("PATH")?.as_os_str())
}

impl Load {
    /// Writes the archive. Blocks.
    fn write(&self, to: File) -> Result<(), ExportError> {
        let named = NamedImages { images: &self.images, names: &self.names };
        exporter::stream_archives(&self.store, &[named], ArchiveKind::Docker, to)
    }
}

async fn into_engine(load: Load, engine: &Engine) -> Result<Vec<String>, Failure> {
    let pipe = std::io::pipe();
    let (from, to) =
        pipe.map_err(|error| Failure::new(FailureKind::Environment, format!("cannot make a pipe: {error}")))?;
    let writing = blocking(move || load.write(OwnedFd::from(to).into()));
    let (written, loaded) = tokio::join!(writing, engine.load(OwnedFd::from(from)));
    // An engine that takes no more says why; that the pipe broke is nothing beside it.
    let lines = loaded.map_err(|error| engine_failure(&error))?;
    written.map_err(|error| crate::export::failure(&error))?;
    Ok(lines)
}

/// Has a program load an image. Blocks.
fn by_command(load: &Load, program: &Path, arguments: &[&str]) -> Result<Vec<String>, Failure> {
    if Environment::is_in_user_namespace() {
        let name = name_of(program);
        let failure = format!("`{name}` cannot be reached from the user namespace that the build is in");
        return Err(Failure::new(FailureKind::Environment, failure).with_hint(format!(
            "hand the image over yourself: `rbuild -o type=docker,dest=- … | {name} load`"
        )));
    }
    Waiting::start(program, arguments)?.take(load)
}

fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Waiting {
    fn start(program: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Environment, format!("cannot run `{}`: {error}", program.display()))
        };
        let said = tempfile().map_err(|error| failed(&error))?;
        let both = |file: &File| file.try_clone().map(Stdio::from);
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(both(&said).map_err(|error| failed(&error))?)
            .stderr(both(&said).map_err(|error| failed(&error))?)
            .spawn()
            .map_err(|error| failed(&error))?;
        Ok(Self { name: name_of(program), child, said })
    }

    /// Hands the image over; the answer is what the program says. Blocks.
    fn take(mut self, load: &Load) -> Result<Vec<String>, Failure> {
        let name = self.name.clone();
        let input = self.child.stdin.take().expect("it is piped");
        let written = load.write(OwnedFd::from(input).into());
        let status = self.child.wait().map_err(|error| {
            Failure::new(FailureKind::Environment, format!("cannot wait for `{name}`: {error}"))
        })?;
        let mut text = String::new();
        // What it said is told where it can be read.
        let _ = std::io::Seek::rewind(&mut self.said).and_then(|()| self.said.read_to_string(&mut text));
        let lines: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        if !status.success() {
            let last = lines.last().cloned().unwrap_or_else(|| status.to_string());
            let message = format!("`{name}` refused the image: {last}");
            return Err(Failure::new(FailureKind::Environment, message));
        }
        written.map_err(|error| crate::export::failure(&error))?;
        Ok(lines)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Neither matters to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file in memory, for what a program says.
fn tempfile() -> rustix::io::Result<File> {
    rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let unix = |path: &str| Ok(EngineAddress::Unix(path.into()));
        let tcp = |address: &str| Ok(EngineAddress::Tcp(address.into()));
        assert_eq!(read_address("unix:///run/d.sock"), unix("/run/d.sock"));
        assert_eq!(read_address("tcp://127.0.0.1:2376/"), tcp("127.0.0.1:2376"));
        assert_eq!(read_address("tcp://host"), tcp("host:2375"));
        assert!(read_address("ssh://host").unwrap_err().contains("`ssh://host`"));
    }
}
