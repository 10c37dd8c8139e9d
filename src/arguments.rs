//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};
use worker::PullPolicy;

use crate::resources::ResourceArguments;

/// The names of the subcommands; anything else in their place begins a build.
const SUBCOMMANDS: &[&str] = &[
    "build", "debug", "fmt", "images", "push", "rmi", "prune", "du", "history", "explain", "doctor", "gc",
    "help",
];

const EXAMPLES: &str = "\
Examples:
  rbuild -t app:v1 .                          build ./Dockerfile, keep the image as app:v1
  rbuild -t localhost:5000/app --push .       build and push
  rbuild -o type=oci,dest=app.tar .           write an OCI archive
  rbuild -o out .                             write the files of the result to ./out
  rbuild --target test .                      build one stage

`rbuild help build` tells all flags of a build.";

/// The command line of `rbuild`.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about = "Builds container images from Dockerfiles, without a daemon, as root or not",
    long_about = "Builds container images from Dockerfiles, without a daemon, as root or not.\n\n\
        The build is the default command: `rbuild -t app:v1 .` is `rbuild build -t app:v1 .`.",
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
    /// List the images that `-t` kept
    Images {
        /// How to write the list; `json` is one object on each line
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
    /// Push an image that `-t` kept to its registry
    Push {
        /// The image, as it was given to `-t`
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Remove images that `-t` kept; `rbuild prune` then frees their space
    Rmi {
        /// The images, as they were given to `-t`
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Free the space of what no image and no running build uses
    Prune(PruneArguments),
    /// Show what takes space in the store
    Du(UsageArguments),
    /// List the builds of the past, and what was kept of them
    History(HistoryArguments),
    /// Tell of each step of a build why it was executed, or that it was cached
    Explain(ExplainArguments),
    /// Keep the store within the bounds of the configuration; builds start it from time to time
    #[command(hide = true)]
    Gc,
    /// Tell what this machine can do, and what would improve it; fails with 3 if builds do not work
    Doctor {
        /// Read all of the store instead, compare it with its digests, and throw away what is damaged, so that builds
        /// make or fetch it anew; fails with 1 if anything was damaged
        #[arg(long)]
        store: bool,
        /// How to write it; `json` is one object on each line
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListFormat,
    },
}

/// How a plan is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

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
pub(crate) struct HistoryArguments {
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

/// The flags of a build.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// The directory that COPY and ADD take files from; a git repository (`https://host/repo.git#branch:directory`); the
    /// URL of an archive (tar, perhaps compressed) or of a Dockerfile; `-` for one of these on standard input
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,

    /// Name of the image, `name[:tag]`; may be repeated
    #[arg(short, long = "tag", value_name = "NAME", help_heading = "Image")]
    pub(crate) tags: Vec<String>,
    /// The Dockerfile, `-` for standard input, a path within an archive or a repository [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE", help_heading = "Input")]
    pub(crate) file: Option<PathBuf>,
    /// What COPY and ADD are not to take from the context [default: FILE.dockerignore, else CONTEXT/.dockerignore]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub(crate) ignore_file: Option<PathBuf>,
    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", help_heading = "Input")]
    pub(crate) target: Option<String>,
    /// Value of an ARG; without `=VALUE` it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "Input")]
    pub(crate) build_args: Vec<String>,
    /// A further context for FROM and `COPY --from`: a directory, `docker-image://IMAGE`,
    /// `oci-layout://DIR[:TAG]`, a git repository or a URL
    #[arg(long = "build-context", value_name = "NAME=SOURCE", help_heading = "Input")]
    pub(crate) build_contexts: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "Image")]
    pub(crate) labels: Vec<String>,
    /// The platform of the image, or several (`linux/amd64,linux/arm64`); `local` is this machine's
    #[arg(
        long,
        value_name = "PLATFORM[,PLATFORM]",
        env = "DOCKER_DEFAULT_PLATFORM",
        hide_env = true,
        help_heading = "Image"
    )]
    pub(crate) platform: Option<String>,

    #[command(flatten)]
    pub(crate) switches: Switches,

    /// When registries are asked what a tag is: `always`, `missing` (if it was never seen), `never`, or `newer`
    /// (what was last seen will do where the registry does not answer) [default: always]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "always",
        value_name = "POLICY", value_parser = crate::values::pull_policy, help_heading = "Sources")]
    pub(crate) pull: Option<PullPolicy>,

    /// Run the steps of these stages anew
    #[arg(long, value_name = "STAGE[,STAGE]", value_delimiter = ',', help_heading = "Cache")]
    pub(crate) no_cache_filter: Vec<String>,
    /// A cache to look in as well: a reference, `type=registry,ref=NAME` (also an image that carries one) or
    /// `type=local,src=DIR`, with `mounts=true` or `mounts=ID;ID` what cache mounts held, too; may be repeated
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub(crate) cache_from: Vec<String>,
    /// Where to carry the cache of this build: a reference, `type=registry,ref=NAME`, `type=local,dest=DIR` or
    /// `type=inline` (into the image); with `mode=max` all steps' results, with `mounts=true` or `mounts=ID;ID`
    /// what cache mounts hold, too; may be repeated
    #[arg(long, value_name = "CACHE", help_heading = "Cache")]
    pub(crate) cache_to: Vec<String>,

    /// Network of RUN steps that name none: `default` (what config.toml says, else isolated if `pasta` is installed),
    /// `host` or `none`
    #[arg(
        long,
        value_name = "MODE",
        default_value = "default",
        hide_default_value = true,
        help_heading = "Steps"
    )]
    pub(crate) network: String,
    /// Entry of /etc/hosts in RUN steps, `HOST:IP` or `HOST=IP`; the IP `host-gateway` is the address of this machine
    #[arg(long = "add-host", value_name = "HOST:IP", help_heading = "Steps")]
    pub(crate) add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps (`64m`)
    #[arg(long, value_name = "BYTES", help_heading = "Steps")]
    pub(crate) shm_size: Option<String>,
    /// Limit of processes in RUN steps (`nofile=1024:2048`)
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "Steps")]
    pub(crate) ulimits: Vec<String>,
    /// The cgroup beneath which RUN steps get theirs
    #[arg(long, value_name = "CGROUP", help_heading = "Steps")]
    pub(crate) cgroup_parent: Option<String>,
    /// Something secret that steps may mount (`RUN --mount=type=secret`): `id=ID[,src=FILE]` or `id=ID,env=NAME`
    #[arg(long = "secret", value_name = "SECRET", help_heading = "Steps")]
    pub(crate) secrets: Vec<String>,
    /// An ssh agent that steps may use (`RUN --mount=type=ssh`) and git asks: `default` for the one of
    /// `SSH_AUTH_SOCK`, `ID=SOCKET` for another, or `ID=KEY[,KEY]` for the files of keys
    #[arg(long, value_name = "ID[=SOCKET|KEY,…]", help_heading = "Steps")]
    pub(crate) ssh: Vec<String>,
    /// Allow what a Dockerfile may not ask for by itself: `network.host`, `security.insecure`,
    /// `device[=NAME[,alias=ALIAS]]`
    #[arg(long = "allow", value_name = "ENTITLEMENT", help_heading = "Steps")]
    pub(crate) allow: Vec<String>,
    /// End the build if it takes longer (`90s`, `1h30m`)
    #[arg(long, value_name = "DURATION", help_heading = "Steps")]
    pub(crate) timeout: Option<String>,
    /// Have a RUN step fail if its process takes longer; waiting for other builds and caches does not count
    #[arg(long, value_name = "DURATION", help_heading = "Steps")]
    pub(crate) step_timeout: Option<String>,
    /// How many steps may run at once [default: four for each CPU, at least 16]
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    pub(crate) resources: ResourceArguments,

    /// What to make of the result: a directory, `-` for a tar on standard output, or
    /// `type=image|registry|oci|docker|tar|local|cacheonly,…`; may be repeated
    #[arg(short, long = "output", value_name = "OUTPUT", help_heading = "Output")]
    pub(crate) outputs: Vec<String>,
    /// Write the image's ID (the digest of its config) to a file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names of the result to a file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Tell something of the Dockerfile instead of building it: `check`, `outline` or `targets`, perhaps with
    /// `,format=json`
    #[arg(long, alias = "print", value_name = "METHOD", help_heading = "Look")]
    pub(crate) call: Option<String>,
    /// Tell what would be pulled, run and copied and what is cached, as `text` or `json`, instead of doing it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "text", value_name = "FORMAT",
        help_heading = "Look")]
    pub(crate) plan: Option<PlanFormat>,
    /// How progress is shown
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        hide_env = true,
        hide_default_value = true,
        help_heading = "Output"
    )]
    pub(crate) progress: ProgressMode,

    /// When a step fails: `shell[=COMMAND]` opens a shell in its sandbox, on the files as it left them; `tag=NAME` keeps its
    /// stage before it as an image; may be repeated
    #[arg(long, value_name = "ACTION", help_heading = "Debug")]
    pub(crate) on_failure: Vec<String>,
    /// Open a shell before a step: `[FILE:]LINE` for the one there, a stage for its first one that is executed. What the
    /// shell changes is thrown away; with exit code 0 the build goes on. May be repeated
    #[arg(long = "break", value_name = "[FILE:]LINE|STAGE", help_heading = "Debug")]
    pub(crate) breakpoints: Vec<String>,

    #[command(flatten)]
    pub(crate) later: NotSupportedYet,
}

