//! The steps of a build in the form that BuildKit's provenance gives them: operations of its LLB as JSON, numbered, each
//! after those that it takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::{Descriptor, Platform};
use serde_json::{Map, Value, json};
use solver::{
    CacheSharing, CopyOp, CopySource, GitOp, Graph, HttpOp, ImageLocation, ImageOp, Input, InputKey,
    NetworkMode, Op, RunMount, RunMountKind, RunOp, SecurityMode, Unpack, Vertex, VertexId,
};

use super::json::object;
use super::provenance::git_url;

/// The steps that a target is made of.
pub(super) struct Steps<'g> {
    graph: &'g Graph,
    target: VertexId,
    /// The number of each vertex that is reached.
    numbers: Vec<Option<usize>>,
}

impl<'g> Steps<'g> {
    pub(super) fn new(graph: &'g Graph, target: VertexId) -> Self {
        let mut next = 0..;
        let reached = graph.reached(&[target]);
        let numbers =
            reached.into_iter().map(|is_reached| if is_reached { next.next() } else { None }).collect();
        Self { graph, target, numbers }
    }

    /// All that is reached, each after its inputs.
    pub(super) fn vertices(&self) -> impl Iterator<Item = &'g Vertex> {
        self.numbered().map(|(_, vertex)| vertex)
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &'g Vertex)> {
        self.numbers
            .iter()
            .zip(self.graph.vertices())
            .filter_map(|(number, vertex)| Some(((*number)?, vertex)))
    }

    fn name(&self, vertex: VertexId) -> String {
        format!("step{}", self.numbers[vertex.index()].unwrap_or_default())
    }

    /// `buildConfig`: the steps, and at last one that only names the result; the names of steps by their digests.
    pub(super) fn build_config(&self, platform: &Platform) -> Value {
        let mut steps = Vec::new();
        let mut digests = Map::new();
        for (number, vertex) in self.numbered() {
            let name = format!("step{number}");
            steps.push(object([
                ("id", name.clone().into()),
                ("op", json!({"Op": operation(vertex), "platform": platform_of(vertex, platform)})),
                ("inputs", vertex.inputs.iter().map(|input| self.output(input.vertex)).collect()),
            ]));
            digests.insert(format!("blake3:{}", vertex.digest), name.into());
        }
        steps.push(json!({"id": format!("step{}", steps.len()), "inputs": [self.output(self.target)]}));
        json!({"llbDefinition": steps, "digestMapping": digests})
    }

    fn output(&self, vertex: VertexId) -> Value {
        format!("{}:0", self.name(vertex)).into()
    }

    /// Where each step stands in the Dockerfile.
    pub(super) fn locations(&self) -> Value {
        let located = self.numbered().filter_map(|(number, vertex)| {
            let lines = vertex.meta.lines?;
            let range = json!({"start": {"line": lines.first}, "end": {"line": lines.last}});
            Some((format!("step{number}"), json!({"locations": [{"ranges": [range]}]})))
        });
        Value::Object(located.collect())
    }

    /// The layers of the image that each step of its chain leads to: those of the result, less what later steps added;
    /// of an image whose layers were squashed, only those of the result. `base_layers` are the base image's.
    pub(super) fn layers(&self, layers: &[Descriptor], base_layers: usize) -> Value {
        if self.made_layers() + base_layers != layers.len() {
            let all: Vec<Value> = layers.iter().map(descriptor).collect();
            return json!({format!("{}:0", self.name(self.target)): [all]});
        }
        let mut found = Map::new();
        let (mut vertex, mut rest) = (self.target, layers);
        loop {
            let plain: Vec<Value> = rest.iter().map(descriptor).collect();
            if !plain.is_empty() {
                found.insert(format!("{}:0", self.name(vertex)), json!([plain]));
            }
            match (rest.split_last(), self.below(vertex)) {
                (Some((_, below)), Some(input)) => (vertex, rest) = (input, below),
                _ => return Value::Object(found),
            }
        }
    }

    /// What a vertex that makes a layer makes it on top of.
    fn below(&self, vertex: VertexId) -> Option<VertexId> {
        let step = self.graph.vertex(vertex);
        let makes_one = matches!(step.op, Op::Copy(_) | Op::Mkdir(_) | Op::Run(_) | Op::Merge);
        step.inputs.first().filter(|_| makes_one).map(|input| input.vertex)
    }

    /// How many layers the steps of the target's chain make.
    fn made_layers(&self) -> usize {
        std::iter::successors(Some(self.target), |vertex| self.below(*vertex)).count() - 1
    }
}

