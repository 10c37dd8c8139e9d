//! The mounts of RUN.

use crate::mount::{self, Mount, MountKind};
use crate::tree::{Instruction, Run, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::paths;
use super::steps::Current;
use super::variables::Site;

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
            let target = mount.target.as_deref().unwrap_or_default();
            let target = paths::clean(&paths::join(&current.state.directory(), target));
            if target == "/" {
                return invalid("invalid mount target \"/\"");
            }
        }
        Ok(())
    }
}
