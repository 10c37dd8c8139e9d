//! What our parser sees in a Dockerfile.

use std::ops::Range;

use frontend::{
    Argument, Command, Copy, Heredoc, Instruction, InstructionKind, Pair, Run, RunNetwork, SourceFile, Span,
    Stage, Token, parse,
};
use oci::Healthcheck;
use solver::SecurityMode;

use crate::seen::{Mistake, Seen};

/// What it sees, or the first mistake.
pub(crate) fn see(text: &str) -> Result<Vec<Seen>, Mistake> {
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() });
    if let Some(diagnostic) = file.diagnostics.iter().find(|diagnostic| diagnostic.is_error()) {
        let line = diagnostic.span.map_or(0, line);
        return Err(Mistake { line, message: diagnostic.message.clone() });
    }
    let view = View { text, escape: file.directives.escape };
    let mut seen: Vec<Seen> = file.global_arguments.iter().map(|arg| view.instruction(arg)).collect();
    for stage in &file.stages {
        seen.push(view.from(stage));
        seen.extend(stage.instructions.iter().map(|instruction| view.instruction(instruction)));
    }
    Ok(seen)
}

struct View<'a> {
    text: &'a str,
    escape: char,
}

impl View<'_> {
    fn from(&self, stage: &Stage) -> Seen {
        let mut seen = Seen::new("FROM", line(stage.span));
        seen.last_line = stage.span.last_line as usize;
        add_flag(&mut seen, "platform", stage.platform.as_ref());
        self.add_word(&mut seen, "image", &stage.base);
        if let Some(name) = &stage.name {
            seen.add_at("name", &*name.text, Some(range(name.span)));
        }
        seen.sorted()
    }

    fn instruction(&self, instruction: &Instruction) -> Seen {
        let keyword = &instruction.keyword;
        let mut seen = Seen::new(&keyword.text, line(keyword.span));
        seen.last_line = instruction.span.last_line as usize;
        seen.add_at("keyword", &*keyword.text, Some(range(keyword.span)));
        self.add_arguments(&mut seen, &instruction.kind);
        seen.sorted()
    }

    fn add_arguments(&self, seen: &mut Seen, kind: &InstructionKind) {
        match kind {
            InstructionKind::Add(copy) | InstructionKind::Copy(copy) => self.add_files(seen, copy),
            InstructionKind::Arg(arguments) => add_arg(seen, arguments),
            InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
                add_command(seen, command);
            }
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => add_variables(seen, pairs),
            InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
                for word in words {
                    self.add_word(seen, "word", word);
                }
            }
            InstructionKind::Healthcheck(check) => add_healthcheck(seen, check),
            InstructionKind::Maintainer(name) => seen.add("word", text_of(name)),
            InstructionKind::Onbuild(trigger) => seen.add_trigger(self.trigger(text_of(trigger))),
            InstructionKind::Run(run) => add_run(seen, run),
            InstructionKind::Shell(list) => seen.add_exec(texts_of(list)),
            InstructionKind::StopSignal(word)
            | InstructionKind::User(word)
            | InstructionKind::Workdir(word) => {
                self.add_word(seen, "word", word);
            }
        }
    }

    fn add_word(&self, seen: &mut Seen, what: &'static str, word: &Token) {
        // Theirs has no places of the words of a list in JSON.
        let is_of_list = self.text[range(word.span)].starts_with('"') && !word.text.starts_with('"');
        seen.add_at(what, &*word.text, (!is_of_list).then(|| range(word.span)));
    }

    fn add_files(&self, seen: &mut Seen, copy: &Copy) {
        let texts = [
            ("from", &copy.from),
            ("chown", &copy.chown),
            ("chmod", &copy.chmod),
            ("checksum", &copy.checksum),
        ];
        for (name, value) in texts {
            add_flag(seen, name, value.as_ref());
        }
        for pattern in &copy.exclude {
            add_flag(seen, "exclude", Some(pattern));
        }
        let bools = [
            ("link", Some(copy.link)),
            ("parents", Some(copy.parents)),
            ("unpack", copy.unpack),
            ("keep-git-dir", copy.keep_git_dir),
        ];
        for (name, value) in bools {
            seen.add_flag(name, &value.map_or_else(String::new, |value| value.to_string()), None);
        }
        for source in &copy.sources {
            self.add_word(seen, "source", source);
        }
        self.add_word(seen, "destination", &copy.destination);
        add_heredocs(seen, &copy.heredocs);
    }

    /// The tree has a trigger as a text, which is a file of its own here.
    fn trigger(&self, text: &str) -> Seen {
        let file = format!("# escape={}\nFROM base\n{text}", self.escape);
        let found = see(&file).map(|seen| seen.into_iter().nth(1));
        found.ok().flatten().unwrap_or_else(|| Seen::new("no instruction", 0))
    }
}

