//! Flags that are on or off.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::{Arg, ArgAction, Args, Command};

/// The flags that are on or off. `--flag`, `--flag=true` and `--flag=0` are all right, as with docker: see [`GoBool`].
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Switches {
    /// Run all steps anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Cache")]
    pub(crate) no_cache: bool,
    /// Leave out of contexts without an ignore file what their `.gitignore` files leave out, and `.git`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Input")]
    pub(crate) use_gitignore: bool,
    /// Ask no server at all: what was last seen of images, files and repositories holds
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Sources")]
    pub(crate) offline: bool,
    /// Write to FILE.lock what images, URLs and git references are found to be; later builds take just these
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Sources")]
    pub(crate) lock: bool,
    /// Tell why steps are executed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) explain: bool,
    /// Tell all of broken lint rules, not a line of each
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool,
        hide_default_value = true, help_heading = "Look")]
    pub(crate) debug: bool,
    /// Push the image to the registries of its names
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Output")]
    pub(crate) push: bool,
    /// Look for mistakes and bad style instead of building (`--call=check`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) check: bool,
    /// With `--check`: write the file anew with what can be mended without asking
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Look")]
    pub(crate) fix: bool,
    /// In a build with one id: let `chown`, `setuid` and their like in RUN succeed without doing anything. With more
    /// ids the flag has no effect, which is told
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
        action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool, hide_default_value = true,
        help_heading = "Steps")]
    pub(crate) ignore_chown: bool,
    /// Show nothing but errors, and the digest of the image on standard output
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", action = ArgAction::Set, value_name = "BOOL", value_parser = GoBool,
        hide_default_value = true, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Reads what docker takes for the value of a flag that is on or off, and refuses the rest in docker's words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoBool;

impl TypedValueParser for GoBool {
    type Value = bool;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<bool, clap::Error> {
        let text = value.to_string_lossy();
        frontend::go_bool(&text).ok_or_else(|| {
            let long = argument.and_then(Arg::get_long).unwrap_or_default();
            let short = argument.and_then(Arg::get_short);
            let short = short.map_or_else(String::new, |short| format!("-{short}, "));
            let message = format!(
                "invalid argument {text:?} for \"{short}--{long}\" flag: strconv.ParseBool: parsing {text:?}: \
                 invalid syntax"
            );
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, message).with_cmd(command)
        })
    }
}