/// The flags that are on or off. `--flag`, `--flag=true` and `--flag=0` are all right, as with docker: see [`GoBool`].
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Switches {
    /// Run all steps anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Cache")]
    pub(crate) no_cache: bool,
    /// Leave out of contexts without an ignore file what their `.gitignore` files leave out, and `.git`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Input")]
    pub(crate) use_gitignore: bool,
    /// Ask no server at all: what was last seen of images, files and repositories holds
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Sources")]
    pub(crate) offline: bool,
    /// Write to FILE.lock what images, URLs and git references are found to be; later builds take just these
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Sources")]
    pub(crate) lock: bool,
    /// Tell why steps are executed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) explain: bool,
    /// Push the image to the registries of its names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Output")]
    pub(crate) push: bool,
    /// Look for mistakes and bad style instead of building (`--call=check`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) check: bool,
    /// With `--check`: write the file anew with what can be mended without asking
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) fix: bool,
    /// In a build with one id: let `chown`, `setuid` and their like in RUN succeed without doing anything. With more
    /// ids the flag has no effect, which is told
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Steps")]
    pub(crate) ignore_chown: bool,
    /// Show nothing but errors, and the digest of the image on standard output
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool,
        hide_default_value = true, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Reads what docker takes for the value of a flag that is on or off, and refuses the rest in docker's words.
