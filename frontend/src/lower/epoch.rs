//! `SOURCE_DATE_EPOCH`: the time of what a build makes, instead of the time at which it is made.

use crate::expand::Expander;
use crate::options::TimeSource;
use crate::tree::{Copy, Instruction, InstructionKind, Stage};
use crate::{Diagnostic, ImageResolver, Span};

use super::arguments::global_arguments;
use super::remote::{RemoteOp, is_remote, remote_op};
use super::{BUILD_CONTEXT, Lowering, Purpose};

const NAME: &str = "SOURCE_DATE_EPOCH";
const CODE: &str = "invalid-epoch";
const ONE: &str = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";

impl Lowering<'_> {
    /// Finds the time: that of the build argument, which is none if it is empty, or else that of a global ARG. It is a
    /// number, or what names the thing whose time it is. The names of stages have been found.
    pub(super) fn find_epoch(&mut self, resolver: &mut dyn ImageResolver) {
        let given = self.build_args.get(NAME);
        let declared = self.declared.contains(NAME).then(|| self.globals.get(NAME)).flatten();
        let Some(text) = given.or(declared).filter(|text| !text.is_empty()).cloned() else { return };
        if let Ok(seconds) = text.parse() {
            self.epoch = Some(seconds);
            return;
        }
        let found = match self.time_source(&text) {
            Ok(Some(_)) if self.purpose != Purpose::Build => return,
            Ok(Some(source)) => resolver.time_of(&source).map_err(|error| self.at_epoch(error.message)),
            Ok(None) => Err(self.at_epoch(format!("invalid {NAME}: {text}"))),
            Err(diagnostic) => Err(diagnostic),
        };
        match found {
            Ok(epoch) => self.set_epoch(epoch),
            Err(diagnostic) => self.findings.push(diagnostic),
        }
    }

    /// Steps see the time itself, or nothing where there is none.
    fn set_epoch(&mut self, epoch: Option<i64>) {
        self.epoch = epoch;
        let text = epoch.map_or_else(String::new, |seconds| seconds.to_string());
        let values = [self.build_args.get_mut(NAME), self.globals.get_mut(NAME)];
        values.into_iter().flatten().for_each(|value| value.clone_from(&text));
    }

    /// A mistake, at the place where the time is asked for.
    fn at_epoch(&self, message: String) -> Diagnostic {
        let of_default = global_arguments(self.dockerfile).filter(|(_, argument)| argument.name.text == NAME);
        match of_default.last() {
            Some((instruction, argument)) if !self.build_args.contains_key(NAME) => {
                let place = argument.default.as_ref().map_or(argument.name.span, |default| default.span);
                Diagnostic::error(CODE, instruction.span, message).at(place)
            }
            _ => Diagnostic::error_without_place(CODE, message),
        }
    }

    /// What is called `name` and has a time: a context, or a stage that is nothing but a remote source.
    fn time_source(&self, name: &str) -> Result<Option<TimeSource>, Diagnostic> {
        if name == BUILD_CONTEXT || self.options.named_contexts.contains_key(name) {
            return Ok(Some(TimeSource::Context(name.to_owned())));
        }
        let Some(&index) = self.names.get(name.to_lowercase().as_str()) else { return Ok(None) };
        let stage = self.dockerfile.stages.get(index);
        let (Some(stage), Some(plan)) = (stage, self.plans.get(index)) else { return Ok(None) };
        if plan.base_name != "scratch" {
            let message = "SOURCE_DATE_EPOCH stage must use FROM scratch";
            return Err(Diagnostic::error(CODE, stage.span, message));
        }
        self.source_of(stage).map(Some)
    }

    /// The only source of a stage.
    fn source_of(&self, stage: &Stage) -> Result<TimeSource, Diagnostic> {
        let mistake = |message: String| Diagnostic::error(CODE, stage.span, message);
        let expander = Expander::new(self.dockerfile.directives.escape);
        let mut values = self.globals.clone();
        values.remove(NAME);
        let mut source = None;
        for Instruction { kind, keyword, span, .. } in &stage.instructions {
            match kind {
                InstructionKind::Arg(arguments) => {
                    for argument in arguments {
                        let name = &argument.name.text;
                        let value = match (self.build_args.get(name), &argument.default) {
                            (Some(value), _) => value.clone(),
                            (None, Some(default)) => {
                                expander.text(&default.text, &values).map_err(&mistake)?
                            }
                            (None, None) => continue,
                        };
                        values.insert(name.clone(), value);
                    }
                }
                InstructionKind::Add(_) if source.is_some() => return Err(mistake(ONE.to_owned())),
                InstructionKind::Add(add) => {
                    let text = |text: &str| expander.text(text, &values);
                    source = Some(added(add, text, (stage.span, *span))?);
                }
                _ => {
                    let name = keyword.text.to_lowercase();
                    return Err(mistake(format!(
                        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {name} \
                         instruction"
                    )));
                }
            }
        }
        source.ok_or_else(|| mistake(ONE.to_owned()))
    }
}

/// The only source of an ADD.
fn added(
    add: &Copy,
    text: impl Fn(&str) -> Result<String, String>,
    (stage, own): (Span, Span),
) -> Result<TimeSource, Diagnostic> {
    let mistake = |message: &str| Diagnostic::error(CODE, stage, message);
    let ([source], []) = (add.sources.as_slice(), add.heredocs.as_slice()) else {
        return Err(mistake("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source"));
    };
    let source = text(&source.text).map_err(|message| mistake(&message))?;
    if !is_remote(&source) {
        return Err(mistake("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"));
    }
    let checksum = add.checksum.as_ref().map(|checksum| text(&checksum.text)).transpose();
    let checksum = checksum.map_err(|message| mistake(&message))?;
    Ok(match remote_op(&source, add.keep_git_dir, checksum.as_deref(), own)? {
        RemoteOp::Http(file) => TimeSource::Http(file),
        RemoteOp::Git(git) => TimeSource::Git(git.op()),
    })
}
