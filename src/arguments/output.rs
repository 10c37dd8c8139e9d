//! What becomes of the result, what is shown of the way to it, and what is told instead.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use exporter::LoadTarget;

/// What becomes of the result, and what is shown.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// What to make of the result: a directory, `-` for a tar on standard output, or
    /// `type=image|registry|oci|docker|tar|local|cacheonly,…`; may be repeated
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub(crate) outputs: Vec<String>,
    /// Load the image into an engine of this machine, `docker`, `containerd` or `podman` [default: the first that is there]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "ENGINE",
        value_parser = wanted)]
    pub(crate) load: Option<LoadWish>,
    /// Write the image's ID (the digest of its config) to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// How progress is shown
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        hide_env = true,
        hide_default_value = true
    )]
    pub(crate) progress: ProgressMode,
}

/// Whether an image is to be loaded, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LoadWish {
    /// It is not.
    Nowhere,
    /// Into this.
    In(LoadTarget),
}

fn wanted(text: &str) -> Result<LoadWish, String> {
    match text {
        "docker" => Ok(LoadWish::In(LoadTarget::Docker { context: None })),
        "containerd" => Ok(LoadWish::In(LoadTarget::Containerd)),
        "podman" => Ok(LoadWish::In(LoadTarget::Podman)),
        other => match frontend::go_bool(other) {
            Some(true) => Ok(LoadWish::In(LoadTarget::First)),
            Some(false) => Ok(LoadWish::Nowhere),
            None => Err("it should be `docker`, `containerd`, `podman`, `true` or `false`".to_owned()),
        },
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// `tty` at a terminal, else `plain`
    #[value(alias = "")]
    Auto,
    /// Line by line
    Plain,
    /// A live view
    Tty,
    /// BuildKit's stream of JSON values, for programs
    Rawjson,
    /// Errors only
    #[value(alias = "none")]
    Quiet,
}

/// What is told instead of building.
#[derive(Debug, Args)]
pub(crate) struct LookArguments {
    /// Tell something of the Dockerfile instead of building it: `check`, `outline` or `targets`, perhaps with
    /// `,format=json`
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// Tell what would be pulled, run and copied and what is cached, as `text` or `json`, instead of doing it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "text", value_name = "FORMAT")]
    pub(crate) plan: Option<PlanFormat>,
}

/// How a plan is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// For people
    Text,
    /// For programs
    Json,
}
