//! What tells of the command line: `--help`, man pages and shell completions, all made of the definitions in `arguments`.

mod completion;
mod help;
mod pages;

use std::path::PathBuf;

use clap::{Command, Subcommand};

use crate::Answer;
use crate::report::Failure;

pub(crate) use help::arranged;

/// The commands that tell of the command line.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print completions for a shell, as in `source <(rbuild completion bash)`
    Completion {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write man pages to a directory, or the first one to standard output
    Man {
        /// The directory; it is made if it is not there
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// Does it; needs neither a store nor a home.
pub(crate) fn run(action: &Action) -> Result<Answer, Failure> {
    let command = crate::arguments::command();
    match action {
        Action::Completion { shell } => Ok(Answer::text(completion::script(&command, *shell))),
        Action::Man { directory: Some(directory) } => {
            pages::write(command, directory)?;
            Ok(Answer::from(None))
        }
        Action::Man { directory: None } => Ok(Answer::text(pages::page(command))),
    }
}

/// The subcommands that are told of.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}
