//! In which form progress is shown.

use std::io::{self, IsTerminal as _};

use super::colors::Palette;
use crate::arguments::ProgressMode;
use crate::report::Failure;
use crate::settings::Environment;

/// How steps are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Display {
    /// Line by line.
    Plain,
    /// As a picture that changes.
    Live(Look),
    /// As a stream for programs.
    RawJson,
    /// Not at all.
    Nothing,
}

/// What the live view looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) palette: Palette,
    /// How many of its last lines of output a running step has.
    pub(crate) log_lines: usize,
}

/// What a command is to end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A build.
    Build,
    /// An answer to a question; how it is found is shown only if that is asked for.
    Answer,
}

impl Display {
    /// The one that `--progress` asks for.
    pub(crate) fn of(mode: ProgressMode, asked: Asked) -> Result<Self, Failure> {
        match mode {
            ProgressMode::Auto if asked == Asked::Answer => Ok(Self::Nothing),
            ProgressMode::Auto if io::stderr().is_terminal() && !Environment::has_dumb_terminal() => {
                Ok(Self::Live(Environment::look()))
            }
            ProgressMode::Auto | ProgressMode::Plain => Ok(Self::Plain),
            ProgressMode::Tty if io::stderr().is_terminal() => Ok(Self::Live(Environment::look())),
            ProgressMode::Tty => {
                Err(Failure::usage("failed to get console: standard error is not a terminal")
                    .with_hint("`--progress=auto` takes `plain` then"))
            }
            ProgressMode::Rawjson => Ok(Self::RawJson),
            ProgressMode::Quiet => Ok(Self::Nothing),
        }
    }
}
