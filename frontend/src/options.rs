//! What a build is asked for, beside its Dockerfile, and how images become known.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use oci::{Digest, ImageConfig, ImageReference, Platform};
use pattern::PatternSet;
use solver::{
    ExtraHost, GitOp, Graph, HttpOp, ImageLocation, ImageSource, NetworkMode, RunOp, Ulimit, VertexId,
};

use crate::Diagnostic;

/// What a build is asked for, beside its Dockerfile.
#[derive(Debug, Clone)]
pub struct LowerOptions {
    /// `--target`: a stage's name; the last stage where there is none.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--from`: what the first FROM is to name instead of what it does.
    pub first_base: Option<String>,
    /// `--unsetenv`: variables that the config of the result lacks.
    pub unset_env: BTreeSet<String>,
    /// `--unsetlabel`: labels that it lacks, unless `labels` has them.
    pub unset_labels: BTreeSet<String>,
    /// The platform of the result.
    pub platform: Platform,
    /// Whether the build is for more platforms than this one, so that steps tell theirs.
    pub is_one_of_several: bool,
    /// The platform of the machine that builds.
    pub build_platform: Platform,
    /// `--build-context`, by the name that was given: a stage's name, or an image's (`alpine`, `alpine:3`,
    /// `docker.io/library/alpine:3`), perhaps with `::platform` after it.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--network`: what RUN gets that has no `--network` itself.
    pub network: NetworkMode,
    /// `--allow`: entitlements (`network.host`, `security.insecure`).
    pub allow: BTreeSet<String>,
    /// What `RUN --device` may name.
    pub devices: DeviceOptions,
    /// The host name within RUN.
    pub hostname: Option<String>,
    /// `--add-host`.
    pub extra_hosts: Vec<ExtraHost>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// The ignore file of the build context, if it has one.
    pub ignore: Option<PatternSet>,
    /// Proxies of docker's `config.json`, by the argument's name (`HTTP_PROXY`); `--build-arg` goes first.
    pub proxy_args: BTreeMap<String, String>,
    /// `--break`.
    pub breakpoints: Vec<Breakpoint>,
    /// Whether files beside the result may be scanned for packages: what `BUILDKIT_SBOM_SCAN_CONTEXT` and
    /// `BUILDKIT_SBOM_SCAN_STAGE` name. They are looked for only then.
    pub finds_scans: bool,
}

impl LowerOptions {
    /// A build for `platform` on a machine of the same, with nothing asked for.
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            first_base: None,
            unset_env: BTreeSet::new(),
            unset_labels: BTreeSet::new(),
            build_platform: platform.clone(),
            platform,
            is_one_of_several: false,
            named_contexts: BTreeMap::new(),
            no_cache: NoCache::None,
            network: NetworkMode::Default,
            allow: BTreeSet::new(),
            devices: DeviceOptions::default(),
            hostname: None,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_size_bytes: None,
            cgroup_parent: None,
            ignore: None,
            proxy_args: BTreeMap::new(),
            breakpoints: Vec::new(),
            finds_scans: false,
        }
    }
}

/// The devices of the machine that builds (Container Device Interface), and which of them steps may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceOptions {
    /// Those that are registered, by name.
    pub registered: Vec<RegisteredDevice>,
    /// `--allow device`: steps may have all of them.
    pub all_allowed: bool,
    /// `--allow device=NAME`: names as `RUN --device` takes them.
    pub allowed: BTreeSet<String>,
    /// `--allow device=NAME,alias=ALIAS`: names by alias.
    pub aliases: BTreeMap<String, String>,
    /// What may help where a device is not registered.
    pub help: Option<String>,
}

/// A device that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredDevice {
    /// Its qualified name: `vendor.com/class=name`.
    pub name: String,
    /// A further name that it shares with others of its kind (`org.mobyproject.buildkit.device.class`).
    pub class: Option<String>,
    /// Whether steps may have it without being allowed to (`org.mobyproject.buildkit.device.autoallow`).
    pub auto_allow: bool,
}

/// Which steps look nothing up in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// Those of the stages of these names, or of these numbers.
    Stages(Vec<String>),
}

/// Where a build is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breakpoint {
    /// Before the step in this line (counted from 1), or the next one that follows in its stage. The cache is not asked
    /// for that step, so that the build gets there.
    Line(u32),
    /// Before the first step of this stage that is executed.
    Stage(String),
}

/// What the name of a `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, which the worker knows by the context's name.
    Local,
    /// `docker-image://…`.
    Image(ImageReference),
    /// `oci-layout://path[:tag|@digest]`.
    OciLayout {
        /// The directory, as it was given.
        path: PathBuf,
        /// The tag or digest; `latest` if none was given.
        tag_or_digest: String,
    },
}

/// Finds out what images are.
pub trait ImageResolver {
    /// Answers each request, in order. It is called once with all images that a build needs, and once more if
    /// ONBUILD triggers name further ones (they may bring triggers of their own images, and so on).
    fn resolve(&mut self, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, ResolveError>>;

    /// When something that is no image is from, in seconds since 1970; `None` for what has no such time, as directories of
    /// this machine have none. For `SOURCE_DATE_EPOCH`; who does not build need not know.
    fn time_of(&mut self, _source: &TimeSource) -> Result<Option<i64>, ResolveError> {
        Ok(None)
    }
}

/// What may have a time of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeSource {
    /// A context: `context` for the build context, else the name of `--build-context`.
    Context(String),
    /// A file of a server.
    Http(HttpOp),
    /// A commit.
    Git(GitOp),
}

