//! The flags of the commands that are no build.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The flags of `rbuild history`.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild history [ls|show|logs|rm] [FLAGS]\n       rbuild history [FLAGS] IMAGE",
    after_help = "An image that is called as a command here is given with its tag: `rbuild history ls:latest`."
)]
pub(crate) struct HistoryArguments {
    /// Tell the steps that made this image of the store, the last one first: a name, or the beginning of an ID
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// With an IMAGE: show all of each instruction
    #[arg(long, requires = "image")]
    pub(crate) no_trunc: bool,
    /// With an IMAGE: write IDs only
    #[arg(short, long, requires = "image")]
    pub(crate) quiet: bool,
    /// With an IMAGE of several platforms: the one for this
    #[arg(long, value_name = "PLATFORM", requires = "image")]
    pub(crate) platform: Option<String>,
    /// How to write it; `json` is an object on each line, or one
    #[arg(long, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    #[command(subcommand)]
    pub(crate) action: Option<HistoryAction>,
}

/// What to do with the history.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryAction {
    /// List the builds, the last one first (the default)
    Ls,
    /// Tell all of a build: its steps, how long they took, and what they made
    Show {
        /// The build: its ID or the beginning of that, or `^1` for the one before the last [default: the last one]
        #[arg(value_name = "BUILD")]
        build: Option<String>,
    },
    /// Write what a build has shown
    Logs {
        /// The build, likewise
        #[arg(value_name = "BUILD")]
        build: Option<String>,
    },
    /// Remove builds from the history; the cache stays
    Rm {
        /// The builds
        #[arg(value_name = "BUILD")]
        builds: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

/// The flags of `rbuild explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// The build: its ID or the beginning of that, or `^1` for the one before the last [default: the last one]
    #[arg(value_name = "BUILD")]
    pub(crate) build: Option<String>,
    /// How to write it; `json` is one object on each line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
}

/// The flags of `rbuild fmt`.
#[derive(Debug, Args)]
pub(crate) struct FormatArguments {
    /// Dockerfiles, directories with a Dockerfile, or `-` for standard input, which is written to standard output
    #[arg(value_name = "FILE", default_value = ".")]
    pub(crate) files: Vec<PathBuf>,
    /// Write nothing: name the files that are not formatted, and fail if there are any
    #[arg(long)]
    pub(crate) check: bool,
}

const FILTERS: &str = "\
Filters:
  A filter is FIELD, FIELD=VALUE, FIELD!=VALUE or FIELD~=EXPRESSION (a regular expression), several of them
  separated by commas or in several flags; all have to hold.
  until=24h        not used for that long (prune only)
  id, parents      names that `rbuild du` lists
  type             regular, source.local, source.git.checkout or exec.cachemount
  description      what made it
  inuse, mutable, immutable, shared, private";

/// The flags of `rbuild du`.
#[derive(Debug, Args)]
#[command(after_help = FILTERS)]
pub(crate) struct UsageArguments {
    /// How to write it; `json` is one object
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Only what this means
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Tell all of each thing
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// The flags of `rbuild prune`.
#[derive(Debug, Args)]
#[command(after_help = FILTERS)]
pub(crate) struct PruneArguments {
    /// Accepted as with docker; everything that no image and no running build uses goes anyway
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only what this means (`until=24h`, `type=exec.cachemount`)
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Keep what was used within this time (`24h`, `30m`, `7d`)
    #[arg(long, value_name = "DURATION", value_parser = crate::values::duration)]
    pub(crate) keep_duration: Option<std::time::Duration>,
    /// Stop once the store takes no more than this (`10g`); what was used last stays
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_used_space: Option<String>,
    /// Keep at least this much, whatever the other bounds say
    #[arg(long, value_name = "BYTES", alias = "keep-storage")]
    pub(crate) reserved_space: Option<String>,
    /// Stop once this much of the disk is free
    #[arg(long, value_name = "BYTES")]
    pub(crate) min_free_space: Option<String>,
    /// Do not ask for confirmation (rbuild never does)
    #[arg(short, long)]
    pub(crate) force: bool,
}
