//! Pushing blobs whose digest is known.

use oci::{Descriptor, ImageReference};
use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use url::Url;

use crate::body::{BlobSource, Body, SourcePart, Watcher};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::send::{Failure, Retries, Retry};
use crate::session::{Begun, OCTETS, session_call, session_url, with_digest};

/// How much is sent with one request to a registry that refuses larger ones.
const CHUNK_BYTES: u64 = 16 << 20;

/// A blob that should be in a repository.
#[derive(Debug, Clone)]
pub struct PushBlob {
    /// The image that it is for; its registry and repository count.
    pub target: ImageReference,
    /// The blob's digest and size.
    pub descriptor: Descriptor,
    /// Repositories of the same registry that may have it already (`library/busybox`); it is mounted from the first
    /// one that does.
    pub mount_from: Vec<String>,
    /// Its bytes.
    pub source: BlobSource,
    /// Who is told how far it has got.
    pub watcher: Watcher,
}

/// How a blob came into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// From another repository, without its bytes travelling.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Client {
    /// Puts a blob into the repository of `push.target`, unless it is there. After a failure that may pass, the registry
    /// is asked how much it has, and the rest is sent; a registry that keeps nothing of what broke off gets all of it
    /// again.
    pub async fn push_blob(&self, push: &PushBlob) -> Result<Pushed, RegistryError> {
        let target = &push.target;
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let _permit = self.shared.lanes(&endpoint.host).uploads.acquire_owned().await.ok();
        match self.blob_exists_at(&endpoint, target, &push.descriptor.digest).await {
            Ok(true) => return Ok(Pushed::Existed),
            // An answer to HEAD has no text: that to the upload says why.
            Ok(false) | Err(RegistryError::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut transfer = Transfer::new(self, &endpoint, push);
        let mut retries = Retries::new(&self.shared);
        loop {
            let failure = match transfer.attempt().await {
                Ok(pushed) => return Ok(pushed),
                Err(failure) => failure,
            };
            if transfer.may_do_otherwise(&failure) {
                continue;
            }
            let before = transfer.at;
            retries.pause(failure).await?;
            if transfer.find_out(&mut retries).await? {
                return Ok(Pushed::Uploaded);
            }
            // Failures count only while nothing moves, so that a large blob gets through a bad line.
            if transfer.at > before {
                retries.forget();
            }
        }
    }

    /// Mounts a blob of another repository of the same registry; `false` where the registry does not. (A registry that
    /// answers 202 has begun an upload instead, which is cancelled.)
    pub async fn mount_blob(
        &self,
        target: &ImageReference,
        descriptor: &Descriptor,
        from_repository: &str,
    ) -> Result<bool, RegistryError> {
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let mut retries = Retries::new(&self.shared);
        loop {
            match self.begin(&endpoint, target, Some((descriptor, from_repository))).await {
                Ok(Begun::Mounted) => return Ok(true),
                Ok(Begun::Session(url)) => {
                    self.cancel(&endpoint, target, url).await;
                    return Ok(false);
                }
                // The other repository may be one that we must not read, or that is not there.
                Err(Failure {
                    error:
                        RegistryError::Denied { .. }
                        | RegistryError::NotFound { .. }
                        | RegistryError::Unauthorized { .. },
                    ..
                }) => return Ok(false),
                Err(failure) => retries.pause(failure).await?,
            }
        }
    }
}

/// The way of a blob to a registry.
struct Transfer<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    push: &'a PushBlob,
    /// Where a mount is still worth asking for.
    mount_from: &'a [String],
    /// The session that goes on.
    session: Option<Url>,
    /// How much of the blob the registry has.
    at: u64,
    /// Whether a part came by another request than the rest.
    in_parts: bool,
    /// The most that is sent with one request.
    longest: u64,
    /// Whether parts did not make the blob once.
    began_anew: bool,
}

impl<'a> Transfer<'a> {
    fn new(client: &'a Client, endpoint: &'a Endpoint, push: &'a PushBlob) -> Self {
        Self {
            client,
            endpoint,
            push,
            mount_from: &push.mount_from,
            session: None,
            at: 0,
            in_parts: false,
            longest: u64::MAX,
            began_anew: false,
        }
    }

    fn size(&self) -> u64 {
        self.push.descriptor.size
    }

