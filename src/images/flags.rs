//! The flags of the commands that look after images.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::arguments::ListFormat;
use crate::container::RunArguments;
use crate::registries::RegistryArguments;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageAction {
    /// List the images of the store
    Images(ListArguments),
    /// Tell all of images, as JSON
    Inspect(InspectArguments),
    /// Run a command in an image; what it writes is thrown away
    // As with docker, the last of several counts.
    #[command(args_override_self = true)]
    Run(Box<RunArguments>),
    /// Pull an image into the store
    Pull(PullArguments),
    /// Push images of the store to their registries
    Push(PushArguments),
    /// Write images of the store to an archive
    Save(SaveArguments),
    /// Read the images of an archive into the store
    Load(LoadArguments),
    /// Give an image another name
    Tag {
        /// The image: a name, or the beginning of an ID
        #[arg(value_name = "IMAGE")]
        image: String,
        /// The name that it gets besides
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove names of images; `rbuild prune` then frees their space
    Rmi(RemoveArguments),
}

/// The flags of `rbuild images`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct ListArguments {
    /// Only these: a repository, or one with a tag; `*` stands for anything but a slash
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How to write the list; `json` is one object on each line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
    /// Write IDs only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Write digests whole
    #[arg(long)]
    pub(crate) digests: bool,
    /// Write IDs whole
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Accepted as with docker
    #[arg(short, long, hide = true)]
    pub(crate) all: bool,
}

/// The flags of `rbuild inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The images: names, or beginnings of IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// How to write it
    #[arg(short, long, value_name = "FORMAT", default_value = "json", hide = true)]
    pub(crate) format: InspectFormat,
    /// Write the manifest or the index, byte by byte
    #[arg(long)]
    pub(crate) raw: bool,
    /// Only the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
}

/// How images are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectFormat {
    /// For programs
    Json,
}

/// The flags of `rbuild pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// The platform, if not this machine's
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Show nothing but the digest
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten, next_help_heading = "Registries")]
    pub(crate) registries: RegistryArguments,
}

/// The flags of `rbuild push`.
#[derive(Debug, Args)]
pub(crate) struct PushArguments {
    /// The images, by their names
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Push everything that is in the store of these repositories
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Show nothing but digests
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten, next_help_heading = "Registries")]
    pub(crate) registries: RegistryArguments,
}

/// The flags of `rbuild save`.
#[derive(Debug, Args)]
pub(crate) struct SaveArguments {
    /// The images: names, or beginnings of IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Where to: a file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// For whom: `docker load` and its like, or as an OCI layout, which holds images of several platforms too
    #[arg(long, value_name = "FORMAT", default_value = "docker")]
    pub(crate) format: SaveFormat,
    /// Of images of several platforms only the one for this
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    #[command(flatten, next_help_heading = "Registries")]
    pub(crate) registries: RegistryArguments,
}

/// What archives look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// With `manifest.json`
    #[value(alias = "docker-archive")]
    Docker,
    /// A layout alone
    #[value(alias = "oci-archive")]
    Oci,
}

/// The flags of `rbuild load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// The archive: of `docker save` or an OCI layout, a tar (compressed or not) or a directory [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// A name for the image of an archive that has none, or in place of those that it has
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Option<String>,
    /// Show nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The flags of `rbuild rmi`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArguments {
    /// The images: names, or beginnings of IDs
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Remove all names of what an ID means, and pass over what is not there
    #[arg(short, long)]
    pub(crate) force: bool,
}
