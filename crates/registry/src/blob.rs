//! Blobs: look up, and fetch as a stream that is verified and survives broken connections.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use oci::{Descriptor, Digest, Hasher, ImageReference};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{HostFailure, RegistryError};
use crate::manifest::{all_failed, check_algorithm, note};
use crate::send::{Call, Target};

/// The largest blob that is read into memory (configs).
const MAX_BYTES_IN_MEMORY: u64 = 16 << 20;

/// A blob on its way. Not all of it is verified before [`BlobStream::chunk`] has returned `None`: whoever keeps what came
/// before must throw it away after an error.
pub struct BlobStream {
    client: Client,
    place: Place,
    /// Where else it can be had.
    others: VecDeque<Place>,
    /// Why the places before did not give all of it.
    given_up: Vec<HostFailure>,
    reference: ImageReference,
    descriptor: Descriptor,
    response: Option<Response>,
    received: u64,
    /// Bytes of the current answer that have been received before (a registry that does not know ranges).
    skip: u64,
    /// `received` when the connection broke the last time.
    broken_at: Option<u64>,
    failures: u32,
    hasher: Option<Hasher>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Where a blob is fetched from.
#[derive(Debug, Clone)]
struct Place {
    endpoint: Endpoint,
    /// The address, where it is no registry's.
    url: Option<Url>,
}

impl Place {
    /// A request for the blob of `digest`.
    fn call<'a>(&'a self, reference: &'a ImageReference, digest: &Digest) -> Call<'a> {
        let mut call = Call::new(&self.endpoint, reference, Method::GET, &format!("blobs/{digest}"));
        if let Some(url) = &self.url {
            call.target = Target::Foreign(url.clone());
        }
        call
    }
}

impl Client {
    /// Whether the repository of `reference` has the blob. Mirrors are not asked: this is for pushes.
    pub async fn blob_exists(
        &self,
        reference: &ImageReference,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let endpoint = Endpoint::origin(reference, &self.shared.options.hosts);
        self.blob_exists_at(&endpoint, reference, digest).await
    }

    pub(crate) async fn blob_exists_at(
        &self,
        endpoint: &Endpoint,
        reference: &ImageReference,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let mut call = Call::new(endpoint, reference, Method::HEAD, &format!("blobs/{digest}"));
        call.also = &[404];
        // The token that a push needs anyway; else the first upload would fetch a second one.
        call.scopes = vec![crate::send::scope(endpoint, reference, "pull,push")];
        let response = self.shared.send(&call).await?;
        Ok(response.status().is_success())
    }

    /// Begins to fetch a blob of the repository of `reference`; its mirrors are asked first, and the addresses in the
    /// descriptor last ("foreign" layers are at these alone). Bodies that break off are resumed; the digest and the size
    /// of `descriptor` are checked.
    pub async fn fetch_blob(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, RegistryError> {
        check_algorithm(reference, &descriptor.digest)?;
        let registries = Endpoint::for_pull(reference, &self.shared.options.hosts)?;
        let registries = registries.into_iter().map(|endpoint| Place { endpoint, url: None });
        let addresses = descriptor.urls.iter().filter_map(|text| {
            let url = Url::parse(text).ok()?;
            Some(Place { endpoint: Endpoint::other_server(&url)?, url: Some(url) })
        });
        let mut others: VecDeque<Place> = registries.chain(addresses).collect();
        let mut failures = Vec::new();
        while let Some(place) = others.pop_front() {
            let permit = self.shared.lanes(&place.endpoint.host).downloads.acquire_owned().await.ok();
            let sent = self.shared.send(&place.call(reference, &descriptor.digest)).await;
            match sent {
                Ok(response) => {
                    return Ok(BlobStream {
                        client: self.clone(),
                        place,
                        others,
                        given_up: failures,
                        reference: reference.clone(),
                        descriptor: descriptor.clone(),
                        response: Some(response),
                        received: 0,
                        skip: 0,
                        broken_at: None,
                        failures: 0,
                        hasher: Some(Hasher::new()),
                        _permit: permit,
                    });
                }
                Err(error) => note(&mut failures, &place.endpoint, error)?,
            }
        }
        Err(all_failed(reference, failures))
    }

    /// A whole small blob (an image config), verified.
    pub async fn fetch_blob_bytes(
        &self,
        reference: &ImageReference,
        descriptor: &Descriptor,
    ) -> Result<Bytes, RegistryError> {
        if descriptor.size > MAX_BYTES_IN_MEMORY {
            return Err(RegistryError::TooLarge {
                reference: reference.to_string(),
                host: reference.registry().to_owned(),
                what: descriptor.digest.to_string(),
                limit: MAX_BYTES_IN_MEMORY,
            });
        }
        let mut stream = self.fetch_blob(reference, descriptor).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

impl BlobStream {
    /// Leaves the check of the digest to the caller, who computes it anyway. The size is still checked.
    #[must_use]
    pub fn without_digest_check(mut self) -> Self {
        self.hasher = None;
        self
    }

    /// How many bytes have come, of [`Descriptor::size`].
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next bytes; `None` once all have come and the size and the digest are right.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(response) = &mut self.response else { return Ok(None) };
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    if let Some(bytes) = self.accept(bytes)? {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) if self.received == self.descriptor.size => return self.finish().map(|()| None),
                Ok(None) => self.resume(self.wrong_size(self.received)).await?,
                Err(error) => {
                    let call = self.place.call(&self.reference, &self.descriptor.digest);
                    let failure = call.disconnected(call.host(), &error);
                    self.resume(failure.error).await?;
                }
            }
        }
    }

