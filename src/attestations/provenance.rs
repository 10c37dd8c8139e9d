//! SLSA provenance in the form of BuildKit ("SLSA definitions"): what a build was asked for, what it was made of, and how
//! it ran.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exporter::{ProvenanceMode, ProvenanceSpec, ProvenanceVersion};
use frontend::{LowerOptions, NoCache, SourceFile};
use oci::{Descriptor, Digest, Platform};
use serde_json::{Map, Value, json};
use solver::{GitOp, Graph, ImageLocation, ImageOp, NetworkMode, Op, RunMountKind, VertexId};
use worker::SourceVersions;

use super::json::object;
use super::steps::Steps;
use crate::remote::RemoteContext;

const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
/// How BuildKit calls the frontend that is built in.
const FRONTEND: &str = "dockerfile.v0";

/// The type of a predicate.
pub(super) fn predicate_type(version: ProvenanceVersion) -> &'static str {
    match version {
        ProvenanceVersion::V1 => "https://slsa.dev/provenance/v1",
        ProvenanceVersion::V02 => "https://slsa.dev/provenance/v0.2",
    }
}

/// What all images of one build have in common.
pub(crate) struct Run<'b> {
    pub(crate) graph: &'b Graph,
    pub(crate) file: &'b SourceFile,
    pub(crate) options: &'b LowerOptions,
    /// The context, if it is elsewhere.
    pub(crate) context: Option<&'b RemoteContext>,
    /// What sources were found to be.
    pub(crate) versions: SourceVersions,
    /// What git knows of the context.
    pub(crate) vcs: &'b BTreeMap<String, String>,
    /// Tells the build from all others.
    pub(crate) id: String,
    /// RFC 3339.
    pub(crate) started: String,
    /// RFC 3339.
    pub(crate) finished: String,
}

/// How one image was built.
pub(crate) struct Provenance<'b> {
    pub(crate) run: &'b Run<'b>,
    pub(crate) platform: &'b Platform,
    pub(crate) target: VertexId,
    /// How many of the image's layers, from below, are the base image's.
    pub(crate) base_layers: usize,
}

/// Something that a build was made of.
type Material = (String, BTreeMap<String, String>);

