//! A registry in this process, which does what a test tells it to: faults, authentication, counts.

mod answer;
mod body;
mod files;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use oci::{Descriptor, Digest};
use tokio::sync::oneshot;

use crate::layout;

/// A registry that keeps everything in memory. It runs on a thread of its own until it is dropped, so that tests of any
/// kind can use it.
#[derive(Debug)]
pub struct ScriptedRegistry {
    address: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Something that goes wrong with the next requests of a kind.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The method of the requests.
    pub method: &'static str,
    /// A part of their path and query.
    pub path: String,
    /// How many of them it happens to.
    pub times: usize,
    /// What happens.
    pub kind: FaultKind,
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum FaultKind {
    /// An answer with this status, and perhaps `Retry-After`.
    Status(u16, Option<String>),
    /// The connection breaks after so many bytes of the body; with 0, before any answer.
    Reset {
        /// How many.
        after_bytes: usize,
    },
    /// The body ends early, and its `Content-Length` says so.
    Short {
        /// How many bytes are sent.
        bytes: usize,
    },
    /// The body's first byte is another one.
    WrongBytes,
    /// The body stops after so many bytes, and the connection stays.
    Stall {
        /// How many.
        after_bytes: usize,
    },
    /// The body comes in so many pieces, each after this pause.
    Slow {
        /// How many.
        pieces: usize,
        /// How long.
        pause: Duration,
    },
    /// Leads to another address.
    Redirect(String),
    /// The connection breaks when so many bytes of the request's body have come. The registry keeps them, if it keeps
    /// uploads that break off.
    Cut {
        /// How many.
        after_bytes: usize,
    },
    /// The request is carried out, and the connection breaks before the answer.
    LostAnswer,
    /// All tokens become invalid right before it.
    TokensEnd,
    /// An answer with this status and body.
    Text(u16, String),
}

/// How requests are authenticated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AuthPolicy {
    /// Not at all.
    #[default]
    Open,
    /// With this user name and password.
    Basic(String, String),
    /// With tokens of `/token`, which gives them for a user name and password, or for the identity token.
    Token {
        /// The user name.
        username: String,
        /// The password.
        password: String,
        /// The refresh token.
        identity_token: String,
        /// Whether those without credentials get tokens for pulls.
        anonymous_pull: bool,
    },
}

/// What a request for a mount is answered with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountPolicy {
    /// The blob is mounted, if the other repository has it.
    #[default]
    Mount,
    /// An upload begins (202).
    Upload,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// `GET`.
    pub method: String,
    /// `/v2/a/blobs/…?x=y`.
    pub path: String,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// The value of `Range`.
    pub range: Option<String>,
    /// The value of `If-None-Match`, else of `If-Modified-Since`.
    pub condition: Option<String>,
    /// How many bytes of body came.
    pub body_bytes: usize,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit of some registry")]
struct State {
    /// By repository.
    repositories: BTreeMap<String, Repository>,
    /// Uploads that go on, by their number.
    uploads: BTreeMap<usize, Vec<u8>>,
    next_number: usize,
    faults: Vec<Fault>,
    auth: AuthPolicy,
    mount: MountPolicy,
    knows_ranges: bool,
    forgets_uploads: bool,
    offers_more: bool,
    longest_body: Option<usize>,
    tells_digests: bool,
    /// What each token allows.
    tokens: BTreeMap<String, BTreeSet<String>>,
    seen: Vec<SeenRequest>,
    /// By path: files outside the registry's own paths.
    files: BTreeMap<String, WebFile>,
}

/// A file that is served as by any HTTP server.
#[derive(Debug, Clone, Default)]
pub struct WebFile {
    /// Its content.
    pub content: Bytes,
    /// Its `ETag`.
    pub etag: Option<String>,
    /// Its `Last-Modified`.
    pub last_modified: Option<String>,
    /// The value of `Authorization` without which it is not given.
    pub authorization: Option<String>,
    /// Whether `If-None-Match` means nothing to the server.
    pub ignores_conditions: bool,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, (String, Bytes)>,
    tags: BTreeMap<String, Digest>,
}