fn add_arg(seen: &mut Seen, arguments: &[Argument]) {
    let pairs = arguments.iter().map(|argument| (&argument.name, argument.default.as_ref()));
    add_pairs(seen, &pairs.collect::<Vec<_>>());
}

fn add_variables(seen: &mut Seen, pairs: &[Pair]) {
    add_pairs(seen, &pairs.iter().map(|pair| (&pair.name, Some(&pair.value))).collect::<Vec<_>>());
}

fn add_pairs(seen: &mut Seen, pairs: &[(&Token, Option<&Token>)]) {
    let written = |(name, value): &(&Token, Option<&Token>)| match value {
        Some(value) => format!("{}={} ", name.text, value.text),
        None => format!("{} ", name.text),
    };
    let (first, _) = pairs.first().expect("an instruction without pairs is a mistake");
    let last = pairs.last().map_or(*first, |(name, value)| value.unwrap_or(name));
    seen.add_pairs(&pairs.iter().map(written).collect::<String>(), range(first.span.to(last.span)));
}

fn add_run(seen: &mut Seen, run: &Run) {
    let network = match run.network {
        RunNetwork::Default => "default",
        RunNetwork::Host => "host",
        RunNetwork::None => "none",
    };
    seen.add_flag("network", network, None);
    let security = match run.security {
        SecurityMode::Sandbox => "sandbox",
        SecurityMode::Insecure => "insecure",
    };
    seen.add_flag("security", security, None);
    for mount in &run.mounts {
        add_flag(seen, "mount", Some(&mount.text));
    }
    for device in &run.devices {
        add_flag(seen, "device", Some(device));
    }
    match &run.command {
        Command::Shell(line) if !run.heredocs.is_empty() => {
            // Theirs leaves out the word that announces the body, if it is the first.
            let line = text_of(line);
            let rest = line.strip_prefix("<<").and_then(|line| line.split_once(' '));
            seen.add("command of heredoc", rest.map_or("", |(_, rest)| rest.trim()));
        }
        command => add_command(seen, command),
    }
    add_heredocs(seen, &run.heredocs);
}

fn add_heredocs(seen: &mut Seen, heredocs: &[Heredoc]) {
    for heredoc in heredocs {
        seen.add_heredoc(&heredoc.body(), heredoc.expands);
    }
}

fn add_healthcheck(seen: &mut Seen, check: &Healthcheck) {
    let durations = [
        ("interval", check.interval),
        ("timeout", check.timeout),
        ("start-period", check.start_period),
        ("start-interval", check.start_interval),
        ("retries", check.retries),
    ];
    for (name, value) in durations {
        if value != 0 {
            seen.add_flag(name, &value.to_string(), None);
        }
    }
    match check.test.split_first() {
        Some((kind, list)) if kind == "CMD" => seen.add_exec(list.iter().map(String::as_str)),
        Some((kind, [line])) if kind == "CMD-SHELL" => seen.add_shell(line),
        _ => seen.add("none", ""),
    }
}

fn add_command(seen: &mut Seen, command: &Command) {
    match command {
        Command::Exec(list) => seen.add_exec(texts_of(list)),
        Command::Shell(line) => seen.add_shell(text_of(line)),
    }
}

fn add_flag(seen: &mut Seen, name: &str, value: Option<&Token>) {
    if let Some(value) = value {
        seen.add_flag(name, &value.text, Some(range(value.span)));
    }
}

fn line(span: Span) -> usize {
    span.first_line as usize
}

fn range(span: Span) -> Range<usize> {
    span.start..span.end
}

/// The text of a line as the tree has it.
fn text_of(token: &Token) -> &str {
    &token.text
}

/// The texts of a list as the tree has it.
fn texts_of(list: &[Token]) -> impl Iterator<Item = &str> {
    list.iter().map(|token| token.text.as_str())
}