impl Provenance<'_> {
    /// The predicate. `layers` are those of the image, where it is one.
    pub(crate) fn predicate(&self, spec: &ProvenanceSpec, layers: Option<&[Descriptor]>) -> Value {
        let steps = Steps::new(self.run.graph, self.target);
        let is_max = spec.mode == ProvenanceMode::Max;
        let arguments = arguments(self.run.options);
        let (told, left_out): (BTreeMap<_, _>, BTreeMap<_, _>) = arguments
            .into_iter()
            .partition(|(key, _)| is_max || !(key.starts_with("build-arg:") || key.starts_with("label:")));
        let locals = self.locals(&steps);
        let materials = self.materials(&steps);
        let knows_all = locals.is_empty();
        let parts = Parts {
            builder_id: &spec.builder_id,
            source: self.config_source(),
            request: object([
                ("frontend", FRONTEND.into()),
                ("args", json!(told)),
                ("secrets", if is_max { secrets(&steps) } else { Value::Null }),
                ("ssh", if is_max { agents(&steps) } else { Value::Null }),
                ("locals", locals.iter().map(|name| json!({"name": name})).collect()),
            ]),
            platform: Platform::host().to_string(),
            build_config: if is_max { steps.build_config(self.platform) } else { Value::Null },
            materials: materials
                .into_iter()
                .map(|(uri, digest)| json!({"uri": uri, "digest": digest}))
                .collect(),
            metadata: self.buildkit_metadata(&steps, layers, spec.mode),
            has_all_arguments: left_out.is_empty(),
            knows_all,
            is_hermetic: knows_all && !uses_network(&steps),
            reproducible: spec.reproducible,
            run: self.run,
        };
        match spec.version {
            ProvenanceVersion::V1 => parts.version_1(),
            ProvenanceVersion::V02 => parts.version_02(),
        }
    }

    fn buildkit_metadata(
        &self,
        steps: &Steps<'_>,
        layers: Option<&[Descriptor]>,
        mode: ProvenanceMode,
    ) -> Value {
        let vcs = json!(self.run.vcs);
        if mode != ProvenanceMode::Max {
            return object([("vcs", vcs)]);
        }
        let SourceFile { name, text } = self.run.file;
        let info = json!({"filename": name, "language": "Dockerfile", "data": STANDARD.encode(text)});
        object([
            ("vcs", vcs),
            ("source", json!({"locations": steps.locations(), "infos": [info]})),
            ("layers", layers.map_or(Value::Null, |layers| steps.layers(layers, self.base_layers))),
        ])
    }

    /// Where the Dockerfile is from.
    fn config_source(&self) -> ConfigSource {
        let path = self.run.file.name.clone();
        let found = self.run.context.map(|context| self.run.remote_material(context));
        let (uri, digest) = found.unwrap_or_default();
        ConfigSource { uri, digest, path }
    }

    /// The directories of this machine that were read.
    fn locals(&self, steps: &Steps<'_>) -> BTreeSet<String> {
        let contexts = steps.vertices().filter_map(|vertex| match &vertex.op {
            Op::Context(context) => Some(context.name.clone()),
            _ => None,
        });
        // What was fetched is in the materials.
        let is_local = |name: &String| self.run.context.is_none() || name != "context";
        let mut locals: BTreeSet<String> = contexts.filter(is_local).collect();
        if self.run.context.is_none() {
            locals.insert("dockerfile".to_owned());
        }
        locals
    }

    fn materials(&self, steps: &Steps<'_>) -> Vec<Material> {
        let (mut images, mut others) = (BTreeSet::new(), BTreeSet::new());
        others.extend(self.run.context.map(|context| self.run.remote_material(context)));
        for vertex in steps.vertices() {
            match &vertex.op {
                Op::Image(image) => {
                    images.insert(self.run.image_material(image));
                }
                Op::Git(git) => {
                    others.insert(self.run.git_material(git));
                }
                Op::Http(http) => {
                    others.insert(self.run.http_material(&http.url, http.checksum.as_ref()));
                }
                _ => {}
            }
        }
        images.into_iter().chain(others).collect()
    }
}

impl Run<'_> {
    /// An image is known by what its name leads to, an index where there is one, as with BuildKit.
    fn image_material(&self, image: &ImageOp) -> Material {
        let source = &image.source;
        match &source.location {
            ImageLocation::Registry(reference) | ImageLocation::Store(reference) => {
                let known = || self.versions.images.get(&reference.to_string()).cloned();
                let digest = reference.digest().cloned().or_else(known);
                let digest = digest.unwrap_or_else(|| source.manifest.clone());
                (exporter::image_url(reference, Some(&source.platform)), digest_set(&digest))
            }
            ImageLocation::OciLayout { .. } => {
                let url = sbom::PackageUrl::of_path("oci", &source.name, "");
                let url = url.with("platform", Some(source.platform.to_string()));
                (url.to_string(), digest_set(&source.manifest))
            }
        }
    }

    fn http_material(&self, url: &str, checksum: Option<&Digest>) -> Material {
        let url = registry::redacted(url);
        let digest = checksum.or_else(|| self.versions.files.get(&url));
        (url, digest.map(digest_set).unwrap_or_default())
    }

    fn git_material(&self, git: &GitOp) -> Material {
        let key = (registry::redacted(&git.url), git.reference.clone());
        let commit = match (&git.reference, self.versions.repositories.get(&key)) {
            (_, Some(version)) => Some(version.commit.clone()),
            (Some(reference), None) if solver::is_commit(reference) => Some(reference.clone()),
            _ => None,
        };
        let digest = commit.map(|commit| {
            let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
            BTreeMap::from([(algorithm.to_owned(), commit)])
        });
        (git_url(git), digest.unwrap_or_default())
    }

    fn remote_material(&self, context: &RemoteContext) -> Material {
        match context {
            RemoteContext::Git(git) => self.git_material(&git.op()),
            RemoteContext::Http(url) => self.http_material(url, None),
        }
    }
}

