//! The ARG instructions before the first FROM, and the arguments that need none.

use oci::ImageReference;

use crate::expand::Expander;
use crate::lint::Rule;
use crate::outline::{self, OutlineArgument};
use crate::tree::{Argument, Dockerfile, Instruction, InstructionKind};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::variables::Tracked;

/// Bytes of text that defaults may make when the names of bases are looked at.
const MAX_DEFAULTS_BYTES: usize = 1 << 26;

/// Arguments that every RUN sees and no history tells.
pub(super) const PROXY_ARGUMENTS: [&str; 5] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl Lowering<'_> {
    /// Finds the values of all global arguments.
    pub(super) fn find_globals(&mut self) {
        self.add_platform_arguments();
        self.lint_default_bases();
        let expander = Expander::new(self.dockerfile.directives.escape);
        let dockerfile = self.dockerfile;
        for (instruction, argument) in global_arguments(dockerfile) {
            let name = &argument.name.text;
            let (value, used) = match (self.build_args.get(name), &argument.default) {
                (Some(value), _) => (Ok(Some(value.clone())), Vec::new()),
                (None, Some(default)) => {
                    let tracked = Tracked::new(&self.globals);
                    let value = expander.text(&default.text, &tracked).map(Some);
                    (value, tracked.into_names().0)
                }
                (None, None) => (Ok(None), Vec::new()),
            };
            match value.map_err(|message| Diagnostic::error("expansion", instruction.span, message)) {
                Ok(value) => {
                    let argument = OutlineArgument {
                        name: name.clone(),
                        value: value.clone().unwrap_or_default(),
                        description: outline::description(name, &instruction.comments),
                        span: instruction.span,
                    };
                    self.captures.add_global(argument, used);
                    self.set_global(name, value, instruction.span);
                }
                Err(diagnostic) => self.findings.push(diagnostic),
            }
        }
    }

    fn set_global(&mut self, name: &str, value: Option<String>, span: Span) {
        self.declared.insert(name.to_owned());
        let Some(value) = value else { return };
        match self.spend(value.len(), span) {
            Ok(()) => drop(self.globals.insert(name.to_owned(), value)),
            Err(diagnostic) => self.findings.push(diagnostic),
        }
    }

    /// Bases have a name that can be one even if no argument is given.
    fn lint_default_bases(&mut self) {
        let expander = Expander::new(self.dockerfile.directives.escape);
        let mut defaults = self.globals.clone();
        let mut left = MAX_DEFAULTS_BYTES;
        for (_, argument) in global_arguments(self.dockerfile) {
            let Some(default) = &argument.default else { continue };
            // What is wrong with it is told elsewhere.
            let Ok(value) = expander.text(&default.text, &defaults) else { return };
            let Some(rest) = usize::checked_sub(left, value.len()) else { return };
            left = rest;
            defaults.insert(argument.name.text.clone(), value);
        }
        for stage in &self.dockerfile.stages {
            let Ok(name) = expander.text(&stage.base.text, &defaults) else { return };
            if name.parse::<ImageReference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.text
                );
                let diagnostic = Diagnostic::lint(Rule::InvalidDefaultArgInFrom, stage.span, message);
                self.findings.lint(diagnostic.at(stage.base.span), &stage.comments);
            }
        }
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

/// The arguments of the ARG instructions before the first FROM, each with its instruction.
pub(super) fn global_arguments(dockerfile: &Dockerfile) -> impl Iterator<Item = (&Instruction, &Argument)> {
    dockerfile.global_arguments.iter().flat_map(|instruction| {
        let arguments = match &instruction.kind {
            InstructionKind::Arg(arguments) => arguments.as_slice(),
            _ => &[],
        };
        arguments.iter().map(move |argument| (instruction, argument))
    })
}
