//! What is run: what an image says, and what the command line says instead.

use std::path::Path;

use oci::ContainerConfig;
use sandbox::{CgroupLimits, MountSpec, PortForward};
use solver::{ExtraHost, NetworkMode, RunOp, SecurityMode, Ulimit};

use super::flags::RunArguments;
use super::{forwards, image, mounts};
use crate::network;
use crate::report::{Failure, FailureKind};
use crate::settings::Environment;
use crate::values;

/// What the command line says, read.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) network: NetworkMode,
    pub(super) ports: Vec<PortForward>,
    pub(super) mounts: Vec<MountSpec>,
    pub(super) limits: CgroupLimits,
    hosts: Vec<ExtraHost>,
    ulimits: Vec<Ulimit>,
    shm_size_bytes: Option<u64>,
    env: Vec<String>,
}

impl Settings {
    /// Reads the flags.
    pub(super) fn of(arguments: &RunArguments) -> Result<Self, Failure> {
        let usage = Failure::usage;
        let hosts = arguments.add_hosts.iter().map(|text| values::extra_host(text, network::host_address));
        let ulimits = arguments.limits.ulimits.iter().map(|text| values::ulimit(text));
        let shm_size = arguments.limits.shm_size.as_ref();
        let shm_size = shm_size.map(|text| values::size_bytes("--shm-size", text)).transpose();
        let limits = arguments.limits.resources().and_then(|resources| resources.limits());
        Ok(Self {
            network: values::network(&arguments.network).map_err(usage)?,
            ports: forwards(&arguments.publish)?,
            mounts: mounts_of(arguments)?,
            limits: limits.map_err(usage)?,
            hosts: hosts.collect::<Result<_, _>>().map_err(usage)?,
            ulimits: ulimits.collect::<Result<_, _>>().map_err(usage)?,
            shm_size_bytes: shm_size.map_err(usage)?,
            env: environment(arguments)?,
        })
    }

    /// What is run, in the words of a step.
    pub(super) fn operation(&self, arguments: &RunArguments, ready: &image::Ready) -> Result<RunOp, Failure> {
        let config = &ready.config;
        let words = &arguments.words[1..];
        let args = command_line(arguments.entrypoint.as_deref(), words, config);
        if args.is_empty() {
            let name = &arguments.words[0];
            return Err(Failure::new(
                FailureKind::NotRun,
                format!("no command is given, and `{name}` has none"),
            ));
        }
        let cwd = match arguments.workdir.as_deref() {
            Some(path) if !path.starts_with('/') => {
                return Err(Failure::usage(format!(
                    "the working directory `{path}` is invalid, it needs to be an absolute path"
                )));
            }
            Some(path) => path.to_owned(),
            None => config.working_dir.clone(),
        };
        let mut env = config.env.clone();
        for variable in &self.env {
            set(&mut env, variable);
        }
        let proxies = Environment::proxy_args()?;
        Ok(RunOp {
            args,
            env,
            proxy_env: proxies.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            cwd,
            user: arguments.user.clone().unwrap_or_else(|| config.user.clone()),
            hostname: Some(arguments.hostname.clone().unwrap_or_else(|| ready.hostname.clone())),
            network: self.network,
            security: SecurityMode::Sandbox,
            mounts: Vec::new(),
            secret_env: Vec::new(),
            devices: Vec::new(),
            extra_hosts: self.hosts.clone(),
            ulimits: self.ulimits.clone(),
            shm_size_bytes: self.shm_size_bytes,
            cgroup_parent: arguments.limits.cgroup_parent.clone(),
            platform: ready.platform.clone(),
        })
    }
}

/// The entrypoint, and the command behind it. Whoever takes another entrypoint does not want the image's command.
fn command_line(entrypoint: Option<&str>, words: &[String], config: &ContainerConfig) -> Vec<String> {
    let own = config.entrypoint.clone().unwrap_or_default();
    let command = || config.cmd.clone().unwrap_or_default();
    let (mut args, command) = match entrypoint {
        Some("") => (Vec::new(), Vec::new()),
        Some(program) => (vec![program.to_owned()], Vec::new()),
        None => (own, command()),
    };
    args.extend(if words.is_empty() { command } else { words.to_vec() });
    args
}

/// The mounts, those within others after them.
fn mounts_of(arguments: &RunArguments) -> Result<Vec<MountSpec>, Failure> {
    let here = crate::settings::absolute(Path::new("."))?;
    let volumes = arguments.volume.iter().map(|text| mounts::volume(text, &here));
    let mounts = arguments.mount.iter().map(|text| mounts::mount(text, &here));
    let tmpfs = arguments.tmpfs.iter().map(|text| mounts::tmpfs(text));
    let mut all: Vec<MountSpec> =
        volumes.chain(mounts).chain(tmpfs).collect::<Result<_, _>>().map_err(Failure::usage)?;
    all.sort_by_key(|mount| mount.target.components().count());
    for (at, mount) in all.iter().enumerate() {
        if all[..at].iter().any(|other| other.target == mount.target) {
            let target = mount.target.display();
            return Err(Failure::usage(format!("two things are to be mounted at `{target}`")));
        }
    }
    Ok(all)
}

/// The variables of files, then those of flags.
fn environment(arguments: &RunArguments) -> Result<Vec<String>, Failure> {
    let mut env = Vec::new();
    for path in &arguments.env_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))?;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains(char::is_whitespace) {
                let place = format!("{}:{}", path.display(), number + 1);
                return Err(Failure::usage(format!("`{place}`: a variable has no name like `{name}`")));
            }
            add(&mut env, line);
        }
    }
    for text in &arguments.env {
        if text.is_empty() || text.starts_with('=') {
            return Err(Failure::usage(format!(
                "invalid value `{text}` for `--env`: it should be `NAME=VALUE` or `NAME`"
            )));
        }
        add(&mut env, text);
    }
    Ok(env)
}

/// Adds `NAME=VALUE`; a NAME alone has the value that it has here, and is taken away where it has none.
fn add(env: &mut Vec<String>, text: &str) {
    match (text.contains('='), Environment::text(text)) {
        (true, _) => env.push(text.to_owned()),
        (false, Some(value)) => env.push(format!("{text}={value}")),
        (false, None) => {}
    }
}

/// Sets a variable in the place of one of the same name.
fn set(env: &mut Vec<String>, variable: &str) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    match env.iter_mut().find(|entry| name(entry) == name(variable)) {
        Some(entry) => variable.clone_into(entry),
        None => env.push(variable.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_command_line_goes_before_the_image() {
        let config = ContainerConfig {
            entrypoint: Some(words("/init -x")),
            cmd: Some(words("serve all")),
            ..ContainerConfig::default()
        };
        let rows = [
            (None, "", "/init -x serve all"),
            (None, "one two", "/init -x one two"),
            (Some("sh"), "", "sh"),
            (Some("sh"), "-c true", "sh -c true"),
            (Some(""), "ls -l", "ls -l"),
            (Some(""), "", ""),
        ];
        for (entrypoint, given, expected) in rows {
            assert_eq!(command_line(entrypoint, &words(given), &config), words(expected), "{given}");
        }
    }

    #[test]
    fn variables_keep_their_places() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        set(&mut env, "A=3");
        set(&mut env, "C=4=5");
        assert_eq!(env, ["A=3", "B=2", "C=4=5"]);
    }
}
