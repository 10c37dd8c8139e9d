//! How `--help` is arranged.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use super::shown;

/// The commands, in the order in which a newcomer may need them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Build", &["build", "debug"]),
    ("Dockerfiles", &["fmt"]),
    ("Images", &["run", "images", "inspect", "tag", "rmi", "pull", "push", "save", "load"]),
    ("Past builds", &["history", "explain"]),
    ("Disk space", &["du", "prune"]),
    ("This machine", &["doctor", "completion", "man", "help"]),
];

/// Lines are no wider, however wide the terminal is.
const WIDTH: usize = 100;

/// The command with its help as it is shown: one form for `-h` and `--help`, and the commands in groups.
pub(crate) fn arranged(command: Command) -> Command {
    // clap's longer form, with an empty line after each flag, takes four screens for a build.
    let flag = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).global(true);
    let names = Arg::new("command").value_name("COMMAND").num_args(0..);
    let subcommand = Command::new("help").about("Print this overview, or the help of a command");
    let command = command
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .arg(flag.help("Print help"))
        .subcommand(subcommand.arg(names.help("The command")))
        .max_term_width(WIDTH);
    let overview = overview(&command);
    command.help_template(overview)
}

/// What `rbuild --help` shows; clap does not arrange subcommands in groups.
fn overview(command: &Command) -> String {
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let width = shown(command).map(|command| command.get_name().len()).max().unwrap_or_default();
    let mut text = "{about}\n\n{usage-heading} {usage}{after-help}\n".to_owned();
    for (title, commands) in groups(command) {
        let _ = writeln!(text, "\n{header}{title}:{header:#}");
        for command in commands {
            let name = command.get_name();
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {literal}{name:width$}{literal:#}  {about}");
        }
    }
    let _ = write!(text, "\n{header}Options:{header:#}\n{{options}}\n\n");
    text + "`rbuild COMMAND --help` tells the flags of a command, `rbuild build --help` those of a build."
}

/// The commands that are shown; those that no group has come last.
fn groups(command: &Command) -> Vec<(&'static str, Vec<&Command>)> {
    let find = |name: &&str| shown(command).find(|command| command.get_name() == *name);
    let mut groups: Vec<_> =
        GROUPS.iter().map(|(title, names)| (*title, names.iter().filter_map(find).collect())).collect();
    let others: Vec<&Command> = shown(command)
        .filter(|command| !GROUPS.iter().any(|(_, names)| names.contains(&command.get_name())))
        .collect();
    if !others.is_empty() {
        groups.push(("Other", others));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::command;

    /// Does something with each command that is shown, and its full name.
    fn each(command: &Command, name: &str, examine: &mut dyn FnMut(&Command, &str)) {
        examine(command, name);
        for subcommand in shown(command) {
            each(subcommand, &format!("{name} {}", subcommand.get_name()), examine);
        }
    }

    #[test]
    fn each_command_is_in_a_group() {
        let command = command();
        let others = groups(&command).into_iter().find(|(title, _)| *title == "Other");
        let others: Vec<&str> =
            others.iter().flat_map(|(_, all)| all).map(|other| other.get_name()).collect();
        assert_eq!(others, Vec::<&str>::new(), "put it in `GROUPS`");
        for (title, names) in GROUPS {
            for name in *names {
                assert!(command.find_subcommand(name).is_some(), "{title}: there is no `{name}`");
            }
        }
    }

    #[test]
    fn all_help_has_one_form() {
        let is_wrong = |help: &str| {
            let first = help.chars().next();
            help.contains("  ") || help.ends_with('.') || first.is_none_or(char::is_lowercase)
        };
        let mut wrong = Vec::new();
        each(&command(), "rbuild", &mut |command, name| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            if is_wrong(&about) {
                wrong.push(format!("{name}: {about:?}"));
            }
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let values = argument.get_value_names().unwrap_or_default();
                if is_wrong(&help) || values.iter().any(|value| value.contains(char::is_lowercase)) {
                    wrong.push(format!("{name} {argument}: {help:?}"));
                }
            }
        });
        assert_eq!(
            wrong,
            Vec::<String>::new(),
            "help begins with a capital letter and ends without a period, values have capital names"
        );
    }

    #[test]
    fn help_fits_into_a_line_and_the_overview_onto_a_screen_or_two() {
        let mut command = command();
        command.build();
        let overview = command.clone().render_help().to_string();
        assert!(overview.lines().count() < 70, "{overview}");
        each(&command, "rbuild", &mut |command, name| {
            for line in command.clone().render_help().to_string().lines() {
                assert!(line.chars().count() <= WIDTH, "{name}: {line}");
            }
        });
    }

    #[test]
    fn flags_of_a_build_have_headings() {
        let command = command();
        let build = command.find_subcommand("build").expect("there is a build");
        let without: Vec<String> = build
            .get_arguments()
            .filter(|flag| !flag.is_positional() && !flag.is_hide_set() && flag.get_help_heading().is_none())
            .map(ToString::to_string)
            .collect();
        assert_eq!(without, Vec::<String>::new());
    }
}
