//! Pushing bytes whose digest is known only at their end: a chunked upload.

use oci::{Descriptor, Digest, ImageReference};
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::body::{BlobSource, Body, SourcePart};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::send::{Failure, Retries, Retry};
use crate::session::{OCTETS, Standing, session_call, session_url, with_digest};

/// Less is not worth a request.
const LEAST_BYTES: u64 = 8 << 20;

/// An upload that goes on, while what is uploaded is still being made. Dropped without [`Upload::finish`] or
/// [`Upload::cancel`], the registry forgets it after a while.
#[derive(Debug)]
pub struct Upload {
    client: Client,
    endpoint: Endpoint,
    target: ImageReference,
    url: Url,
    least_bytes: u64,
    sent: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// Begins the upload of a blob to the repository of `target`.
    pub async fn start_upload(&self, target: &ImageReference) -> Result<Upload, RegistryError> {
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let permit = self.shared.lanes(&endpoint.host).uploads.acquire_owned().await.ok();
        let (url, least) = self.begin_upload(&endpoint, target).await?;
        Ok(Upload {
            client: self.clone(),
            endpoint,
            target: target.clone(),
            url,
            least_bytes: LEAST_BYTES.max(least.unwrap_or(0)),
            sent: 0,
            _permit: permit,
        })
    }
}

impl Upload {
    /// How much should be sent at once, at least, save in the end.
    pub fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// How much the registry has.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends what is between [`Upload::sent`] and `end` in `source`, which need not have more yet. After a failure that
    /// may pass the registry is asked how much has arrived, and the rest is sent.
    pub async fn send(&mut self, source: &BlobSource, end: u64) -> Result<(), RegistryError> {
        let client = self.client.clone();
        let start = self.sent;
        let mut retries = Retries::new(&client.shared);
        while self.sent < end {
            let mut call = session_call(&self.endpoint, &self.target, Method::PATCH, self.url.clone())
                .header(CONTENT_TYPE, OCTETS)
                .header(CONTENT_RANGE, &format!("{}-{}", self.sent, end - 1));
            let length = end - self.sent;
            call.body =
                Body::Source(SourcePart { source, watcher: None, digest: None, start: self.sent, length });
            match client.shared.send_once(&call).await {
                Ok(response) => {
                    let url = session_url(&call, &response)?;
                    (self.url, self.sent) = (url, end);
                }
                Err(failure) => {
                    let before = self.sent;
                    retries.pause(failure).await?;
                    self.find_out((start, end), &mut retries).await?;
                    // Failures count only while nothing moves.
                    if self.sent > before {
                        retries.forget();
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the upload of all that has been sent; the registry checks `digest`.
    pub async fn finish(self, digest: &Digest) -> Result<(), RegistryError> {
        let descriptor = Descriptor::new(OCTETS, digest.clone(), self.sent);
        let url = with_digest(self.url.clone(), &descriptor);
        let mut call = session_call(&self.endpoint, &self.target, Method::PUT, url);
        (call.what, call.kind) = (digest.to_string(), "blob");
        let mut retries = Retries::new(&self.client.shared);
        loop {
            let Err(failure) = self.client.shared.send_once(&call).await else { return Ok(()) };
            // The answer to a request that was carried out may have been lost.
            let is_there = self.client.blob_exists_at(&self.endpoint, &self.target, digest).await;
            if matches!(is_there, Ok(true)) {
                return Ok(());
            }
            retries.pause(failure).await?;
        }
    }

    /// Ends an upload that nobody wants any more.
    pub async fn cancel(self) {
        self.client.cancel(&self.endpoint, &self.target, self.url).await;
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