/// A repository as a context names it.
pub(super) fn git_url(git: &GitOp) -> String {
    let url = registry::redacted(&git.url);
    match &git.reference {
        Some(reference) => format!("{url}#{reference}"),
        None => url,
    }
}

fn digest_set(digest: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(digest.algorithm().to_owned(), digest.hex().to_owned())])
}

/// What the frontend was asked for, in BuildKit's words. What differs from machine to machine is left out, as there.
fn arguments(options: &LowerOptions) -> BTreeMap<String, String> {
    let mut arguments = BTreeMap::new();
    let mut tell = |key: String, value: &str| {
        // No password of a URL is told, wherever it stands.
        arguments.insert(key, registry::redacted(value));
    };
    for (name, value) in &options.build_args {
        tell(format!("build-arg:{name}"), value);
    }
    for (name, value) in &options.labels {
        tell(format!("label:{name}"), value);
    }
    if let Some(target) = &options.target {
        tell("target".to_owned(), target);
    }
    match &options.no_cache {
        NoCache::None => {}
        NoCache::All => tell("no-cache".to_owned(), ""),
        NoCache::Stages(stages) => tell("no-cache".to_owned(), &stages.join(",")),
    }
    match options.network {
        NetworkMode::Default => {}
        NetworkMode::Host => tell("force-network-mode".to_owned(), "host"),
        NetworkMode::None => tell("force-network-mode".to_owned(), "none"),
    }
    if let Some(bytes) = options.shm_size_bytes {
        tell("shm-size".to_owned(), &bytes.to_string());
    }
    let joined = |list: Vec<String>| list.join(",");
    if !options.extra_hosts.is_empty() {
        let hosts = options.extra_hosts.iter().map(|host| format!("{}={}", host.name, host.address));
        tell("add-hosts".to_owned(), &joined(hosts.collect()));
    }
    if !options.ulimits.is_empty() {
        let limits = options.ulimits.iter().map(|l| format!("{}={}:{}", l.name, l.soft, l.hard));
        tell("ulimit".to_owned(), &joined(limits.collect()));
    }
    for (name, context) in &options.named_contexts {
        let value = match context {
            frontend::NamedContext::Local => format!("local:{name}"),
            frontend::NamedContext::Image(reference) => format!("docker-image://{reference}"),
            frontend::NamedContext::OciLayout { tag_or_digest, .. } => {
                format!("oci-layout://{name}:{tag_or_digest}")
            }
        };
        tell(format!("context:{name}"), &value);
    }
    arguments
}

fn named(found: BTreeMap<String, bool>) -> Value {
    let one = |(id, required): (String, bool)| object([("id", id.into()), ("optional", (!required).into())]);
    found.into_iter().map(one).collect()
}

/// The names of the secrets that steps have, and never what they are.
fn secrets(steps: &Steps<'_>) -> Value {
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    for vertex in steps.vertices() {
        let Op::Run(run) = &vertex.op else { continue };
        let mounted = run.mounts.iter().filter_map(|mount| match &mount.kind {
            RunMountKind::Secret(secret) => Some((&secret.id, secret.required)),
            _ => None,
        });
        let variables = run.secret_env.iter().map(|variable| (&variable.id, variable.required));
        for (id, required) in mounted.chain(variables) {
            *found.entry(id.clone()).or_default() |= required;
        }
    }
    named(found)
}

