//! A specification file of the Container Device Interface
//! (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// A file. What is in it and is not known makes it invalid, as with other readers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    pub(super) cdi_version: String,
    /// `vendor.com/class`.
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// What any device of the file brings.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a device brings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    /// `NAME=value`.
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) device_nodes: Vec<Node>,
    #[serde(default)]
    pub(super) net_devices: Vec<serde_json::Value>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
    #[serde(default)]
    pub(super) hooks: Vec<Hook>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    #[serde(default, rename = "additionalGids")]
    pub(super) additional_groups: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    /// Where it is in the container.
    pub(super) path: PathBuf,
    /// Where it is on the machine; the same if it is not said.
    pub(super) host_path: Option<PathBuf>,
    /// `c`, `u` or `b`; that of the machine's if it is not said.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) file_mode: Option<u32>,
    /// Of `r`, `w` and `m`; all if it is not said.
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    /// As for mount(8).
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    /// When it is to run.
    #[serde(rename = "hookName")]
    pub(super) stage: String,
    pub(super) path: String,
    #[serde(default, rename = "args")]
    _args: Vec<String>,
    #[serde(default, rename = "env")]
    _env: Vec<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<i64>,
}

impl SpecFile {
    /// Reads a file by what its name ends with.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(super) fn read(path: &std::path::Path, text: &str) -> Result<Self, String> {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let value = if is_json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            super::yaml::parse(text)?
        };
        let file: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let mut numbers = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version).split('.');
        let major = numbers.next().and_then(|number| number.parse::<u32>().ok());
        if !matches!(major, Some(0 | 1))
            || numbers.clone().count() != 2
            || numbers.any(|n| n.parse::<u32>().is_err())
        {
            return Err(format!("the version `{}` is not known", self.cdi_version));
        }
        if !self.kind.split_once('/').is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty()) {
            return Err(format!("the kind `{}` is not of the form `vendor.com/class`", self.kind));
        }
        for (index, device) in self.devices.iter().enumerate() {
            let is_name = device.name.starts_with(|first: char| first.is_ascii_alphanumeric())
                && device.name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c));
            if !is_name {
                return Err(format!("`{}` is no name of a device", device.name));
            }
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(format!("the device `{}` stands there twice", device.name));
            }
        }
        let edits = std::iter::once(&self.container_edits)
            .chain(self.devices.iter().map(|device| &device.container_edits));
        for variable in edits.flat_map(|edits| &edits.env) {
            if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                return Err(format!("the variable `{variable}` is not of the form `NAME=value`"));
            }
        }
        Ok(())
    }
}
