//! Debian's `docker-registry` on a free loopback port.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::Digest;
use tempfile::TempDir;

use crate::layout;

const PROGRAM: &str = "docker-registry";
/// How long it may take to start, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Another process may take the port between our choice and the registry's start.
const START_ATTEMPTS: usize = 5;

/// A registry that is a program of its own, with an empty storage; killed when this is dropped. All methods block.
#[derive(Debug)]
pub struct RealRegistry {
    child: Child,
    address: String,
    directory: TempDir,
    markers: AtomicUsize,
}

impl RealRegistry {
    /// Starts a registry.
    ///
    /// # Panics
    /// When the program is not installed or does not start.
    pub fn start() -> Self {
        for _ in 0..START_ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("loopback has a free port")
                .port();
            if let Some(registry) = Self::try_start(format!("127.0.0.1:{port}")) {
                return registry;
            }
        }
        panic!("`{PROGRAM}` ends right after its start, or does not answer");
    }

    /// Starts a registry at an address (`127.0.0.1:80`) that nobody else wants, as in a network namespace of one's own.
    ///
    /// # Panics
    /// When the program is not installed or does not start.
    pub fn start_at(address: &str) -> Self {
        Self::try_start(address.to_owned())
            .unwrap_or_else(|| panic!("`{PROGRAM}` does not start at {address}"))
    }

    fn try_start(address: String) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{address}\"}}\n",
            storage.display()
        );
        fs::write(&config, text).expect("a temporary directory can be written");
        let log = File::create(directory.path().join("log")).expect("a temporary directory can be written");
        let child = Command::new(PROGRAM)
            .args(["serve".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run `{PROGRAM}` ({error}): install the Debian package `docker-registry`")
            });
        let mut registry = Self { child, address, directory, markers: AtomicUsize::new(0) };
        registry.wait_until_ready().then_some(registry)
    }

    /// `false` if the program ended, or did not answer in time.
    fn wait_until_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            if self.child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            if self.get("/v2/").is_some_and(|status| status.contains(" 200 ")) {
                return true;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        false
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The directory of the storage.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// Puts the images of an OCI layout into the storage: `busybox:latest` of the layout becomes
    /// `<namespace>/busybox:latest`; an empty namespace leaves the name as it is. No client of ours takes part in it.
    ///
    /// # Panics
    /// When the layout cannot be read.
    pub fn load_oci_layout(&self, path: impl AsRef<Path>, namespace: &str) {
        let path = path.as_ref();
        let root = self.storage().join("docker/registry/v2");
        for image in layout::read(path, namespace) {
            let repository = root.join("repositories").join(&image.repository);
            for descriptor in image.blobs.iter().chain(&image.manifests) {
                let data = root.join("blobs/sha256").join(&descriptor.digest.hex()[..2]);
                let data = data.join(descriptor.digest.hex()).join("data");
                make_parent(&data);
                fs::copy(layout::blob_path(path, &descriptor.digest), &data)
                    .unwrap_or_else(|error| panic!("cannot copy {}: {error}", descriptor.digest));
            }
            for blob in &image.blobs {
                link(&repository.join("_layers/sha256").join(blob.digest.hex()), &blob.digest);
            }
            for manifest in &image.manifests {
                let hex = manifest.digest.hex();
                link(&repository.join("_manifests/revisions/sha256").join(hex), &manifest.digest);
            }
            let tag = repository.join("_manifests/tags").join(&image.tag);
            link(&tag.join("current"), &image.root.digest);
            link(&tag.join("index/sha256").join(image.root.digest.hex()), &image.root.digest);
        }
    }

    /// How many GETs of blobs the registry has answered so far.
    ///
    /// # Panics
    /// When the registry has stopped.
    pub fn blob_requests(&self) -> usize {
        self.requests(|request| request.starts_with("GET ") && request.contains("/blobs/sha256:"))
    }

    /// How many requests (`GET /v2/a/manifests/latest HTTP/1.1`) of those answered so far `matches` holds for.
    ///
    /// # Panics
    /// When the registry has stopped.
    pub fn requests(&self, matches: impl Fn(&str) -> bool) -> usize {
        // A line is written after its answer was sent. One more request makes sure that all earlier lines are there.
        let marker = format!("/v2/?marker={}", self.markers.fetch_add(1, Ordering::Relaxed));
        self.get(&marker).expect("the registry runs");
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(self.directory.path().join("log")).expect("the log can be read");
            if log.contains(&format!("{marker} ")) {
                let requests = log.lines().filter_map(|line| line.split('"').nth(1));
                return requests.filter(|request| matches(request)).count();
            }
            assert!(start.elapsed() < START_LIMIT, "`{PROGRAM}` writes no access log");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// The status line of the answer to a GET.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(START_LIMIT)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line)
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `directory/link`, distribution's file that names a digest.
fn link(directory: &Path, digest: &Digest) {
    let path = directory.join("link");
    make_parent(&path);
    fs::write(&path, digest.as_str())
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

fn make_parent(path: &Path) {
    let parent = path.parent().expect("the path is below the storage");
    fs::create_dir_all(parent).unwrap_or_else(|error| panic!("cannot make {}: {error}", parent.display()));
}
