//! Flags that are not supported yet.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::switches::GoBool;

/// Flags of `docker buildx build` that come later. They are known so that they are neither ignored nor taken for a
/// typing mistake.
#[derive(Debug, Clone, Default)]
pub(crate) struct NotSupportedYet {
    /// The flags that were given.
    pub(crate) given: Vec<&'static str>,
}

/// The later flags, and whether each takes a value.
const LATER: &[(&str, bool)] = &[("load", false)];

impl Args for NotSupportedYet {
    fn augment_args(command: Command) -> Command {
        command.args(LATER.iter().map(|(name, takes_value)| {
            let argument = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            if *takes_value {
                argument
            } else {
                let switch = argument.num_args(0..=1).require_equals(true);
                switch.default_missing_value("true").value_parser(GoBool)
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NotSupportedYet {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |(name, takes_value): &(&'static str, bool)| {
            if *takes_value {
                return matches.contains_id(name);
            }
            // What is switched off is not asked for; the last of several counts.
            matches.get_many::<bool>(name).and_then(Iterator::last).copied().unwrap_or_default()
        };
        let given = LATER.iter().copied().filter(is_given).map(|(name, _)| name).collect();
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
