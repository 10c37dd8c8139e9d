//! The command line.

mod accepted;
mod build;
mod cache;
mod commands;
mod foreign;
mod form;
mod input;
mod output;
mod steps;
mod switches;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::images::ImageAction;

pub(crate) use build::BuildArguments;
pub(crate) use commands::{
    ExplainArguments, FormatArguments, HistoryAction, HistoryArguments, ListFormat, PruneArguments,
    UsageArguments,
};
pub(crate) use output::{LoadWish, PlanFormat, ProgressMode};
pub(crate) use switches::{GoBool, Switches};

/// The names of the subcommands; anything else in their place begins a build.
const SUBCOMMANDS: &[&str] = &[
    "build",
    "debug",
    "fmt",
    "images",
    "inspect",
    "run",
    "pull",
    "push",
    "save",
    "load",
    "tag",
    "rmi",
    "prune",
    "du",
    "history",
    "explain",
    "doctor",
    "gc",
    "completion",
    "man",
    "help",
];

const EXAMPLES: &str = "\
Examples:
  rbuild -t app:v1 .                        build ./Dockerfile, keep the image as app:v1
  rbuild -t localhost:5000/app --push .     build and push
  rbuild -o type=oci,dest=app.tar .         write an OCI archive
  rbuild -o out .                           write the files of the result to ./out
  rbuild --target test .                    build one stage
  rbuild --check .                          look for mistakes and bad style
  rbuild debug .                            build, with a shell in a step that fails";

/// The command line of `rbuild`.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about = "Builds container images from Dockerfiles, without a daemon, as root or not",
    after_help = EXAMPLES,
    override_usage = "rbuild [build] [FLAGS] CONTEXT\n       rbuild COMMAND",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct CommandLine {
    /// Where layers, images and the cache are kept [default: /var/lib/rbuild as root, else
    /// ~/.local/share/rbuild]
    #[arg(long, global = true, value_name = "DIR", env = "RBUILD_ROOT", hide_env_values = true)]
    pub(crate) root: Option<PathBuf>,
    /// Which ids an ordinary user's build has: `all` that there are, or `one`
    #[arg(
        long,
        global = true,
        value_name = "IDS",
        env = "RBUILD_IDS",
        hide_env_values = true,
        default_value = "all",
        hide_possible_values = true
    )]
    pub(crate) ids: Ids,
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// Which ids a build of an ordinary user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ids {
    /// Subordinate ones, where there are any
    All,
    /// One
    One,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build an image from a Dockerfile (the default)
    // As with docker, the last of several counts.
    #[command(after_help = EXAMPLES, args_override_self = true)]
    Build(Box<BuildArguments>),
    /// Build, with a shell in the sandbox of a step that fails (`--on-failure=shell`)
    #[command(args_override_self = true)]
    Debug(Box<BuildArguments>),
    /// Format Dockerfiles; what they build stays the same
    Fmt(FormatArguments),
    #[command(flatten)]
    Image(ImageAction),
    /// Free the space of what no image and no running build uses
    Prune(PruneArguments),
    /// Show what takes space in the store
    Du(UsageArguments),
    /// List the builds of the past; with an IMAGE, the steps that made it
    History(HistoryArguments),
    /// Tell of each step of a build why it was executed, or that it was cached
    Explain(ExplainArguments),
    /// Keep the store within the bounds of the configuration; builds start it from time to time
    #[command(hide = true)]
    Gc,
    /// Tell whether builds work on this machine, and what would improve it
    Doctor {
        /// Read all of the store instead, compare it with its digests, and throw away what is damaged, so that builds
        /// make or fetch it anew; fails with 1 if anything was damaged
        #[arg(long)]
        store: bool,
        /// How to write it; `json` is one object on each line
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
    #[command(flatten)]
    Manual(crate::manual::Action),
}

/// Reads the command line. Where no subcommand stands, `build` is put in.
///
/// clap has no notion of a default subcommand that takes flags of its own, and declaring the flags of a build twice
/// would give two help texts that drift apart.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<CommandLine, clap::Error> {
    let mut command = command();
    let arguments = with_subcommand(arguments);
    let place = subcommand_place(&arguments);
    let (name, first) = (arguments.get(place).cloned(), arguments.get(place + 1).cloned());
    let matches = command.try_get_matches_from_mut(arguments).map_err(|error| match name {
        // No flag of `run` is one of a builder.
        Some(name) if name == "run" => error,
        Some(name) if name == "build" => with_advice(with_command_hint(error, first.as_deref())),
        _ => with_advice(error),
    })?;
    CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// A flag of another builder is answered with what does the same here, not with what is spelt alike.
fn with_advice(mut error: clap::Error) -> clap::Error {
    let advice = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => foreign::advice(flag),
        _ => None,
    };
    if let Some(advice) = advice {
        for kind in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::TrailingArg] {
            error.remove(kind);
        }
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    error
}

/// One context too many may be the argument of a command that was mistyped, `first`.
fn with_command_hint(mut error: clap::Error, first: Option<&OsStr>) -> clap::Error {
    let is_context =
        |value: &ContextValue| matches!(value, ContextValue::String(text) if !text.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument
        && error.get(ContextKind::InvalidArg).is_some_and(is_context)
        && let Some(hint) = first.and_then(OsStr::to_str).and_then(command_hint)
    {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

/// What may help whoever has written `text` where a context is to stand, and perhaps meant a command.
pub(crate) fn command_hint(text: &str) -> Option<String> {
    let is_word = text.len() > 1 && text.chars().all(|character| character.is_ascii_lowercase());
    let all = || SUBCOMMANDS.join("`, `");
    let hint = || match frontend::closest(text, SUBCOMMANDS.iter().copied(), frontend::Case::Sensitive) {
        Some(command) => format!("there is a command `{command}`"),
        None => format!("if a command was meant: there are `{}`", all()),
    };
    is_word.then(hint)
}

/// The definitions of the command line, with their help as it is shown.
pub(crate) fn command() -> Command {
    crate::manual::arranged(CommandLine::command())
}

/// Where a subcommand stands, or would: behind the flags that all of them take.
fn subcommand_place(arguments: &[OsString]) -> usize {
    let mut at = 1;
    while let Some(argument) = arguments.get(at).and_then(|argument| argument.to_str()) {
        match argument {
            "--root" | "--ids" => at += 2,
            other if other.starts_with("--root=") || other.starts_with("--ids=") => at += 1,
            _ => break,
        }
    }
    at
}

fn with_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let at = subcommand_place(&arguments);
    let Some(first) = arguments.get(at) else { return arguments };
    if first == "help" {
        // clap's own would print the longer form.
        arguments.remove(at);
        arguments.push("--help".into());
        return arguments;
    }
    let stands = first.to_str().is_some_and(|first| {
        SUBCOMMANDS.contains(&first) || matches!(first, "-h" | "--help" | "-V" | "--version")
    });
    if !stands {
        arguments.insert(at, "build".into());
    }
    crate::attestations::join_values(arguments)
}
