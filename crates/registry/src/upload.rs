//! Pushing bytes whose digest is known only at their end: a chunked upload.

use bytes::{Bytes, BytesMut};
use oci::{Descriptor, Digest, ImageReference};
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::push::{OCTETS, upload_location, with_digest};
use crate::send::{Body, Call, Retries, Target};

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
        let mut call = Call::new(&self.endpoint, &self.target, Method::PUT, "blobs/");
        call.what = digest.to_string();
        call.target = Target::Url(with_digest(self.url.clone(), &descriptor));
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
            let mut call = Call::new(&self.endpoint, &self.target, Method::PATCH, "blobs/uploads")
                .header(CONTENT_TYPE, OCTETS)
                .header(CONTENT_RANGE, &format!("{}-{}", self.sent, end - 1));
            call.target = Target::Url(self.url.clone());
            call.body = Body::Bytes(chunk.slice(skip..));
            match client.shared.send_once(&call).await {
                Ok(response) => {
                    let url = upload_location(&call, &response)?;
                    self.url = url;
                    self.sent = end;
                }
                Err(failure) => {
                    retries.pause(failure).await?;
                    self.look_up(start, end).await?;
                }
            }
        }
        Ok(())
    }

    /// Asks where the upload stands.
    async fn look_up(&mut self, start: u64, end: u64) -> Result<(), RegistryError> {
        let mut call = Call::new(&self.endpoint, &self.target, Method::GET, "blobs/uploads");
        call.target = Target::Url(self.url.clone());
        call.scopes = vec![crate::send::scope(&self.endpoint, &self.target, "pull,push")];
        let response = self.client.shared.send(&call).await?;
        let url = upload_location(&call, &response)?;
        let arrived = arrived(response.headers());
        if !(start..=end).contains(&arrived) {
            return Err(call.protocol(format!("it has {arrived} bytes of an upload of {start} to {end}")));
        }
        self.url = url;
        self.sent = arrived;
        Ok(())
    }
}

/// How many bytes `Range: 0-last` stands for. Nothing at all is `0-0` too, which a chunk of one byte would be as well:
/// one byte more or less is then found out by the digest.
fn arrived(headers: &HeaderMap) -> u64 {
    let last = headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.rsplit('-').next())
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    if last == 0 { 0 } else { last + 1 }
}
