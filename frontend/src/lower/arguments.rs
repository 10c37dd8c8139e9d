//! The ARG instructions before the first FROM, and the arguments that need none.

use crate::expand::Expander;
use crate::tree::InstructionKind;
use crate::{Diagnostic, Span};

use super::Lowering;

/// Arguments that every RUN sees and no history tells.
pub(super) const PROXY_ARGUMENTS: [&str; 5] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl Lowering<'_> {
    /// Finds the values of all global arguments.
    pub(super) fn find_globals(&mut self) {
        self.add_platform_arguments();
        let expander = Expander::new(self.dockerfile.directives.escape);
        let dockerfile = self.dockerfile;
        for instruction in &dockerfile.global_arguments {
            let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
            for argument in arguments {
                let name = &argument.name.text;
                let value = match (self.build_args.get(name), &argument.default) {
                    (Some(value), _) => Ok(Some(value.clone())),
                    (None, Some(default)) => expander.text(&default.text, &self.globals).map(Some),
                    (None, None) => Ok(None),
                };
                if let Err(diagnostic) = self.set_global(name, value, instruction.span) {
                    self.diagnostics.push(diagnostic);
                }
            }
        }
    }

    fn set_global(
        &mut self,
        name: &str,
        value: Result<Option<String>, String>,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let value = value.map_err(|message| Diagnostic::error("expansion", span, message))?;
        if let Some(value) = value {
            self.spend(value.len(), span)?;
            self.globals.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn add_platform_arguments(&mut self) {
        let platforms = [("TARGET", &self.options.platform), ("BUILD", &self.options.build_platform)];
        for (prefix, platform) in platforms {
            let values = [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("OSVERSION", platform.os_version.clone().unwrap_or_default()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone().unwrap_or_default()),
            ];
            self.globals.extend(values.map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        let last_name = self.dockerfile.stages.last().and_then(|stage| stage.name.as_ref());
        let stage = match (&self.options.target, last_name) {
            (Some(target), _) => target.clone(),
            (None, Some(name)) => name.text.clone(),
            (None, None) => "default".to_owned(),
        };
        self.globals.insert("TARGETSTAGE".to_owned(), stage);
        for (name, value) in &mut self.globals {
            if let Some(given) = self.build_args.get(name) {
                value.clone_from(given);
            }
        }
    }

    /// The proxies that RUN gets, in both spellings.
    pub(super) fn proxy_environment(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for name in PROXY_ARGUMENTS {
            let given = self.build_args.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            if let Some((_, value)) = given {
                found.push((name.to_owned(), value.clone()));
                found.push((name.to_ascii_lowercase(), value.clone()));
            }
        }
        found
    }
}