    /// Sends what is missing: all of it with one request, what is left after a failure with a second one.
    async fn attempt(&mut self) -> Result<Pushed, Failure> {
        if self.session.is_none() {
            let Some(url) = self.begin().await? else { return Ok(Pushed::Mounted) };
            self.session = Some(url);
            (self.at, self.in_parts) = (0, false);
        }
        while self.at < self.size() && (self.in_parts || self.size() > self.longest) {
            self.in_parts = true;
            self.send_part().await?;
        }
        let Some(url) = self.session.clone() else { return Ok(Pushed::Uploaded) };
        let url = with_digest(url, &self.push.descriptor);
        let mut call = session_call(self.endpoint, &self.push.target, Method::PUT, url);
        call.what = self.push.descriptor.digest.to_string();
        call.kind = "blob";
        if !self.in_parts {
            call = call.header(CONTENT_TYPE, OCTETS);
            call.body = Body::Source(self.part(self.size()));
        }
        self.client.shared.send_once(&call).await?;
        Ok(Pushed::Uploaded)
    }

    fn part(&self, length: u64) -> SourcePart<'a> {
        let PushBlob { source, watcher, descriptor, .. } = self.push;
        SourcePart {
            source,
            watcher: Some(watcher),
            digest: Some(&descriptor.digest),
            start: self.at,
            length,
        }
    }

    async fn send_part(&mut self) -> Result<(), Failure> {
        let Some(url) = self.session.clone() else { return Ok(()) };
        let length = self.longest.min(self.size() - self.at);
        let mut call = session_call(self.endpoint, &self.push.target, Method::PATCH, url)
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_RANGE, &format!("{}-{}", self.at, self.at + length - 1));
        call.body = Body::Source(self.part(length));
        let response = self.client.shared.send_once(&call).await?;
        self.session = Some(session_url(&call, &response)?);
        self.at += length;
        Ok(())
    }

    /// A session; `None` where the blob was mounted instead. What could not be mounted is not asked for again.
    async fn begin(&mut self) -> Result<Option<Url>, Failure> {
        let (client, endpoint, target) = (self.client, self.endpoint, &self.push.target);
        while let Some((repository, rest)) = self.mount_from.split_first() {
            self.mount_from = rest;
            if repository == target.repository() {
                continue;
            }
            match client.begin(endpoint, target, Some((&self.push.descriptor, repository))).await {
                Ok(Begun::Mounted) => return Ok(None),
                Ok(Begun::Session(url)) if rest.is_empty() => return Ok(Some(url)),
                Ok(Begun::Session(url)) => client.cancel(endpoint, target, url).await,
                // A mount is a short cut; the upload itself will say what is wrong.
                Err(failure) => tracing::debug!(error = %failure.error, "a mount failed"),
            }
        }
        match client.begin(endpoint, target, None).await? {
            Begun::Session(url) => Ok(Some(url)),
            Begun::Mounted => Ok(None),
        }
    }

    /// Whether another way may lead on at once: chunks, where a whole blob is too much for one request; a fresh start,
    /// where what was put together of parts is not the blob.
    fn may_do_otherwise(&mut self, failure: &Failure) -> bool {
        let RegistryError::Status { status, .. } = failure.error else { return false };
        match status {
            413 if self.size().min(self.longest) > CHUNK_BYTES => self.longest = CHUNK_BYTES,
            400 | 416 if self.in_parts && self.longest == u64::MAX && !self.began_anew => {
                self.began_anew = true;
            }
            _ => return false,
        }
        self.session = None;
        true
    }

    /// Finds out where the upload stands after a failure; `true` if the blob is there, because only the answer was lost.
    async fn find_out(&mut self, retries: &mut Retries<'_>) -> Result<bool, RegistryError> {
        let Some(url) = self.session.take() else { return Ok(false) };
        let (endpoint, target) = (self.endpoint, &self.push.target);
        loop {
            match self.client.standing(endpoint, target, &url).await {
                Ok(standing) if standing.arrived <= self.size() => {
                    (self.at, self.in_parts) = (standing.arrived, standing.arrived > 0);
                    self.session = Some(standing.url);
                    return Ok(false);
                }
                Ok(_) => return Ok(false),
                Err(Failure { error, retry: Retry::Never }) => {
                    tracing::debug!(%error, "an upload begins again");
                    return self.client.blob_exists_at(endpoint, target, &self.push.descriptor.digest).await;
                }
                Err(failure) => retries.pause(failure).await?,
            }
        }
    }
}
