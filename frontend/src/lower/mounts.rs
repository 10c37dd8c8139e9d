//! The mounts of RUN.

use solver::{
    Input, InputKey, RunAgent, RunCache, RunMount, RunMountKind, RunSecret, SecretVariable, Selector,
    VertexId,
};

use crate::mount::{self, CacheSharing, Mount, MountKind};
use crate::tree::{Instruction, Run, RunMountOption, Token};
use crate::{Diagnostic, Span};

use super::images::Base;
use super::paths;
use super::stages::Source;
use super::steps::Current;
use super::variables::Site;
use super::{BUILD_CONTEXT, Lowering};

/// Where secrets are whose place was not said.
const SECRETS: &str = "/run/secrets";
/// Where agents are whose place was not said: with a dot and a number after it.
const AGENTS: &str = "/run/buildkit/ssh_agent";
/// The mode of an agent's socket.
const AGENT_MODE: u32 = 0o600;
/// The mode of a secret.
const SECRET_MODE: u32 = 0o400;

/// What the mounts of a RUN come to.
#[derive(Default)]
pub(super) struct LoweredMounts {
    /// In the order in which they are mounted.
    pub(super) mounts: Vec<RunMount>,
    /// What they show; these follow the root file system in the inputs of the vertex.
    pub(super) inputs: Vec<Input>,
    pub(super) secret_env: Vec<SecretVariable>,
    /// Where the socket of the first agent is, or would be.
    pub(super) first_agent: Option<String>,
}

impl Lowering<'_> {
    /// The mounts with their variables expanded.
    pub(super) fn read_mounts(
        &mut self,
        current: &Current<'_>,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<Vec<Mount>, Diagnostic> {
        let site = Site::of(instruction);
        let mounts = run.mounts.iter().map(|option| {
            let mut mistake = None;
            let mut expand = |value: &str| {
                // Quotes within the option have been taken off: where a value stands is not known.
                let token = Token { text: value.to_owned(), span: option.text.span };
                self.expand(&current.state, &token, site).map_err(|diagnostic| {
                    let message = diagnostic.message.clone();
                    mistake = Some(diagnostic);
                    message
                })
            };
            let parsed = mount::parse(&option.text.text, &mut expand);
            parsed.map_err(|error| {
                mistake
                    .unwrap_or_else(|| Diagnostic::error(error.code, site.span, error.message))
                    .at(option.text.span)
            })
        });
        mounts.collect()
    }

    /// What is wrong with mounts beyond their options.
    pub(super) fn check_mounts(
        &mut self,
        current: &Current<'_>,
        mounts: &[Mount],
        span: Span,
    ) -> Result<(), Diagnostic> {
        for mount in mounts {
            self.captures.mount(current.index, mount, span);
            let invalid = |message: &str| Err(Diagnostic::error("invalid-mount", span, message));
            match mount.kind {
                MountKind::Ssh if mount.source.is_some() => return invalid("ssh does not support source"),
                MountKind::Ssh | MountKind::Secret => continue,
                MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
            }
            if target(current, mount) == "/" {
                return invalid("invalid mount target \"/\"");
            }
        }
        Ok(())
    }

    /// What a step is to mount; `mounts` are those of `run`, in their order.
    pub(super) fn lower_mounts(
        &mut self,
        current: &Current<'_>,
        run: &Run,
        mounts: &[Mount],
        span: Span,
    ) -> Result<LoweredMounts, Diagnostic> {
        let targets = targets(current, mounts);
        let mut agents = mounts.iter().zip(&targets).filter(|(mount, _)| mount.kind == MountKind::Ssh);
        let first_agent = agents.next().map(|(_, target)| target.clone());
        let mut placed: Vec<_> = targets.into_iter().zip(mounts.iter().zip(&run.mounts)).collect();
        // As the peers do it: what is mounted below another mount is not hidden by it, in whatever order they are
        // written. Of two mounts of one target the later one is on top.
        placed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut lowered = LoweredMounts {
            secret_env: mounts.iter().filter_map(variable).collect(),
            first_agent,
            ..LoweredMounts::default()
        };
        for (target, (mount, option)) in placed {
            let kind = match mount.kind {
                MountKind::Bind => {
                    let vertex = match self.mount_base(current, option, span)? {
                        None => self.context_vertex(BUILD_CONTEXT, span)?,
                        Some(base) => self.source_vertex(&base, span)?,
                    };
                    let input = lowered.add_input(vertex, mount);
                    RunMountKind::Bind { input, read_only: mount.read_only }
                }
                MountKind::Tmpfs => {
                    RunMountKind::Tmpfs { size_bytes: mount.size_bytes, read_only: mount.read_only }
                }
                MountKind::Cache => {
                    let vertex = self.cache_beginning(current, (mount, option), span)?;
                    let input = vertex.map(|vertex| lowered.add_input(vertex, mount));
                    RunMountKind::Cache(self.cache(mount, input))
                }
                MountKind::Secret => {
                    if mount.env.is_some() && mount.target.is_none() {
                        continue;
                    }
                    RunMountKind::Secret(secret(mount))
                }
                MountKind::Ssh => RunMountKind::Ssh(agent(mount)),
            };
            lowered.mounts.push(RunMount { target, kind });
        }
        Ok(lowered)
    }

    /// What a mount takes its files from, if that is said.
    fn mount_base(
        &mut self,
        current: &Current<'_>,
        option: &RunMountOption,
        span: Span,
    ) -> Result<Option<Base>, Diagnostic> {
        let from = option.from.as_ref();
        from.map(|from| self.source_base(Source::Mount(option, from), current.index, span)).transpose()
    }

    /// The vertex that a new cache begins with; `None` for an empty one.
    fn cache_beginning(
        &mut self,
        current: &Current<'_>,
        (mount, option): (&Mount, &RunMountOption),
        span: Span,
    ) -> Result<Option<VertexId>, Diagnostic> {
        // Without `from` it is not the build context, but nothing.
        let base = self.mount_base(current, option, span)?.unwrap_or(Base::Scratch);
        if base == Base::Scratch && source(mount) == "/" {
            return Ok(None);
        }
        self.source_vertex(&base, span).map(Some)
    }

    fn cache(&self, mount: &Mount, input: Option<usize>) -> RunCache {
        let namespace = self.build_args.get("BUILDKIT_CACHE_MOUNT_NS").map_or("", String::as_str);
        let target = || paths::clean(mount.target.as_deref().unwrap_or_default());
        let id = mount.id.clone().unwrap_or_else(target);
        RunCache {
            id: format!("{namespace}/{id}"),
            sharing: match mount.sharing {
                None | Some(CacheSharing::Shared) => solver::CacheSharing::Shared,
                Some(CacheSharing::Private) => solver::CacheSharing::Private,
                Some(CacheSharing::Locked) => solver::CacheSharing::Locked,
            },
            input,
            read_only: mount.read_only,
            // The peers' directories lose the bits above.
            mode: mount.mode.map(|mode| mode & 0o777),
            uid: mount.uid,
            gid: mount.gid,
        }
    }
}

