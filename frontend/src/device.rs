//! `RUN --device`: which device of the machine a step wants.

use crate::boolean::go_bool;
use crate::csv;
use crate::suggest::{Case, did_you_mean};

/// A device as a RUN asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Device {
    /// `vendor.com/class=name`, `vendor.com/class` for any, `vendor.com/class=*` for all, or an alias.
    pub(crate) name: String,
    /// Whether the step fails where the machine has none.
    pub(crate) required: bool,
}

/// Reads the value of a `--device`.
///
/// # Errors
/// The first thing that is wrong, in BuildKit's words.
pub(crate) fn parse(text: &str) -> Result<Device, String> {
    let mut device = Device::default();
    let fields = csv::fields(text).map_err(|cause| format!("failed to parse csv devices: {cause}"))?;
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            if field.to_lowercase() == "required" {
                device.required = true;
            } else if device.name.is_empty() {
                device.name = field;
            } else {
                return Err(format!("invalid field '{field}' must be a key=value pair"));
            }
            continue;
        };
        match key.to_lowercase().as_str() {
            "name" if device.name.is_empty() => value.clone_into(&mut device.name),
            "name" => return Err(format!("device name already set to {}", device.name)),
            "required" => {
                device.required =
                    go_bool(value).ok_or_else(|| format!("invalid value for required: {value}"))?;
            }
            _ if device.name.is_empty() => device.name.clone_from(&field),
            key => {
                let hint = did_you_mean(key, ["name", "required"], Case::Sensitive);
                return Err(format!("unexpected key '{key}' in '{field}'{hint}"));
            }
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written() {
        let rows = [
            ("vendor.com/class=dev", "vendor.com/class=dev", false),
            ("vendor.com/class=dev,required", "vendor.com/class=dev", true),
            ("required=1,vendor.com/class=*", "vendor.com/class=*", true),
            ("vendor.com/class,REQUIRED=false", "vendor.com/class", false),
            ("Name=vendor.com/class=dev", "vendor.com/class=dev", false),
            ("required", "", true),
        ];
        for (text, name, required) in rows {
            assert_eq!(parse(text), Ok(Device { name: name.to_owned(), required }), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        let rows = [
            ("", "failed to parse csv devices: EOF"),
            ("a/b=c,x", "invalid field 'x' must be a key=value pair"),
            ("a/b=c,name=d/e=f", "device name already set to a/b=c"),
            ("a/b=c,required=maybe", "invalid value for required: maybe"),
            ("a/b=c,requird=1", "unexpected key 'requird' in 'requird=1' (did you mean required?)"),
            ("a/b=c,x/y=z", "unexpected key 'x/y' in 'x/y=z'"),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
