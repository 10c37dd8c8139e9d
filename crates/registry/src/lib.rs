//! A client of container registries (OCI distribution spec 1.1; Docker's registry HTTP API v2): resolve, pull, push
//! and authenticate.
//!
//! ```text
//! Client ─ endpoints (mirrors, then the host) ─ requests (authentication, redirects, retries) ─ HTTP
//! ```
//!
//! Everything is verified before it is handed out: manifests as a whole, blobs as they stream past. A body that
//! breaks off is resumed where it ended; requests that failed for a passing reason are repeated, with back-off and
//! within bounds. Files of other HTTP servers ([`Client::fetch`]) are fetched in the same way.
//!
//! It is an own client on `reqwest` and not a layer over `oci-client`: retries with `Retry-After`, resumed
//! downloads, mirrors, credential helpers, uploads that can be repeated and mounts that are answered with 202 all lie
//! beneath the calls which that crate offers. What would be left of it are a few URLs and a token request.
//!
//! What is deliberately absent: images (which manifest of an index, which layers: that is `worker` and `exporter`),
//! files of the store, the environment. Proxies, certificates and the path of docker's configuration are given by the
//! caller. Nothing is opened or read before the first request that needs it: the start of the process stays cheap.

mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod config;
mod connection;
mod credentials;
mod endpoint;
mod engine;
mod error;
mod fetch;
mod manifest;
mod post;
mod push;
mod retry;
mod send;
mod session;
mod tls;
mod transport;
mod upload;

pub use blob::BlobStream;
pub use body::{BlobSource, OpenFuture, Watcher};
pub use client::{Client, ClientOptions, Limits, Proxies, SYSTEM_CA_FILES};
pub use config::{HostConfig, HostConfigs, KeyPair};
pub use credentials::{Credential, CredentialError, CredentialStore};
pub use engine::{Engine, EngineAddress, EngineError};
pub use error::{HostFailure, RegistryError};
pub use fetch::{
    FetchError, FetchRequest, Fetched, OnBytes, Validators, basic_authorization, redacted, url_authorization,
};
pub use manifest::Resolved;
pub use post::{PostError, PostRequest};
pub use push::{PushBlob, Pushed};
pub use retry::RetryPolicy;
pub use upload::Upload;