impl LoweredMounts {
    /// Adds the part of `vertex` that `mount` names, and gives the index that it has among the inputs of the step.
    fn add_input(&mut self, vertex: VertexId, mount: &Mount) -> usize {
        let paths = vec![source(mount)];
        let selector = Selector { paths, wildcards: false, exclude: Vec::new(), parents: false };
        self.inputs.push(Input { vertex, key: InputKey::Content(selector) });
        self.inputs.len()
    }
}

/// The path of what a mount shows, from the root of what it is in.
fn source(mount: &Mount) -> String {
    paths::clean(&format!("/{}", mount.source.as_deref().unwrap_or_default()))
}

/// Where something is mounted: absolute and clean.
fn target(current: &Current<'_>, mount: &Mount) -> String {
    let default = match mount.kind {
        MountKind::Secret => format!("{SECRETS}/{}", base_name(&secret_id(mount))),
        _ => String::new(),
    };
    let target = mount.target.as_ref().unwrap_or(&default);
    paths::clean(&paths::join(&current.state.directory(), target))
}

/// Where all of them are mounted; agents whose place was not said are counted.
fn targets(current: &Current<'_>, mounts: &[Mount]) -> Vec<String> {
    let mut agents = 0..;
    let targets = mounts.iter().map(|mount| {
        let number = if mount.kind == MountKind::Ssh { agents.next() } else { None };
        match (number, &mount.target) {
            (Some(number), None) => format!("{AGENTS}.{number}"),
            _ => target(current, mount),
        }
    });
    targets.collect()
}

/// The ID of a secret: what was said, else the last part of where it goes.
pub(super) fn secret_id(mount: &Mount) -> String {
    let said = mount.source.as_ref().or(mount.id.as_ref());
    said.map_or_else(|| base_name(mount.target.as_deref().unwrap_or_default()).to_owned(), String::clone)
}

/// The last part of a path.
fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// The variable that holds a secret; there is none of an empty name.
fn variable(mount: &Mount) -> Option<SecretVariable> {
    let name = mount.env.as_ref().filter(|name| mount.kind == MountKind::Secret && !name.is_empty())?;
    Some(SecretVariable { name: name.clone(), id: secret_id(mount), required: mount.required })
}

fn agent(mount: &Mount) -> RunAgent {
    RunAgent {
        id: mount.id.clone().unwrap_or_else(|| "default".to_owned()),
        required: mount.required,
        mode: mount.mode.unwrap_or(AGENT_MODE) & 0o777,
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
    }
}

fn secret(mount: &Mount) -> RunSecret {
    RunSecret {
        id: secret_id(mount),
        required: mount.required,
        mode: mount.mode.unwrap_or(SECRET_MODE) & 0o7777,
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
    }
}
