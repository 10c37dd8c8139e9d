//! Cache keys and vertex digests: the written format of everything that is hashed.
//!
//! Three things are hashed, with blake3: the identity of a vertex ([`VertexDigest`]), the key of its result
//! ([`CacheKey`]) and the name of a selector. Each is a sequence of **parts**:
//!
//! ```text
//! part   = length(tag) tag length(value) value          lengths: 64 bits, little-endian
//! first  = part("format", "rbuild.vertex.1" | "rbuild.key.1" | "rbuild.selector.1")
//! vertex = first op input*
//! key    = first part("salt", …) op input*
//! ```
//!
//! Numbers are written in decimal digits, digests as their bytes, lists as one part for each item under one tag, and
//! what is absent as no part at all. Tags differ between fields, and a structure in a list begins with a part that it
//! always has; so no two different operations have the same parts. Whoever changes what is written for an existing
//! operation raises the number in the format: old records are then found no more, rather than found wrongly.
//!
//! A remote source is two things: the identity of its vertex is where it is, its key is what it was found to be
//! ([`RemoteIdentity`]) and how that lies in the result. So a file that moves, and a tag that is set again, bring
//! the result of an earlier build.
//!
//! In neither: what a build was told that does not change its result (proxies, the addresses of extra hosts, where an
//! image was found), what is secret, which agent there is, which cache a step mounts and who shares it, names for
//! people, line numbers, `no_cache`.

use std::fmt;

use crate::graph::{Input, InputKey, Selector, VertexDigest};
use crate::op::{
    Chmod, CopyOp, CopySource, GitOp, GitRepository, HttpOp, MkdirOp, NetworkMode, Op, RemoteIdentity,
    RunAgent, RunCache, RunMount, RunMountKind, RunOp, RunSecret, SecretVariable, SecurityMode, Unpack,
};

const VERTEX_FORMAT: &str = "rbuild.vertex.1";
const KEY_FORMAT: &str = "rbuild.key.1";
const SELECTOR_FORMAT: &str = "rbuild.selector.1";

/// The key of a vertex's result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub [u8; 32]);

/// The digest of the selected part of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 32]);

/// The parts of a key, kept so that a later miss can name what changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyParts(pub Vec<KeyPart>);

/// One named part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPart {
    /// What it is (`run.args.0`, `input.0.chain`).
    pub name: String,
    /// Its value for people, or a digest in hexadecimal digits.
    pub value: String,
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What an input brings into a cache key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputPart {
    /// The key of what made it.
    Chain(CacheKey),
    /// The digest of the selected part of it.
    Content(ContentDigest),
}

/// An operation as it enters a key: with what was found out about a remote source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed<'a> {
    pub(crate) op: &'a Op,
    /// There for a remote source, and for nothing else.
    pub(crate) remote: Option<&'a RemoteIdentity>,
}

/// The identity of a vertex.
pub(crate) fn vertex_digest(op: &Op, inputs: &[Input], input_digests: &[VertexDigest]) -> VertexDigest {
    let mut sink = HashSink::new(VERTEX_FORMAT);
    write_op(op, &mut sink);
    for (input, digest) in inputs.iter().zip(input_digests) {
        match &input.key {
            InputKey::Chain => sink.bytes("input.chain", &digest.0),
            InputKey::Content(selector) => {
                sink.bytes("input.content", &digest.0);
                sink.bytes("input.selector", &selector_digest(selector));
            }
        }
    }
    VertexDigest(sink.finish())
}

/// The key of the result of `op` on inputs that bring `inputs`.
pub(crate) fn cache_key(op: Keyed<'_>, inputs: &[InputPart], salt: &[u8]) -> CacheKey {
    let mut sink = HashSink::new(KEY_FORMAT);
    write_key(op, inputs, salt, &mut sink);
    CacheKey(sink.finish())
}

/// What [`cache_key`] hashes, for people. Made apart from the key, since only a result that is stored needs it.
pub(crate) fn key_parts(op: Keyed<'_>, inputs: &[InputPart], salt: &[u8]) -> KeyParts {
    let mut sink = ShownSink::default();
    write_key(op, inputs, salt, &mut sink);
    KeyParts(sink.parts)
}

