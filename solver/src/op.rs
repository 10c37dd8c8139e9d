//! What a vertex does: a closed set of operations, each with everything that its result depends on.

use oci::{ChainId, Digest, Platform};

/// What a vertex does. The meaning of a vertex's inputs depends on its operation and is told with each variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The empty root file system. No inputs.
    Scratch,
    /// The root file system of an image. No inputs.
    Image(ImageOp),
    /// A directory of the machine that runs the build. No inputs; it may be an input by content only.
    Context(ContextOp),
    /// A file of an HTTP server. No inputs. What it is has to be [asked for](Op::identity).
    Http(HttpOp),
    /// The files of a commit of a git repository. No inputs. What it is has to be [asked for](Op::identity).
    Git(GitOp),
    /// COPY and ADD. Input 0 (chain): the root file system that is copied to. Inputs 1 and up (content): what the
    /// sources name.
    Copy(CopyOp),
    /// WORKDIR: makes a directory. Input 0 (chain): the root file system.
    Mkdir(MkdirOp),
    /// RUN. Input 0 (chain): the root file system. Inputs 1 and up (content): what the mounts show, the only path of the
    /// input's selector.
    Run(RunOp),
    /// Puts what input 1 (chain) added to the empty root file system on top of input 0 (chain); COPY --link.
    Merge,
}

impl Op {
    /// Whether it makes something that is worth a record: its result is looked up, claimed and saved. What only names
    /// something that exists elsewhere is not.
    pub fn is_step(&self) -> bool {
        match self {
            Self::Scratch | Self::Image(_) | Self::Context(_) => false,
            Self::Http(_) | Self::Git(_) | Self::Copy(_) | Self::Mkdir(_) | Self::Run(_) | Self::Merge => {
                true
            }
        }
    }

    /// How the operation's part of a cache key comes about.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Http(http) => match &http.checksum {
                Some(checksum) => Identity::Pinned(RemoteIdentity(checksum.to_string())),
                None => Identity::Asked,
            },
            Self::Git(git) => match &git.reference {
                Some(reference) if is_commit(reference) => {
                    Identity::Pinned(RemoteIdentity(reference.clone()))
                }
                _ => Identity::Asked,
            },
            Self::Scratch
            | Self::Image(_)
            | Self::Context(_)
            | Self::Copy(_)
            | Self::Mkdir(_)
            | Self::Run(_)
            | Self::Merge => Identity::Written,
        }
    }

    /// The indexes of the inputs that mounts show.
    pub(crate) fn mounted_inputs(&self) -> Vec<usize> {
        let Self::Run(run) = self else { return Vec::new() };
        let inputs = run.mounts.iter().filter_map(|mount| match &mount.kind {
            RunMountKind::Bind { input, .. } => Some(*input),
            RunMountKind::Cache(cache) => cache.input,
            RunMountKind::Inline { .. }
            | RunMountKind::Tmpfs { .. }
            | RunMountKind::Secret(_)
            | RunMountKind::Ssh(_) => None,
        });
        inputs.collect()
    }
}

/// How an operation's part of a cache key comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The operation says all that its result depends on.
    Written,
    /// It names something elsewhere, and says what that must be.
    Pinned(RemoteIdentity),
    /// It names something elsewhere, which may have become something else: [`crate::Worker::identify`] is asked.
    Asked,
}

/// What a remote source was found to be: the digest of a file, or the hash of a commit (of a tag object, where the
/// repository is kept and the tag is one). Equal identities are equal content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteIdentity(pub String);

/// Whether a text is the whole hash of a commit (SHA-1 or SHA-256).
pub fn is_commit(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    matches!(text.len(), 40 | 64) && text.bytes().all(is_digit)
}

/// The root file system of an image, known by its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOp {
    /// What the image is; alone in the identity of the vertex.
    pub chain_id: ChainId,
    /// Where its layers can be had; not in the identity.
    pub source: ImageSource,
}

/// Where an image's manifest and layers can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// The reference or layout as the user knows it, for messages.
    pub name: String,
    /// The manifest of the one platform.
    pub manifest: Digest,
    /// Where.
    pub location: ImageLocation,
    /// The platform that was chosen.
    pub platform: Platform,
}