#[derive(Debug, Clone, Copy)]
struct GoBool;

impl TypedValueParser for GoBool {
    type Value = bool;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<bool, clap::Error> {
        let text = value.to_string_lossy();
        frontend::go_bool(&text).ok_or_else(|| {
            let long = argument.and_then(Arg::get_long).unwrap_or_default();
            let short = argument.and_then(Arg::get_short);
            let short = short.map_or_else(String::new, |short| format!("-{short}, "));
            let message = format!(
                "invalid argument {text:?} for \"{short}--{long}\" flag: strconv.ParseBool: parsing {text:?}: \
                 invalid syntax"
            );
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, message).with_cmd(command)
        })
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// What suits standard error
    Auto,
    /// Line by line
    Plain,
    /// As `plain`
    Tty,
    /// Errors only
    #[value(alias = "none")]
    Quiet,
}

/// Flags of `docker buildx build` that come later. They are known so that they are neither ignored nor taken for a
/// typing mistake.
#[derive(Debug, Clone, Default)]
pub(crate) struct NotSupportedYet {
    /// The flags that were given.
    pub(crate) given: Vec<&'static str>,
}

/// The later flags, and whether each takes a value.
const LATER: &[(&str, bool)] = &[
    ("annotation", true),
    ("attest", true),
    ("builder", true),
    ("compress", false),
    ("debug", false),
    ("force-rm", false),
    ("isolation", true),
    ("load", false),
    ("policy", true),
    ("provenance", true),
    ("rm", false),
    ("sbom", true),
    ("security-opt", true),
    ("squash", false),
];

