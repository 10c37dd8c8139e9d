//! The image config: OCI's, with Docker's extensions, as BuildKit writes it.
#![expect(
    clippy::zero_sized_map_values,
    reason = "this is how Go writes a set, and so the config's JSON has it"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::DiffId;

/// An image config. The members are written in alphabetical order and empty ones are left out, which is what
/// BuildKit does; members of a base image's config that are not named here are dropped, also as BuildKit does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The CPU architecture, in Go's words (`amd64`).
    #[serde(default)]
    pub architecture: String,
    /// Who made the image (MAINTAINER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What a container of this image runs, and how.
    #[serde(default)]
    pub config: ContainerConfig,
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// What made each layer, bottom first.
    #[serde(default, skip_serializing_if = "null_or_empty", deserialize_with = "null_as_default")]
    pub history: Vec<History>,
    /// The operating system, in Go's words (`linux`).
    #[serde(default)]
    pub os: String,
    /// Features of the operating system that the image needs (Windows).
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
    /// The version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// The layers, bottom first.
    #[serde(default)]
    pub rootfs: RootFs,
    /// The variant of the CPU architecture (`v7`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The `config` member of an image config. Members are in the order of Docker's Go structure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// The user, as USER wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The ports of EXPOSE (`80/tcp`).
    #[serde(default, skip_serializing_if = "null_or_empty_map", deserialize_with = "null_as_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// The environment, `NAME=value`.
    #[serde(default, skip_serializing_if = "null_or_empty", deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// ENTRYPOINT. `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// CMD. `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// The paths of VOLUME.
    #[serde(default, skip_serializing_if = "null_or_empty_map", deserialize_with = "null_as_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops a container, as STOPSIGNAL wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Whether the command is escaped already; BuildKit sets it with CMD and ENTRYPOINT.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// HEALTHCHECK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The triggers of ONBUILD.
    #[serde(default, skip_serializing_if = "null_or_empty", deserialize_with = "null_as_default")]
    pub on_build: Vec<String>,
    /// SHELL. Empty where there is none.
    #[serde(default, skip_serializing_if = "null_or_empty", deserialize_with = "null_as_default")]
    pub shell: Vec<String>,
}

/// The value of a Go set: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// HEALTHCHECK. Durations are in nanoseconds; 0 means that the default holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", …]`.
    #[serde(default, skip_serializing_if = "null_or_empty", deserialize_with = "null_as_default")]
    pub test: Vec<String>,
    /// The time between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// The time after which a check has failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// The time in which failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// The time between two checks during the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// The number of failures in a row that make a container unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// What made a layer, or a change of the config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A free text; BuildKit names its frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether there is no layer to this entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The diff IDs, bottom first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn null_or_empty<T>(list: &[T]) -> bool {
    list.is_empty()
}

fn null_or_empty_map<K, V>(map: &BTreeMap<K, V>) -> bool {
    map.is_empty()
}

/// Go writes `null` for lists and maps that were never made.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_in_order_and_empty_ones_left_out() {
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig {
                env: vec!["A=b".into()],
                exposed_ports: BTreeMap::from([("80/tcp".into(), Empty {})]),
                shell: vec!["/bin/sh".into(), "-c".into()],
                ..ContainerConfig::default()
            },
            ..ImageConfig::default()
        };
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"architecture":"amd64","config":{"ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Shell":["/bin/sh","-c"]},"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }

    #[test]
    fn nulls_and_unknown_members_are_read() {
        let text = r#"{"architecture":"arm64","os":"linux","container":"x","config":{"Env":null,"Cmd":null,
            "Volumes":null,"OnBuild":null,"Labels":null,"Hostname":"h"},"history":null,
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config, ContainerConfig::default());
        assert_eq!(config.architecture, "arm64");
    }
}
