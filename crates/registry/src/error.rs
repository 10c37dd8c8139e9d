//! Why a registry did not do what it was asked.

use std::fmt;
use std::io;
use std::path::PathBuf;

use oci::Digest;

use crate::credentials::CredentialError;

/// The error below a failed HTTP exchange.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a registry did not do what it was asked. `reference` is always the image as a person knows it, `host` the host
/// that was really spoken to (a mirror, or `registry-1.docker.io` for docker.io).
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No server may be spoken to.
    #[error("`{host}` would have to be asked, and `--offline` forbids it")]
    Offline {
        /// The host.
        host: String,
    },
    /// 404: no such repository, tag, manifest or blob.
    #[error("`{what}` of `{reference}` was not found in the registry `{host}`{}", colon(message))]
    NotFound {
        /// The image.
        reference: String,
        /// The tag, manifest digest or blob digest that was asked for.
        what: String,
        /// The host.
        host: String,
        /// What the registry says about it; may be empty.
        message: String,
    },
    /// 401, also with the credentials there are, or none are known.
    #[error("401 unauthorized: `{host}` wants credentials for `{reference}`{}{}", refused(*had_credentials), colon(message))]
    Unauthorized {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// Whether credentials were sent and refused.
        had_credentials: bool,
        /// What the registry says about it; may be empty.
        message: String,
    },
    /// 403, or a token without the rights that are needed.
    #[error("`{host}` denies access to `{reference}`{}", colon(message))]
    Denied {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What the registry says about it; may be empty.
        message: String,
    },
    /// No connection to the host.
    #[error("the registry `{host}` cannot be reached for `{reference}`")]
    Unavailable {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What went wrong with the connection.
        #[source]
        source: Cause,
    },
    /// The connection broke, every time.
    #[error("the connection to `{host}` broke at {request} of `{reference}`")]
    Broken {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What was asked (`GET manifest`).
        request: String,
        /// What went wrong with it.
        #[source]
        source: Cause,
    },
    /// The host's certificate is not right.
    #[error("the certificate of `{host}` cannot be accepted, for `{reference}`: {problem}")]
    BadCertificate {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody who is known has signed the host's certificate.
    #[error("the certificate of `{host}` is not trusted, for `{reference}`: {problem}")]
    Untrusted {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The host speaks HTTP where TLS was expected.
    #[error("`{host}` speaks HTTP without TLS, and `{reference}` was asked for with TLS")]
    PlainHttp {
        /// The image.
        reference: String,
        /// The host.
        host: String,
    },
    /// The host wants a client certificate, or another one.
    #[error("`{host}` wants a client certificate that it trusts, for `{reference}`")]
    ClientCertificate {
        /// The image.
        reference: String,
        /// The host.
        host: String,
    },
    /// 429, still after waiting, or with a longer wait than is sensible.
    #[error("`{host}` limits the rate of requests for `{reference}`{}{}", wait(*retry_after_seconds), colon(message))]
    RateLimited {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// How long the registry wants us to wait.
        retry_after_seconds: Option<u64>,
        /// What the registry says about it; may be empty.
        message: String,
    },
    /// Any other answer that is not a success.
    #[error("`{host}` answered {status} to {request} of `{reference}`{}", colon(message))]
    Status {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What was asked (`GET manifest`).
        request: String,
        /// The status code.
        status: u16,
        /// What the registry says about it; may be empty.
        message: String,
    },
    /// The content is not what its digest says.
    #[error("`{host}` sent content of digest `{actual}` for `{expected}` of `{reference}`")]
    DigestMismatch {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The content is longer or shorter than its descriptor says, also after asking again.
    #[error("`{host}` sent {actual} bytes for the {expected} bytes of `{digest}` of `{reference}`")]
    WrongSize {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What was asked for.
        digest: Digest,
        /// The size in the descriptor, in bytes.
        expected: u64,
        /// How many bytes came.
        actual: u64,
    },
    /// A document is longer than any that is accepted.
    #[error("`{what}` of `{reference}` from `{host}` is longer than {limit} bytes")]
    TooLarge {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The answer does not follow the protocol.
    #[error("the answer of `{host}` for `{reference}` cannot be used: {problem}")]
    Protocol {
        /// The image.
        reference: String,
        /// The host.
        host: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The digest's algorithm cannot be computed here.
    #[error("`{digest}` of `{reference}` has an algorithm that is not supported")]
    Algorithm {
        /// The image.
        reference: String,
        /// The digest.
        digest: Digest,
    },
    /// None of several hosts had it.
    #[error("`{reference}` could not be had: {}", attempts(.failures))]
    AllHosts {
        /// The image.
        reference: String,
        /// Each host with its reason, in the order they were asked.
        failures: Vec<HostFailure>,
    },
    /// Credentials could not be read.
    #[error("the credentials for `{host}` cannot be read")]
    Credentials {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// A certificate or key that is configured cannot be used.
    #[error("`{}` cannot be used for TLS with `{host}`", path.display())]
    Certificate {
        /// The host.
        host: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A host or mirror of the configuration is not usable.
    #[error("`{text}` is not a registry host")]
    Host {
        /// The text.
        text: String,
    },
    /// The bytes that should be pushed could not be read.
    #[error("cannot read {blob} for the push to `{reference}`")]
    Source {
        /// The image.
        reference: String,
        /// What could not be read.
        blob: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One host that could not serve a request, and why.
#[derive(Debug)]
pub struct HostFailure {
    /// The host.
    pub host: String,
    /// Why.
    pub error: RegistryError,
}

impl RegistryError {
    /// Whether every host that was asked says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::AllHosts { failures, .. } => failures.iter().all(|failure| failure.error.is_not_found()),
            _ => false,
        }
    }

    /// What a person can do about it, where that is known: a sentence without capital and period.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { what, .. } if what.contains(':') => {
                Some("the registry may have lost it: pull another tag, or push the image again".to_owned())
            }
            Self::NotFound { .. } => Some("check the name and the tag".to_owned()),
            Self::Unauthorized { host, had_credentials: false, .. } => {
                Some(format!("log in with `docker login {host}`; rbuild reads docker's config.json"))
            }
            Self::Unauthorized { host, had_credentials: true, .. } => Some(format!(
                "the credentials in docker's config.json may be out of date: `docker login {host}`"
            )),
            Self::Denied { .. } => {
                Some("the repository may not exist, or this account may not do that".to_owned())
            }
            Self::Unavailable { host, .. } => {
                Some(format!("check that `{host}` runs and can be reached, or set a mirror in config.toml"))
            }
            Self::Broken { host, .. } => Some(format!(
                "try again, or look for what ends connections to `{host}` (a proxy, a time limit)"
            )),
            Self::Untrusted { host, .. } => Some(format!(
                "put its authority into /etc/docker/certs.d/{host}/ca.crt, or name it with `ca` in \
                 `[registry.\"{host}\"]` of config.toml; `insecure = true` there accepts any certificate"
            )),
            Self::BadCertificate { host, .. } => Some(format!(
                "the registry needs another one; `insecure = true` in `[registry.\"{host}\"]` of config.toml accepts \
                 any certificate"
            )),
            Self::Status { status: 400, message, host, .. } if message.contains("HTTPS server") => {
                Some(format!("it speaks TLS: take `http = true` out of `[registry.\"{host}\"]`"))
            }
            Self::Status { status: 409, .. } => {
                Some("the tag may be one that cannot be overwritten: push under another one".to_owned())
            }
            Self::Status { status: 413, .. } => {
                Some("the registry, or a proxy before it, has a limit for the size of requests".to_owned())
            }
            Self::Status { status: 408 | 500.., .. } => {
                Some("the registry, or a proxy before it, has trouble of its own: try again later".to_owned())
            }
            Self::PlainHttp { host, .. } => {
                Some(format!("set `http = true` in `[registry.\"{host}\"]` of config.toml"))
            }
            Self::ClientCertificate { host, .. } => Some(format!(
                "put it into /etc/docker/certs.d/{host}/client.cert and client.key, or name it with `keypair` in \
                 `[registry.\"{host}\"]` of config.toml"
            )),
            Self::Credentials { source, .. } => source.hint(),
            Self::RateLimited { .. } => {
                Some("wait, log in to get a higher limit, or set a mirror in config.toml".to_owned())
            }
            Self::DigestMismatch { .. } | Self::WrongSize { .. } => {
                Some("the registry's copy is damaged, or something between changes what it sends".to_owned())
            }
            Self::AllHosts { failures, .. } => failures.last().and_then(|failure| failure.error.hint()),
            _ => None,
        }
    }

    /// Whether asking another host (the next mirror) is worth while. Everything but a mistake of our own is.
    pub(crate) fn is_about_the_host(&self) -> bool {
        !matches!(
            self,
            Self::Offline { .. } | Self::Algorithm { .. } | Self::Host { .. } | Self::Source { .. }
        )
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = std::error::Error::source(&self.error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn attempts(failures: &[HostFailure]) -> String {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn refused(had_credentials: bool) -> &'static str {
    if had_credentials { " and refuses those it got" } else { "" }
}

pub(crate) fn colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn wait(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| format!(" and wants a pause of {seconds} s"))
}
