//! What RUN steps have and may.

use clap::Args;

/// What RUN steps have and may.
#[derive(Debug, Args)]
pub(crate) struct StepArguments {
    /// Network of RUN steps that name none: `default` (what config.toml says, else isolated if `pasta` is installed),
    /// `host` or `none`
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true)]
    pub(crate) network: String,
    /// Entry of /etc/hosts in RUN steps, `HOST:IP` or `HOST=IP`; the IP `host-gateway` is the address of this machine
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps (`64m`)
    #[arg(long, value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Limit of processes in RUN steps (`nofile=1024:2048`)
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimits: Vec<String>,
    /// The cgroup beneath which RUN steps get theirs
    #[arg(long, value_name = "CGROUP")]
    pub(crate) cgroup_parent: Option<String>,
    /// Something secret that steps may mount (`RUN --mount=type=secret`): `id=ID[,src=FILE]` or `id=ID,env=NAME`
    #[arg(long = "secret", value_name = "SECRET")]
    pub(crate) secrets: Vec<String>,
    /// An ssh agent that steps may use (`RUN --mount=type=ssh`) and git asks: `default` for the one of
    /// `SSH_AUTH_SOCK`, `ID=SOCKET` for another, or `ID=KEY[,KEY]` for the files of keys
    #[arg(long, value_name = "ID[=SOCKET|KEY,…]")]
    pub(crate) ssh: Vec<String>,
    /// Allow what a Dockerfile may not ask for by itself: `network.host`, `security.insecure`,
    /// `device[=NAME[,alias=ALIAS]]`
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub(crate) allow: Vec<String>,
    /// End the build if it takes longer (`90s`, `1h30m`)
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// Have a RUN step fail if its process takes longer; waiting for other builds and caches does not count
    #[arg(long, value_name = "DURATION")]
    pub(crate) step_timeout: Option<String>,
    /// How many steps may run at once [default: four for each CPU, at least 16]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
}
