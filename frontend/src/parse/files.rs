//! COPY and ADD.

use std::collections::HashMap;

use super::Request;
use crate::Diagnostic;
use crate::flags::FlagKind;
use crate::heredoc;
use crate::tree::{Copy, Token};

pub(super) fn parse_copy(request: &Request<'_>) -> Result<Copy, Diagnostic> {
    let arguments = arguments(request)?;
    let mut flags = request.flags(&[
        ("from", FlagKind::Text),
        ("chown", FlagKind::Text),
        ("chmod", FlagKind::Text),
        ("link", FlagKind::Bool),
        ("parents", FlagKind::Bool),
        ("exclude", FlagKind::List),
    ])?;
    let copy = Copy {
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link") == Some(true),
        parents: flags.bool("parents") == Some(true),
        exclude: flags.list("exclude"),
        ..Copy::default()
    };
    with_arguments(request, copy, arguments)
}

pub(super) fn parse_add(request: &Request<'_>) -> Result<Copy, Diagnostic> {
    let arguments = arguments(request)?;
    let mut flags = request.flags(&[
        ("chown", FlagKind::Text),
        ("chmod", FlagKind::Text),
        ("link", FlagKind::Bool),
        ("exclude", FlagKind::List),
        ("unpack", FlagKind::Bool),
        ("checksum", FlagKind::Text),
        ("keep-git-dir", FlagKind::Bool),
    ])?;
    let copy = Copy {
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link") == Some(true),
        exclude: flags.list("exclude"),
        unpack: flags.bool("unpack"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        ..Copy::default()
    };
    with_arguments(request, copy, arguments)
}

/// The word of a here-document becomes the name of a file.
pub(super) fn check_name(request: &Request<'_>, name: &str) -> Result<(), Diagnostic> {
    if name.contains(['/', '\0']) || matches!(name, "." | "..") {
        let message = format!("heredoc `{name}` cannot be the name of a file");
        return Err(request.error("heredoc-name", message));
    }
    Ok(())
}

/// Sources and destination.
struct Arguments {
    sources: Vec<Token>,
    destination: Token,
}

fn arguments(request: &Request<'_>) -> Result<Arguments, Diagnostic> {
    let mut sources = request.list()?;
    let (Some(destination), false) = (sources.pop(), sources.is_empty()) else {
        let message = format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            request.keyword
        );
        return Err(request.error("missing-destination", message));
    };
    Ok(Arguments { sources, destination })
}

fn with_arguments(
    request: &Request<'_>,
    mut copy: Copy,
    Arguments { sources, destination }: Arguments,
) -> Result<Copy, Diagnostic> {
    let keyword = &request.keyword;
    if heredoc::announced_by(&destination.text).is_some() {
        let message = format!("{keyword} cannot accept a heredoc as a destination");
        return Err(request.error("heredoc-destination", message));
    }
    copy.destination = destination;
    let bodies: HashMap<&str, &heredoc::Heredoc> =
        request.heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc)).collect();
    for word in sources {
        // A word of a JSON list that looks like one is one too, without a body.
        match heredoc::announced_by(&word.text) {
            Some(heredoc) => {
                check_name(request, &heredoc.name)?;
                let content = bodies.get(heredoc.name.as_str()).map_or("", |body| &body.content).to_owned();
                copy.heredocs.push(heredoc::Heredoc { content, ..heredoc });
            }
            None => copy.sources.push(word),
        }
    }
    Ok(copy)
}
