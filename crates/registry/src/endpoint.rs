//! Which hosts serve a reference, and at which addresses.

use std::net::IpAddr;

use oci::ImageReference;
use url::Url;

use crate::config::HostConfigs;
use crate::error::RegistryError;
use crate::transport::authority;

/// The registry that `docker.io` stands for.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A host that serves the registry API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`, as it is connected to.
    pub(crate) host: String,
    /// The host's name in configuration and credentials (`docker.io` for Docker Hub).
    pub(crate) configured_as: String,
    /// How to speak to it, in the order in which it is tried.
    pub(crate) schemes: Vec<Scheme>,
    /// What stands before the repository in paths: empty, or `prefix/`.
    pub(crate) prefix: String,
    /// The registry that a mirror stands in for (`ns` in the query).
    pub(crate) mirror_of: Option<String>,
}

/// How to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Endpoint {
    /// The registry of `reference` itself: for pushes, and the last resort of pulls.
    pub(crate) fn origin(reference: &ImageReference, configs: &HostConfigs) -> Self {
        let name = reference.registry();
        let host = if name == DOCKER_HUB { DOCKER_HUB_HOST } else { name };
        Self {
            host: host.to_owned(),
            configured_as: name.to_owned(),
            schemes: schemes(name, configs),
            prefix: String::new(),
            mirror_of: None,
        }
    }

    /// All hosts that are asked for `reference`: its mirrors in their order, then the registry itself.
    pub(crate) fn for_pull(
        reference: &ImageReference,
        configs: &HostConfigs,
    ) -> Result<Vec<Self>, RegistryError> {
        let mut endpoints = Vec::new();
        for mirror in configs.host(reference.registry()).mirrors {
            endpoints.push(Self::mirror(&mirror, reference.registry(), configs)?);
        }
        endpoints.push(Self::origin(reference, configs));
        Ok(endpoints)
    }

    /// The server of `url`, which is no registry; `None` if it does not speak HTTP.
    pub(crate) fn other_server(url: &Url) -> Option<Self> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = authority(url);
        Some(Self {
            configured_as: host.clone(),
            host,
            schemes: vec![scheme],
            prefix: String::new(),
            mirror_of: None,
        })
    }

    fn mirror(text: &str, of: &str, configs: &HostConfigs) -> Result<Self, RegistryError> {
        let malformed = || RegistryError::Host { text: text.to_owned() };
        let (fixed, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(malformed()),
            None => (None, text),
        };
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let host = if name == DOCKER_HUB { DOCKER_HUB_HOST } else { name };
        let url = Url::parse(&format!("https://{host}/v2/{path}")).map_err(|_| malformed())?;
        // An empty host would make a host of the path.
        if !url.path().starts_with("/v2/") {
            return Err(malformed());
        }
        Ok(Self {
            host: host.to_owned(),
            configured_as: name.to_owned(),
            schemes: fixed.map_or_else(|| schemes(name, configs), |scheme| vec![scheme]),
            prefix: if path.is_empty() { String::new() } else { format!("{path}/") },
            mirror_of: Some(of.to_owned()),
        })
    }

    /// The repository's name at this host.
    pub(crate) fn repository(&self, reference: &ImageReference) -> String {
        format!("{}{}", self.prefix, reference.repository())
    }

    /// The address of `tail` (`manifests/latest`) in the repository of `reference`.
    pub(crate) fn url(
        &self,
        scheme: Scheme,
        reference: &ImageReference,
        tail: &str,
    ) -> Result<Url, RegistryError> {
        let text = format!("{}://{}/v2/{}/{tail}", scheme.as_str(), self.host, self.repository(reference));
        let mut url = Url::parse(&text).map_err(|_| RegistryError::Host { text: self.host.clone() })?;
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// The address that says whether this is a registry.
    pub(crate) fn base_url(&self, scheme: Scheme) -> Result<Url, RegistryError> {
        Url::parse(&format!("{}://{}/v2/", scheme.as_str(), self.host))
            .map_err(|_| RegistryError::Host { text: self.host.clone() })
    }
}