impl Args for NotSupportedYet {
    fn augment_args(command: Command) -> Command {
        command.args(LATER.iter().map(|(name, takes_value)| {
            let argument = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            if *takes_value {
                argument
            } else {
                let switch = argument.num_args(0..=1).require_equals(true);
                switch.default_missing_value("true").value_parser(GoBool)
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NotSupportedYet {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |(name, takes_value): &(&'static str, bool)| {
            if *takes_value {
                return matches.contains_id(name);
            }
            // What is switched off is not asked for; the last of several counts.
            matches.get_many::<bool>(name).and_then(Iterator::last).copied().unwrap_or_default()
        };
        let given = LATER.iter().copied().filter(is_given).map(|(name, _)| name).collect();
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Reads the command line. Where no subcommand stands, `build` is put in.
///
/// clap has no notion of a default subcommand that takes flags of its own, and declaring the flags of a build twice
/// would give two help texts that drift apart.
pub(crate) fn parse(arguments: Vec<std::ffi::OsString>) -> Result<CommandLine, clap::Error> {
    CommandLine::try_parse_from(with_subcommand(arguments))
}

fn with_subcommand(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at).and_then(|argument| argument.to_str()) {
        match argument {
            "--root" | "--ids" => at += 2,
            other if other.starts_with("--root=") || other.starts_with("--ids=") => at += 1,
            _ => break,
        }
    }
    let Some(first) = arguments.get(at) else { return arguments };
    let stands = first.to_str().is_some_and(|first| {
        SUBCOMMANDS.contains(&first) || matches!(first, "-h" | "--help" | "-V" | "--version")
    });
    if !stands {
        arguments.insert(at, "build".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(arguments: &[&str]) -> BuildArguments {
        match parse(arguments.iter().map(Into::into).collect()).unwrap().action {
            Action::Build(build) => *build,
            other => panic!("{other:?} is no build"),
        }
    }

    #[test]
    fn the_declaration_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_build_is_the_default_command() {
        assert_eq!(build(&["rbuild", "-t", "a", "."]).tags, ["a"]);
        assert_eq!(build(&["rbuild", "build", "-t", "a", "."]).tags, ["a"]);
        assert_eq!(build(&["rbuild", "--root", "x", "."]).context, ".");
        assert_eq!(build(&["rbuild", "--root=x", "build", "./images"]).context, "./images");
        let line = parse(vec!["rbuild".into(), "--root".into(), "x".into(), "images".into()]).unwrap();
        assert!(matches!(line.action, Action::Images { .. }));
        assert_eq!((line.root, line.ids), (Some("x".into()), Ids::All));
        let line = parse(["rbuild", "--ids", "one", "--root=x", "du"].map(Into::into).into()).unwrap();
        assert!(matches!(line.action, Action::Du { .. }) && line.ids == Ids::One);
    }

    #[test]
    fn the_last_of_several_counts() {
        let arguments = build(&[
            "rbuild",
            "--target=a",
            "-t",
            "x",
            "--check",
            "--target=b",
            "-t",
            "y",
            "--check=false",
            ".",
        ]);
        assert_eq!((arguments.target.as_deref(), arguments.switches.check), (Some("b"), false));
        assert_eq!(arguments.tags, ["x", "y"]);
    }

    #[test]
    fn switches_take_a_value_after_an_equals_sign_only() {
        let arguments = build(&["rbuild", "--no-cache", "--pull=true", "--push=false", "-q", "."]);
        assert!(arguments.switches.no_cache && arguments.switches.quiet);
        assert_eq!(arguments.pull, Some(PullPolicy::Always));
        assert!(!arguments.switches.push);
    }

    #[test]
    fn switches_take_what_go_takes_for_a_bool() {
        for value in ["1", "t", "T", "TRUE", "true", "True"] {
            assert!(build(&["rbuild", &format!("--check={value}"), "."]).switches.check, "{value}");
        }
        for value in ["0", "f", "F", "FALSE", "false", "False"] {
            let arguments = build(&["rbuild", "-q", &format!("-q={value}"), "--load", "--load=0", "."]);
            assert!(!arguments.switches.quiet && arguments.later.given.is_empty(), "{value}");
        }
        let error = |flag: &str| parse(["rbuild", flag, "."].map(Into::into).into()).unwrap_err().to_string();
        let wanted = "invalid argument \"yes\" for \"--check\" flag: strconv.ParseBool: parsing \"yes\": invalid syntax";
        assert!(error("--check=yes").contains(wanted), "{}", error("--check=yes"));
        let wanted = "invalid argument \"tRUE\" for \"-q, --quiet\" flag: strconv.ParseBool: parsing \"tRUE\": invalid";
        assert!(error("-q=tRUE").contains(wanted), "{}", error("-q=tRUE"));
    }

    #[test]
    fn later_flags_are_told_and_unknown_ones_get_a_suggestion() {
        let arguments = build(&["rbuild", "--sbom", "true", "--load", "."]);
        assert_eq!(arguments.later.given, ["load", "sbom"]);
        let error = parse(["rbuild", "--targte", "x", "."].map(Into::into).into()).unwrap_err().to_string();
        assert!(error.contains("--target"), "{error}");
    }
}
