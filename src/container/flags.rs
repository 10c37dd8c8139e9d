//! The flags of `rbuild run`, as docker has them.

use std::path::PathBuf;

use clap::Args;
use worker::PullPolicy;

use crate::registries::RegistryArguments;
use crate::resources::ResourceArguments;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  rbuild run app:v1                           run what the image is for
  rbuild run -it --entrypoint sh app:v1       look around in it
  rbuild run -v ./src:/src -w /src app make   run a command on files of this machine
  rbuild run -p 8080:80 app:v1                reach its port 80 at port 8080 of this machine

What is written to the image's files is thrown away. The exit code is that of the command; 125 if it was not run, 126 if
it cannot be executed, 127 if there is no such command, 2 if the flags are wrong.";

/// The flags of `rbuild run`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(after_help = EXAMPLES, override_usage = "rbuild run [FLAGS] IMAGE [COMMAND] [ARGUMENT]...")]
pub(crate) struct RunArguments {
    /// The image, by its name or the beginning of its ID, and the command for it
    // One list, so that what looks like a flag after the image is the command's.
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    pub(super) words: Vec<String>,

    /// Hand standard input on
    #[arg(short, long, help_heading = "Streams")]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long, help_heading = "Streams")]
    pub(super) tty: bool,
    /// Do not show how the image is pulled
    #[arg(short, long, help_heading = "Streams")]
    pub(super) quiet: bool,

    /// What is run in the place of the image's entrypoint; empty: the command itself
    #[arg(long, value_name = "PROGRAM", help_heading = "Command")]
    pub(super) entrypoint: Option<String>,
    /// A variable: `NAME=VALUE`, or NAME with the value that it has here
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Command")]
    pub(super) env: Vec<String>,
    /// Files with a variable in each line
    #[arg(long, value_name = "FILE", help_heading = "Command")]
    pub(super) env_file: Vec<PathBuf>,
    /// The working directory, which is made if it is missing
    #[arg(short, long, value_name = "DIR", help_heading = "Command")]
    pub(super) workdir: Option<String>,
    /// Who runs it, `USER[:GROUP]`: names of the image, or numbers
    #[arg(short, long, value_name = "USER", help_heading = "Command")]
    pub(super) user: Option<String>,
    /// Run a small init of this machine (`tini-static`, `catatonit` or `docker-init`) that hands on signals and waits for
    /// orphans
    #[arg(long, help_heading = "Command")]
    pub(super) init: bool,
    /// Accepted as with docker: nothing stays anyway
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) rm: Option<String>,

    /// Show a file or directory of this machine: `PATH:TARGET[:ro]`
    #[arg(short, long, value_name = "MOUNT", help_heading = "Files")]
    pub(super) volume: Vec<String>,
    /// Mount something: `type=bind,source=PATH,target=PATH[,readonly]` or `type=tmpfs,target=PATH[,tmpfs-size=BYTES]`
    #[arg(long, value_name = "MOUNT", help_heading = "Files")]
    pub(super) mount: Vec<String>,
    /// Mount an empty directory in memory: `TARGET[:size=BYTES]`
    #[arg(long, value_name = "MOUNT", help_heading = "Files")]
    pub(super) tmpfs: Vec<String>,
    /// Let nothing be written but to what is mounted
    #[arg(long, help_heading = "Files")]
    pub(super) read_only: bool,

    /// `default` as for RUN, `host` or `none`
    #[arg(long, alias = "net", value_name = "MODE", default_value = "default", help_heading = "Network")]
    pub(super) network: String,
    /// Let a port of this machine lead to one of the command: `[ADDRESS:]PORT:PORT[/udp]`, also ranges
    #[arg(short, long, value_name = "PORTS", help_heading = "Network")]
    pub(super) publish: Vec<String>,
    /// An entry for /etc/hosts: `HOST:IP`, the IP `host-gateway` for this machine
    #[arg(long = "add-host", value_name = "HOST:IP", help_heading = "Network")]
    pub(super) add_hosts: Vec<String>,
    /// The host name [default: some digits]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(super) hostname: Option<String>,

    /// When the registry is asked for the image: `missing`, `always`, `newer` or `never`
    #[arg(long, value_name = "POLICY", value_parser = pull_policy, default_value = "missing", help_heading = "Image")]
    pub(super) pull: PullPolicy,
    /// The platform, if not this machine's
    #[arg(long, value_name = "PLATFORM", help_heading = "Image")]
    pub(super) platform: Option<String>,

    #[command(flatten)]
    pub(super) limits: LimitArguments,
    #[command(flatten, next_help_heading = "Registries")]
    pub(super) registries: RegistryArguments,
}

/// The flags that limit what the command may use.
#[derive(Debug, Args)]
pub(super) struct LimitArguments {
    /// The most memory (`512m`)
    #[arg(short, long, value_name = "BYTES", help_heading = "Limits")]
    memory: Option<String>,
    /// The most memory and swap; -1 for any
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, help_heading = "Limits")]
    memory_swap: Option<String>,
    /// How many processors it may use up (`1.5`)
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    cpus: Option<String>,
    #[arg(short, long, hide = true, allow_hyphen_values = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// On which processors it may run (`0-2,7`)
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
    /// The parent of the cgroup that limits it
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    pub(super) cgroup_parent: Option<String>,
    /// The size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub(super) shm_size: Option<String>,
    /// A limit of its processes: `NAME=SOFT[:HARD]`
    #[arg(long = "ulimit", value_name = "LIMIT", help_heading = "Limits")]
    pub(super) ulimits: Vec<String>,
}

impl LimitArguments {
    /// The same limits as a build has them.
    pub(super) fn resources(&self) -> Result<ResourceArguments, values::Mistake> {
        let quota = match (&self.cpus, &self.cpu_quota) {
            (Some(_), Some(_)) => return Err("`--cpus` and `--cpu-quota` exclude each other".to_owned()),
            (Some(cpus), None) => Some(quota(cpus)?),
            (None, quota) => quota.clone(),
        };
        Ok(ResourceArguments {
            memory: self.memory.clone(),
            memory_swap: self.memory_swap.clone(),
            cpu_shares: self.cpu_shares.clone(),
            cpu_period: self.cpu_period.clone(),
            cpu_quota: quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            ..ResourceArguments::default()
        })
    }
}

/// The microseconds on processors within the usual tenth of a second.
fn quota(cpus: &str) -> Result<String, values::Mistake> {
    const PERIOD_US: f64 = 100_000.0;
    let malformed = || format!("invalid value `{cpus}` for `--cpus`: it should be a number such as `1.5`");
    let number: f64 = cpus.parse().map_err(|_| malformed())?;
    // No machine has more, and less could not be set.
    if !(0.01..=100_000.0).contains(&number) {
        return Err(malformed());
    }
    Ok(format!("{:.0}", number * PERIOD_US))
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    values::pull_policy(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_a_part_of_the_time() {
        assert_eq!(quota("1.5").unwrap(), "150000");
        assert_eq!(quota("0.25").unwrap(), "25000");
        for wrong in ["0", "x", "-1", "nan", "inf"] {
            assert!(quota(wrong).is_err(), "{wrong}");
        }
    }
}
