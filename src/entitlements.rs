//! What steps may have that a Dockerfile may not ask for by itself (`--allow`), and which devices there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use frontend::{DeviceOptions, RegisteredDevice};
use serde::Deserialize;
use worker::{DEVICE_SPEC_DIRS, DeviceRegistry};

use crate::values::Mistake;

/// A further name that devices of a kind share.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Whether steps may have a device without being allowed to.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// `[cdi]` of the configuration, as in buildkitd.toml.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct DeviceSettings {
    disabled: bool,
    spec_dirs: Option<Vec<PathBuf>>,
    auto_allowed: Vec<String>,
}

impl DeviceSettings {
    /// Where specifications of devices are.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match &self.spec_dirs {
            _ if self.disabled => Vec::new(),
            Some(directories) => directories.clone(),
            None => DEVICE_SPEC_DIRS.iter().map(PathBuf::from).collect(),
        }
    }

    /// The devices for the language, without what is allowed.
    pub(crate) fn options(&self, registry: &DeviceRegistry) -> DeviceOptions {
        let registered = registry.devices().map(|(name, annotations)| {
            let kind = name.split('=').next().unwrap_or_default();
            let is_listed = self.auto_allowed.iter().any(|allowed| allowed == name || allowed == kind);
            let is_marked =
                || annotations.get(AUTO_ALLOW).is_some_and(|value| frontend::go_bool(value) == Some(true));
            RegisteredDevice {
                name: name.to_owned(),
                class: annotations.get(CLASS).map(|&class| class.to_owned()),
                auto_allow: is_listed || is_marked(),
            }
        });
        let registered: Vec<_> = registered.collect();
        DeviceOptions { help: Some(self.help(registry, &registered)), registered, ..DeviceOptions::default() }
    }

    /// What may help where a device is not registered.
    fn help(&self, registry: &DeviceRegistry, registered: &[RegisteredDevice]) -> String {
        if self.disabled {
            return "devices are switched off by `disabled` in `[cdi]` of the configuration".to_owned();
        }
        let mut help = if registered.is_empty() {
            let directories: Vec<_> =
                self.directories().iter().map(|path| format!("`{}`", path.display())).collect();
            format!("no specification of a device (CDI) was found in {}", directories.join(", "))
        } else {
            let names: Vec<_> = registered.iter().map(|device| format!("`{}`", device.name)).collect();
            format!("registered are {}", names.join(", "))
        };
        for problem in registry.problems() {
            help.push_str("; ");
            help.push_str(problem);
        }
        help
    }
}

/// What `--allow` allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entitlements {
    /// `network.host` and `security.insecure`.
    pub(crate) allow: BTreeSet<String>,
    /// Whether `mode=delete` of `type=local` may delete files outside the working directory.
    pub(crate) local_delete: bool,
    all_devices: bool,
    devices: BTreeSet<String>,
    aliases: BTreeMap<String, String>,
}

impl Entitlements {
    /// Reads entitlements, each value perhaps a list with commas; a device has commas of its own
    /// (`device=NAME,alias=ALIAS`).
    pub(crate) fn read(values: &[String]) -> Result<Self, Mistake> {
        let mut read = Self::default();
        for value in values {
            let mut device: Option<&str> = None;
            for part in value.split(',') {
                match (part.split_once('=').unwrap_or((part, "")), device) {
                    (("alias", alias), Some(name)) if !alias.is_empty() => {
                        read.devices.remove(name);
                        read.aliases.insert(alias.to_owned(), name.to_owned());
                    }
                    (("device", ""), _) => read.all_devices = true,
                    (("device", name), _) => {
                        read.devices.insert(name.to_owned());
                        device = Some(name);
                    }
                    ((name @ ("network.host" | "security.insecure"), ""), _) => {
                        read.allow.insert(name.to_owned());
                    }
                    (("", ""), _) => {}
                    (("buildx.local.delete", ""), _) => read.local_delete = true,
                    ((key, _), Some(_)) => {
                        return Err(format!("unknown device config key {key:?} in `--allow {value}`"));
                    }
                    _ => return Err(format!("unknown entitlement {part}")),
                }
            }
        }
        Ok(read)
    }

    /// Adds which devices are allowed.
    pub(crate) fn allow_devices(&self, options: DeviceOptions) -> DeviceOptions {
        DeviceOptions {
            all_allowed: self.all_devices,
            allowed: self.devices.clone(),
            aliases: self.aliases.clone(),
            ..options
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Entitlements, Mistake> {
        Entitlements::read(&values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>())
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn entitlements() {
        let both =
            Entitlements { allow: set(&["network.host", "security.insecure"]), ..Entitlements::default() };
        assert_eq!(read(&["network.host,security.insecure"]), Ok(both.clone()));
        assert_eq!(read(&["security.insecure", "", "network.host"]), Ok(both));
        assert!(read(&["buildx.local.delete"]).is_ok_and(|read| read.local_delete));
        let all = Entitlements { all_devices: true, ..Entitlements::default() };
        assert_eq!(read(&["device"]), Ok(all));
        let some = Entitlements {
            allow: set(&["network.host"]),
            devices: set(&["a.com/x", "a.com/y=1"]),
            aliases: BTreeMap::from([("b.com/z=2".to_owned(), "a.com/z=2".to_owned())]),
            ..Entitlements::default()
        };
        let values = ["device=a.com/x", "device=a.com/z=2,alias=b.com/z=2", "network.host,device=a.com/y=1"];
        assert_eq!(read(&values), Ok(some));
    }

    #[test]
    fn mistakes() {
        assert_eq!(read(&["network.hots"]).unwrap_err(), "unknown entitlement network.hots");
        assert_eq!(read(&["network.host=x"]).unwrap_err(), "unknown entitlement network.host=x");
        assert_eq!(read(&["alias=x"]).unwrap_err(), "unknown entitlement alias=x");
        let unknown = "unknown device config key \"name\" in `--allow device=a,name=x`";
        assert_eq!(read(&["device=a,name=x"]).unwrap_err(), unknown);
    }

    #[test]
    fn settings() {
        let text = "disabled = true\nspecDirs = [\"/a\"]\nautoAllowed = [\"a.com/x\"]\n";
        let settings: DeviceSettings = toml::from_str(text).unwrap();
        assert!(settings.directories().is_empty());
        let options = settings.options(&DeviceRegistry::default());
        assert!(options.help.unwrap().contains("`disabled` in `[cdi]`"));
        let settings: DeviceSettings = toml::from_str("specDirs = [\"/a\"]").unwrap();
        assert_eq!(settings.directories(), [PathBuf::from("/a")]);
        let options = settings.options(&DeviceRegistry::default());
        assert_eq!(options.help.unwrap(), "no specification of a device (CDI) was found in `/a`");
        assert_eq!(DeviceSettings::default().directories().len(), 3);
        assert!(toml::from_str::<DeviceSettings>("specDir = []").is_err());
    }
}
