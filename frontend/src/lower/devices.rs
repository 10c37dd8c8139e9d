//! The devices of RUN: which of those that are registered a step gets.

use crate::options::{DeviceOptions, RegisteredDevice};
use crate::quote::go_quote;
use crate::tree::Run;
use crate::{Diagnostic, Severity, Span};

use super::{Lowering, Purpose};

impl Lowering<'_> {
    /// The qualified names of the devices of a RUN, each once. Without a build there is no machine that has any.
    pub(super) fn lower_devices(&mut self, run: &Run, span: Span) -> Result<Vec<String>, Diagnostic> {
        if self.purpose != Purpose::Build {
            return Ok(Vec::new());
        }
        let options = &self.options.devices;
        let wanted = run.devices.iter().map(|device| (device, options.aliases.get(&device.name)));
        // As BuildKit has it, what an alias stands for comes first.
        let (aliased, others): (Vec<_>, Vec<_>) = wanted.partition(|(_, alias)| alias.is_some());
        let mut devices = Vec::new();
        for (device, alias) in aliased.into_iter().chain(others) {
            let name = alias.unwrap_or(&device.name);
            let found = find(options, name, device.required)
                .map_err(|mistake| mistake.diagnostic(options, span).at(device.text.span))?;
            if found.is_empty() {
                let message = format!("Optional device {} is not registered", go_quote(name));
                let mut warning = Diagnostic::error("device-missing", span, message).at(device.text.span);
                warning.severity = Severity::Warning;
                self.findings.push(warning);
            }
            devices.extend(found.into_iter().map(|found| (found, alias.is_some())));
        }
        check_allowed(options, &devices, span)?;
        let mut names: Vec<String> = Vec::new();
        for (device, _) in devices {
            if !names.contains(&device.name) {
                names.push(device.name.clone());
            }
        }
        Ok(names)
    }
}

/// Whether a step may have the devices. Naming an alias allows what it stands for: of each device it is said whether it
/// came by one.
fn check_allowed(
    options: &DeviceOptions,
    devices: &[(&RegisteredDevice, bool)],
    span: Span,
) -> Result<(), Diagnostic> {
    if options.all_allowed || devices.is_empty() {
        return Ok(());
    }
    let mut granted = Vec::new();
    for name in &options.allowed {
        granted.extend(find(options, name, true).map_err(|mistake| mistake.diagnostic(options, span))?);
    }
    let is_forbidden = |(device, by_alias): &&(&RegisteredDevice, bool)| {
        !by_alias && !device.auto_allow && !granted.iter().any(|granted| granted.name == device.name)
    };
    let forbidden: Vec<&str> =
        devices.iter().filter(is_forbidden).map(|(device, _)| device.name.as_str()).collect();
    let message = match forbidden.as_slice() {
        [] => return Ok(()),
        [one] => format!("device {one} is requested by the build but not allowed"),
        several => format!("devices {} are requested by the build but not allowed", several.join(", ")),
    };
    let help =
        format!("allow it with `--allow device={}`, or all devices with `--allow device`", forbidden[0]);
    Err(Diagnostic::error("entitlement", span, message).with_help(help))
}

/// Why no device was found.
enum Mistake {
    Invalid(String),
    Missing(String),
}

impl Mistake {
    fn diagnostic(self, options: &DeviceOptions, span: Span) -> Diagnostic {
        match self {
            Self::Invalid(name) => {
                let message = format!("invalid device {}", go_quote(&name));
                Diagnostic::error("invalid-device", span, message)
                    .with_help("a device is written as `vendor.com/class=name`")
            }
            Self::Missing(name) => {
                let message = format!("required device {} is not registered", go_quote(&name));
                let diagnostic = Diagnostic::error("device-missing", span, message);
                match &options.help {
                    Some(help) => diagnostic.with_help(help),
                    None => diagnostic,
                }
            }
        }
    }
}

/// The registered devices that a name stands for: the one of that name; the first of a kind for the kind alone; all of a
/// kind for `*`; else all of a kind whose class is that name.
fn find<'o>(
    options: &'o DeviceOptions,
    wanted: &str,
    required: bool,
) -> Result<Vec<&'o RegisteredDevice>, Mistake> {
    let (kind, name) = match wanted.split_once('=') {
        Some((kind, name)) => (kind, name),
        None => (wanted, ""),
    };
    let is_valid =
        kind.split_once('/').is_some_and(|(vendor, class)| is_word(vendor, "_-.") && is_word(class, "_-"));
    if !is_valid {
        return Err(Mistake::Invalid(wanted.to_owned()));
    }
    let of_kind = || {
        options
            .registered
            .iter()
            .filter(|device| device.name.split_once('=').is_some_and(|(registered, _)| registered == kind))
    };
    let of_name = || of_kind().filter(|device| device.name == wanted);
    let found: Vec<_> = match name {
        "" => of_kind().take(1).collect(),
        "*" => of_kind().collect(),
        _ if of_name().next().is_some() => of_name().collect(),
        class => of_kind().filter(|device| device.class.as_deref() == Some(class)).collect(),
    };
    if found.is_empty() && required {
        return Err(Mistake::Missing(wanted.to_owned()));
    }
    Ok(found)
}

/// Whether a text begins with a letter, ends with a letter or a digit, and has nothing but these and `others` between.
fn is_word(text: &str, others: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || others.contains(character))
}
