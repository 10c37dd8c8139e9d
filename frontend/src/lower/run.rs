//! RUN.

use solver::{NetworkMode, Op, RunMount, RunMountKind, RunOp, SecurityMode};

use crate::expand::Variables;
use crate::heredoc;
use crate::tree::{Command, Instruction, Run, RunNetwork};
use crate::{Diagnostic, Span};

use super::config::{shell_words, with_shell};
use super::mounts::LoweredMounts;
use super::state::{Layer, State};
use super::steps::Current;
use super::{Lowering, Purpose};

/// Where the script of a here-document is mounted.
const SCRIPTS: &str = "/dev/pipes";

/// What programs find the socket of an ssh agent by.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// What a RUN with here-documents comes down to.
#[derive(Default)]
struct Script {
    /// What the shell gets, if it is not the line as it stands.
    line: Option<String>,
    mounts: Vec<RunMount>,
    note: String,
}

impl Lowering<'_> {
    pub(super) fn lower_run(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<(), Diagnostic> {
        let span = instruction.span;
        let mounts = self.read_mounts(current, instruction, run)?;
        self.check_mounts(current, &mounts, span)?;
        let devices = self.lower_devices(run, span)?;
        let network = self.network(run, span)?;
        if run.security == SecurityMode::Insecure && self.purpose == Purpose::Build {
            self.check_entitlement("security.insecure", span)?;
        }
        let script = script(run);
        let args = match &script.line {
            Some(line) => shell_words(&current.state, line),
            None => with_shell(&current.state, &run.command),
        };
        if args.is_empty() {
            return Err(Diagnostic::error("no-command", span, "RUN requires a command"));
        }
        let history = history(&current.state, &args);
        self.spend(history.len() + current.state.run_environment.size_bytes(), span)?;
        let LoweredMounts { mut mounts, inputs, secret_env, first_agent } =
            self.lower_mounts(current, run, &mounts, span)?;
        mounts.extend(script.mounts);
        let hidden: Vec<&str> = secret_env.iter().map(|variable| variable.name.as_str()).collect();
        let meta = current.step_hiding(instruction, &script.note, &hidden);
        let mut op = RunOp {
            network,
            security: run.security,
            secret_env,
            devices,
            ..self.run_op(&current.state, &current.proxies, args, mounts)
        };
        let has_own = current.state.run_environment.value(AGENT_VARIABLE).is_some();
        op.env.extend(first_agent.filter(|_| !has_own).map(|path| format!("{AGENT_VARIABLE}={path}")));
        self.add_on_root(&mut current.state, (Op::Run(op), inputs), meta, span)?;
        current.state.commit(history, Layer::Made);
        Ok(())
    }

    /// A RUN of nothing but SHELL.
    pub(super) fn shell(&self, state: &State) -> RunOp {
        let mut args = shell_words(state, "");
        args.pop();
        self.run_op(state, &self.proxy_environment(), args, Vec::new())
    }

    /// A RUN with what the build's options say of all of them.
    fn run_op(
        &self,
        state: &State,
        proxies: &[(String, String)],
        args: Vec<String>,
        mounts: Vec<RunMount>,
    ) -> RunOp {
        let options = self.options;
        let proxies = proxies.iter().filter(|(name, _)| state.run_environment.value(name).is_none());
        let hostname = options.hostname.as_ref().or_else(|| self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME"));
        RunOp {
            args,
            env: state.run_environment.to_list(),
            proxy_env: proxies.map(|(name, value)| format!("{name}={value}")).collect(),
            cwd: state.directory(),
            user: state.config.config.user.clone(),
            hostname: hostname.cloned(),
            network: self.default_network(),
            security: SecurityMode::Sandbox,
            mounts,
            secret_env: Vec::new(),
            devices: Vec::new(),
            extra_hosts: options.extra_hosts.clone(),
            ulimits: options.ulimits.clone(),
            shm_size_bytes: options.shm_size_bytes,
            cgroup_parent: options.cgroup_parent.clone(),
            platform: state.platform.clone(),
        }
    }

    fn network(&self, run: &Run, span: Span) -> Result<NetworkMode, Diagnostic> {
        match run.network {
            RunNetwork::Default => Ok(self.default_network()),
            RunNetwork::None => Ok(NetworkMode::None),
            RunNetwork::Host if self.default_network() == NetworkMode::Host => Ok(NetworkMode::Host),
            // Only a build has entitlements.
            RunNetwork::Host if self.purpose != Purpose::Build => Ok(NetworkMode::Host),
            RunNetwork::Host => {
                self.check_entitlement("network.host", span)?;
                Ok(NetworkMode::Host)
            }
        }
    }

    fn check_entitlement(&self, name: &str, span: Span) -> Result<(), Diagnostic> {
        if self.options.allow.contains(name) {
            return Ok(());
        }
        let message = format!("entitlement {name} is not allowed");
        Err(Diagnostic::error("entitlement", span, message)
            .with_help(format!("allow it with `--allow {name}`")))
    }
}

/// A here-document that is the whole command is the script; others are put together again for the shell.
fn script(run: &Run) -> Script {
    let (Command::Shell(line), Some(first)) = (&run.command, run.heredocs.first()) else {
        return Script::default();
    };
    if heredoc::announced_by(&line.text).is_none() {
        let mut full = line.text.clone();
        for heredoc in &run.heredocs {
            full.push('\n');
            full.push_str(&heredoc.content);
            full.push_str(&heredoc.name);
        }
        return Script { line: Some(full), ..Script::default() };
    }
    let body = first.body();
    let note = summary(&first.content);
    if !body.starts_with("#!") {
        return Script { line: Some(body), mounts: Vec::new(), note };
    }
    let target = format!("{SCRIPTS}/{}", first.name);
    let kind = RunMountKind::Inline { content: body.into_bytes(), mode: 0o755 };
    Script { line: Some(target.clone()), mounts: vec![RunMount { target, kind }], note }
}

/// The first line of a body, in brackets.
fn summary(body: &str) -> String {
    let body = body.trim();
    match body.split_once('\n') {
        Some((first, _)) => format!(" ({}...)", first.trim_end()),
        None => format!(" ({body})"),
    }
}

fn history(state: &State, args: &[String]) -> String {
    let mut text = "RUN ".to_owned();
    let arguments: Vec<_> = state.arguments.values(&state.run_environment).collect();
    if !arguments.is_empty() {
        text.extend(["|", &arguments.len().to_string(), " "]);
    }
    for (name, value) in arguments {
        text.extend([name, "=", value, " "]);
    }
    text.push_str(&args.join(" "));
    text.push_str(" # buildkit");
    text
}
