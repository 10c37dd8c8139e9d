//! Git repositories, and servers of them on loopback: `git daemon`, and `git http-backend` behind a small web server.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::accept::accept;

/// A repository with a working tree.
#[derive(Debug)]
pub struct GitRepository {
    directory: PathBuf,
}

impl GitRepository {
    /// Makes an empty one with the branch `main` in a directory that is not there yet.
    ///
    /// # Panics
    /// When git is not installed (Debian: `git`), or fails.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self::with_format(directory, "sha1")
    }

    /// The same with another kind of hashes.
    pub fn with_format(directory: impl Into<PathBuf>, format: &str) -> Self {
        let directory = directory.into();
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        let repository = Self { directory };
        let format = format!("--object-format={format}");
        repository.git(&["init", "--quiet", "--initial-branch=main", "--template=", &format]);
        repository
    }

    /// Its working tree.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs git in it and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(&self.directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("HOME", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@test"), ("GIT_COMMITTER_NAME", "c")])
            .envs([("GIT_COMMITTER_EMAIL", "c@test"), ("GIT_ALLOW_PROTOCOL", "file:git:http")])
            .stdin(Stdio::null())
            .output()
            .expect("git can be run; Debian has it in the package `git`");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes files, commits everything and gives the hash of the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.directory.join(name);
            let parent = path.parent().expect("a file has a parent");
            std::fs::create_dir_all(parent).expect("a directory can be made");
            std::fs::write(path, content).expect("a file can be written");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=x"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Its URL for git's own protocol for files.
    pub fn file_url(&self) -> String {
        format!("file://{}/.git", self.directory.display())
    }
}

/// `git daemon` for all repositories below a directory.
#[derive(Debug)]
pub struct GitDaemon {
    address: String,
    process: Child,
}

impl GitDaemon {
    /// Starts it.
    ///
    /// # Panics
    /// When git is not installed (Debian: `git`), or the machine has no free port.
    pub fn start(root: &Path) -> Self {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            listener.local_addr().expect("the listener is bound").port()
        };
        // By its own name: what `git` starts would outlive it.
        let programs = Command::new("git").arg("--exec-path").output().expect("git can be run");
        let programs = String::from_utf8_lossy(&programs.stdout).trim().to_owned();
        let mut process = Command::new(format!("{programs}/git-daemon"))
            .args(["--export-all", "--reuseaddr", "--verbose", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", root.display()))
            .arg(root)
            .envs([
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", "safe.directory"),
                ("GIT_CONFIG_VALUE_0", "*"),
            ])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("git can be run; Debian has it in the package `git`");
        let mut lines = BufReader::new(process.stderr.take().expect("it was piped"));
        let mut line = String::new();
        while !line.contains("Ready to rumble") {
            line.clear();
            let read = lines.read_line(&mut line).expect("the daemon's messages can be read");
            assert!(read > 0, "the daemon ended before it was ready");
        }
        // It must never wait for somebody to read.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { address: format!("127.0.0.1:{port}"), process }
    }

    /// The URL of a repository below the root.
    pub fn url(&self, path: &str) -> String {
        format!("git://{}/{path}", self.address)
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A web server of all repositories below a directory, by git's smart protocol.
#[derive(Debug)]
pub struct GitHttp {
    address: String,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    authorization: Mutex<Option<String>>,
    /// How many requests are still to fail.
    failures: Mutex<usize>,
    requests: Mutex<Vec<String>>,
}

impl GitHttp {
    /// Starts it.
    ///
    /// # Panics
    /// When the machine has no free port.
    pub fn start(root: &Path) -> Self {
        let state = State {
            root: root.to_owned(),
            authorization: Mutex::default(),
            failures: Mutex::default(),
            requests: Mutex::default(),
        };
        let state = Arc::new(state);
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound").to_string();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || run(listener, &shared, stopped));
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a repository below the root. Its name must end in `.git` for BuildKit to take it for one.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// The value of `Authorization` without which nothing is given out from now on.
    pub fn set_authorization(&self, value: &str) {
        *self.state.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.to_owned());
    }

    /// Answers the next requests with 503.
    pub fn fail(&self, times: usize) {
        *self.state.failures.lock().unwrap_or_else(PoisonError::into_inner) = times;
    }

    /// The method and the path of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many packs were sent.
    pub fn fetches(&self) -> usize {
        // By the second version of the protocol, listings are asked for in the same way; a pack needs two requests.
        self.requests().iter().filter(|request| request.contains("git-upload-pack")).count()
    }
}

impl Drop for GitHttp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed; a second one here would hide it.
            let _ = thread.join();
        }
    }
}

fn run(listener: TcpListener, state: &Arc<State>, stopped: oneshot::Receiver<()>) {
    accept(listener, stopped, |stream| {
        let state = Arc::clone(state);
        async move {
            let service = service_fn(|request| serve(request, &state));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        }
    });
}

type Answer = Response<Full<Bytes>>;

async fn serve(request: Request<Incoming>, state: &Arc<State>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let seen = format!("{} {}", head.method, head.uri);
    state.requests.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    if take_failure(state) {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
        return Ok(answer);
    }
    let wanted = state.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let sent = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    if wanted.is_some() && wanted.as_deref() != sent {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = hyper::StatusCode::UNAUTHORIZED;
        answer
            .headers_mut()
            .insert("www-authenticate", "Basic realm=\"x\"".parse().expect("a header's value"));
        return Ok(answer);
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (method, uri, headers, root) = (head.method, head.uri, head.headers, state.root.clone());
    let answer = tokio::task::spawn_blocking(move || {
        let query = uri.query().unwrap_or_default();
        backend(&root, &[method.as_str(), uri.path(), query], &headers, &body)
    });
    Ok(answer.await.expect("the backend does not panic"))
}

fn take_failure(state: &State) -> bool {
    let mut failures = state.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let fails = *failures > 0;
    *failures = failures.saturating_sub(1);
    fails
}

/// One run of `git http-backend` (CGI, RFC 3875).
fn backend(root: &Path, [method, path, query]: &[&str; 3], headers: &HeaderMap, body: &[u8]) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut process = Command::new("git")
        .arg("http-backend")
        .envs([("REQUEST_METHOD", *method), ("PATH_INFO", path), ("QUERY_STRING", query)])
        .env("GIT_PROJECT_ROOT", root)
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("CONTENT_TYPE", header("content-type"))])
        .envs([
            ("HTTP_CONTENT_ENCODING", header("content-encoding")),
            ("GIT_PROTOCOL", header("git-protocol")),
        ])
        .envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ])
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git can be run; Debian has it in the package `git`");
    let mut stdin = process.stdin.take().expect("it was piped");
    let body = body.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = process.wait_with_output().expect("git ends");
    let _ = writer.join();
    let text = output.stdout;
    let end = text.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(text.len());
    let mut answer = Response::new(Full::from(text.get(end + 4..).unwrap_or_default().to_vec()));
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("status") {
            let status = value.split(' ').next().and_then(|code| code.parse::<u16>().ok());
            *answer.status_mut() = status.and_then(|code| code.try_into().ok()).expect("a status of HTTP");
            continue;
        }
        let name: hyper::header::HeaderName = name.parse().expect("a header's name");
        answer.headers_mut().insert(name, value.parse().expect("a header's value"));
    }
    answer
}
