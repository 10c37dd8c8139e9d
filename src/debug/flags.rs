//! `--on-failure` and `--break`.

use std::path::{Path, PathBuf};

use frontend::Breakpoint;
use oci::ImageReference;

use crate::arguments::BuildArguments;
use crate::export;
use crate::report::Failure;

/// The value of `--on-failure` that `rbuild debug` stands for.
const SHELL: &str = "shell";
/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Whether a shell is to be opened after a failure.
    pub(super) shell: bool,
    /// What is to be run instead of a shell.
    pub(super) command: Option<Vec<String>>,
    /// The names that the stage of a failed step gets.
    pub(crate) tags: Vec<ImageReference>,
    pub(super) breakpoints: Vec<WantedBreakpoint>,
}

/// A `--break`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedBreakpoint {
    pub(super) text: String,
    file: Option<PathBuf>,
    pub(super) place: Breakpoint,
}

/// Makes `rbuild debug` of a build.
pub(crate) fn want_shell(arguments: &mut BuildArguments) {
    if !arguments.debug.on_failure.iter().any(|action| action.split('=').next() == Some(SHELL)) {
        arguments.debug.on_failure.push(SHELL.to_owned());
    }
}

impl Wanted {
    /// Reads `--on-failure` and `--break`.
    pub(crate) fn of(arguments: &BuildArguments) -> Result<Self, Failure> {
        let mut wanted = Self::default();
        for action in &arguments.debug.on_failure {
            match action.split_once('=') {
                None if action == SHELL => wanted.shell = true,
                Some((SHELL, command)) if !command.trim().is_empty() => {
                    wanted.shell = true;
                    wanted.command = Some(command.split_whitespace().map(str::to_owned).collect());
                }
                Some(("tag", name)) => wanted.tags.push(export::tag(name)?),
                _ => {
                    return Err(Failure::usage(format!("`--on-failure` knows no `{action}`"))
                        .with_hint("it takes `shell`, `shell=COMMAND` and `tag=NAME`"));
                }
            }
        }
        for text in &arguments.debug.breakpoints {
            wanted.breakpoints.push(breakpoint(text)?);
        }
        let takes_input = wanted.has_shells()
            && (arguments.context == "-" || arguments.input.file.as_deref() == Some(Path::new("-")));
        if takes_input {
            return Err(Failure::usage("a shell needs standard input, which the build is read from")
                .with_hint("name a context and a Dockerfile instead of `-`"));
        }
        Ok(wanted)
    }

    /// Whether anything is asked for.
    pub(crate) fn is_something(&self) -> bool {
        self.has_shells() || !self.tags.is_empty()
    }

    /// Whether a shell may be opened.
    pub(crate) fn has_shells(&self) -> bool {
        self.shell || !self.breakpoints.is_empty()
    }

    /// The breakpoints for the frontend.
    pub(crate) fn places(&self) -> Vec<Breakpoint> {
        self.breakpoints.iter().map(|breakpoint| breakpoint.place.clone()).collect()
    }

    /// Makes sure that breakpoints name the file that is built: as it is shown, as it was given, or by where it lies.
    pub(crate) fn check_file(
        &self,
        name: &str,
        given: Option<&Path>,
        path: Option<&Path>,
    ) -> Result<(), Failure> {
        let place = |path: &Path| path.canonicalize().ok();
        for WantedBreakpoint { text, file, .. } in &self.breakpoints {
            let Some(file) = file else { continue };
            let is_there = || path.and_then(place).is_some_and(|path| place(file) == Some(path));
            if file != Path::new(name) && Some(file.as_path()) != given && !is_there() {
                return Err(Failure::usage(format!("cannot break at `{text}`: the Dockerfile is `{name}`")));
            }
        }
        Ok(())
    }
}

fn breakpoint(text: &str) -> Result<WantedBreakpoint, Failure> {
    let (file, place) = match text.rsplit_once(':') {
        Some((file, line)) => (Some(PathBuf::from(file)), line),
        None => (None, text),
    };
    let is_number = !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit());
    let place = match place.parse() {
        Ok(line) if is_number && line > 0 => Breakpoint::Line(line),
        _ if is_number || file.is_some() || text.is_empty() => {
            return Err(Failure::usage(format!("invalid value `{text}` for `--break`"))
                .with_hint("it takes `FILE:LINE`, `LINE` or the name of a stage"));
        }
        _ => Breakpoint::Stage(text.to_owned()),
    };
    Ok(WantedBreakpoint { text: text.to_owned(), file, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_are_lines_or_stages() {
        let read = |text: &str| breakpoint(text).map(|found| (found.file, found.place));
        let line = |line| Breakpoint::Line(line);
        assert_eq!(read("12").unwrap(), (None, line(12)));
        assert_eq!(read("a/Dockerfile:3").unwrap(), (Some("a/Dockerfile".into()), line(3)));
        assert_eq!(read("a:b:3").unwrap(), (Some("a:b".into()), line(3)));
        assert_eq!(read("test").unwrap(), (None, Breakpoint::Stage("test".to_owned())));
        for wrong in ["", "0", "Dockerfile:", "Dockerfile:x", "a:0", "99999999999"] {
            assert!(read(wrong).unwrap_err().render().contains("`--break`"), "{wrong}");
        }
    }
}
