//! The client itself: options, and the state that its parts share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci::ImageReference;
use tokio::sync::Semaphore;

use crate::auth::Authenticator;
use crate::config::HostConfigs;
use crate::credentials::CredentialStore;
use crate::endpoint::Scheme;
use crate::retry::RetryPolicy;
use crate::transport::Transport;

/// Where distributions keep the machine's certificate authorities.
pub const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How to speak to registries.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What is configured about hosts.
    pub hosts: HostConfigs,
    /// Where credentials come from.
    pub credentials: CredentialStore,
    /// The `User-Agent` of all requests.
    pub user_agent: String,
    /// The proxies.
    pub proxies: Proxies,
    /// Files with the machine's certificate authorities (PEM); the first one that can be read is taken, beside the
    /// authorities that are built in.
    pub ca_files: Vec<PathBuf>,
    /// Directories with a directory for each host (docker's `certs.d`), of docker's form: see
    /// [`crate::HostConfig::of_directory`].
    pub certificate_directories: Vec<PathBuf>,
    /// How failed requests are repeated.
    pub retry: RetryPolicy,
    /// How much is done at once.
    pub limits: Limits,
    /// The longest time that a connection may take to be made.
    pub connect_timeout: Duration,
    /// The longest time without a byte.
    pub idle_timeout: Duration,
    /// Whether every request is an error: no server may be spoken to.
    pub offline: bool,
}

/// The proxies, as the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them. Loopback never goes through one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts that are spoken to directly, comma-separated.
    pub no_proxy: Option<String>,
}

/// How much is done at once with one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Blobs that are fetched.
    pub downloads: usize,
    /// Blobs that are pushed.
    pub uploads: usize,
    /// All other requests.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { downloads: 6, uploads: 6, requests: 16 }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            hosts: HostConfigs::default(),
            credentials: CredentialStore::anonymous(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            ca_files: SYSTEM_CA_FILES.iter().map(PathBuf::from).collect(),
            certificate_directories: Vec::new(),
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            offline: false,
        }
    }
}

/// A client of registries; a handle that is cheap to clone. It remembers connections and tokens.
///
/// All methods must be called on a tokio runtime with I/O and time. Dropping a future ends what it does.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: ClientOptions,
    pub(crate) transport: Transport,
    pub(crate) authenticator: Authenticator,
    /// Which of several schemes a host speaks.
    pub(crate) schemes: Mutex<HashMap<String, Arc<tokio::sync::OnceCell<Scheme>>>>,
    lanes: Mutex<HashMap<String, Lanes>>,
}

/// The semaphores of one host.
///
/// An upload may read from a download (a layer goes from one repository to another), never the other way around, so
/// the three cannot wait for each other in a circle.
#[derive(Clone)]
pub(crate) struct Lanes {
    pub(crate) downloads: Arc<Semaphore>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
}

impl Client {
    /// A client. Nothing is opened or read yet.
    pub fn new(options: ClientOptions) -> Self {
        let authenticator = Authenticator::new(options.credentials.clone());
        let shared = Shared {
            options,
            transport: Transport::new(),
            authenticator,
            schemes: Mutex::new(HashMap::new()),
            lanes: Mutex::new(HashMap::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Another client, to which the registries of `names` may show any certificate, and may speak plain HTTP. It shares
    /// nothing with this one but the options.
    #[must_use]
    pub fn with_insecure(&self, names: &[ImageReference]) -> Self {
        let mut options = self.shared.options.clone();
        for name in names {
            options.hosts.hosts.entry(name.registry().to_owned()).or_default().insecure = Some(true);
        }
        Self::new(options)
    }
}

impl Shared {
    /// The semaphores of `host`.
    pub(crate) fn lanes(&self, host: &str) -> Lanes {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lanes.get(host) {
            return known.clone();
        }
        let limits = &self.options.limits;
        let name = if host == "registry-1.docker.io" { "docker.io" } else { host };
        let own = self.options.hosts.host(name).max_concurrency;
        let semaphore = |count: usize| Arc::new(Semaphore::new(count.max(1)));
        let made = Lanes {
            downloads: semaphore(own.unwrap_or(limits.downloads)),
            uploads: semaphore(own.unwrap_or(limits.uploads)),
            requests: semaphore(limits.requests),
        };
        lanes.insert(host.to_owned(), made.clone());
        made
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("options", &self.shared.options).finish_non_exhaustive()
    }
}
