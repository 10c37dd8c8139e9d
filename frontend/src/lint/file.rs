//! Rules that need no more than the tree.

use std::collections::BTreeSet;

use crate::quote::go_quote;
use crate::tree::{Dockerfile, InstructionKind, Stage, Token};
use crate::{Diagnostic, Edit, Fix, Span};

use super::fixes;
use super::{Findings, Rule};

/// Rules about each instruction on its own, for those that begin before `end`, a byte of the file.
pub(crate) fn lint_instructions(dockerfile: &Dockerfile, end: usize, findings: &mut Findings) {
    for instruction in &dockerfile.global_arguments {
        if instruction.span.start < end
            && let InstructionKind::Arg(arguments) = &instruction.kind
        {
            let names: Vec<&str> = arguments.iter().map(|argument| argument.name.text.as_str()).collect();
            describe(("ARG", &names), &instruction.comments, instruction.span, findings);
        }
    }
    for stage in &dockerfile.stages {
        // What is wrong with a FROM itself is found after this.
        if stage.span.start <= end {
            lint_from(stage, findings);
        }
        if stage.span.start < end
            && let Some(name) = &stage.name
        {
            describe(("FROM", &[&name.text]), &stage.comments, stage.span, findings);
        }
        for instruction in stage.instructions.iter().take_while(|other| other.span.start < end) {
            match &instruction.kind {
                InstructionKind::Arg(arguments) => {
                    let names: Vec<&str> =
                        arguments.iter().map(|argument| argument.name.text.as_str()).collect();
                    describe(("ARG", &names), &instruction.comments, instruction.span, findings);
                }
                InstructionKind::Maintainer(author) => {
                    let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                    let diagnostic = Diagnostic::lint(Rule::MaintainerDeprecated, instruction.span, message)
                        .at(instruction.keyword.span)
                        .with_fix(fixes::maintainer_label(
                            &instruction.keyword,
                            author,
                            dockerfile.directives.escape,
                        ));
                    findings.lint(diagnostic, &instruction.comments);
                }
                _ => {}
            }
        }
    }
}

fn lint_from(stage: &Stage, findings: &mut Findings) {
    let (Some(as_keyword), Some(name)) = (&stage.as_keyword, &stage.written_name) else { return };
    let lower = name.text.to_lowercase();
    if name.text != lower {
        let message = format!("Stage name '{}' should be lowercase", name.text);
        let fix = Fix::certain(format!("write `{lower}`"), vec![Edit::new(name.span, lower)]);
        let diagnostic = Diagnostic::lint(Rule::StageNameCasing, stage.span, message);
        findings.lint(diagnostic.at(name.span).with_fix(Some(fix)), &stage.comments);
    }
    let from = &stage.keyword.text;
    let wanted = match casing(from) {
        Some(Casing::Lower) => as_keyword.text.to_lowercase(),
        Some(Casing::Upper) => as_keyword.text.to_uppercase(),
        // That FROM is neither is another rule's matter.
        None => return,
    };
    if as_keyword.text != wanted {
        let message = format!("'{}' and '{from}' keywords' casing do not match", as_keyword.text);
        let fix = Fix::certain(format!("write `{wanted}`"), vec![Edit::new(as_keyword.span, wanted)]);
        let diagnostic = Diagnostic::lint(Rule::FromAsCasing, stage.span, message);
        findings.lint(diagnostic.at(as_keyword.span).with_fix(Some(fix)), &stage.comments);
    }
}

/// A comment right above a definition begins with the name of what is defined.
fn describe((keyword, names): (&str, &[&str]), comments: &[Token], span: Span, findings: &mut Findings) {
    let (Some(comment), [first, others @ ..]) = (comments.last(), names) else { return };
    let word = comment.text.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if others.is_empty() { first } else { "<arg_key>" };
    let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    let diagnostic = Diagnostic::lint(Rule::InvalidDefinitionDescription, span, message);
    findings.lint(diagnostic.at(comment.span), comments);
}

/// Rules about all stages and instructions together. Comments above an instruction do not reach them.
pub(crate) fn lint_stages(dockerfile: &Dockerfile, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for stage in &dockerfile.stages {
        let Some(name) = &stage.name else { continue };
        if matches!(name.text.as_str(), "scratch" | "context") {
            let message =
                format!("Stage name should not use the same name as reserved stage {}", go_quote(&name.text));
            let diagnostic = Diagnostic::lint(Rule::ReservedStageName, stage.span, message);
            findings.lint(diagnostic.at(name.span), &[]);
        }
        if !seen.insert(&name.text) {
            let message =
                format!("Duplicate stage name {}, stage names should be unique", go_quote(&name.text));
            let diagnostic = Diagnostic::lint(Rule::DuplicateStageName, stage.span, message);
            findings.lint(diagnostic.at(name.span), &[]);
        }
    }
    lint_casing(dockerfile, findings);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

/// The case of a word that has one.
fn casing(word: &str) -> Option<Casing> {
    if word == word.to_lowercase() {
        Some(Casing::Lower)
    } else if word == word.to_uppercase() {
        Some(Casing::Upper)
    } else {
        None
    }
}

fn lint_casing(dockerfile: &Dockerfile, findings: &mut Findings) {
    let keywords = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let of_stage = std::iter::once((&stage.keyword, stage.span));
            of_stage.chain(stage.instructions.iter().map(|other| (&other.keyword, other.span)))
        })
    };
    let count = |wanted| keywords().filter(|(keyword, _)| casing(&keyword.text) == Some(wanted)).count();
    let is_lower = count(Casing::Lower) > count(Casing::Upper);
    for (keyword, span) in keywords() {
        let (wanted, name) = if is_lower {
            (keyword.text.to_lowercase(), "lowercase")
        } else {
            (keyword.text.to_uppercase(), "uppercase")
        };
        if keyword.text != wanted {
            let message =
                format!("Command '{}' should match the case of the command majority ({name})", keyword.text);
            let fix = Fix::certain(format!("write `{wanted}`"), vec![Edit::new(keyword.span, wanted)]);
            let diagnostic = Diagnostic::lint(Rule::ConsistentInstructionCasing, span, message);
            findings.lint(diagnostic.at(keyword.span).with_fix(Some(fix)), &[]);
        }
    }
}

/// Continuations over blank lines.
pub(crate) fn lint_continuations(dockerfile: &Dockerfile, findings: &mut Findings) {
    for continuation in &dockerfile.empty_continuations {
        let first = continuation.blank_lines.first().copied().unwrap_or_default();
        let edits = continuation.blank_lines.iter().map(|line| Edit::new(*line, ""));
        let fix = Fix::certain("remove the blank lines".to_owned(), edits.collect());
        let message = "Empty continuation line".to_owned();
        let diagnostic = Diagnostic::lint(Rule::NoEmptyContinuation, continuation.last_line, message);
        findings.lint(diagnostic.at(first).with_fix(Some(fix)), &[]);
    }
}
