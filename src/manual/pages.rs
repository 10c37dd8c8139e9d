//! Man pages.

use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::shown;
use crate::report::{Failure, FailureKind};

/// The page of a command.
pub(super) fn page(mut command: Command) -> String {
    // Short, as in the help: the flags follow.
    let usage = command.render_usage().to_string();
    let command = command.override_usage(usage.trim_start_matches("Usage: ").to_owned());
    let after_help = command.get_after_help().map(ToString::to_string);
    let has_subcommands = shown(&command).next().is_some();
    // An empty date would be no argument at all, and the next one would take its place.
    let man =
        Man::new(command).date(" ").source(concat!("rbuild ", env!("CARGO_PKG_VERSION"))).manual("rbuild");
    let mut bytes = Vec::new();
    let render = |bytes: &mut Vec<u8>| {
        man.render_title(bytes)?;
        man.render_name_section(bytes)?;
        man.render_synopsis_section(bytes)?;
        man.render_description_section(bytes)?;
        man.render_options_section(bytes)?;
        if has_subcommands {
            man.render_subcommands_section(bytes)?;
        }
        sections(&after_help.unwrap_or_default()).to_writer(bytes)
    };
    render(&mut bytes).expect("memory takes what is written to it");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes the pages of the command and of all that are below it.
pub(super) fn write(command: Command, directory: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        let message = format!("cannot write `{}`: {error}", path.display());
        Failure::new(FailureKind::Environment, message)
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for (name, text) in all(command) {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}

/// The names of the files, and what is in them.
fn all(mut command: Command) -> Vec<(String, String)> {
    // What is the name of a command, and which flags it has from those above, is known then.
    command.build();
    let mut pages = Vec::new();
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        open.extend(shown(&command).cloned());
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        pages.push((format!("{name}.1"), page(command)));
    }
    pages
}

/// What stands below the flags in a help text: lines without indentation that end with a colon are headings, lines
/// with one are written as they stand.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    for line in text.lines() {
        match (line.strip_prefix("  "), line.strip_suffix(':')) {
            (Some(line), _) => {
                roff.control("nf", []).text([roman(line)]).control("fi", []);
            }
            (None, Some(heading)) => {
                roff.control("SH", [heading.to_uppercase().as_str()]);
            }
            (None, None) if line.is_empty() => {
                roff.control("PP", []);
            }
            (None, None) => {
                roff.text([roman(line)]);
            }
        }
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_without_what_is_hidden() {
        let pages = all(crate::arguments::command());
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["rbuild.1", "rbuild-build.1", "rbuild-history-ls.1", "rbuild-man.1"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert!(!names.contains(&"rbuild-gc.1"), "{names:?}");
        for (name, text) in &pages {
            let sections = ["\n.TH ", "\n.SH NAME\n", "\n.SH SYNOPSIS\n", "\n.SH DESCRIPTION\n"];
            assert!(sections.iter().all(|section| text.contains(section)), "{name}: {text}");
        }
        let (_, build) = pages.iter().find(|(name, _)| name == "rbuild-build.1").expect("it is there");
        for wanted in [".SH CACHE\n", "\\-\\-cache\\-from", ".SH EXAMPLES\n.nf\nrbuild \\-t app:v1 ."] {
            assert!(build.contains(wanted), "{wanted}: {build}");
        }
        assert!(!build.contains("\\-\\-cpu\\-shares"), "{build}");
    }
}
