//! Shell completions.

use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;

use super::shown;

/// The script that a shell reads.
pub(super) fn script(command: &Command, shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut completed(command), command.get_name(), &mut bytes);
    let script = String::from_utf8_lossy(&bytes);
    match shell {
        Shell::Zsh => script.replacen(ZSH_COMMANDS, ZSH_COMMANDS_OR_FILES, 1),
        _ => script.into_owned(),
    }
}

/// Where zsh is told to complete commands and nothing else.
const ZSH_COMMANDS: &str = "\":: :_rbuild_commands\"";

/// What may stand there is a context as well.
const ZSH_COMMANDS_OR_FILES: &str = "':: :{ _rbuild_commands; _files }'";

/// What may be completed: the commands, and beside them the flags of a build, which is the command where none is named.
fn completed(command: &Command) -> Command {
    let build = command.find_subcommand("build").into_iter().flat_map(Command::get_arguments);
    let mut all = visible(command).disable_help_flag(true).disable_help_subcommand(true);
    // Shells complete names of files by themselves. A context that is declared here would come in the way of the commands.
    for argument in build.filter(|argument| !argument.is_hide_set() && !argument.is_positional()) {
        all = all.arg(visible_argument(argument));
    }
    all
}

/// The command without what is hidden.
fn visible(command: &Command) -> Command {
    let mut all = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        all = all.about(about.clone());
    }
    let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
    all.args(arguments.map(visible_argument)).subcommands(shown(command).map(visible))
}

fn visible_argument(argument: &Arg) -> Arg {
    let values = argument.get_value_names().unwrap_or_default();
    let hint = match values.first().map(clap::builder::Str::as_str) {
        // `--push` stands alone nearly always; a shell would go on to complete the value that it may have.
        Some("BOOL") => {
            let switch = argument.clone().num_args(0).require_equals(false);
            let switch = switch.default_value(None).hide_default_value(false).default_missing_value(None);
            return switch.action(ArgAction::SetTrue).value_parser(value_parser!(bool));
        }
        Some("DIR") => ValueHint::DirPath,
        Some("FILE" | "CONTEXT") => ValueHint::AnyPath,
        _ => ValueHint::Unknown,
    };
    argument.clone().value_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    /// What bash offers for a line, which ends where the cursor is.
    fn offered(line: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("rbuild.bash");
        std::fs::write(&path, script(&crate::arguments::command(), Shell::Bash)).expect("it can be written");
        // As bash calls it: the program, the word at the cursor, the one before it.
        let complete = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                        _rbuild rbuild \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; \
                        printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Process::new("bash")
            .args(["--norc", "-c", complete])
            .arg(&path)
            .arg("rbuild")
            .args(line)
            .current_dir(&directory)
            .output()
            .expect("bash can be started");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.lines().all(|line| line.contains("compopt")), "{error}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_and_the_flags_of_a_build() {
        assert_eq!(offered(&["hist"]), ["history"]);
        assert_eq!(offered(&["--targ"]), ["--target"]);
        assert_eq!(offered(&["-t", "app:v1", "--targ"]), ["--target"]);
        assert_eq!(offered(&["--push", "--iid"]), ["--iidfile"]);
        assert_eq!(offered(&["build", "--targ"]), ["--target"]);
        assert_eq!(offered(&["--progress", "pl"]), ["plain"]);
        assert_eq!(offered(&["history", "lo"]), ["logs"]);
        assert_eq!(offered(&["images", "--targ"]), [""]);
        assert_eq!(offered(&["--iidfile", "rbuild"]), ["rbuild.bash"]);
        let all = offered(&[""]);
        assert!(all.contains(&"debug".to_owned()) && !all.contains(&"gc".to_owned()), "{all:?}");
    }

    #[test]
    fn each_shell_has_its_completions() {
        for shell in [Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(&crate::arguments::command(), shell);
            for word in ["no-cache-filter", "history", "Run all steps anew"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert_eq!(script.contains(ZSH_COMMANDS_OR_FILES), shell == Shell::Zsh, "{shell}");
        }
    }
}
