//! The mounts of RUN.

use solver::{Input, InputKey, RunMount, RunMountKind, Selector, VertexId};

use crate::mount::{self, Mount, MountKind};
use crate::tree::{Instruction, Run, RunMountOption, Token};
use crate::{Diagnostic, Span};

use super::paths;
use super::stages::Source;
use super::steps::Current;
use super::variables::Site;
use super::{BUILD_CONTEXT, Lowering};

/// What the mounts of a RUN come to.
#[derive(Default)]
pub(super) struct LoweredMounts {
    /// In the order in which they are mounted.
    pub(super) mounts: Vec<RunMount>,
    /// What they show; these follow the root file system in the inputs of the vertex.
    pub(super) inputs: Vec<Input>,
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
        let mut placed: Vec<_> = mounts
            .iter()
            .zip(&run.mounts)
            .map(|(mount, option)| (target(current, mount), mount, option))
            .collect();
        // As the peers do it: what is mounted below another mount is not hidden by it, in whatever order they are
        // written. Of two mounts of one target the later one is on top.
        placed.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let mut lowered = LoweredMounts::default();
        for (target, mount, option) in placed {
            let kind = match mount.kind {
                MountKind::Bind => {
                    let vertex = self.mount_source(current, option, span)?;
                    let input = lowered.add_input(vertex, mount);
                    RunMountKind::Bind { input, read_only: mount.read_only }
                }
                MountKind::Tmpfs => {
                    RunMountKind::Tmpfs { size_bytes: mount.size_bytes, read_only: mount.read_only }
                }
                MountKind::Cache | MountKind::Secret | MountKind::Ssh => continue,
            };
            lowered.mounts.push(RunMount { target, kind });
        }
        Ok(lowered)
    }

    /// The vertex whose files a mount shows: the build context where there is no `from`.
    fn mount_source(
        &mut self,
        current: &Current<'_>,
        option: &RunMountOption,
        span: Span,
    ) -> Result<VertexId, Diagnostic> {
        match &option.from {
            None => self.context_vertex(BUILD_CONTEXT, span),
            Some(from) => {
                let base = self.source_base(Source::Mount(option, from), current.index, span)?;
                self.source_vertex(&base, span)
            }
        }
    }
}

impl LoweredMounts {
    /// Adds the part of `vertex` that `mount` names, and gives the index that it has among the inputs of the step.
    fn add_input(&mut self, vertex: VertexId, mount: &Mount) -> usize {
        let source = mount.source.as_deref().unwrap_or_default();
        let paths = vec![paths::clean(&format!("/{source}"))];
        let selector = Selector { paths, wildcards: false, exclude: Vec::new(), parents: false };
        self.inputs.push(Input { vertex, key: InputKey::Content(selector) });
        self.inputs.len()
    }
}

/// Where something is mounted: absolute and clean.
fn target(current: &Current<'_>, mount: &Mount) -> String {
    let target = mount.target.as_deref().unwrap_or_default();
    paths::clean(&paths::join(&current.state.directory(), target))
}