fn descriptor(layer: &Descriptor) -> Value {
    json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size})
}

fn platform_of(vertex: &Vertex, platform: &Platform) -> Value {
    let platform = match &vertex.op {
        Op::Image(image) => &image.source.platform,
        Op::Run(run) => &run.platform,
        _ => platform,
    };
    object([
        ("Architecture", platform.architecture.clone().into()),
        ("OS", platform.os.clone().into()),
        ("Variant", platform.variant.clone().into()),
    ])
}

fn operation(vertex: &Vertex) -> Value {
    match &vertex.op {
        Op::Scratch => source("scratch://".to_owned(), Value::Null),
        Op::Image(image) => source(image_identifier(image), Value::Null),
        Op::Context(context) => source(format!("local://{}", context.name), Value::Null),
        Op::Http(http) => http_source(http),
        Op::Git(git) => git_source(git),
        Op::Copy(copy) => json!({"file": {"actions": actions(copy)}}),
        Op::Mkdir(mkdir) => {
            let action = object([
                ("path", mkdir.path.clone().into()),
                ("mode", 0o755.into()),
                ("makeParents", true.into()),
                ("owner", mkdir.owner.clone().into()),
            ]);
            json!({"file": {"actions": [{"input": 0, "secondaryInput": -1, "output": 0, "Action": {"mkdir": action}}]}})
        }
        Op::Run(run) => json!({"exec": exec(run, &vertex.inputs)}),
        Op::Merge => json!({"merge": {"inputs": [{"input": 0}, {"input": 1}]}}),
    }
}

fn source(identifier: String, attributes: Value) -> Value {
    json!({"source": object([("identifier", identifier.into()), ("attrs", attributes)])})
}

fn image_identifier(image: &ImageOp) -> String {
    let ImageOp { source, .. } = image;
    match &source.location {
        ImageLocation::Registry(reference) | ImageLocation::Store(reference) => {
            format!("docker-image://{}", reference.clone().with_digest(source.manifest.clone()))
        }
        ImageLocation::OciLayout { .. } => format!("oci-layout://{}@{}", source.name, source.manifest),
    }
}

fn http_source(http: &HttpOp) -> Value {
    let checksum = http.checksum.as_ref().map(ToString::to_string);
    let attributes =
        object([("http.checksum", checksum.into()), ("http.filename", http.name.clone().into())]);
    source(registry::redacted(&http.url), attributes)
}

fn git_source(git: &GitOp) -> Value {
    let url = git_url(git);
    let keep = git.repository == solver::GitRepository::Kept;
    let attributes = object([
        ("git.checksum", git.checksum.clone().into()),
        ("git.fullurl", registry::redacted(&git.url).into()),
        ("git.keepgitdir", keep.then_some("true").into()),
    ]);
    source(url, attributes)
}

fn actions(copy: &CopyOp) -> Vec<Value> {
    let action = |input: Option<usize>, action: Value| {
        let second = input.map_or(json!(-1), Value::from);
        json!({"input": 0, "secondaryInput": second, "output": 0, "Action": action})
    };
    let copied = |path: &str| {
        object([
            ("src", path.into()),
            ("dest", copy.destination.clone().into()),
            ("owner", copy.chown.clone().into()),
            ("mode", copy.chmod.as_ref().map_or(json!(-1), mode)),
            ("followSymlink", true.into()),
            ("dirCopyContents", true.into()),
            ("attemptUnpackDockerCompatibility", (copy.unpack != Unpack::Never).into()),
            ("createDestPath", true.into()),
            ("allowWildcard", true.into()),
            ("allowEmptyWildcard", true.into()),
            ("timestamp", json!(-1)),
            ("excludePatterns", copy.exclude.clone().into()),
        ])
    };
    let of_source = |source: &CopySource| match source {
        CopySource::Path { input, path } | CopySource::Remote { input, path } => {
            action(Some(*input), json!({"copy": copied(path)}))
        }
        CopySource::Inline { name, content } => {
            let file = object([
                ("path", format!("{}{name}", copy.destination).into()),
                ("mode", copy.chmod.as_ref().map_or(json!(0o644), mode)),
                ("data", STANDARD.encode(content).into()),
                ("owner", copy.chown.clone().into()),
                ("timestamp", json!(-1)),
            ]);
            action(None, json!({"mkfile": file}))
        }
    };
    copy.sources.iter().map(of_source).collect()
}

