//! What is built, and which versions of what it needs.

use std::path::PathBuf;

use clap::Args;
use worker::PullPolicy;

/// What is built.
#[derive(Debug, Args)]
pub(crate) struct InputArguments {
    /// The Dockerfile: a path, within an archive or a repository too, a URL, or `-` for standard input
    /// [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What COPY and ADD are not to take from the context [default: FILE.dockerignore, else CONTEXT/.dockerignore]
    #[arg(long, value_name = "FILE")]
    pub(crate) ignore_file: Option<PathBuf>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Value of an ARG; without `=VALUE` it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,
    /// A file of build arguments, `NAME=VALUE` in each line; `--build-arg` goes before it; may be repeated
    #[arg(long = "build-arg-file", value_name = "FILE")]
    pub(crate) build_arg_files: Vec<PathBuf>,
    /// What the first FROM is to name instead of what stands there
    #[arg(long, value_name = "IMAGE")]
    pub(crate) from: Option<String>,
    /// A further context for FROM and `COPY --from`: a directory, `docker-image://IMAGE`,
    /// `oci-layout://DIR[:TAG]`, a git repository or a URL
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    pub(crate) build_contexts: Vec<String>,
}

/// Which versions of what is elsewhere are taken.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// When registries are asked what a tag is: `always`, `missing` (if it was never seen), `never`, or `newer`
    /// (what was last seen will do where the registry does not answer) [default: always]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "always",
        value_name = "POLICY", value_parser = crate::values::pull_policy)]
    pub(crate) pull: Option<PullPolicy>,
}
