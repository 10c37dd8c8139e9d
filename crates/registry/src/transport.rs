//! HTTP clients, made when they are first needed: plain HTTP never sets up TLS.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::ClientConfig;
use url::Url;

use crate::client::ClientOptions;
use crate::config::HostConfig;
use crate::endpoint::is_loopback;
use crate::error::{Cause, RegistryError};
use crate::tls;

/// The configuration that names are resolved with.
const RESOLVER_CONFIG: &str = "/etc/resolv.conf";
/// The names that the machine itself knows.
const HOSTS: &str = "/etc/hosts";

/// All HTTP clients of a [`crate::Client`]. Redirects are never followed here.
pub(crate) struct Transport {
    plain: [OnceLock<reqwest::Client>; 2],
    /// By the host's name in the configuration; the empty name is that of all hosts without TLS settings.
    tls: Mutex<HashMap<(String, Direction), reqwest::Client>>,
    settings: Mutex<HashMap<String, Arc<HostConfig>>>,
}

/// Which way the bulk of an exchange goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// To us; the HTTP client watches that something comes.
    Down,
    /// From us. The HTTP client's own limit would end every request that takes longer, moving or not: the caller
    /// watches instead.
    Up,
}

impl Transport {
    pub(crate) fn new() -> Self {
        Self {
            plain: [OnceLock::new(), OnceLock::new()],
            tls: Mutex::new(HashMap::new()),
            settings: Mutex::new(HashMap::new()),
        }
    }

    /// The client that speaks to `url`.
    pub(crate) fn client(
        &self,
        options: &ClientOptions,
        url: &Url,
        direction: Direction,
    ) -> Result<reqwest::Client, RegistryError> {
        let host = authority(url);
        if options.offline {
            return Err(RegistryError::Offline { host });
        }
        if url.scheme() == "http" {
            let plain = &self.plain[usize::from(direction == Direction::Up)];
            if let Some(client) = plain.get() {
                return Ok(client.clone());
            }
            let client = build(options, tls::unused(), (&host, direction))?;
            return Ok(plain.get_or_init(|| client).clone());
        }
        let name = if host == "registry-1.docker.io" { "docker.io" } else { host.as_str() };
        let config = self.settings(options, name)?;
        let has_settings =
            !config.ca.is_empty() || !config.keypair.is_empty() || config.insecure == Some(true);
        let key = (if has_settings { name } else { "" }.to_owned(), direction);
        let mut clients = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(options, tls::of_host(options, name, &config)?, (name, direction))?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// What holds for the TLS of a host; found out once.
    fn settings(&self, options: &ClientOptions, name: &str) -> Result<Arc<HostConfig>, RegistryError> {
        let mut known = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(name) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(tls::settings(options, name)?);
        known.insert(name.to_owned(), Arc::clone(&config));
        Ok(config)
    }
}

/// `host[:port]` of `url`, without the scheme's own port.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An error where `url` has a name and the machine has no resolver: the resolver's own default would ask a public
/// service, and tell it the names of private hosts.
pub(crate) fn check_resolver(url: &Url) -> Result<(), Cause> {
    let Some(url::Host::Domain(name)) = url.host() else { return Ok(()) };
    let is_listed = || table().contains_key(&name.to_ascii_lowercase());
    if is_loopback(name) || Path::new(RESOLVER_CONFIG).exists() || is_listed() {
        return Ok(());
    }
    Err(format!("there is no `{RESOLVER_CONFIG}` to resolve `{name}` with").into())
}

/// The names of the machine's own table with their addresses (hosts(5)): the resolver asks name servers first, and such
/// names are often known to none.
fn names_of(table: &str) -> BTreeMap<String, Vec<SocketAddr>> {
    let mut names: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
    for line in table.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            names.entry(name.to_ascii_lowercase()).or_default().push(SocketAddr::new(address, 0));
        }
    }
    names
}

fn table() -> BTreeMap<String, Vec<SocketAddr>> {
    // A machine without the table has no names of its own.
    names_of(&std::fs::read_to_string(HOSTS).unwrap_or_default())
}

fn build(
    options: &ClientOptions,
    tls: ClientConfig,
    (host, direction): (&str, Direction),
) -> Result<reqwest::Client, RegistryError> {
    let loopback = [([127, 0, 0, 1], 0).into(), (std::net::Ipv6Addr::LOCALHOST, 0).into()];
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // Parallel transfers get connections of their own: one connection's flow control would bind them together.
        .http1_only()
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(options.user_agent.clone())
        .connect_timeout(options.connect_timeout)
        .resolve_to_addrs("localhost", &loopback)
        .no_proxy();
    if direction == Direction::Down {
        builder = builder.read_timeout(options.idle_timeout);
    }
    for (name, addresses) in table() {
        builder = builder.resolve_to_addrs(&name, &addresses);
    }
    let proxies = &options.proxies;
    let exceptions = format!("localhost,127.0.0.0/8,::1,{}", proxies.no_proxy.as_deref().unwrap_or_default());
    let no_proxy = || reqwest::NoProxy::from_string(&exceptions);
    let malformed = |text: &str| RegistryError::Host { text: text.to_owned() };
    if let Some(address) = &proxies.http {
        let proxy = reqwest::Proxy::http(address).map_err(|_| malformed(address))?;
        builder = builder.proxy(proxy.no_proxy(no_proxy()));
    }
    if let Some(address) = &proxies.https {
        let proxy = reqwest::Proxy::https(address).map_err(|_| malformed(address))?;
        builder = builder.proxy(proxy.no_proxy(no_proxy()));
    }
    builder.build().map_err(|error| RegistryError::Unavailable {
        reference: host.to_owned(),
        host: host.to_owned(),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_table_is_read() {
        let hosts = "# 9.9.9.9 a\n127.0.0.1 localhost\n10.0.0.1\tregistry.test Other # a\n::1 registry.test\nbad other\n";
        let names = names_of(hosts);
        let of =
            |name| names.get(name).map(|list| list.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>());
        assert_eq!(of("registry.test"), Some(vec!["10.0.0.1".to_owned(), "::1".to_owned()]));
        assert_eq!(of("other"), Some(vec!["10.0.0.1".to_owned()]));
        assert_eq!(of("a"), None);
    }
}
