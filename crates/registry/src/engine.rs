//! Docker engines, as far as images are given to them: `POST /images/load` of their API, over a socket of this machine or
//! plain TCP.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio_util::io::ReaderStream;

/// Pieces in which an archive is sent.
const CHUNK_BYTES: usize = 256 << 10;
/// No answer to an image comes near this.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// A socket of this machine.
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

impl std::fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why an engine did not take an image.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It cannot be reached.
    #[error("the engine at `{address}` cannot be reached")]
    Unreachable {
        /// The engine.
        address: EngineAddress,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It refused the image.
    #[error("the engine at `{address}` refused the image: {message}")]
    Refused {
        /// The engine.
        address: EngineAddress,
        /// In its own words.
        message: String,
    },
    /// The archive cannot be read from where it is made.
    #[error("cannot hand over the image")]
    Pipe(#[source] std::io::Error),
}

/// A docker engine.
#[derive(Debug, Clone)]
pub struct Engine {
    client: reqwest::Client,
    address: EngineAddress,
}

/// A value of the stream that answers an image, or the answer of one that is refused.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Engine {
    /// The engine at an address, which is not asked anything yet.
    pub fn new(address: EngineAddress) -> Result<Self, EngineError> {
        // Nothing of it is used: an engine's names need no certificates.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the protocols")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut builder = reqwest::Client::builder().tls_backend_preconfigured(tls).http1_only().no_proxy();
        if let EngineAddress::Unix(path) = &address {
            builder = builder.unix_socket(path.as_path());
        }
        match builder.build() {
            Ok(client) => Ok(Self { client, address }),
            Err(source) => Err(EngineError::Unreachable { address, source }),
        }
    }

    fn url(&self, path: &str) -> String {
        match &self.address {
            EngineAddress::Unix(_) => format!("http://localhost{path}"),
            EngineAddress::Tcp(address) => format!("http://{address}{path}"),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> EngineError {
        EngineError::Unreachable { address: self.address.clone(), source: source.without_url() }
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let answer = self.client.get(self.url("/_ping")).send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status);
        answer.map(drop).map_err(|source| self.unreachable(source))
    }

    /// Gives it the archive that comes out of a pipe; the answer is what it says, a line for each image.
    pub async fn load(&self, archive: OwnedFd) -> Result<Vec<String>, EngineError> {
        let archive = pipe::Receiver::from_owned_fd(archive).map_err(EngineError::Pipe)?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(archive, CHUNK_BYTES));
        let request = self.client.post(self.url("/images/load?quiet=1"));
        let answer = request.header("Content-Type", "application/x-tar").body(body).send().await;
        let mut answer = answer.map_err(|source| self.unreachable(source))?;
        let is_success = answer.status().is_success();
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|source| self.unreachable(source))? {
            if text.len() < MAX_ANSWER_BYTES {
                text.extend_from_slice(&chunk);
            }
        }
        match said(&text) {
            Ok(lines) if is_success => Ok(lines),
            Ok(lines) => Err(self.refused(lines.join(" "))),
            Err(message) => Err(self.refused(message)),
        }
    }

    fn refused(&self, message: String) -> EngineError {
        EngineError::Refused { address: self.address.clone(), message }
    }
}

/// The lines of an answer, or what is wrong.
fn said(text: &[u8]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for answer in serde_json::Deserializer::from_slice(text).into_iter::<Answer>() {
        let Ok(answer) = answer else {
            // Old engines answer in plain words.
            lines.push(String::from_utf8_lossy(text).trim().to_owned());
            break;
        };
        if let Some(message) = answer.error.or(answer.message) {
            return Err(message.trim().to_owned());
        }
        let stream = answer.stream.unwrap_or_default();
        lines.extend(stream.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_lines_or_errors() {
        let loaded = b"{\"stream\":\"Loaded image: a:b\\n\"}\r\n{\"stream\":\"Loaded image: c:d\\n\"}\r\n";
        assert_eq!(said(loaded).unwrap(), ["Loaded image: a:b", "Loaded image: c:d"]);
        let failed =
            b"{\"status\":\"x\"}\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}";
        assert_eq!(said(failed).unwrap_err(), "no space");
        assert_eq!(said(b"{\"message\":\"bad request\"}").unwrap_err(), "bad request");
        assert_eq!(said(b"page not found").unwrap(), ["page not found"]);
        assert_eq!(said(b"").unwrap(), Vec::<String>::new());
    }
}