/// An image that a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Where it is.
    pub location: ImageLocation,
    /// The platform that is wanted.
    pub platform: Platform,
    /// Its name as it was written.
    pub name: String,
}

/// What an [`ImageRequest`] led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Where its layers are.
    pub source: ImageSource,
    /// Its config.
    pub config: ImageConfig,
    /// What the tag points to: an index or a manifest.
    pub index_or_manifest: Digest,
}

/// Why an image could not be had. The text is complete: it names the image and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// What went wrong, with the name of the image.
    pub message: String,
}

/// What a Dockerfile means for several platforms.
#[derive(Debug, Clone)]
pub struct LoweredPlatforms {
    /// All steps that the targets need. What is the same for several platforms is there once.
    pub graph: Graph,
    /// The image for each platform, in the order in which they were asked for.
    pub images: Vec<LoweredImage>,
    /// As in [`Lowered`], what holds for several platforms once.
    pub warnings: Vec<Diagnostic>,
    /// As in [`Lowered`].
    pub epoch: Option<i64>,
}

/// The image for one of several platforms.
#[derive(Debug, Clone)]
pub struct LoweredImage {
    /// The platform.
    pub platform: Platform,
    /// As in [`Lowered`].
    pub target: VertexId,
    /// As in [`Lowered`].
    pub config: ImageConfig,
    /// As in [`Lowered`].
    pub base_layers: usize,
    /// As in [`Lowered`].
    pub breakpoints: Vec<Vec<VertexId>>,
    /// As in [`Lowered`].
    pub scans: Vec<Scan>,
    pub(crate) steps: Vec<(Place, Range<usize>)>,
}

/// Files that are to be scanned for packages, beside those of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The name of the stage, or its number; `context` for the build context.
    pub name: String,
    /// The vertex whose output has the files.
    pub vertex: VertexId,
}

impl LoweredPlatforms {
    /// The platform and the instruction that a vertex was made for, as [`Lowered::place_of`]: of several platforms the
    /// first.
    pub fn place_of(&self, vertex: VertexId) -> Option<(&Platform, Place)> {
        self.images.iter().find_map(|image| Some((&image.platform, place_among(&image.steps, vertex)?)))
    }

    /// For each breakpoint, the vertices before which it stops, of all platforms.
    pub fn breakpoints(&self) -> Vec<Vec<VertexId>> {
        let mut all: Vec<Vec<VertexId>> = Vec::new();
        for image in &self.images {
            all.resize(all.len().max(image.breakpoints.len()), Vec::new());
            for (vertices, more) in all.iter_mut().zip(&image.breakpoints) {
                vertices.extend(more);
            }
        }
        all
    }
}

fn place_among(steps: &[(Place, Range<usize>)], vertex: VertexId) -> Option<Place> {
    steps.iter().find(|(_, vertices)| vertices.contains(&vertex.index())).map(|(place, _)| *place)
}

/// What a Dockerfile means.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// All steps that the target needs.
    pub graph: Graph,
    /// The vertex whose output is the image.
    pub target: VertexId,
    /// The whole image config, save the diff IDs (empty) and times (`created` is `None` in our own history
    /// entries and at the top). The number of history entries with `empty_layer == false` is the number of the
    /// target's layers, as long as the base image's own history agrees with its layers.
    pub config: ImageConfig,
    /// How many of the target's layers, from below, are its base image's.
    pub base_layers: usize,
    /// What deserves a second look.
    pub warnings: Vec<Diagnostic>,
    /// The local contexts that are used: `context` for the build context, else names of `--build-context`.
    pub contexts: BTreeSet<String>,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970: the time that files and the config are to have at most. It comes from
    /// the build argument or from the default of a global ARG.
    pub epoch: Option<i64>,
    /// For each breakpoint, the vertices before which it stops, at least one. Each has the files before it as its first
    /// input.
    pub breakpoints: Vec<Vec<VertexId>>,
    /// What is to be scanned for packages, beside the target; sorted by name.
    pub scans: Vec<Scan>,
    /// The instructions that vertices were made for, in the order in which they were.
    pub(crate) steps: Vec<(Place, Range<usize>)>,
}

/// An instruction of a stage, those of ONBUILD triggers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub(crate) stage: usize,
    pub(crate) instruction: usize,
}

/// What a stage is before one of its instructions.
#[derive(Debug, Clone)]
pub struct Before {
    /// An image of it.
    pub lowered: Lowered,
    /// What a RUN would be at that place, without mounts. Its arguments are those of SHELL.
    pub run: RunOp,
}

impl Lowered {
    /// The instruction that a vertex was made for; none for base images and contexts. Of several with the same vertex it
    /// is the first.
    pub fn place_of(&self, vertex: VertexId) -> Option<Place> {
        place_among(&self.steps, vertex)
    }
}