/// The names of the agents that steps have.
fn agents(steps: &Steps<'_>) -> Value {
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    for vertex in steps.vertices() {
        let Op::Run(run) = &vertex.op else { continue };
        for mount in &run.mounts {
            if let RunMountKind::Ssh(agent) = &mount.kind {
                *found.entry(agent.id.clone()).or_default() |= agent.required;
            }
        }
    }
    named(found)
}

fn uses_network(steps: &Steps<'_>) -> bool {
    steps.vertices().any(|vertex| matches!(&vertex.op, Op::Run(run) if run.network != NetworkMode::None))
}

#[derive(Default)]
struct ConfigSource {
    uri: String,
    digest: BTreeMap<String, String>,
    path: String,
}

/// What both versions of the format tell, each in its places.
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the format")]
struct Parts<'p> {
    builder_id: &'p str,
    source: ConfigSource,
    request: Value,
    platform: String,
    build_config: Value,
    materials: Vec<Value>,
    metadata: Value,
    has_all_arguments: bool,
    knows_all: bool,
    is_hermetic: bool,
    reproducible: bool,
    run: &'p Run<'p>,
}

impl Parts<'_> {
    fn config_source(&self, path: &str) -> Value {
        object([
            ("uri", self.source.uri.clone().into()),
            ("digest", json!(self.source.digest)),
            (path, self.source.path.clone().into()),
        ])
    }

    fn version_1(self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("invocationId".to_owned(), self.run.id.clone().into());
        metadata.insert("startedOn".to_owned(), self.run.started.clone().into());
        metadata.insert("finishedOn".to_owned(), self.run.finished.clone().into());
        metadata.insert("buildkit_metadata".to_owned(), self.metadata.clone());
        if self.is_hermetic {
            metadata.insert("buildkit_hermetic".to_owned(), true.into());
        }
        let completeness = json!({"request": self.has_all_arguments, "resolvedDependencies": self.knows_all});
        metadata.insert("buildkit_completeness".to_owned(), completeness);
        if self.reproducible {
            metadata.insert("buildkit_reproducible".to_owned(), true.into());
        }
        let source = self.config_source("path");
        let internal =
            object([("buildConfig", self.build_config), ("builderPlatform", self.platform.into())]);
        let definition = object([
            ("buildType", BUILD_TYPE_1.into()),
            ("externalParameters", json!({"configSource": source, "request": self.request})),
            ("internalParameters", internal),
            ("resolvedDependencies", self.materials.into()),
        ]);
        json!({
            "buildDefinition": definition,
            "runDetails": {"builder": {"id": self.builder_id}, "metadata": metadata},
        })
    }

    fn version_02(self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("buildInvocationID".to_owned(), self.run.id.clone().into());
        metadata.insert("buildStartedOn".to_owned(), self.run.started.clone().into());
        metadata.insert("buildFinishedOn".to_owned(), self.run.finished.clone().into());
        let completeness = json!({
            "parameters": self.has_all_arguments,
            "environment": true,
            "materials": self.knows_all,
        });
        metadata.insert("completeness".to_owned(), completeness);
        metadata.insert("reproducible".to_owned(), self.reproducible.into());
        metadata.insert(format!("{BUILD_TYPE_02}#metadata"), self.metadata.clone());
        if self.is_hermetic {
            metadata.insert(format!("{BUILD_TYPE_02}#hermetic"), true.into());
        }
        let source = self.config_source("entryPoint");
        let invocation = json!({
            "configSource": source,
            "parameters": self.request,
            "environment": {"platform": self.platform},
        });
        let mut predicate = Map::new();
        predicate.insert("builder".to_owned(), json!({"id": self.builder_id}));
        predicate.insert("buildType".to_owned(), BUILD_TYPE_02.into());
        predicate.insert("materials".to_owned(), self.materials.into());
        predicate.insert("invocation".to_owned(), invocation);
        if !self.build_config.is_null() {
            predicate.insert("buildConfig".to_owned(), self.build_config);
        }
        predicate.insert("metadata".to_owned(), metadata.into());
        Value::Object(predicate)
    }
}
