//! What `parse-dockerfile` sees in a Dockerfile.

use std::ops::Range;

use parse_dockerfile::{
    Command, Flag, FromInstruction, HealthcheckArguments, HealthcheckInstruction, Instruction,
    JsonOrStringArray, RunInstruction, Source, Span, UnescapedString, parse,
};

use crate::seen::{Mistake, Seen};

/// What it sees, or the first mistake.
pub(crate) fn see(text: &str) -> Result<Vec<Seen>, Mistake> {
    // Its places do not count a byte order mark.
    let behind_mark = text.trim_start_matches('\u{feff}');
    let dockerfile =
        parse(behind_mark).map_err(|error| Mistake { line: error.line(), message: error.to_string() })?;
    let escape = dockerfile.parser_directives.escape.as_ref().map_or('\\', |directive| directive.value.value);
    let view = View { text, mark_bytes: text.len() - behind_mark.len(), escape };
    Ok(dockerfile.instructions.iter().map(|instruction| view.instruction(instruction)).collect())
}

struct View<'a> {
    text: &'a str,
    mark_bytes: usize,
    escape: char,
}

impl View<'_> {
    fn instruction(&self, instruction: &Instruction<'_>) -> Seen {
        let place = self.place(keyword(instruction));
        let line = self.line_of(place.start);
        let name = self.joined(&self.text[place.clone()]);
        let mut seen = Seen::new(&name, line);
        seen.add_at("keyword", name, Some(place));
        self.add_arguments(&mut seen, instruction);
        seen.sorted()
    }

    fn add_arguments(&self, seen: &mut Seen, instruction: &Instruction<'_>) {
        match instruction {
            Instruction::Add(add) => self.add_files(seen, (&add.options, &add.src, &add.dest)),
            Instruction::Arg(arg) => self.add_pairs(seen, &arg.arguments),
            Instruction::Cmd(cmd) => self.add_command(seen, &cmd.arguments),
            Instruction::Copy(copy) => self.add_files(seen, (&copy.options, &copy.src, &copy.dest)),
            Instruction::Entrypoint(entrypoint) => self.add_command(seen, &entrypoint.arguments),
            Instruction::Env(env) => self.add_pairs(seen, &env.arguments),
            Instruction::Expose(expose) => self.add_words(seen, &expose.arguments),
            Instruction::From(from) => self.add_from(seen, from),
            Instruction::Healthcheck(check) => self.add_healthcheck(seen, check),
            Instruction::Label(label) => self.add_pairs(seen, &label.arguments),
            Instruction::Maintainer(maintainer) => self.add_word(seen, "word", &maintainer.name),
            Instruction::Onbuild(onbuild) => {
                let trigger = self.instruction(&onbuild.instruction);
                seen.last_line = trigger.last_line;
                seen.add_trigger(trigger);
            }
            Instruction::Run(run) => self.add_run(seen, run),
            Instruction::Shell(shell) => self.add_list(seen, &shell.arguments),
            Instruction::Stopsignal(signal) => self.add_word(seen, "word", &signal.arguments),
            Instruction::User(user) => self.add_word(seen, "word", &user.arguments),
            Instruction::Volume(volume) => match &volume.arguments {
                JsonOrStringArray::Json(list) => {
                    self.reach(seen, &list.span);
                    list.value.iter().for_each(|word| {
                        seen.add_at("word", &*word.value, Some(self.place_of_json(&word.span)));
                    });
                }
                JsonOrStringArray::String(words) => self.add_words(seen, words),
            },
            Instruction::Workdir(workdir) => self.add_word(seen, "word", &workdir.arguments),
            other => panic!("this test does not know {other:?}"),
        }
    }

    /// The old form, a name and the rest of the line, becomes the new one.
    fn add_pairs(&self, seen: &mut Seen, pairs: &UnescapedString<'_>) {
        self.reach(seen, &pairs.span);
        let mut text = pairs.value.clone().into_owned();
        let name_end = text.find(char::is_whitespace).unwrap_or(text.len());
        if seen.keyword != "ARG" && !text[..name_end].contains('=') {
            text.insert(name_end, '=');
        }
        seen.add_pairs(&text, self.place(&pairs.span));
    }

    fn add_from(&self, seen: &mut Seen, from: &FromInstruction<'_>) {
        self.add_flags(seen, &from.options);
        self.add_word(seen, "image", &from.image);
        if let Some((_, name)) = &from.as_ {
            seen.add_at("name", name.value.to_lowercase(), Some(self.place(&name.span)));
        }
    }

    fn add_files(&self, seen: &mut Seen, (flags, sources, destination): Files<'_>) {
        self.add_flags(seen, flags);
        let is_json = self.text[..self.place(&destination.span).start].ends_with('"');
        let mut add = |what, word: &UnescapedString<'_>| {
            self.reach(seen, &word.span);
            let place = if is_json { self.place_of_json(&word.span) } else { self.place(&word.span) };
            seen.add_at(what, &*word.value, Some(place));
        };
        for source in sources {
            if let Source::Path(path) = source {
                add("source", path);
            }
        }
        add("destination", destination);
        for source in sources {
            if let Source::HereDoc(heredoc) = source {
                self.reach(seen, &heredoc.span);
                seen.add_heredoc(&heredoc.value, heredoc.expand);
            }
        }
    }

    fn add_run(&self, seen: &mut Seen, run: &RunInstruction<'_>) {
        self.add_flags(seen, &run.options);
        match (&run.arguments, run.here_docs.as_slice()) {
            (command, []) => self.add_command(seen, command),
            (Command::Shell(command), heredocs) => {
                seen.add("command of heredoc", self.joined(command.value).trim());
                for heredoc in heredocs {
                    self.reach(seen, &heredoc.span);
                    seen.add_heredoc(&heredoc.value, heredoc.expand);
                }
            }
            (command, heredocs) => panic!("a list with here-documents: {command:?} {heredocs:?}"),
        }
    }

    fn add_healthcheck(&self, seen: &mut Seen, check: &HealthcheckInstruction<'_>) {
        self.add_flags(seen, &check.options);
        match &check.arguments {
            HealthcheckArguments::Cmd { arguments, .. } => {
                let mut command = Seen::new("", seen.last_line);
                self.add_command(&mut command, arguments);
                seen.last_line = command.last_line;
                seen.add_without_places(command);
            }
            HealthcheckArguments::None { .. } => seen.add("none", ""),
            other => panic!("this test does not know {other:?}"),
        }
    }

    fn add_command(&self, seen: &mut Seen, command: &Command<'_>) {
        match command {
            Command::Exec(list) => {
                self.reach(seen, &list.span);
                self.add_list(seen, &list.value);
            }
            Command::Shell(line) => {
                self.reach(seen, &line.span);
                seen.add_shell(self.joined(line.value).trim_end(), Some(self.place(&line.span)));
            }
            other => panic!("this test does not know {other:?}"),
        }
    }

    fn add_flags(&self, seen: &mut Seen, flags: &[Flag<'_>]) {
        for flag in flags {
            self.reach(seen, &flag.span());
            let value = flag.value.as_ref().map_or("true", |value| &*value.value);
            seen.add_flag(&flag.name.value, value, Some(self.place(&flag.span())));
        }
    }

    fn add_list(&self, seen: &mut Seen, list: &[UnescapedString<'_>]) {
        if let Some(last) = list.last() {
            self.reach(seen, &last.span);
        }
        seen.add_exec(list.iter().map(|word| (&*word.value, Some(self.place_of_json(&word.span)))));
    }

    fn add_words(&self, seen: &mut Seen, words: &[UnescapedString<'_>]) {
        for word in words {
            self.add_word(seen, "word", word);
        }
    }

    fn add_word(&self, seen: &mut Seen, what: &'static str, word: &UnescapedString<'_>) {
        self.reach(seen, &word.span);
        seen.add_at(what, &*word.value, Some(self.place(&word.span)));
    }

    fn line_of(&self, at: usize) -> usize {
        1 + self.text[..at].matches('\n').count()
    }

    /// The instruction goes on to the end of `span` at least.
    fn reach(&self, seen: &mut Seen, span: &Span) {
        seen.last_line = seen.last_line.max(self.line_of(self.place(span).end));
    }

    fn place(&self, span: &Span) -> Range<usize> {
        self.mark_bytes + span.start..self.mark_bytes + span.end
    }

    /// It leaves out the quotes of a string in JSON.
    fn place_of_json(&self, span: &Span) -> Range<usize> {
        let place = self.place(span);
        place.start - 1..place.end + 1
    }

    /// A command on one line; it is given as it stands in the file.
    fn joined(&self, raw: &str) -> String {
        let mut joined = String::new();
        for (at, line) in raw.lines().enumerate() {
            let start = line.trim_start();
            if at > 0 && (start.is_empty() || start.starts_with('#')) {
                continue;
            }
            joined.push_str(line.trim_end_matches([' ', '\t']).strip_suffix(self.escape).unwrap_or(line));
        }
        joined
    }
}

/// Flags, sources and destination.
type Files<'a> = (&'a [Flag<'a>], &'a [Source<'a>], &'a UnescapedString<'a>);

fn keyword<'a>(instruction: &'a Instruction<'_>) -> &'a Span {
    let keyword = match instruction {
        Instruction::Add(add) => &add.add,
        Instruction::Arg(arg) => &arg.arg,
        Instruction::Cmd(cmd) => &cmd.cmd,
        Instruction::Copy(copy) => &copy.copy,
        Instruction::Entrypoint(entrypoint) => &entrypoint.entrypoint,
        Instruction::Env(env) => &env.env,
        Instruction::Expose(expose) => &expose.expose,
        Instruction::From(from) => &from.from,
        Instruction::Healthcheck(check) => &check.healthcheck,
        Instruction::Label(label) => &label.label,
        Instruction::Maintainer(maintainer) => &maintainer.maintainer,
        Instruction::Onbuild(onbuild) => &onbuild.onbuild,
        Instruction::Run(run) => &run.run,
        Instruction::Shell(shell) => &shell.shell,
        Instruction::Stopsignal(signal) => &signal.stopsignal,
        Instruction::User(user) => &user.user,
        Instruction::Volume(volume) => &volume.volume,
        Instruction::Workdir(workdir) => &workdir.workdir,
        other => panic!("this test does not know {other:?}"),
    };
    &keyword.span
}