fn mode(chmod: &solver::Chmod) -> Value {
    match chmod {
        solver::Chmod::Octal(mode) => (*mode).into(),
        solver::Chmod::Symbolic(text) => text.clone().into(),
    }
}

fn exec(run: &RunOp, inputs: &[Input]) -> Value {
    let host = |host: &solver::ExtraHost| json!({"Host": host.name, "IP": host.address});
    let limit = |limit: &solver::Ulimit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard});
    // Proxies are left out, here as in the arguments: they say nothing of what was built, and may hold passwords.
    let meta = object([
        ("args", run.args.clone().into()),
        ("env", run.env.clone().into()),
        ("cwd", run.cwd.clone().into()),
        ("user", run.user.clone().into()),
        ("extraHosts", run.extra_hosts.iter().map(host).collect()),
        ("hostname", run.hostname.clone().into()),
        ("ulimit", run.ulimits.iter().map(limit).collect()),
        ("cgroupParent", run.cgroup_parent.clone().into()),
    ]);
    let mut mounts = vec![json!({"input": 0, "dest": "/", "output": 0})];
    mounts.extend(run.mounts.iter().map(|own| mount(own, inputs)));
    let secrets = run.secret_env.iter().map(|variable| {
        object([
            ("ID", variable.id.clone().into()),
            ("name", variable.name.clone().into()),
            ("optional", (!variable.required).into()),
        ])
    });
    let devices = run.devices.iter().map(|name| json!({"name": name}));
    object([
        ("meta", meta),
        ("mounts", mounts.into()),
        ("network", network(run.network).into()),
        ("security", i32::from(run.security == SecurityMode::Insecure).into()),
        ("secretenv", secrets.collect()),
        ("cdiDevices", devices.collect()),
    ])
}

/// As numbers of BuildKit's enumerations.
fn network(mode: NetworkMode) -> i32 {
    match mode {
        NetworkMode::Default => 0,
        NetworkMode::Host => 1,
        NetworkMode::None => 2,
    }
}

fn mount(mount: &RunMount, inputs: &[Input]) -> Value {
    const SECRET: i32 = 1;
    const SSH: i32 = 2;
    const CACHE: i32 = 3;
    const TMPFS: i32 = 4;
    let selected = |input: usize| match inputs.get(input).map(|input| &input.key) {
        Some(InputKey::Content(selector)) => selector.paths.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let of = |input: Option<usize>, is_read_only: bool, kind: i32, more: (&str, Value)| {
        object([
            ("input", input.map_or(json!(-1), Value::from)),
            ("selector", input.map(selected).into()),
            ("dest", mount.target.clone().into()),
            ("output", json!(-1)),
            ("readonly", is_read_only.into()),
            ("mountType", kind.into()),
            more,
        ])
    };
    let none = ("resultID", Value::Null);
    let owned = |id: &str, (uid, gid, mode): (u32, u32, u32), required: bool| {
        object([
            ("ID", id.into()),
            ("uid", uid.into()),
            ("gid", gid.into()),
            ("mode", mode.into()),
            ("optional", (!required).into()),
        ])
    };
    match &mount.kind {
        RunMountKind::Bind { input, read_only } => of(Some(*input), *read_only, 0, none),
        RunMountKind::Inline { content, .. } => of(None, true, 0, ("data", STANDARD.encode(content).into())),
        RunMountKind::Tmpfs { size_bytes, read_only } => {
            of(None, *read_only, TMPFS, ("TmpfsOpt", object([("size", (*size_bytes).into())])))
        }
        RunMountKind::Cache(cache) => {
            let sharing = match cache.sharing {
                CacheSharing::Shared => 0,
                CacheSharing::Private => 1,
                CacheSharing::Locked => 2,
            };
            let options = object([("ID", cache.id.clone().into()), ("sharing", sharing.into())]);
            of(cache.input, cache.read_only, CACHE, ("cacheOpt", options))
        }
        RunMountKind::Secret(secret) => {
            let options = owned(&secret.id, (secret.uid, secret.gid, secret.mode), secret.required);
            of(None, false, SECRET, ("secretOpt", options))
        }
        RunMountKind::Ssh(agent) => {
            let options = owned(&agent.id, (agent.uid, agent.gid, agent.mode), agent.required);
            of(None, false, SSH, ("SSHOpt", options))
        }
    }
}