    /// Counts and hashes what is new in `bytes`.
    fn accept(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(known);
        self.skip -= known as u64;
        if bytes.is_empty() {
            return Ok(None);
        }
        let received = self.received + bytes.len() as u64;
        if received > self.descriptor.size {
            return Err(self.wrong_size(received));
        }
        self.received = received;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        Ok(Some(bytes))
    }

    fn finish(&mut self) -> Result<(), RegistryError> {
        self.response = None;
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let actual = hasher.finish();
        if actual == self.descriptor.digest {
            return Ok(());
        }
        Err(RegistryError::DigestMismatch {
            reference: self.reference.to_string(),
            host: self.place.endpoint.host.clone(),
            expected: self.descriptor.digest.clone(),
            actual,
        })
    }

    fn wrong_size(&self, actual: u64) -> RegistryError {
        RegistryError::WrongSize {
            reference: self.reference.to_string(),
            host: self.place.endpoint.host.clone(),
            digest: self.descriptor.digest.clone(),
            expected: self.descriptor.size,
            actual,
        }
    }

    /// Asks for the rest after the body broke off: where it came from, and where else it can be had once that has failed
    /// for good.
    async fn resume(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let mut error = match self.resume_here(error).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        while let Some(place) = self.others.pop_front() {
            let before = std::mem::replace(&mut self.place, place);
            note(&mut self.given_up, &before.endpoint, error)?;
            (self.broken_at, self.failures) = (None, 0);
            error = match self.ask_for_rest().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
        }
        note(&mut self.given_up, &self.place.endpoint, error)?;
        Err(all_failed(&self.reference, std::mem::take(&mut self.given_up)))
    }

    /// Failures count only while nothing comes, so that a long transfer over a bad line gets through, and one that does
    /// not move ends.
    async fn resume_here(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.response = None;
        if self.broken_at.is_some_and(|at| self.received > at) {
            self.failures = 0;
        }
        self.broken_at = Some(self.received);
        self.failures += 1;
        let retry = &self.client.shared.options.retry;
        let Some(delay) = retry.pause(self.failures, None) else { return Err(error) };
        tracing::debug!(%error, received = self.received, "resuming a blob");
        tokio::time::sleep(delay).await;
        self.ask_for_rest().await
    }

    async fn ask_for_rest(&mut self) -> Result<(), RegistryError> {
        let mut call = self.place.call(&self.reference, &self.descriptor.digest);
        call.also = &[416];
        if self.received > 0 {
            call = call.header(RANGE, &format!("bytes={}-", self.received));
        }
        let response = self.client.shared.send(&call).await?;
        match response.status().as_u16() {
            206 if range_start(&response) == Some(self.received) => self.skip = 0,
            206 => return Err(call.protocol("it sent another range than it was asked for")),
            // Nothing is left after what came, but more should be.
            416 => return Err(self.wrong_size(self.received)),
            _ => self.skip = self.received,
        }
        self.response = Some(response);
        Ok(())
    }
}

/// The first byte in `Content-Range: bytes first-last/size`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("reference", &self.reference)
            .field("descriptor", &self.descriptor)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