impl ScriptedRegistry {
    /// Starts an empty registry without authentication.
    ///
    /// # Panics
    /// When the machine has no free port or thread.
    pub fn start() -> Self {
        let state = State { knows_ranges: true, tells_digests: true, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound").to_string();
        let (stop, stopped) = oneshot::channel();
        let (shared, own_address) = (Arc::clone(&state), address.clone());
        let thread = std::thread::spawn(move || service::run(listener, &own_address, &shared, stopped));
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.blobs.insert(descriptor.digest.clone(), bytes);
        descriptor
    }

    /// Puts a manifest or index into a repository, under a tag where one is given.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut state = self.state();
        let repository = state.repositories.entry(repository.to_owned()).or_default();
        repository.manifests.insert(descriptor.digest.clone(), (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), descriptor.digest.clone());
        }
        descriptor
    }

    /// Puts the images of an OCI layout in: `busybox:latest` of the layout becomes `<namespace>/busybox:latest`; an empty
    /// namespace leaves the name as it is.
    ///
    /// # Panics
    /// When the layout cannot be read.
    pub fn load_oci_layout(&self, path: impl AsRef<Path>, namespace: &str) {
        let path = path.as_ref();
        let read = |digest: &Digest| {
            let file = layout::blob_path(path, digest);
            std::fs::read(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
        };
        for image in layout::read(path, namespace) {
            for blob in &image.blobs {
                self.put_blob(&image.repository, &blob.media_type, read(&blob.digest));
            }
            for manifest in &image.manifests {
                let tag = (manifest.digest == image.root.digest).then_some(image.tag.as_str());
                self.put_manifest(&image.repository, tag, &manifest.media_type, read(&manifest.digest));
            }
        }
    }

    /// Puts a file at a path (`/dir/name`).
    pub fn put_file(&self, path: &str, file: WebFile) {
        self.state().files.insert(path.to_owned(), file);
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A blob of a repository.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.state().repositories.get(repository)?.blobs.get(digest).cloned()
    }

    /// What a tag names: the media type and the bytes.
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<(String, Bytes)> {
        let state = self.state();
        let repository = state.repositories.get(repository)?;
        repository.manifests.get(repository.tags.get(tag)?).cloned()
    }

    /// Adds a fault. Where several match a request, the first one happens.
    pub fn fault(&self, method: &'static str, path: &str, times: usize, kind: FaultKind) {
        self.state().faults.push(Fault { method, path: path.to_owned(), times, kind });
    }

    /// How requests are authenticated from now on.
    pub fn set_auth(&self, auth: AuthPolicy) {
        self.state().auth = auth;
    }

    /// What requests for mounts are answered with from now on.
    pub fn set_mount(&self, mount: MountPolicy) {
        self.state().mount = mount;
    }

    /// Answers all requests for ranges with the whole from now on.
    pub fn forget_ranges(&self) {
        self.state().knows_ranges = false;
    }

    /// Throws away uploads that break off, as Debian's docker-registry does, from now on.
    pub fn forget_uploads(&self) {
        self.state().forgets_uploads = true;
    }

    /// Says from now on, beside what it wants, that it would take other kinds of authentication, too.
    pub fn offer_more_challenges(&self) {
        self.state().offers_more = true;
    }

    /// Refuses longer bodies with 413 from now on.
    pub fn limit_bodies(&self, bytes: usize) {
        self.state().longest_body = Some(bytes);
    }

    /// Sends no `Docker-Content-Digest` from now on.
    pub fn hide_digests(&self) {
        self.state().tells_digests = false;
    }

    /// Makes all tokens invalid that have been given out.
    pub fn expire_tokens(&self) {
        self.state().tokens.clear();
    }

    /// All requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state().seen.clone()
    }

    /// How many requests of `method` with `part` in their path and query came so far.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let state = self.state();
        state.seen.iter().filter(|seen| seen.method == method && seen.path.contains(part)).count()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the registry's thread has been printed; a second one here would hide it.
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
