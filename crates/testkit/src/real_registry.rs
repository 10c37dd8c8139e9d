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

use crate::authority::{Authority, Certificate};
use crate::layout;
use crate::token_server::TokenServer;

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
    has_tls: bool,
    address: String,
    directory: TempDir,
    markers: AtomicUsize,
}

/// How a [`RealRegistry`] is to be.
#[derive(Debug, Default)]
pub struct RealSettings<'a> {
    /// Who may use it.
    pub access: RealAccess<'a>,
    /// The certificate that it shows; plain HTTP without.
    pub certificate: Option<&'a Certificate>,
    /// The authority of the client certificates that it wants.
    pub clients: Option<&'a Authority>,
    /// Where it sends those who want blobs (`http://host/`).
    pub storage_url: Option<&'a str>,
    /// The address of a registry that it is a mirror of.
    pub mirror_of: Option<&'a str>,
}

/// Who may use a registry.
#[derive(Debug, Default)]
pub enum RealAccess<'a> {
    /// Everybody.
    #[default]
    Open,
    /// The user `me` with the password `secret`.
    Password,
    /// Those who have a token.
    Tokens(&'a TokenServer),
}

/// `me:secret` in the form of htpasswd, with bcrypt.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl RealRegistry {
    /// Starts a registry.
    ///
    /// # Panics
    /// When the program is not installed or does not start.
    pub fn start() -> Self {
        Self::start_with(&RealSettings::default())
    }

    /// Starts a registry with settings.
    ///
    /// # Panics
    /// When the program is not installed or does not start.
    pub fn start_with(settings: &RealSettings<'_>) -> Self {
        for _ in 0..START_ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("loopback has a free port")
                .port();
            if let Some(registry) = Self::try_start(format!("127.0.0.1:{port}"), settings) {
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
        Self::try_start(address.to_owned(), &RealSettings::default())
            .unwrap_or_else(|| panic!("`{PROGRAM}` does not start at {address}"))
    }

    fn try_start(address: String, settings: &RealSettings<'_>) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: \"{address}\"\n{}",
            storage.display(),
            settings.configuration(directory.path())
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
        let mut registry = Self {
            child,
            has_tls: settings.certificate.is_some(),
            address,
            directory,
            markers: AtomicUsize::new(0),
        };
        registry.wait_until_ready().then_some(registry)
    }

    /// `false` if the program ended, or did not answer in time.
    fn wait_until_ready(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            if self.child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            let answers = if self.has_tls {
                TcpStream::connect(&self.address).is_ok()
            } else {
                self.get("/v2/").is_some_and(|status| status.starts_with("HTTP/1.1 "))
            };
            if answers {
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
    /// When the registry has stopped, or speaks TLS.
    pub fn requests(&self, matches: impl Fn(&str) -> bool) -> usize {
        // A line is written after its answer was sent. One more request makes sure that all earlier lines are there.
        assert!(!self.has_tls, "there is no client for it here");
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

impl RealSettings<'_> {
    /// What of the configuration depends on them, from the middle of `http` on.
    fn configuration(&self, directory: &Path) -> String {
        let mut lines = Vec::new();
        if let Some(Certificate { certificate, key }) = self.certificate {
            lines.push("  tls:".to_owned());
            lines.push(format!("    certificate: \"{}\"", certificate.display()));
            lines.push(format!("    key: \"{}\"", key.display()));
            let clients = self.clients.map(|authority| authority.root().certificate);
            lines.extend(clients.map(|root| format!("    clientcas: [\"{}\"]", root.display())));
        }
        match self.access {
            RealAccess::Open => {}
            RealAccess::Password => {
                let path = directory.join("htpasswd");
                fs::write(&path, HTPASSWD).expect("a temporary directory can be written");
                lines.push(format!("auth: {{htpasswd: {{realm: test, path: \"{}\"}}}}", path.display()));
            }
            RealAccess::Tokens(server) => lines.push(server.configuration()),
        }
        lines.extend(self.storage_url.map(|url| {
            format!("middleware: {{storage: [{{name: redirect, options: {{baseurl: \"{url}\"}}}}]}}")
        }));
        lines.extend(self.mirror_of.map(|address| format!("proxy: {{remoteurl: \"http://{address}\"}}")));
        lines.push(String::new());
        lines.join("\n")
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
