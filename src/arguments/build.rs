//! The flags of a build, each group under a heading of its own.

use clap::Args;

use super::accepted::AcceptedArguments;
use super::cache::CacheArguments;
use super::form::FormArguments;
use super::input::{InputArguments, SourceArguments};
use super::output::{LookArguments, OutputArguments};
use super::steps::StepArguments;
use super::switches::Switches;
use crate::attestations::AttestationArguments;
use crate::registries::RegistryArguments;
use crate::resources::ResourceArguments;

/// The flags of a build.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// The directory that COPY and ADD take files from; a git repository (`https://host/repo.git#branch:directory`); the
    /// URL of an archive (tar, perhaps compressed) or of a Dockerfile; `-` for one of these on standard input
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,

    #[command(flatten, next_help_heading = "Image")]
    pub(crate) image: ImageArguments,
    #[command(flatten, next_help_heading = "Input")]
    pub(crate) input: InputArguments,
    #[command(flatten)]
    pub(crate) switches: Switches,
    #[command(flatten, next_help_heading = "Sources")]
    pub(crate) sources: SourceArguments,
    #[command(flatten, next_help_heading = "Registries")]
    pub(crate) registries: RegistryArguments,
    #[command(flatten, next_help_heading = "Cache")]
    pub(crate) cache: CacheArguments,
    #[command(flatten, next_help_heading = "Steps")]
    pub(crate) steps: StepArguments,
    #[command(flatten, next_help_heading = "Steps")]
    pub(crate) resources: ResourceArguments,
    #[command(flatten, next_help_heading = "Output")]
    pub(crate) output: OutputArguments,
    #[command(flatten, next_help_heading = "Output")]
    pub(crate) form: FormArguments,
    #[command(flatten, next_help_heading = "Output")]
    pub(crate) attestations: AttestationArguments,
    #[command(flatten, next_help_heading = "Look")]
    pub(crate) look: LookArguments,
    #[command(flatten, next_help_heading = "Debug")]
    pub(crate) debug: DebugArguments,
    #[command(flatten)]
    pub(crate) accepted: AcceptedArguments,
}

impl BuildArguments {
    /// What is asked for instead of a build, as `--call` has it.
    pub(crate) fn call(&self) -> Option<&str> {
        self.look.call.as_deref().or(self.accepted.print.as_deref())
    }
}

/// What the image is.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// Name of the image, `name[:tag]`; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// A label of the base image or of LABEL that the image is not to have; may be repeated
    #[arg(long = "unsetlabel", value_name = "KEY")]
    pub(crate) unset_labels: Vec<String>,
    /// A variable of the base image or of ENV that the image is not to have; may be repeated
    #[arg(long = "unsetenv", value_name = "NAME")]
    pub(crate) unset_env: Vec<String>,
    /// The time of the image, in seconds since 1970: the build argument `SOURCE_DATE_EPOCH`
    #[arg(long, value_name = "SECONDS")]
    pub(crate) source_date_epoch: Option<String>,
    /// The platform of the image, or several (`linux/amd64,linux/arm64`); `local` is this machine's
    #[arg(long, value_name = "PLATFORM[,PLATFORM]", env = "DOCKER_DEFAULT_PLATFORM", hide_env = true)]
    pub(crate) platform: Option<String>,
}

/// Looking into steps.
#[derive(Debug, Args)]
pub(crate) struct DebugArguments {
    /// When a step fails: `shell[=COMMAND]` opens a shell in its sandbox, on the files as it left them; `tag=NAME` keeps its
    /// stage before it as an image; may be repeated
    #[arg(long, value_name = "ACTION")]
    pub(crate) on_failure: Vec<String>,
    /// Open a shell before a step: `[FILE:]LINE` for the one there, a stage for its first one that is executed. What the
    /// shell changes is thrown away; with exit code 0 the build goes on. May be repeated
    #[arg(long = "break", value_name = "[FILE:]LINE|STAGE")]
    pub(crate) breakpoints: Vec<String>,
}
