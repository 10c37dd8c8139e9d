//! What is configured about registry hosts, in the form of buildkitd.toml's `[registry]` tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::RegistryError;

/// The `registry` table of the configuration: host (`docker.io`, `localhost:5000`) → what holds for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HostConfigs {
    /// By host.
    pub hosts: BTreeMap<String, HostConfig>,
    /// What holds for all hosts, as far as nothing else is said of one; not part of the file.
    #[serde(skip)]
    pub everywhere: HostConfig,
}

/// One `[registry."host"]` table. Unknown keys are errors that name the key.
///
/// ```toml
/// [registry."docker.io"]
///   mirrors = ["mirror.example:5000/prefix"]
/// [registry."mirror.example:5000"]
///   http = true
///   insecure = true
///   ca = ["/etc/certs/ca.pem"]
///   maxConcurrency = 2
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
    /// Directories with certificates: see [`HostConfig::of_directory`].
    #[serde(default, rename = "tlsconfigdir")]
    pub tls_directories: Vec<PathBuf>,
    /// How many blobs are fetched at once, and pushed at once; in the place of [`crate::Limits`].
    #[serde(default, rename = "maxConcurrency")]
    pub max_concurrency: Option<usize>,
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
        self.hosts.get(host).cloned().unwrap_or_default().over(self.everywhere.clone())
    }
}

impl From<BTreeMap<String, HostConfig>> for HostConfigs {
    fn from(hosts: BTreeMap<String, HostConfig>) -> Self {
        Self { hosts, everywhere: HostConfig::default() }
    }
}

impl HostConfig {
    /// The certificates in a directory of docker's form: `*.crt` are authorities, `*.cert` client certificates with
    /// their keys in `*.key`. A directory that is not there has none.
    pub fn of_directory(directory: &Path) -> Result<Self, RegistryError> {
        crate::tls::of_directory(directory, "all registries")
    }

    /// This, and what `other` says beyond it. Authorities of both count.
    #[must_use]
    pub fn over(mut self, other: Self) -> Self {
        self.ca.extend(other.ca);
        self.keypair.extend(other.keypair);
        self.tls_directories.extend(other.tls_directories);
        Self {
            mirrors: if self.mirrors.is_empty() { other.mirrors } else { self.mirrors },
            http: self.http.or(other.http),
            insecure: self.insecure.or(other.insecure),
            ca: self.ca,
            keypair: self.keypair,
            tls_directories: self.tls_directories,
            max_concurrency: self.max_concurrency.or(other.max_concurrency),
        }
    }
}
