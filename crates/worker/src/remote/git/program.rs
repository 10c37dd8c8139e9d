//! The git program, and what it is asked to do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{FoundReference, KEPT, Listing, file_url};
use crate::remote::RemoteError;
use crate::run::AgentSocket;

/// The most that is read of what git writes; a listing of so many references is no honest one.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// How often a server is asked that cannot answer for a passing reason, and the first pause between two attempts.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// What is told of git's own messages.
const MAX_TOLD_BYTES: usize = 2000;

/// How to run git.
#[derive(Debug, Clone, Default)]
pub struct GitOptions {
    /// The environment of the program, and nothing else of this process's: where programs are (`PATH`), proxies,
    /// `GIT_SSL_CAINFO`, `SSH_AUTH_SOCK`.
    pub environment: BTreeMap<OsString, OsString>,
}

/// What holds for all of git's work. Some servers and clients are old, hence nothing that is newer than git 2.31.
const CONFIGURATION: [(&str, &str); 17] = [
    // A repository brings no programs along.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("credential.helper", ""),
    // Neither does it lead to files of this machine: `user` is for what we name ourselves.
    ("protocol.allow", "never"),
    ("protocol.https.allow", "always"),
    ("protocol.http.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.git.allow", "always"),
    ("protocol.file.allow", "user"),
    // A commit is the same files everywhere.
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    // Nothing goes on behind our back, and nothing waits for a server that is silent.
    ("gc.auto", "0"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
];

/// The git program for one repository.
pub(super) struct Git<'a> {
    options: &'a GitOptions,
    /// The repository without a user's password, which the list of processes would show.
    url: String,
    configuration: Vec<(String, String)>,
    /// Leads to what signs.
    agent: Option<AgentSocket>,
}

