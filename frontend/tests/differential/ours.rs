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
    let escape = file.directives.escape;
    let mut seen: Vec<Seen> = file.global_arguments.iter().map(|arg| instruction(arg, escape)).collect();
    for stage in &file.stages {
        seen.push(from(stage));
        seen.extend(stage.instructions.iter().map(|each| instruction(each, escape)));
    }
    Ok(seen)
}

fn from(stage: &Stage) -> Seen {
    let mut seen = keyword(&stage.keyword, stage.span);
    add_flag(&mut seen, "platform", stage.platform.as_ref());
    add_word(&mut seen, "image", &stage.base);
    if let Some(name) = &stage.name {
        add_word(&mut seen, "name", name);
    }
    seen.sorted()
}

fn instruction(instruction: &Instruction, escape: char) -> Seen {
    let mut seen = keyword(&instruction.keyword, instruction.span);
    add_arguments(&mut seen, &instruction.kind, escape);
    seen.sorted()
}

fn add_arguments(seen: &mut Seen, kind: &InstructionKind, escape: char) {
    match kind {
        InstructionKind::Add(copy) | InstructionKind::Copy(copy) => add_files(seen, copy),
        InstructionKind::Arg(arguments) => add_arg(seen, arguments),
        InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
            add_command(seen, command);
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => add_variables(seen, pairs),
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
            for word in words {
                add_word(seen, "word", word);
            }
        }
        InstructionKind::Healthcheck(check) => add_healthcheck(seen, check),
        InstructionKind::Onbuild(trigger) => seen.add_trigger(trigger_of(&trigger.text, escape)),
        InstructionKind::Run(run) => add_run(seen, run),
        InstructionKind::Shell(list) => add_exec(seen, list),
        InstructionKind::Maintainer(word)
        | InstructionKind::StopSignal(word)
        | InstructionKind::User(word)
        | InstructionKind::Workdir(word) => add_word(seen, "word", word),
    }
}

/// The tree has a trigger as a text, which is a file of its own here.
fn trigger_of(text: &str, escape: char) -> Seen {
    let file = format!("# escape={escape}\nFROM base\n{text}");
    let found = see(&file).map(|seen| seen.into_iter().nth(1));
    found.ok().flatten().unwrap_or_else(|| Seen::new("no instruction", 0))
}

fn add_files(seen: &mut Seen, copy: &Copy) {
    let texts =
        [("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod), ("checksum", &copy.checksum)];
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
        add_word(seen, "source", source);
    }
    add_word(seen, "destination", &copy.destination);
    add_heredocs(seen, &copy.heredocs);
}

fn keyword(keyword: &Token, instruction: Span) -> Seen {
    let mut seen = Seen::new(&keyword.text, line(keyword.span));
    seen.last_line = instruction.last_line as usize;
    add_word(&mut seen, "keyword", keyword);
    seen
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
        add_flag(seen, "device", Some(&device.text));
    }
    match &run.command {
        Command::Shell(line) if !run.heredocs.is_empty() => {
            // Theirs leaves out the word that announces the body, if it is the first.
            let rest = line.text.strip_prefix("<<").and_then(|line| line.split_once(' '));
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
        Some((kind, list)) if kind == "CMD" => seen.add_exec(list.iter().map(|word| (word.as_str(), None))),
        Some((kind, [line])) if kind == "CMD-SHELL" => seen.add_shell(line, None),
        _ => seen.add("none", ""),
    }
}

fn add_command(seen: &mut Seen, command: &Command) {
    match command {
        Command::Exec(list) => add_exec(seen, list),
        Command::Shell(line) => seen.add_shell(&line.text, Some(range(line.span))),
    }
}

fn add_exec(seen: &mut Seen, list: &[Token]) {
    seen.add_exec(list.iter().map(|word| (word.text.as_str(), Some(range(word.span)))));
}

fn add_word(seen: &mut Seen, what: &'static str, word: &Token) {
    seen.add_at(what, &*word.text, Some(range(word.span)));
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
