//! The instructions that change the config alone.

use oci::Healthcheck;

use crate::expand::Expander;
use crate::lint::{self, Rule};
use crate::outline::{self, OutlineArgument};
use crate::quote::{format_duration, go_quote, go_quote_list};
use crate::tree::{Argument, Command, Instruction, InstructionKind, Pair, Token};
use crate::{Diagnostic, Span};

use super::Lowering;
use super::ports::Specification;
use super::scans::{SCAN_CONTEXT, SCAN_STAGE};
use super::signal;
use super::state::{Layer, State};
use super::steps::Current;
use super::variables::Site;

/// Arguments that RUN does not see.
pub(super) const ARGUMENTS_OUT_OF_RUN: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];

impl Lowering<'_> {
    pub(super) fn lower_config(
        &mut self,
        current: &mut Current<'_>,
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        let site = Site::of(instruction);
        let state = &mut current.state;
        match &instruction.kind {
            InstructionKind::Cmd(command) => {
                self.lint_repeated(instruction, state.own.command.replace(site.span));
                self.lint_shell_form(current, instruction, command);
                set_command(&mut current.state, command);
            }
            InstructionKind::Entrypoint(command) => {
                self.lint_repeated(instruction, state.own.entrypoint.replace(site.span));
                self.lint_shell_form(current, instruction, command);
                set_entrypoint(&mut current.state, command);
            }
            InstructionKind::Expose(words) => return self.lower_expose(state, words, site),
            InstructionKind::Healthcheck(check) => {
                self.lint_repeated(instruction, state.own.healthcheck.replace(site.span));
                state.commit(format!("HEALTHCHECK {}", describe_healthcheck(check)), Layer::Empty);
                state.config.config.healthcheck = Some(check.clone());
            }
            InstructionKind::Maintainer(author) => {
                state.commit(format!("MAINTAINER {}", author.text), Layer::Empty);
                state.config.author = Some(author.text.clone());
            }
            InstructionKind::Onbuild(trigger) => state.config.config.on_build.push(trigger.text.clone()),
            InstructionKind::Shell(words) => {
                let words = texts(words);
                state.commit(format!("SHELL [{}]", words.join(" ")), Layer::Empty);
                state.config.config.shell = words;
            }
            InstructionKind::StopSignal(word) => {
                let name = self.expand(state, word, site)?;
                if !signal::is_signal(&name) {
                    let message = format!("invalid signal: {name}");
                    return Err(Diagnostic::error("invalid-signal", site.span, message).at(word.span));
                }
                state.commit(format!("STOPSIGNAL {name}"), Layer::Empty);
                state.config.config.stop_signal = name;
            }
            InstructionKind::User(word) => {
                let user = self.expand(state, word, site)?;
                state.commit(format!("USER {user}"), Layer::Empty);
                state.config.config.user = user;
            }
            InstructionKind::Volume(words) => return self.lower_volume(state, words, site),
            // The rest is more than config and is lowered elsewhere.
            _ => {}
        }
        Ok(())
    }

    /// Of several instructions of a kind only the last counts; the one before it is told.
    fn lint_repeated(&mut self, instruction: &Instruction, before: Option<Span>) {
        let Some(before) = before else { return };
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            instruction.keyword.text
        );
        let diagnostic = Diagnostic::lint(Rule::MultipleInstructionsDisallowed, before, message);
        self.findings.lint(diagnostic, &instruction.comments);
    }

    fn lint_shell_form(&mut self, current: &Current<'_>, instruction: &Instruction, command: &Command) {
        let Command::Shell(line) = command else { return };
        if !current.state.config.config.shell.is_empty() {
            return;
        }
        let keyword = &instruction.keyword.text;
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        // An ENTRYPOINT in the shell form takes no arguments; as a list it would begin to take those of CMD.
        let is_mixed = matches!(instruction.kind, InstructionKind::Entrypoint(_))
            && self.plans[current.index]
                .stage
                .instructions
                .iter()
                .any(|other| matches!(other.kind, InstructionKind::Cmd(_)));
        let fix = lint::json_form(keyword, line).filter(|_| !is_mixed);
        let diagnostic = Diagnostic::lint(Rule::JsonArgsRecommended, instruction.span, message);
        self.findings.lint(diagnostic.at(line.span).with_fix(fix), &instruction.comments);
    }

    pub(super) fn lower_arg(
        &mut self,
        current: &mut Current<'_>,
        arguments: &[Argument],
        site: Site<'_>,
    ) -> Result<(), Diagnostic> {
        let mut text = "ARG".to_owned();
        for argument in arguments {
            let name = &argument.name.text;
            self.lint_secret("ARG", name, argument.name.span, site);
            let given = self.build_args.get(name).cloned();
            let global = match (&given, &argument.default) {
                (None, None) => self.globals.get(name).cloned(),
                _ => None,
            };
            let is_global = global.is_some();
            let value = match (given, &argument.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(&current.state, default, site)?),
                (None, None) => global,
            };
            let own = (!is_global).then(|| OutlineArgument {
                name: name.clone(),
                value: value.clone().unwrap_or_default(),
                description: outline::description(name, site.comments),
                span: site.span,
            });
            self.captures.declare(current.index, name, own);
            let state = &mut current.state;
            state.arguments.declare(name, value.as_deref());
            text.push(' ');
            text.push_str(name);
            if let Some(value) = &value {
                text.push('=');
                text.push_str(value);
                if ARGUMENTS_OUT_OF_RUN.contains(&name.as_str()) {
                    state.scan_arguments.insert(name.clone(), value.clone());
                } else {
                    state.run_environment.set(name, value);
                }
            }
        }
        self.spend(text.len(), site.span)?;
        current.state.commit(text, Layer::Empty);
        Ok(())
    }

    /// Names whose words say secret.
    fn lint_secret(&mut self, keyword: &str, name: &str, place: Span, site: Site<'_>) {
        if is_secret(name) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({keyword} {})",
                go_quote(name)
            );
            let diagnostic = Diagnostic::lint(Rule::SecretsUsedInArgOrEnv, site.span, message).at(place);
            self.findings.lint(diagnostic, site.comments);
        }
    }

    /// All values are those from before the instruction.
    fn expand_pairs(
        &mut self,
        state: &State,
        pairs: &[Pair],
        instruction: &Instruction,
    ) -> Result<Vec<(String, String)>, Diagnostic> {
        let site = Site::of(instruction);
        let expanded = pairs.iter().map(|pair| {
            let name = self.expand(state, &pair.name, site)?;
            Ok((name, self.expand(state, &pair.value, site)?))
        });
        let expanded = expanded.collect();
        for pair in pairs.iter().filter(|pair| pair.is_legacy) {
            let keyword = &instruction.keyword.text;
            let message = format!(
                "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
            );
            let diagnostic = Diagnostic::lint(Rule::LegacyKeyValueFormat, site.span, message);
            let fix = lint::legacy_pair(keyword, pair, self.dockerfile.directives.escape);
            self.findings
                .lint(diagnostic.at(pair.name.span.to(pair.value.span)).with_fix(fix), site.comments);
        }
        expanded
    }

    pub(super) fn lower_env(
        &mut self,
        current: &mut Current<'_>,
        pairs: &[Pair],
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        let expanded = self.expand_pairs(&current.state, pairs, instruction)?;
        let state = &mut current.state;
        for ((name, value), pair) in expanded.iter().zip(pairs) {
            self.lint_secret("ENV", name, pair.name.span, Site::of(instruction));
            state.environment.set(name, value);
            state.run_environment.set(name, value);
        }
        state.commit(describe_pairs("ENV", &expanded), Layer::Empty);
        Ok(())
    }

    pub(super) fn lower_label(
        &mut self,
        current: &mut Current<'_>,
        pairs: &[Pair],
        instruction: &Instruction,
    ) -> Result<(), Diagnostic> {
        let pairs = self.expand_pairs(&current.state, pairs, instruction)?;
        let state = &mut current.state;
        state.commit(describe_pairs("LABEL", &pairs), Layer::Empty);
        state.config.config.labels.extend(pairs);
        Ok(())
    }

    fn lower_expose(&mut self, state: &mut State, words: &[Token], site: Site<'_>) -> Result<(), Diagnostic> {
        // The history has the ports in the order of the words as they stand in the file, sorted: a variable is where
        // its sign is, and what it stands for keeps its own order.
        let mut words: Vec<&Token> = words.iter().collect();
        words.sort_by(|one, other| one.text.cmp(&other.text));
        let expander = Expander::new(self.dockerfile.directives.escape);
        let mut specifications = Vec::new();
        for token in words {
            let words = expander
                .words(&token.text, &state.run_environment)
                .map_err(|message| Diagnostic::error("expansion", site.span, message).at(token.span))?;
            self.spend(words.iter().map(String::len).sum(), site.span)?;
            specifications.extend(words.into_iter().map(|word| (word, token)));
        }
        let mut list = String::new();
        for (word, token) in &specifications {
            let invalid = |message| Diagnostic::error("invalid-port", site.span, message).at(token.span);
            let specification = Specification::parse(word).map_err(invalid)?;
            self.lint_port(&specification, (word, token), site);
            let before = list.len();
            for port in specification.ports().map_err(invalid)? {
                list.extend([" ", &port]);
                state.config.config.exposed_ports.entry(port).or_default();
            }
            self.spend(list.len() - before, site.span)?;
        }
        state.commit(format!("EXPOSE [{}]", list.trim_start()), Layer::Empty);
        Ok(())
    }

    fn lint_port(&mut self, port: &Specification<'_>, (word, token): (&str, &Token), site: Site<'_>) {
        if port.protocol_has_capitals() {
            let message = format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
            let diagnostic = Diagnostic::lint(Rule::ExposeProtoCasing, site.span, message);
            self.findings
                .lint(diagnostic.at(token.span).with_fix(lint::lower_protocol(token)), site.comments);
        }
        if port.names_the_host() {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            );
            let diagnostic = Diagnostic::lint(Rule::ExposeInvalidFormat, site.span, message);
            let fix = lint::without_host_port(token);
            self.findings.lint(diagnostic.at(token.span).with_fix(fix), site.comments);
        }
    }

    fn lower_volume(&mut self, state: &mut State, words: &[Token], site: Site<'_>) -> Result<(), Diagnostic> {
        let volumes: Result<Vec<String>, Diagnostic> =
            words.iter().map(|word| self.expand(state, word, site)).collect();
        let volumes = volumes?;
        if volumes.iter().any(String::is_empty) {
            let message = "VOLUME specified can not be an empty string";
            return Err(Diagnostic::error("empty-volume", site.span, message));
        }
        state.commit(format!("VOLUME [{}]", volumes.join(" ")), Layer::Empty);
        for volume in volumes {
            state.config.config.volumes.entry(volume).or_default();
        }
        Ok(())
    }
}