impl<'a> Git<'a> {
    /// `authorization` is the value of that header; what a URL of HTTP says is one too.
    pub(super) fn new(
        options: &'a GitOptions,
        url: &str,
        authorization: Option<String>,
        agent: Option<AgentSocket>,
    ) -> Self {
        let (url, own) = without_credentials(url);
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut configuration: Vec<_> = CONFIGURATION.into_iter().map(pair).collect();
        if let Some(value) = authorization {
            let name = format!("http.{}.extraHeader", scope(&url));
            configuration.push((name, format!("Authorization: {value}")));
        } else if let Some((base, value)) = own {
            configuration.push((format!("http.{base}.extraHeader"), format!("Authorization: {value}")));
        }
        Self { options, url, configuration, agent }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// `ls-remote`.
    pub(super) async fn list(&self, arguments: &[&str]) -> Result<Listing, RemoteError> {
        let mut all = vec!["ls-remote", "--quiet"];
        all.extend(arguments);
        let output = self.run_remote(None, &all).await?;
        Ok(Listing::parse(&String::from_utf8_lossy(&output)))
    }

    /// Makes an empty mirror for commits with hashes as long as `hash`.
    pub(super) async fn make_mirror(&self, mirror: &Path, hash: &str) -> Result<(), RemoteError> {
        let directory = mirror.as_os_str();
        self.run(
            None,
            &[
                OsStr::new("init"),
                OsStr::new("--quiet"),
                OsStr::new("--bare"),
                OsStr::new("--template="),
                OsStr::new(object_format(hash)),
                directory,
            ],
        )
        .await?;
        // Whatever was fetched is given out again, however it is named.
        self.run(Some(mirror), &["config", "uploadpack.allowAnySHA1InWant", "true"]).await?;
        Ok(())
    }

    /// Whether the mirror has an object and all that belongs to it.
    pub(super) async fn has(&self, mirror: &Path, hash: &str) -> bool {
        let name = format!("{KEPT}{hash}");
        self.run(Some(mirror), &["rev-parse", "--quiet", "--verify", &name]).await.is_ok()
    }

    /// Fetches an object into the mirror: by its hash, which most servers allow; else by its name; else with everything.
    pub(super) async fn fetch(
        &self,
        mirror: &Path,
        found: &FoundReference,
        hash: &str,
    ) -> Result<(), RemoteError> {
        let fetch =
            ["fetch", "--quiet", "--force", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"];
        let kept = format!("{KEPT}{hash}");
        let by_hash = format!("{hash}:{kept}");
        let attempt = async |extra: &[&str], specs: &[&str]| {
            let all: Vec<&str> =
                fetch.iter().chain(extra).chain(&["--", &self.url]).chain(specs).copied().collect();
            self.run_remote(Some(mirror), &all).await
        };
        let Err(error) = attempt(&["--depth=1"], &[&by_hash]).await else { return Ok(()) };
        if !error.is_about_hashes_or_depth() {
            return Err(error);
        }
        if let Some(name) = &found.name {
            let by_name = format!("{name}:refs/fetched/one");
            if attempt(&["--depth=1"], &[&by_name]).await.is_ok() && self.keep(mirror, hash, &kept).await {
                return Ok(());
            }
        }
        let whole: &[&str] = if mirror.join("shallow").exists() { &["--unshallow"] } else { &[] };
        attempt(whole, &["refs/heads/*:refs/fetched/heads/*", "refs/tags/*:refs/fetched/tags/*"]).await?;
        if self.keep(mirror, hash, &kept).await { Ok(()) } else { Err(error) }
    }

    /// Names an object, if it is there.
    async fn keep(&self, mirror: &Path, hash: &str, name: &str) -> bool {
        self.run(Some(mirror), &["update-ref", "--no-deref", name, hash]).await.is_ok()
    }

    /// Makes an empty repository with its files in `tree`. The address is that of the remote one, for submodules whose
    /// own are relative to it.
    pub(super) async fn make_repository(&self, tree: &Path, hash: &str) -> Result<(), RemoteError> {
        self.run(
            None,
            &[
                OsStr::new("init"),
                OsStr::new("--quiet"),
                OsStr::new("--template="),
                OsStr::new(object_format(hash)),
                tree.as_os_str(),
            ],
        )
        .await?;
        self.run(Some(tree), &["remote", "add", "--", "origin", &self.url]).await?;
        Ok(())
    }

    /// Takes a commit out of the mirror and checks it out; `name` is the reference that is to be there.
    pub(super) async fn take(
        &self,
        tree: &Path,
        mirror: &Path,
        hash: &str,
        name: Option<&str>,
    ) -> Result<(), RemoteError> {
        let spec = name.map_or_else(|| hash.to_owned(), |name| format!("{hash}:{name}"));
        let from = file_url(mirror);
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--depth=1",
            "--update-head-ok",
            "--no-recurse-submodules",
            "--",
        ];
        let mut arguments: Vec<&OsStr> = fetch.iter().map(OsStr::new).collect();
        arguments.extend([from.as_os_str(), OsStr::new(&spec)]);
        self.run(Some(tree), &arguments).await?;
        self.run(Some(tree), &["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"]).await?;
        Ok(())
    }

    /// When the commit that is checked out was made, in seconds since 1970.
    pub(super) async fn commit_time(&self, tree: &Path) -> Result<i64, RemoteError> {
        let printed = self.run(Some(tree), &["log", "-1", "--format=%ct"]).await?;
        // git prints nothing else; a commit without a time has that of 1970.
        Ok(String::from_utf8_lossy(&printed).trim().parse().unwrap_or_default())
    }

    /// Checks out all submodules, and theirs.
    pub(super) async fn submodules(&self, tree: &Path) -> Result<(), RemoteError> {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--checkout"];
        let shallow: Vec<&str> = update.iter().chain(&["--depth=1"]).copied().collect();
        match self.run_remote(Some(tree), &shallow).await {
            Err(error) if error.is_about_hashes_or_depth() => {
                self.run_remote(Some(tree), &update).await?;
            }
            other => drop(other?),
        }
        Ok(())
    }

    /// Leaves a repository as it should be found: with the address for people, and without traces of our work.
    pub(super) async fn leave(&self, tree: &Path, url: &str) -> Result<(), RemoteError> {
        self.run(Some(tree), &["remote", "set-url", "--", "origin", url]).await?;
        self.run(Some(tree), &["reflog", "expire", "--all", "--expire=now"]).await?;
        let trace = tree.join(".git/FETCH_HEAD");
        match std::fs::remove_file(&trace) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(RemoteError::Write { path: trace, source })
            }
            _ => Ok(()),
        }
    }

    /// The same as [`Git::run`], again where a server or the network may only have been tired.
    async fn run_remote(&self, directory: Option<&Path>, arguments: &[&str]) -> Result<Vec<u8>, RemoteError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.run(directory, arguments).await {
                Err(error) if error.is_passing() => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 2;
        }
        self.run(directory, arguments).await
    }

    /// Runs git in a directory and gives what it wrote to standard output.
    async fn run(
        &self,
        directory: Option<&Path>,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<Vec<u8>, RemoteError> {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(directory.unwrap_or(Path::new("/")))
            .env_clear()
            .envs(&self.options.environment)
            .envs([("LC_ALL", "C"), ("HOME", "/dev/null"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", "")])
            .envs([
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_ATTR_NOSYSTEM", "1"),
            ])
            .env("GIT_CONFIG_COUNT", self.configuration.len().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // git starts programs of its own, which end with it.
            .process_group(0)
            .kill_on_drop(true);
        if !self.options.environment.contains_key(OsStr::new("GIT_SSH_COMMAND")) {
            command.env("GIT_SSH_COMMAND", SSH);
        }
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent.address());
        }
        // Not as arguments, which everybody on the machine can read.
        for (index, (name, value)) in self.configuration.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => RemoteError::NoGit,
            _ => RemoteError::GitStart { source },
        })?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        if let Some(leader) = group.0 {
            // Also where this process is killed. One that has ended already needs no guard.
            let _ = sandbox::guard_process_group(leader);
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = tokio::try_join!(read(stdout), read(stderr), child.wait());
        let (stdout, stderr, status) = ended.map_err(|source| RemoteError::GitStart { source })?;
        drop(group.defuse());
        if status.success() { Ok(stdout) } else { Err(self.failed(arguments, status, &stderr)) }
    }

    fn failed(&self, arguments: &[impl AsRef<OsStr>], status: ExitStatus, stderr: &[u8]) -> RemoteError {
        let command =
            arguments.iter().map(|text| text.as_ref().to_string_lossy()).find(|text| !text.starts_with('-'));
        let text = String::from_utf8_lossy(stderr);
        let text = text.trim();
        // The end has the reason.
        let start = text.char_indices().rev().take(MAX_TOLD_BYTES).last().map_or(0, |(at, _)| at);
        let message = if text.is_empty() { status.to_string() } else { text[start..].to_owned() };
        RemoteError::Git {
            command: command.unwrap_or_default().into_owned(),
            url: registry::redacted(&self.url),
            message,
        }
    }
}

/// Nobody is there to answer questions. A host is trusted when it is first seen, and from then on by its key.
const SSH: &str = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=15 \
                   -o ServerAliveInterval=15";

/// Ends the processes of a group that is given up.
struct Group(Option<Pid>);

impl Group {
    fn defuse(mut self) -> Self {
        self.0 = None;
        self
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Whoever has ended already needs no signal.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// All that comes, of which the beginning is kept.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    (&mut pipe).take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

fn object_format(hash: &str) -> &'static str {
    if hash.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" }
}

/// The addresses that a token is sent to: the repository, and on github.com all of them, as for a token there is no
/// other use (what actions/checkout does, and BuildKit).
fn scope(url: &str) -> &str {
    let hubs = ["https://github.com/", "https://www.github.com/"];
    hubs.into_iter().find(|hub| url.starts_with(hub)).unwrap_or(url)
}

/// A URL of HTTP without user and password; and the address of its host, with the header that they make.
fn without_credentials(url: &str) -> (String, Option<(String, String)>) {
    let unchanged = || (url.to_owned(), None);
    let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else { return unchanged() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((_, host)) = rest[..end].rsplit_once('@') else { return unchanged() };
    let Some(value) = registry::url_authorization(url) else { return unchanged() };
    let base = format!("{scheme}://{host}");
    (format!("{base}{}", &rest[end..]), Some((format!("{base}/"), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_url_become_a_header() {
        let (url, header) = without_credentials("https://u:p@host:1/a.git");
        let expected = ("https://host:1/".to_owned(), "Basic dTpw".to_owned());
        assert_eq!((url.as_str(), header), ("https://host:1/a.git", Some(expected)));
        for other in ["https://host/a@b.git", "git@host:a", "ssh://u:p@host/a"] {
            assert_eq!(without_credentials(other), (other.to_owned(), None));
        }
    }

    #[test]
    fn tokens_go_to_the_repository_alone_but_for_github() {
        assert_eq!(scope("https://host/a.git"), "https://host/a.git");
        assert_eq!(scope("https://github.com/a/b.git"), "https://github.com/");
        assert_eq!(scope("https://github.com.evil.test/a.git"), "https://github.com.evil.test/a.git");
    }
}
