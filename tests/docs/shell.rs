//! The shell that runs the blocks of a page, one after the other.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::markdown::Block;
use crate::place::Place;
use crate::{pattern, recipe};

pub(crate) struct Shell {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where blocks and their output are put.
    directory: PathBuf,
}

/// What came of a piece of a page.
struct Outcome {
    /// None if the shell has ended, which it does where commands have to succeed.
    code: Option<i32>,
    output: String,
}

impl Shell {
    pub(crate) fn start(place: &Place) -> Self {
        let mut command = place.bash();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash can be started");
        let commands = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, commands, answers, directory: place.path("") }
    }

    /// Does what a block asks for.
    pub(crate) fn enter(&mut self, block: &Block) {
        if let Some(title) = &block.title {
            self.write(title, &block.text());
        }
        if block.unrun.is_some() {
            return;
        }
        let text = block.text();
        match block.language.as_str() {
            "sh" if block.title.is_none() => self.run_all(block, &text, 0),
            "console" => self.run_console(block),
            "yaml" => {
                for script in recipe::scripts(block) {
                    self.run_all(block, &script.text, script.line);
                }
            }
            "toml" => {
                let read: Result<toml::Table, _> = text.parse();
                read.unwrap_or_else(|error| panic!("{}: {error}", block.place(0)));
            }
            "json" => {
                let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
                read.unwrap_or_else(|error| panic!("{}: {error}", block.place(0)));
            }
            "text" | "dockerfile" | "sh" => {}
            other => panic!("{}: nobody knows what to do with `{other}`", block.place(0)),
        }
    }

    /// Runs a command that has to succeed.
    pub(crate) fn succeed(&mut self, command: &str) {
        let Outcome { code, output } = self.run("set +e", command);
        assert_eq!(code, Some(0), "{command}\n{output}");
    }

    /// Writes a file where the shell is.
    fn write(&self, name: &str, text: &str) {
        let here = PathBuf::from(format!("/proc/{}/cwd", self.child.id()));
        let path = here.join(name);
        fs::create_dir_all(path.parent().expect("a file is in a directory"))
            .expect("a directory can be made");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Runs commands that have to succeed. They stand `before` lines below the beginning of the block.
    fn run_all(&mut self, block: &Block, text: &str, before: usize) {
        let failed = self.directory.join("failed");
        let options = format!("set -eE -o pipefail; trap 'echo $LINENO > {}' ERR", failed.display());
        let Outcome { code, output } = self.run(&options, text);
        if code != Some(0) {
            let line = fs::read_to_string(failed).unwrap_or_default().trim().parse().unwrap_or(0);
            panic!("{}: a command fails\n{text}\n{output}", block.place(before + line));
        }
    }

    /// Runs the commands after `$ `, and compares what each shows with the lines below it.
    fn run_console(&mut self, block: &Block) {
        let mut lines = (1..).zip(&block.lines).peekable();
        while let Some((number, line)) = lines.next() {
            let command = line.strip_prefix("$ ");
            let command = command.unwrap_or_else(|| panic!("{}: begin with `$ `", block.place(number)));
            let mut command = command.to_owned();
            while command.ends_with('\\') {
                let (_, line) = lines.next().unwrap_or_else(|| panic!("{}: no end", block.place(number)));
                command = format!("{command}\n{line}");
            }
            let mut shown = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with("$ ")) {
                shown.push(line.clone());
            }
            let Outcome { code, output } = self.run("set +eE +o pipefail; trap - ERR", &command);
            let place = block.place(number);
            assert_eq!(code, Some(block.exit), "{place}: {command}\n{output}");
            let seen: Vec<&str> = output.lines().map(str::trim_end).collect();
            assert!(
                pattern::matches(&shown, &seen),
                "{place}: {command}\nthe page says:\n{}\nit is:\n{output}",
                shown.join("\n")
            );
        }
    }

    fn run(&mut self, options: &str, text: &str) -> Outcome {
        let path = |name: &str| self.directory.join(name);
        let (script, output) = (path("script"), path("output"));
        fs::write(&script, text).expect("a file can be written");
        let show = |path: &Path| path.display().to_string();
        let line = format!("{options}; . {} > {} 2>&1 < /dev/null; echo $?", show(&script), show(&output));
        writeln!(self.commands, "{line}").expect("bash reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("bash answers");
        let output = fs::read(&output).expect("the output can be read");
        Outcome { code: answer.trim().parse().ok(), output: String::from_utf8_lossy(&output).into_owned() }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
