//! Pushing bytes whose digest is known only at their end: a chunked upload.

use bytes::{Bytes, BytesMut};
use oci::{Descriptor, Digest, ImageReference};
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::body::Body;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::send::{Failure, Retries, Retry};
use crate::session::{OCTETS, Standing, session_call, session_url, with_digest};

/// How much is sent with one request. It stays in memory until the registry has it.
const CHUNK_BYTES: usize = 8 << 20;

/// An upload that goes on. Dropped without [`Upload::finish`], the registry forgets it after a while.
#[derive(Debug)]
pub struct Upload {
    client: Client,
    endpoint: Endpoint,
    target: ImageReference,
    url: Url,
    pending: BytesMut,
    chunk_bytes: usize,
    sent: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// Begins the upload of a blob to the repository of `target`.
    pub async fn start_upload(&self, target: &ImageReference) -> Result<Upload, RegistryError> {
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let permit = self.shared.lanes(&endpoint.host).uploads.acquire_owned().await.ok();
        let (url, least) = self.begin_upload(&endpoint, target).await?;
        let least = least.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        Ok(Upload {
            client: self.clone(),
            endpoint,
            target: target.clone(),
            url,
            pending: BytesMut::new(),
            chunk_bytes: CHUNK_BYTES.max(least),
            sent: 0,
            _permit: permit,
        })
    }
}

impl Upload {
    /// Adds `bytes`. They are sent once enough has gathered.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), RegistryError> {
        self.pending.extend_from_slice(&bytes);
        while self.pending.len() >= self.chunk_bytes {
            let chunk = self.pending.split_to(self.chunk_bytes).freeze();
            self.send_chunk(chunk).await?;
        }
        Ok(())
    }

    /// Sends the rest and ends the upload; the registry checks `digest`. The blob's size in bytes is returned.
    pub async fn finish(mut self, digest: &Digest) -> Result<u64, RegistryError> {
        let rest = self.pending.split().freeze();
        if !rest.is_empty() {
            self.send_chunk(rest).await?;
        }
        let descriptor = Descriptor::new(OCTETS, digest.clone(), self.sent);
        let url = with_digest(self.url.clone(), &descriptor);
        let mut call = session_call(&self.endpoint, &self.target, Method::PUT, url);
        (call.what, call.kind) = (digest.to_string(), "blob");
        let mut retries = Retries::new(&self.client.shared);
        loop {
            let Err(failure) = self.client.shared.send_once(&call).await else { return Ok(self.sent) };
            // The answer to a request that was carried out may have been lost.
            let is_there = self.client.blob_exists_at(&self.endpoint, &self.target, digest).await;
            if matches!(is_there, Ok(true)) {
                return Ok(self.sent);
            }
            retries.pause(failure).await?;
        }
    }

    /// Sends one chunk. After a failure the registry is asked how much of it has arrived.
    async fn send_chunk(&mut self, chunk: Bytes) -> Result<(), RegistryError> {
        let client = self.client.clone();
        let (start, end) = (self.sent, self.sent + chunk.len() as u64);
        let mut retries = Retries::new(&client.shared);
        while self.sent < end {
            let skip = usize::try_from(self.sent - start).unwrap_or(chunk.len());
            let mut call = session_call(&self.endpoint, &self.target, Method::PATCH, self.url.clone())
                .header(CONTENT_TYPE, OCTETS)
                .header(CONTENT_RANGE, &format!("{}-{}", self.sent, end - 1));
            call.body = Body::Bytes(chunk.slice(skip..));
            match client.shared.send_once(&call).await {
                Ok(response) => {
                    let url = session_url(&call, &response)?;
                    self.url = url;
                    self.sent = end;
                }
                Err(failure) => {
                    retries.pause(failure).await?;
                    self.find_out((start, end), &mut retries).await?;
                }
            }
        }
        Ok(())
    }

    /// Asks where the upload stands.
    async fn find_out(
        &mut self,
        (start, end): (u64, u64),
        retries: &mut Retries<'_>,
    ) -> Result<(), RegistryError> {
        let client = self.client.clone();
        let broken = |problem| {
            session_call(&self.endpoint, &self.target, Method::GET, self.url.clone()).protocol(problem)
        };
        loop {
            match client.standing(&self.endpoint, &self.target, &self.url).await {
                Ok(Standing { arrived, url }) if (start..=end).contains(&arrived) => {
                    (self.url, self.sent) = (url, arrived);
                    return Ok(());
                }
                Ok(Standing { arrived, .. }) => {
                    let problem = format!("it has {arrived} bytes of an upload of {start} to {end}");
                    return Err(broken(problem));
                }
                Err(Failure {
                    error: RegistryError::NotFound { .. } | RegistryError::Status { .. },
                    retry: Retry::Never,
                }) => {
                    return Err(broken("it forgot an upload that broke off".to_owned()));
                }
                Err(failure) => retries.pause(failure).await?,
            }
        }
    }
}