/// `http` of the configuration decides; else loopback hosts are tried with HTTP first, hosts with `insecure` with
/// HTTPS first, and all others speak HTTPS alone.
fn schemes(name: &str, configs: &HostConfigs) -> Vec<Scheme> {
    let config = configs.host(name);
    match config.http {
        Some(true) => vec![Scheme::Http],
        None if is_loopback(name) => vec![Scheme::Http, Scheme::Https],
        None if config.insecure == Some(true) => vec![Scheme::Https, Scheme::Http],
        Some(false) | None => vec![Scheme::Https],
    }
}

/// Whether `host` (`host[:port]`) is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The name or address in `host[:port]`, an IPv6 address without its brackets.
pub(crate) fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostConfig;

    fn configs(entries: &[(&str, HostConfig)]) -> HostConfigs {
        let hosts = entries.iter().map(|(host, config)| ((*host).to_owned(), config.clone()));
        hosts.collect::<std::collections::BTreeMap<_, _>>().into()
    }

    fn urls(reference: &str, configs: &HostConfigs) -> Vec<String> {
        let reference = reference.parse().unwrap();
        let endpoints = Endpoint::for_pull(&reference, configs).unwrap();
        let all = endpoints.iter().flat_map(|endpoint| {
            let reference = &reference;
            endpoint
                .schemes
                .iter()
                .map(move |scheme| endpoint.url(*scheme, reference, "manifests/x").unwrap().to_string())
        });
        all.collect()
    }

    #[test]
    fn docker_hub_has_another_host() {
        assert_eq!(
            urls("busybox", &HostConfigs::default()),
            ["https://registry-1.docker.io/v2/library/busybox/manifests/x"]
        );
    }

    #[test]
    fn loopback_speaks_http_first() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.0.1", "[::1]:5000"] {
            let expected = ["http", "https"].map(|scheme| format!("{scheme}://{host}/v2/a/manifests/x"));
            assert_eq!(urls(&format!("{host}/a"), &HostConfigs::default()), expected);
        }
        assert_eq!(
            urls("10.0.0.1:5000/a", &HostConfigs::default()),
            ["https://10.0.0.1:5000/v2/a/manifests/x"]
        );
    }

    #[test]
    fn mirrors_come_first_with_their_own_settings() {
        let mirrors =
            ["m.example:5000/sub/path", "https://t.example"].map(str::to_owned).into_iter().collect();
        let configs = configs(&[
            ("docker.io", HostConfig { mirrors, ..HostConfig::default() }),
            ("m.example:5000", HostConfig { http: Some(true), ..HostConfig::default() }),
        ]);
        assert_eq!(
            urls("busybox", &configs),
            [
                "http://m.example:5000/v2/sub/path/library/busybox/manifests/x?ns=docker.io",
                "https://t.example/v2/library/busybox/manifests/x?ns=docker.io",
                "https://registry-1.docker.io/v2/library/busybox/manifests/x",
            ]
        );
    }

    #[test]
    fn insecure_hosts_fall_back_to_http() {
        let configs = configs(&[("r.example", HostConfig { insecure: Some(true), ..HostConfig::default() })]);
        assert_eq!(
            urls("r.example/a", &configs),
            ["https://r.example/v2/a/manifests/x", "http://r.example/v2/a/manifests/x"]
        );
    }

    #[test]
    fn a_mirror_that_is_no_host_is_an_error() {
        for text in ["ftp://x", "a b", ":5000", ""] {
            let config = HostConfig { mirrors: vec![text.to_owned()], ..HostConfig::default() };
            let configs = configs(&[("docker.io", config)]);
            let error = Endpoint::for_pull(&"busybox".parse().unwrap(), &configs).unwrap_err();
            assert_eq!(error.to_string(), format!("`{text}` is not a registry host"));
        }
    }
}
