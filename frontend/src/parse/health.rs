//! HEALTHCHECK.

use oci::Healthcheck;

use super::{Request, json_list};
use crate::Diagnostic;
use crate::flags::{FlagKind, Flags};
use crate::quote;

const MIN_NANOSECONDS: i64 = 1_000_000;

pub(super) fn parse_healthcheck(request: &Request<'_>) -> Result<Healthcheck, Diagnostic> {
    let rest = request.rest();
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (kind, arguments) = (&rest[..end], rest[end..].trim_start());
    match kind.to_ascii_uppercase().as_str() {
        "" => return Err(request.at_least_one()),
        "NONE" if arguments.is_empty() => {
            return Ok(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() });
        }
        "NONE" => return Err(request.error("healthcheck-none", "HEALTHCHECK NONE takes no arguments")),
        "CMD" => {}
        other => {
            let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote::go_quote(other));
            return Err(request.error("healthcheck-type", message));
        }
    }
    let mut flags = request.flags(&[
        ("interval", FlagKind::Text),
        ("timeout", FlagKind::Text),
        ("start-period", FlagKind::Text),
        ("start-interval", FlagKind::Text),
        ("retries", FlagKind::Text),
    ])?;
    let json = json_list(arguments).map_err(|message| request.line_error("json-not-strings", message))?;
    let test = match json {
        Some(list) if !list.is_empty() => ["CMD".to_owned()].into_iter().chain(list).collect(),
        None if !arguments.is_empty() => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
        _ => return Err(request.error("healthcheck-command", "Missing command after HEALTHCHECK CMD")),
    };
    Ok(Healthcheck {
        test,
        interval: interval(request, &mut flags, "interval")?,
        timeout: interval(request, &mut flags, "timeout")?,
        start_period: interval(request, &mut flags, "start-period")?,
        start_interval: interval(request, &mut flags, "start-interval")?,
        retries: retries(request, &mut flags)?,
    })
}

fn interval(request: &Request<'_>, flags: &mut Flags, name: &str) -> Result<i64, Diagnostic> {
    let Some(value) = flags.text(name) else { return Ok(0) };
    let invalid = |message: String| request.error("healthcheck-interval", message);
    let Some(nanoseconds) = quote::parse_duration(&value.text) else {
        return Err(invalid(format!("--{name}: invalid duration {}", quote::go_quote(&value.text))));
    };
    if nanoseconds != 0 && nanoseconds < MIN_NANOSECONDS {
        return Err(invalid(format!("Interval \"{name}\" cannot be less than 1ms")));
    }
    Ok(nanoseconds)
}

fn retries(request: &Request<'_>, flags: &mut Flags) -> Result<i64, Diagnostic> {
    let Some(value) = flags.text("retries") else { return Ok(0) };
    let invalid = |message: String| request.error("healthcheck-retries", message);
    match value.text.parse::<i32>() {
        Ok(retries) if retries < 0 => Err(invalid(format!("--retries cannot be negative ({retries})"))),
        Ok(retries) => Ok(i64::from(retries)),
        Err(_) => Err(invalid(format!("--retries: {} is not a number", quote::go_quote(&value.text)))),
    }
}
