//! What is scanned for packages, and by whom: files of the graph's results, by the own scanner after the solve, or by the
//! image of a scanner in a step of its own (BuildKit's "SBOM Scanning Protocol").

use exporter::SbomSpec;
use frontend::{ImageRequest, ImageResolver, LoweredImage};
use oci::{ChainId, Platform};
use solver::{
    Graph, GraphBuilder, GraphError, ImageLocation, ImageOp, Input, InputKey, MkdirOp, NetworkMode, Op,
    RunMount, RunMountKind, RunOp, SecurityMode, Selector, VertexId, VertexMeta,
};

use crate::report::{Failure, FailureKind};

/// The name of the document of the image itself, and what those of other files begin with, as BuildKit's scanners are
/// told them.
pub(super) const CORE: &str = "sbom";
const SOURCES: &str = "/run/src";
/// Where a scanner writes.
pub(super) const DESTINATION: &str = "/run/out";

/// What there is to scan in a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scans {
    /// For each image the files that the own scanner reads.
    Own(Vec<Vec<ScannedVertex>>),
    /// For each image the step in which its scanner runs.
    Steps(Vec<VertexId>),
}

/// Files that are scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedVertex {
    /// The name of the document.
    pub(crate) name: String,
    /// The vertex whose output has the files.
    pub(crate) vertex: VertexId,
}

impl Default for Scans {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Scans {
    /// What a build has to make for them.
    pub(crate) fn targets(&self) -> Vec<VertexId> {
        match self {
            Self::Own(images) => images.iter().flatten().map(|scanned| scanned.vertex).collect(),
            Self::Steps(steps) => steps.clone(),
        }
    }

    /// The scans that are asked for; steps of scanners are added to the graph.
    pub(crate) fn of(
        spec: Option<&SbomSpec>,
        images: &[LoweredImage],
        graph: &mut Graph,
        resolver: &mut dyn ImageResolver,
    ) -> Result<Self, Failure> {
        let Some(spec) = spec else { return Ok(Self::default()) };
        let files: Vec<Vec<ScannedVertex>> = images.iter().map(files_of).collect();
        let Some(scanner) = Scanner::of(spec, resolver)? else { return Ok(Self::Own(files)) };
        let mut builder = GraphBuilder::from(std::mem::take(graph));
        let steps = images.iter().zip(files).map(|(image, files)| scanner.step(&mut builder, image, files));
        let steps: Result<Vec<_>, GraphError> = steps.collect();
        *graph = builder.finish();
        steps.map(Self::Steps).map_err(|error| Failure::from_error(FailureKind::Build, &error))
    }
}

fn files_of(image: &LoweredImage) -> Vec<ScannedVertex> {
    let core = ScannedVertex { name: CORE.to_owned(), vertex: image.target };
    let extras = image
        .scans
        .iter()
        .map(|scan| ScannedVertex { name: format!("{CORE}-{}", scan.name), vertex: scan.vertex });
    std::iter::once(core).chain(extras).collect()
}

/// The image of a scanner.
struct Scanner {
    /// As it was written.
    name: String,
    root: ImageOp,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
}

impl Scanner {
    /// Finds out what the scanner's image is, for the machine that builds.
    fn of(spec: &SbomSpec, resolver: &mut dyn ImageResolver) -> Result<Option<Self>, Failure> {
        let Some(reference) = &spec.generator else { return Ok(None) };
        let name = reference.familiar();
        let location = ImageLocation::Registry(reference.clone());
        let request = ImageRequest { location, platform: Platform::host(), name: name.clone() };
        let answer = resolver.resolve(&[request]).pop().expect("there is an answer to each request");
        let image = answer.map_err(|error| Failure::from_error(FailureKind::Build, &error))?;
        let config = image.config.config;
        let args: Vec<String> = [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
        if args.is_empty() {
            return Err(Failure::new(FailureKind::Build, format!("scanner {name} does not have cmd")));
        }
        let mut env = config.env;
        env.push(format!("BUILDKIT_SCAN_DESTINATION={DESTINATION}/"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={SOURCES}/core/{CORE}"));
        env.extend(spec.parameters.iter().map(|(key, value)| format!("BUILDKIT_SCAN_{key}={value}")));
        let cwd = if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir };
        let Some(chain_id) = ChainId::of_each(&image.config.rootfs.diff_ids).pop() else {
            return Err(Failure::new(FailureKind::Build, format!("scanner {name} has no files")));
        };
        let root = ImageOp { chain_id, source: image.source };
        Ok(Some(Self { name, root, args, env, cwd }))
    }

    /// The step that scans `files`, the image's own first. Nothing outside of them and of the scanner is in its key.
    fn step(
        &self,
        builder: &mut GraphBuilder,
        image: &LoweredImage,
        files: Vec<ScannedVertex>,
    ) -> Result<VertexId, GraphError> {
        let meta = |name: String| VertexMeta { name, lines: None, no_cache: false };
        let root = builder.add(
            Op::Image(self.root.clone()),
            Vec::new(),
            meta(format!("[internal] {}", self.name)),
        )?;
        let destination = MkdirOp { path: DESTINATION.to_owned(), owner: None, mtime: Some(0) };
        let chain = |vertex| Input { vertex, key: InputKey::Chain };
        let name = format!("[internal] {} {DESTINATION}", self.name);
        let root = builder.add(Op::Mkdir(destination), vec![chain(root)], meta(name))?;
        let mut inputs = vec![chain(root)];
        let tmp = RunMountKind::Tmpfs { size_bytes: None, read_only: false };
        let mut mounts = vec![RunMount { target: "/tmp".to_owned(), kind: tmp }];
        let mut env = self.env.clone();
        if files.len() > 1 {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={SOURCES}/extras/"));
        }
        for (number, ScannedVertex { name, vertex }) in files.into_iter().enumerate() {
            let group = if number == 0 { "core" } else { "extras" };
            let kind = RunMountKind::Bind { input: inputs.len(), read_only: true };
            mounts.push(RunMount { target: format!("{SOURCES}/{group}/{name}"), kind });
            inputs.push(Input { vertex, key: InputKey::Content(whole()) });
        }
        let name = format!("[{}] generating sbom using {}", image.platform, self.name);
        let run = RunOp { env, mounts, ..self.process() };
        builder.add(Op::Run(run), inputs, meta(name))
    }

    fn process(&self) -> RunOp {
        RunOp {
            args: self.args.clone(),
            env: Vec::new(),
            proxy_env: Vec::new(),
            cwd: self.cwd.clone(),
            user: String::new(),
            hostname: None,
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            mounts: Vec::new(),
            secret_env: Vec::new(),
            devices: Vec::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_size_bytes: None,
            cgroup_parent: None,
            platform: Platform::host(),
        }
    }
}

/// All of a tree.
fn whole() -> Selector {
    Selector { paths: vec!["/".to_owned()], wildcards: false, exclude: Vec::new(), parents: false }
}