/// See [`Selector::digest`].
pub(crate) fn selector_digest(selector: &Selector) -> [u8; 32] {
    let Selector { paths, wildcards, exclude, parents } = selector;
    let mut sink = HashSink::new(SELECTOR_FORMAT);
    sink.list("paths", paths);
    sink.flag("wildcards", *wildcards);
    sink.list("exclude", exclude);
    sink.flag("parents", *parents);
    sink.finish()
}

fn write_key(keyed: Keyed<'_>, inputs: &[InputPart], salt: &[u8], sink: &mut impl Sink) {
    sink.bytes("salt", salt);
    match keyed.remote {
        Some(found) => write_found(keyed.op, found, sink),
        None => write_op(keyed.op, sink),
    }
    for (index, input) in inputs.iter().enumerate() {
        match input {
            InputPart::Chain(key) => sink.input(index, "input.chain", &key.0),
            InputPart::Content(digest) => sink.input(index, "input.content", &digest.0),
        }
    }
}

/// Takes the parts in their order.
trait Sink {
    /// A part that is a text.
    fn text(&mut self, tag: &'static str, value: &str);
    /// A part that is bytes.
    fn bytes(&mut self, tag: &'static str, value: &[u8]);
    /// The part of an input.
    fn input(&mut self, index: usize, tag: &'static str, value: &[u8; 32]);
    /// A part for each item.
    fn list(&mut self, tag: &'static str, items: &[String]);
    /// A list of `NAME=value`.
    fn environment(&mut self, tag: &'static str, items: &[String]) {
        self.list(tag, items);
    }

    fn number(&mut self, tag: &'static str, value: impl fmt::Display) {
        self.text(tag, &value.to_string());
    }

    fn flag(&mut self, tag: &'static str, value: bool) {
        self.text(tag, if value { "1" } else { "0" });
    }

    fn optional(&mut self, tag: &'static str, value: Option<&String>) {
        if let Some(value) = value {
            self.text(tag, value);
        }
    }
}

/// Hashes the parts. They are laid out first: hashing many short pieces costs more than hashing them at once.
struct HashSink(Vec<u8>);

impl HashSink {
    fn new(format: &str) -> Self {
        let mut sink = Self(Vec::with_capacity(1024));
        sink.text("format", format);
        sink
    }

    fn finish(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}

impl Sink for HashSink {
    fn text(&mut self, tag: &'static str, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    fn bytes(&mut self, tag: &'static str, value: &[u8]) {
        for bytes in [tag.as_bytes(), value] {
            self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.0.extend_from_slice(bytes);
        }
    }

    fn input(&mut self, _index: usize, tag: &'static str, value: &[u8; 32]) {
        self.bytes(tag, value);
    }

    fn list(&mut self, tag: &'static str, items: &[String]) {
        for item in items {
            self.text(tag, item);
        }
    }
}

/// Collects the parts for people. Content is shown by its digest: a record is no place for a second copy of it.
#[derive(Default)]
struct ShownSink {
    parts: Vec<KeyPart>,
}

impl ShownSink {
    fn push(&mut self, name: String, value: String) {
        self.parts.push(KeyPart { name, value });
    }
}

impl Sink for ShownSink {
    fn text(&mut self, tag: &'static str, value: &str) {
        self.push(tag.to_owned(), value.to_owned());
    }

    fn bytes(&mut self, tag: &'static str, value: &[u8]) {
        let shown = if tag == "salt" {
            String::from_utf8_lossy(value).into_owned()
        } else {
            format!("{} bytes, blake3 {}", value.len(), blake3::hash(value).to_hex())
        };
        self.push(tag.to_owned(), shown);
    }

    fn input(&mut self, index: usize, tag: &'static str, value: &[u8; 32]) {
        let kind = tag.trim_start_matches("input.");
        self.push(format!("input.{index}.{kind}"), blake3::Hash::from_bytes(*value).to_hex().to_string());
    }

    fn list(&mut self, tag: &'static str, items: &[String]) {
        for (index, item) in items.iter().enumerate() {
            self.push(format!("{tag}.{index}"), item.clone());
        }
    }

    fn environment(&mut self, tag: &'static str, items: &[String]) {
        for item in items {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            self.push(format!("{tag}.{name}"), value.to_owned());
        }
    }
}

fn write_op(op: &Op, sink: &mut impl Sink) {
    match op {
        Op::Scratch => sink.text("op", "scratch"),
        Op::Image(image) => {
            sink.text("op", "image");
            sink.text("image.chain_id", image.chain_id.0.as_str());
        }
        Op::Context(context) => {
            sink.text("op", "context");
            sink.text("context.name", &context.name);
        }
        Op::Http(http) => {
            let HttpOp { url, name, checksum } = http;
            sink.text("op", "http");
            sink.text("http.url", url);
            sink.text("http.name", name);
            sink.optional("http.checksum", checksum.as_ref().map(ToString::to_string).as_ref());
        }
        Op::Git(git) => {
            let GitOp { url, reference, checksum, repository, submodules, commit_times } = git;
            sink.text("op", "git");
            sink.text("git.url", url);
            sink.optional("git.reference", reference.as_ref());
            sink.optional("git.checksum", checksum.as_ref());
            sink.flag("git.kept", *repository == GitRepository::Kept);
            sink.flag("git.submodules", *submodules);
            sink.flag("git.commit_times", *commit_times);
        }
        Op::Copy(copy) => write_copy(copy, sink),
        Op::Mkdir(mkdir) => write_mkdir(mkdir, sink),
        Op::Run(run) => write_run(run, sink),
        Op::Merge => sink.text("op", "merge"),
    }
}

/// A remote source as it was found.
fn write_found(op: &Op, found: &RemoteIdentity, sink: &mut impl Sink) {
    match op {
        Op::Http(HttpOp { url: _, name, checksum: _ }) => {
            sink.text("op", "http");
            sink.text("http.digest", &found.0);
            sink.text("http.name", name);
        }
        Op::Git(GitOp { url, reference, checksum: _, repository, submodules, commit_times }) => {
            sink.text("op", "git");
            sink.text("git.commit", &found.0);
            sink.flag("git.submodules", *submodules);
            sink.flag("git.commit_times", *commit_times);
            // What is kept tells where it came from.
            if *repository == GitRepository::Kept {
                sink.text("git.kept.url", url);
                sink.optional("git.kept.reference", reference.as_ref());
            }
        }
        // Whatever else it may be, it says so itself.
        other => write_op(other, sink),
    }
}

fn write_copy(copy: &CopyOp, sink: &mut impl Sink) {
    let CopyOp { sources, destination, chown, chmod, unpack, parents, exclude } = copy;
    sink.text("op", "copy");
    for source in sources {
        match source {
            CopySource::Path { input, path } => {
                sink.text("copy.source.path", path);
                sink.number("copy.source.input", input);
            }
            CopySource::Remote { input, path } => {
                sink.text("copy.source.remote", path);
                sink.number("copy.source.input", input);
            }
            CopySource::Inline { name, content } => {
                sink.text("copy.source.inline", name);
                sink.bytes("copy.source.content", content);
            }
        }
    }
    sink.text("copy.destination", destination);
    sink.optional("copy.chown", chown.as_ref());
    match chmod {
        None => {}
        Some(Chmod::Octal(mode)) => sink.text("copy.chmod.octal", &format!("{mode:o}")),
        Some(Chmod::Symbolic(mode)) => sink.text("copy.chmod.symbolic", mode),
    }
    sink.text(
        "copy.unpack",
        match unpack {
            Unpack::Never => "0",
            Unpack::Archives => "1",
            Unpack::Everything => "2",
        },
    );
    sink.flag("copy.parents", *parents);
    sink.list("copy.exclude", exclude);
}

fn write_mkdir(mkdir: &MkdirOp, sink: &mut impl Sink) {
    let MkdirOp { path, owner, mtime } = mkdir;
    sink.text("op", "mkdir");
    sink.text("mkdir.path", path);
    sink.optional("mkdir.owner", owner.as_ref());
    sink.optional("mkdir.mtime", mtime.map(|seconds| seconds.to_string()).as_ref());
}

fn write_run(run: &RunOp, sink: &mut impl Sink) {
    let RunOp {
        args,
        env,
        proxy_env: _,
        cwd,
        user,
        hostname,
        network,
        security,
        mounts,
        secret_env,
        devices,
        extra_hosts,
        ulimits,
        shm_size_bytes,
        cgroup_parent,
        platform,
    } = run;
    sink.text("op", "run");
    sink.list("run.args", args);
    sink.environment("run.env", env);
    sink.text("run.cwd", cwd);
    sink.text("run.user", user);
    sink.optional("run.hostname", hostname.as_ref());
    sink.text("run.network", network_name(*network));
    sink.text("run.security", security_name(*security));
    for mount in mounts {
        write_mount(mount, sink);
    }
    for SecretVariable { name, id, required } in secret_env {
        sink.text("run.secret_env", name);
        sink.text("run.secret_env.id", id);
        sink.flag("run.secret_env.required", *required);
    }
    sink.list("run.device", devices);
    for host in extra_hosts {
        sink.text("run.extra_host", &host.name);
    }
    for limit in ulimits {
        sink.text("run.ulimit", &format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    }
    if let Some(bytes) = shm_size_bytes {
        sink.number("run.shm_size", bytes);
    }
    sink.optional("run.cgroup_parent", cgroup_parent.as_ref());
    sink.text("run.platform.os", &platform.os);
    sink.text("run.platform.architecture", &platform.architecture);
    sink.optional("run.platform.variant", platform.variant.as_ref());
    sink.optional("run.platform.os_version", platform.os_version.as_ref());
    sink.list("run.platform.os_features", &platform.os_features);
}

fn write_mount(mount: &RunMount, sink: &mut impl Sink) {
    sink.text("run.mount.target", &mount.target);
    match &mount.kind {
        RunMountKind::Inline { content, mode } => {
            sink.bytes("run.mount.inline", content);
            sink.text("run.mount.mode", &format!("{mode:o}"));
        }
        RunMountKind::Bind { input, read_only } => {
            sink.number("run.mount.bind", input);
            sink.flag("run.mount.read_only", *read_only);
        }
        RunMountKind::Tmpfs { size_bytes, read_only } => {
            sink.text("run.mount.tmpfs", "");
            sink.optional("run.mount.size", size_bytes.map(|bytes| bytes.to_string()).as_ref());
            sink.flag("run.mount.read_only", *read_only);
        }
        RunMountKind::Cache(cache) => write_cache(cache, sink),
        RunMountKind::Ssh(RunAgent { id, required, mode, uid, gid }) => {
            sink.text("run.mount.ssh", id);
            sink.flag("run.mount.required", *required);
            sink.text("run.mount.mode", &format!("{mode:o}"));
            sink.number("run.mount.uid", uid);
            sink.number("run.mount.gid", gid);
        }
        RunMountKind::Secret(RunSecret { id, required, mode, uid, gid }) => {
            sink.text("run.mount.secret", id);
            sink.flag("run.mount.required", *required);
            sink.text("run.mount.mode", &format!("{mode:o}"));
            sink.number("run.mount.uid", uid);
            sink.number("run.mount.gid", gid);
        }
    }
}

fn write_cache(cache: &RunCache, sink: &mut impl Sink) {
    let RunCache { id: _, sharing: _, input, read_only, mode, uid, gid } = cache;
    sink.text("run.mount.cache", "");
    sink.optional("run.mount.begins_with", input.map(|input| input.to_string()).as_ref());
    sink.flag("run.mount.read_only", *read_only);
    sink.optional("run.mount.mode", mode.map(|mode| format!("{mode:o}")).as_ref());
    sink.optional("run.mount.uid", uid.map(|uid| uid.to_string()).as_ref());
    sink.optional("run.mount.gid", gid.map(|gid| gid.to_string()).as_ref());
}

fn network_name(network: NetworkMode) -> &'static str {
    match network {
        NetworkMode::Default => "default",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    }
}

fn security_name(security: SecurityMode) -> &'static str {
    match security {
        SecurityMode::Sandbox => "sandbox",
        SecurityMode::Insecure => "insecure",
    }
}

#[cfg(test)]
#[path = "tests/key.rs"]
mod tests;
