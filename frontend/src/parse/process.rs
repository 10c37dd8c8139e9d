//! RUN, SHELL and ONBUILD.

use solver::SecurityMode;

use super::files::check_name;
use super::{Request, check_trigger, json_list, parse_pairs};
use crate::Diagnostic;
use crate::device::{self, Device};
use crate::flags::FlagKind;
use crate::mount;
use crate::suggest::{self, Case};
use crate::tree::{Run, RunDevice, RunMountOption, RunNetwork, Token};
use crate::words;

pub(super) fn parse_run(request: &Request<'_>) -> Result<Run, Diagnostic> {
    let mut flags = request.flags(&[
        ("mount", FlagKind::List),
        ("network", FlagKind::Text),
        ("security", FlagKind::Text),
        ("device", FlagKind::List),
    ])?;
    let network = match flags.text("network").map(|token| token.text).as_deref() {
        None | Some("default") => RunNetwork::Default,
        Some("none") => RunNetwork::None,
        Some("host") => RunNetwork::Host,
        Some(other) => {
            let hint = suggest::did_you_mean(other, ["default", "none", "host"], Case::Sensitive);
            let message = format!("invalid network mode \"{other}\"{hint}");
            return Err(request.error("invalid-network", message));
        }
    };
    let security = match flags.text("security").map(|token| token.text).as_deref() {
        None | Some("sandbox") => SecurityMode::Sandbox,
        Some("insecure") => SecurityMode::Insecure,
        Some(other) => {
            let hint = suggest::did_you_mean(other, ["sandbox", "insecure"], Case::Sensitive);
            let message = format!("security \"{other}\" is not valid{hint}");
            return Err(request.error("invalid-security", message));
        }
    };
    // A script with an interpreter is a file of that name.
    for heredoc in request.heredocs.iter().filter(|heredoc| heredoc.body().starts_with("#!")) {
        check_name(request, &heredoc.name)?;
    }
    let mounts: Result<Vec<RunMountOption>, Diagnostic> =
        flags.list("mount").into_iter().map(|text| parse_mount(request, text)).collect();
    let devices: Result<Vec<RunDevice>, Diagnostic> =
        flags.list("device").into_iter().map(|text| parse_device(request, text)).collect();
    Ok(Run {
        command: request.command()?,
        heredocs: request.heredocs.clone(),
        network,
        security,
        mounts: mounts?,
        devices: devices?,
    })
}

fn parse_device(request: &Request<'_>, text: Token) -> Result<RunDevice, Diagnostic> {
    let parsed = device::parse(&text.text);
    let Device { name, required } =
        parsed.map_err(|message| request.error("invalid-device", message).at(text.span))?;
    Ok(RunDevice { text, name, required })
}

/// What a mount is taken from has to be known before variables are; the rest is read once they are.
fn parse_mount(request: &Request<'_>, text: Token) -> Result<RunMountOption, Diagnostic> {
    let from = mount::source_of(&text.text)
        .map_err(|error| request.error(error.code, error.message).at(text.span))?;
    let from = from.map(|from| Token { text: from, span: text.span });
    Ok(RunMountOption { text, from })
}

pub(super) fn parse_shell(request: &Request<'_>) -> Result<Vec<Token>, Diagnostic> {
    request.no_flags()?;
    match request.json()? {
        Some(list) if list.is_empty() => Err(request.at_least_one()),
        Some(list) => Ok(list),
        None if request.rest.is_empty() => Err(request.at_least_one()),
        None => Err(request.error("shell-not-json", "SHELL requires the arguments to be in JSON form")),
    }
}

/// The instruction behind ONBUILD is not understood before it fires, save for what no trigger can be.
pub(super) fn parse_onbuild(request: &Request<'_>) -> Result<Token, Diagnostic> {
    let rest = request.rest();
    let (keyword, arguments) = words::split_keyword(rest);
    let keyword = rest[keyword].to_ascii_uppercase();
    if keyword.is_empty() {
        return Err(request.at_least_one());
    }
    request.no_flags()?;
    check_trigger(&keyword, request.line.span)?;
    let (_, arguments) = words::take_flags(rest, arguments);
    if matches!(keyword.as_str(), "ENV" | "LABEL") && !arguments.is_empty() {
        let start = request.rest.start;
        let inner = Request {
            keyword: keyword.clone(),
            keyword_range: request.keyword_range.clone(),
            flags: Vec::new(),
            rest: start + arguments.start..start + arguments.end,
            heredocs: Vec::new(),
            ..*request
        };
        parse_pairs(&inner)?;
    }
    let list = match keyword.as_str() {
        "RUN" | "COPY" | "ADD" | "CMD" | "ENTRYPOINT" | "SHELL" | "VOLUME" => &rest[arguments],
        // The list comes behind the kind of the check.
        "HEALTHCHECK" => rest[arguments].split_once(char::is_whitespace).map_or("", |(_, list)| list),
        _ => "",
    };
    json_list(list).map_err(|message| request.line_error("json-not-strings", message))?;
    // It is recorded as it stands: a `--` that ends the flags of ONBUILD and blanks at the end included.
    let behind = &request.line.text[request.keyword_range.end..];
    let mut text = behind.trim_start().to_owned();
    for heredoc in &request.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(Token { text, span: request.rest_token().span })
}