/// A registry or an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageLocation {
    /// A registry: the full reference (`docker.io/library/busybox:latest`).
    Registry(oci::ImageReference),
    /// An OCI layout: its directory, and the tag or digest that was asked for.
    OciLayout {
        /// The directory, as it was given.
        path: std::path::PathBuf,
        /// The tag (`org.opencontainers.image.ref.name`) or digest; `latest` if none was given.
        tag_or_digest: String,
    },
    /// The local store: a tag of an earlier build.
    Store(oci::ImageReference),
}

/// A directory of the machine that runs the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextOp {
    /// The name under which the worker knows it: `context` for the build context, else the named context's name.
    pub name: String,
}

/// A file of an HTTP server: ADD of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOp {
    /// The URL; its scheme is `http` or `https`.
    pub url: String,
    /// The name that the file has in the root of the result.
    pub name: String,
    /// The SHA-256 digest that it must have. With it, the server is asked only if the file is not in the store.
    pub checksum: Option<Digest>,
}

/// A commit of a git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitOp {
    /// The repository, as the git program takes it: a URL, or `user@host:path`.
    pub url: String,
    /// A branch, a tag, a whole name (`refs/…`) or the whole hash of a commit; the default branch where there is none.
    pub reference: Option<String>,
    /// What the hash of the commit must begin with, in lower case.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub repository: GitRepository,
    /// Whether submodules are checked out, all of them.
    pub submodules: bool,
    /// Whether everything has the time of the commit; else that of the build.
    pub commit_times: bool,
}

/// What becomes of `.git`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitRepository {
    /// It is removed: the result depends on the commit alone.
    Removed,
    /// It is kept, with the commit and no history, the reference, and the URL without a password.
    Kept,
}

/// COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOp {
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Where to: an absolute path. A trailing slash says that it is a directory.
    pub destination: String,
    /// `user[:group]`, names or numbers; names are those of input 0.
    pub chown: Option<String>,
    /// The mode that everything gets.
    pub chmod: Option<Chmod>,
    /// What happens to archives.
    pub unpack: Unpack,
    /// Whether a source's own directories are kept beneath the destination (`--parents`).
    pub parents: bool,
    /// Patterns of what is left out (`--exclude`).
    pub exclude: Vec<String>,
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path in an input, perhaps with wildcards.
    Path {
        /// The index of the input in the vertex's inputs.
        input: usize,
        /// The path as it was written, variables expanded: relative to the input's root, with or without a leading
        /// slash.
        path: String,
    },
    /// A path in an input that is a remote source; there are no wildcards in it. It is unpacked under
    /// [`Unpack::Everything`] only.
    Remote {
        /// The index of the input in the vertex's inputs.
        input: usize,
        /// The path, relative to the input's root.
        path: String,
    },
    /// A file whose content stands in the Dockerfile (a here-document).
    Inline {
        /// The name it gets in a destination that is a directory.
        name: String,
        /// Its bytes.
        content: Vec<u8>,
    },
}

/// What `--chmod` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// An octal mode, at most `0o7777`.
    Octal(u32),
    /// A symbolic mode (`u=rwX,go=rX`), already checked.
    Symbolic(String),
}

/// What a copy does with archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// They are files like any other (COPY, `ADD --unpack=false`).
    Never,
    /// A source that is an archive by its content is extracted, unless it is a remote one (ADD).
    Archives,
    /// Remote sources are extracted, too (`ADD --unpack=true`).
    Everything,
}

/// WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MkdirOp {
    /// An absolute path.
    pub path: String,
    /// The user who owns directories that are made (`user[:group]`); root where there is none.
    pub owner: Option<String>,
    /// The modification time of the directory itself where it is made, in seconds since 1970 (`SOURCE_DATE_EPOCH`);
    /// the time of the build where there is none.
    pub mtime: Option<i64>,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOp {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment, `NAME=value`, without proxies.
    pub env: Vec<String>,
    /// Proxy variables, `NAME=value`; not in the identity.
    pub proxy_env: Vec<String>,
    /// The working directory, absolute.
    pub cwd: String,
    /// `user[:group]`, names or numbers of input 0; empty for root.
    pub user: String,
    /// The host name; `buildkitsandbox` where none was given.
    pub hostname: Option<String>,
    /// Which network.
    pub network: NetworkMode,
    /// Which confinement.
    pub security: SecurityMode,
    /// What is mounted, in the order in which it is: what comes later is on top.
    pub mounts: Vec<RunMount>,
    /// Variables with something secret.
    pub secret_env: Vec<SecretVariable>,
    /// Devices of the machine, by their qualified names (`vendor.com/class=name`). What they are is not in the identity.
    pub devices: Vec<String>,
    /// Entries of `/etc/hosts`; the addresses are not in the identity.
    pub extra_hosts: Vec<ExtraHost>,
    /// Limits of the process (`nofile=1024:2048`).
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; 64 MiB where none was given.
    pub shm_size_bytes: Option<u64>,
    /// The cgroup beneath which the step's own is made.
    pub cgroup_parent: Option<String>,
    /// The platform of the programs.
    pub platform: Platform,
}

/// The network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// What the configuration says.
    #[default]
    Default,
    /// The host's.
    Host,
    /// A loopback device alone.
    None,
}

/// The confinement of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMode {
    /// Docker's default capabilities and seccomp policy.
    Sandbox,
    /// All capabilities, all devices, no seccomp.
    Insecure,
}

/// A name with an address for `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// The address; not in the identity.
    pub address: String,
}

/// A limit of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Its name without `RLIMIT_`, in lower case (`nofile`).
    pub name: String,
    /// The soft limit; -1 for none.
    pub soft: i64,
    /// The hard limit; -1 for none.
    pub hard: i64,
}

/// A mount of a RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount {
    /// Where, an absolute path.
    pub target: String,
    /// What.
    pub kind: RunMountKind,
}

/// What a RUN mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMountKind {
    /// A file whose content stands in the Dockerfile (the body of a here-document that begins with `#!`).
    Inline {
        /// Its bytes.
        content: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// A file or a directory of an input. What is written to it is seen by this RUN alone, and lost with it: so the
    /// selected content is all that the result depends on, whether it can be written to or not.
    Bind {
        /// The index of the input in the vertex's inputs.
        input: usize,
        /// Whether it cannot be written to.
        read_only: bool,
    },
    /// An empty directory in memory, mode 1777.
    Tmpfs {
        /// The most that it holds; as much as the system allows for `None`.
        size_bytes: Option<u64>,
        /// Whether it cannot be written to.
        read_only: bool,
    },
    /// A directory that outlives the build.
    Cache(RunCache),
    /// A file with something secret.
    Secret(RunSecret),
    /// The socket of an ssh agent.
    Ssh(RunAgent),
}

/// The socket of an ssh agent. Which agent it is, and what keys it has, is in no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAgent {
    /// The name under which the build was given it.
    pub id: String,
    /// Whether the step fails where the build was given none; else nothing is mounted then.
    pub required: bool,
    /// The mode of the socket, at most `0o777`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A file with something secret, which can only be read. What the secret is, is in no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSecret {
    /// The name under which the build was given it.
    pub id: String,
    /// Whether the step fails where the build was given none; else nothing is mounted then.
    pub required: bool,
    /// The mode of the file, at most `0o7777`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A variable with something secret, which comes after all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVariable {
    /// The name of the variable.
    pub name: String,
    /// The name under which the build was given the secret.
    pub id: String,
    /// Whether the step fails where the build was given none; else the variable is empty then.
    pub required: bool,
}

/// A directory that outlives the build. The result of a RUN must not depend on what earlier ones have left in it, so
/// that is in no key, nor is which directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCache {
    /// Its name within the store, with the namespace it is in; not in the identity.
    pub id: String,
    /// Who else may use it at the same time; not in the identity.
    pub sharing: CacheSharing,
    /// The index of the input that a new one begins with; it is empty without.
    pub input: Option<usize>,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// The mode of the directory of a new one, at most `0o777`: what it begins with has one, else 0755.
    pub mode: Option<u32>,
    /// Its owner: what it begins with has one, else root.
    pub uid: Option<u32>,
    /// Its group, likewise.
    pub gid: Option<u32>,
}

/// What happens when two RUNs want one cache at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSharing {
    /// Both have it.
    Shared,
    /// The second has another one.
    Private,
    /// The second waits for the first.
    Locked,
}