/// Whether one of the words of a name says that its value is a secret, and none that it only describes one.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let has =
        |list: &[&str]| name.split('_').any(|word| list.iter().any(|own| own.eq_ignore_ascii_case(word)));
    has(&SECRET) && !has(&["public", "file", "version"])
}

fn texts(tokens: &[Token]) -> Vec<String> {
    tokens.iter().map(|token| token.text.clone()).collect()
}

/// The words of a command: a line for the shell stands behind the shell's own.
pub(super) fn with_shell(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(list) => texts(list),
        Command::Shell(line) => shell_words(state, &line.text),
    }
}

/// The words of a shell that is given a line.
pub(super) fn shell_words(state: &State, line: &str) -> Vec<String> {
    let shell = &state.config.config.shell;
    let default = ["/bin/sh".to_owned(), "-c".to_owned()];
    let shell = if shell.is_empty() { &default } else { shell.as_slice() };
    shell.iter().cloned().chain(std::iter::once(line.to_owned())).collect()
}

fn not_empty(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

fn set_command(state: &mut State, command: &Command) {
    let words = with_shell(state, command);
    state.commit(format!("CMD {}", go_quote_list(&words)), Layer::Empty);
    state.config.config.cmd = not_empty(words);
    state.config.config.args_escaped = true;
}

fn set_entrypoint(state: &mut State, command: &Command) {
    let words = with_shell(state, command);
    state.commit(format!("ENTRYPOINT {}", go_quote_list(&words)), Layer::Empty);
    state.config.config.entrypoint = not_empty(words);
    // The arguments of another program are of no use to this one.
    if state.own.command.is_none() {
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
