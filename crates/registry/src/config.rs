//! What is configured about registry hosts, in the form of buildkitd.toml's `[registry]` tables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// The `registry` table of the configuration: host (`docker.io`, `localhost:5000`) → what holds for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HostConfigs(pub BTreeMap<String, HostConfig>);

/// One `[registry."host"]` table. Unknown keys are errors that name the key.
///
/// ```toml
/// [registry."docker.io"]
///   mirrors = ["mirror.example:5000/prefix"]
/// [registry."mirror.example:5000"]
///   http = true
///   insecure = true
///   ca = ["/etc/certs/ca.pem"]
///   [[registry."mirror.example:5000".keypair]]
///     key = "/etc/certs/key.pem"
///     cert = "/etc/certs/cert.pem"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Hosts that are asked before this one, in order: `host[:port][/path]`, or a URL. Pulls only.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Whether the host speaks plain HTTP. Loopback hosts are tried with HTTP first where this is not set.
    #[serde(default)]
    pub http: Option<bool>,
    /// Whether any certificate is accepted.
    #[serde(default)]
    pub insecure: Option<bool>,
    /// Files with further certificate authorities (PEM).
    #[serde(default)]
    pub ca: Vec<PathBuf>,
    /// Client certificates; the first one is used.
    #[serde(default)]
    pub keypair: Vec<KeyPair>,
}

/// A client certificate and its key (PEM).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The file of the private key.
    pub key: PathBuf,
    /// The file of the certificate chain.
    pub cert: PathBuf,
}

impl HostConfigs {
    /// What holds for `host`; the defaults where nothing was configured.
    pub fn host(&self, host: &str) -> HostConfig {
        self.0.get(host).cloned().unwrap_or_default()
    }
}
