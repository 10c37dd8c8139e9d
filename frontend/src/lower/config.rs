//! The instructions that change the config alone.

use oci::Healthcheck;

use crate::expand::Expander;
use crate::quote::{format_duration, go_quote_list};
use crate::tree::{Argument, Command, Instruction, InstructionKind, Pair, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::ports::Specification;
use super::signal;
use super::state::{Layer, State};
use super::steps::Current;

/// Arguments that RUN does not see.
const ARGUMENTS_OUT_OF_RUN: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Lowering<'_> {
    pub(super) fn lower_config(
        &mut self,
        state: &mut State,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        let span = instruction.span;
        match &instruction.kind {
            InstructionKind::Cmd(command) => set_command(state, command),
            InstructionKind::Entrypoint(command) => set_entrypoint(state, command),
            InstructionKind::Expose(words) => return self.lower_expose(state, words, span),
            InstructionKind::Healthcheck(check) => {
                state.commit(format!("HEALTHCHECK {}", describe_healthcheck(check)), Layer::Empty);
                state.config.config.healthcheck = Some(check.clone());
            }
            InstructionKind::Maintainer(author) => {
                state.commit(format!("MAINTAINER {author}"), Layer::Empty);
                state.config.author = Some(author.clone());
            }
            InstructionKind::Onbuild(text) => state.config.config.on_build.push(text.clone()),
            InstructionKind::Shell(shell) => {
                state.commit(format!("SHELL [{}]", shell.join(" ")), Layer::Empty);
                state.config.config.shell.clone_from(shell);
            }
            InstructionKind::StopSignal(word) => {
                let name = self.expand(state, &word.text, span)?;
                if !signal::is_signal(&name) {
                    return Err(Diagnostic::error("invalid-signal", span, format!("invalid signal: {name}")));
                }
                state.commit(format!("STOPSIGNAL {name}"), Layer::Empty);
                state.config.config.stop_signal = name;
            }
            InstructionKind::User(word) => {
                let user = self.expand(state, &word.text, span)?;
                state.commit(format!("USER {user}"), Layer::Empty);
                state.config.config.user = user;
            }
            InstructionKind::Volume(words) => return self.lower_volume(state, words, span),
            // The rest is more than config and is lowered elsewhere.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn lower_arg(
        &mut self,
        current: &mut Current<'_>,
        arguments: &[Argument],
        span: Span,
    ) -> Result<(), Diagnostic> {
        let mut text = "ARG".to_owned();
        for argument in arguments {
            let name = self.expand(&current.state, &argument.name.text, span)?;
            let value = match (self.build_args.get(&name), &argument.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(&current.state, &default.text, span)?),
                (None, None) => self.globals.get(&name).cloned(),
            };
            let state = &mut current.state;
            state.arguments.declare(&name, value.as_deref());
            text.push(' ');
            text.push_str(&name);
            if let Some(value) = &value {
                text.push('=');
                text.push_str(value);
                if !ARGUMENTS_OUT_OF_RUN.contains(&name.as_str()) {
                    state.run_environment.set(&name, value);
                }
            }
        }
        self.spend(text.len(), span)?;
        current.state.commit(text, Layer::Empty);
        Ok(())
    }

    /// All values are those from before the instruction.
    fn expand_pairs(
        &mut self,
        state: &State,
        pairs: &[Pair],
        span: Span,
    ) -> Result<Vec<(String, String)>, Diagnostic> {
        let expanded = pairs.iter().map(|pair| {
            let name = self.expand(state, &pair.name.text, span)?;
            Ok((name, self.expand(state, &pair.value.text, span)?))
        });
        expanded.collect()
    }

    pub(super) fn lower_env(
        &mut self,
        current: &mut Current<'_>,
        pairs: &[Pair],
        span: Span,
    ) -> Result<(), Diagnostic> {
        let state = &mut current.state;
        let pairs = self.expand_pairs(state, pairs, span)?;
        for (name, value) in &pairs {
            state.environment.set(name, value);
            state.run_environment.set(name, value);
        }
        state.commit(describe_pairs("ENV", &pairs), Layer::Empty);
        Ok(())
    }

    pub(super) fn lower_label(
        &mut self,
        current: &mut Current<'_>,
        pairs: &[Pair],
        span: Span,
    ) -> Result<(), Diagnostic> {
        let state = &mut current.state;
        let pairs = self.expand_pairs(state, pairs, span)?;
        state.commit(describe_pairs("LABEL", &pairs), Layer::Empty);
        state.config.config.labels.extend(pairs);
        Ok(())
    }

    fn lower_expose(&mut self, state: &mut State, words: &[Token], span: Span) -> Result<(), Diagnostic> {
        // The history has the ports in the order of the words as they stand in the file, sorted: a variable is where
        // its sign is, and what it stands for keeps its own order.
        let mut words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        words.sort_unstable();
        let expander = Expander::new(self.dockerfile.directives.escape);
        let mut specifications = Vec::new();
        for word in words {
            let words = expander
                .words(word, &state.run_environment)
                .map_err(|message| Diagnostic::error("expansion", span, message))?;
            self.spend(words.iter().map(String::len).sum(), span)?;
            specifications.extend(words);
        }
        let mut list = String::new();
        for word in &specifications {
            let ports = Specification::parse(word)
                .and_then(|specification| specification.ports())
                .map_err(|message| Diagnostic::error("invalid-port", span, message))?;
            let before = list.len();
            for port in ports {
                list.extend([" ", &port]);
                state.config.config.exposed_ports.entry(port).or_default();
            }
            // Each word may stand for as many ports as there are, so the budget cannot wait for the last.
            self.spend(list.len() - before, span)?;
        }
        state.commit(format!("EXPOSE [{}]", list.trim_start()), Layer::Empty);
        Ok(())
    }

    fn lower_volume(&mut self, state: &mut State, words: &[Token], span: Span) -> Result<(), Diagnostic> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(state, &word.text, span)?;
            if volume.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(Diagnostic::error("empty-volume", span, message));
            }
            volumes.push(volume);
        }
        state.commit(format!("VOLUME [{}]", volumes.join(" ")), Layer::Empty);
        for volume in volumes {
            state.config.config.volumes.entry(volume).or_default();
        }
        Ok(())
    }
}

/// The words of a command: a line for the shell stands behind the shell's own.
pub(super) fn with_shell(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(list) => list.clone(),
        Command::Shell(line) => {
            let shell = &state.config.config.shell;
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = if shell.is_empty() { &default } else { shell.as_slice() };
            shell.iter().chain(std::iter::once(line)).cloned().collect()
        }
    }
}

fn not_empty(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

fn set_command(state: &mut State, command: &Command) {
    let words = with_shell(state, command);
    state.commit(format!("CMD {}", go_quote_list(&words)), Layer::Empty);
    state.config.config.cmd = not_empty(words);
    state.config.config.args_escaped = true;
    state.has_own_command = true;
}

fn set_entrypoint(state: &mut State, command: &Command) {
    let words = with_shell(state, command);
    state.commit(format!("ENTRYPOINT {}", go_quote_list(&words)), Layer::Empty);
    state.config.config.entrypoint = not_empty(words);
    // The arguments of another program are of no use to this one.
    if !state.has_own_command {
        state.config.config.cmd = None;
    }
}

fn describe_pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    let mut text = keyword.to_owned();
    for (name, value) in pairs {
        text.push(' ');
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

fn describe_healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        format_duration(check.interval),
        format_duration(check.timeout),
        format_duration(check.start_period),
        format_duration(check.start_interval),
        check.retries
    )
}
