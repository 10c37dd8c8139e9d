//! Pushing blobs whose digest is known.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use oci::{Descriptor, ImageReference};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::send::{Body, Call, Failure, Retries, Target};

/// How much of a source is read at once.
const READ_BYTES: usize = 256 << 10;
pub(crate) const OCTETS: &str = "application/octet-stream";

/// The future that opens a [`BlobSource::Reader`].
pub type OpenFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn AsyncRead + Send + Unpin>>> + Send>>;

/// Where the bytes of a push come from. It is opened anew for every attempt, and not at all where the registry has the
/// blob.
#[derive(Clone)]
pub enum BlobSource {
    /// Memory.
    Bytes(Bytes),
    /// A file, from its beginning to its end.
    File(PathBuf),
    /// Whatever the function opens.
    Reader(Arc<dyn Fn() -> OpenFuture + Send + Sync>),
}

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

/// What a request for a mount led to.
enum Mount {
    Done,
    /// The registry wants the bytes, here.
    Upload(Url),
}

impl Client {
    /// Puts a blob into the repository of `push.target`, unless it is there. What fails for a passing reason is done
    /// again from the beginning.
    pub async fn push_blob(&self, push: &PushBlob) -> Result<Pushed, RegistryError> {
        let target = &push.target;
        let endpoint = Endpoint::origin(target, &self.shared.options.hosts);
        let _permit = self.shared.lanes(&endpoint.host).uploads.acquire_owned().await.ok();
        if self.blob_exists_at(&endpoint, target, &push.descriptor.digest).await? {
            return Ok(Pushed::Existed);
        }
        let mut mount_from = push.mount_from.as_slice();
        let mut retries = Retries::new(&self.shared);
        loop {
            match self.try_push(&endpoint, push, mount_from).await {
                Ok(pushed) => return Ok(pushed),
                Err(failure) => retries.pause(failure).await?,
            }
            // What could not be mounted the first time is not asked for again.
            mount_from = &[];
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
                Ok(Mount::Done) => return Ok(true),
                Ok(Mount::Upload(url)) => {
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

    async fn try_push(
        &self,
        endpoint: &Endpoint,
        push: &PushBlob,
        mount_from: &[String],
    ) -> Result<Pushed, Failure> {
        let target = &push.target;
        let mut session = None;
        for (index, repository) in mount_from.iter().enumerate() {
            if repository == target.repository() {
                continue;
            }
            match self.begin(endpoint, target, Some((&push.descriptor, repository))).await {
                Ok(Mount::Done) => return Ok(Pushed::Mounted),
                Ok(Mount::Upload(url)) if index + 1 == mount_from.len() => session = Some(url),
                Ok(Mount::Upload(url)) => self.cancel(endpoint, target, url).await,
                // A mount is a short cut; the upload itself will say what is wrong.
                Err(failure) => tracing::debug!(error = %failure.error, "a mount failed"),
            }
        }
        let url = match session {
            Some(url) => url,
            None => match self.begin(endpoint, target, None).await? {
                Mount::Upload(url) => url,
                Mount::Done => return Ok(Pushed::Mounted),
            },
        };
        let mut call = Call::new(endpoint, target, Method::PUT, "blobs/").header(CONTENT_TYPE, OCTETS);
        call.what = push.descriptor.digest.to_string();
        call.target = Target::Url(with_digest(url, &push.descriptor));
        call.body = Body::Source {
            source: &push.source,
            digest: &push.descriptor.digest,
            size: push.descriptor.size,
        };
        self.shared.send_once(&call).await?;
        Ok(Pushed::Uploaded)
    }

    /// Begins an upload, or mounts.
    async fn begin(
        &self,
        endpoint: &Endpoint,
        target: &ImageReference,
        mount: Option<(&Descriptor, &str)>,
    ) -> Result<Mount, Failure> {
        let mut call = Call::new(endpoint, target, Method::POST, "blobs/uploads/");
        if let Some((descriptor, from)) = mount {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("mount", descriptor.digest.as_str()).append_pair("from", from);
            call.target = Target::Tail(format!("blobs/uploads/?{}", query.finish()));
            call.what = descriptor.digest.to_string();
            call.scopes.push(format!("repository:{from}:pull"));
        }
        let response = self.shared.send_once(&call).await?;
        if mount.is_some() && response.status().as_u16() == 201 {
            return Ok(Mount::Done);
        }
        Ok(Mount::Upload(upload_location(&call, &response)?))
    }

    /// Begins an upload that is not a mount.
    pub(crate) async fn begin_upload(
        &self,
        endpoint: &Endpoint,
        target: &ImageReference,
    ) -> Result<(Url, Option<u64>), RegistryError> {
        let call = Call::new(endpoint, target, Method::POST, "blobs/uploads/");
        let response = self.shared.send(&call).await?;
        let least = response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        Ok((upload_location(&call, &response)?, least))
    }

    /// Ends an upload that nobody wants. Registries end it themselves after a while, so a failure does not matter.
    pub(crate) async fn cancel(&self, endpoint: &Endpoint, target: &ImageReference, url: Url) {
        let mut call = Call::new(endpoint, target, Method::DELETE, "blobs/uploads/");
        call.target = Target::Url(url);
        if let Err(failure) = self.shared.send_once(&call).await {
            tracing::debug!(error = %failure.error, "an upload could not be cancelled");
        }
    }
}

/// Where an upload goes on; a path is relative to the address that was asked.
pub(crate) fn upload_location(call: &Call<'_>, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    location
        .and_then(|text| response.url().join(text).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| call.protocol("an upload without an address"))
}

pub(crate) fn with_digest(mut url: Url, descriptor: &Descriptor) -> Url {
    url.query_pairs_mut().append_pair("digest", descriptor.digest.as_str());
    url
}

impl BlobSource {
    /// A request body. An error of the source is left in `failed`, because the HTTP client only tells of a broken
    /// request.
    pub(crate) async fn body(&self, failed: Arc<Mutex<Option<io::Error>>>) -> io::Result<reqwest::Body> {
        let reader: Box<dyn AsyncRead + Send + Unpin> = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone().into()),
            Self::File(path) => Box::new(tokio::fs::File::open(path).await?),
            Self::Reader(open) => open().await?,
        };
        let stream = ReaderStream::with_capacity(reader, READ_BYTES).map_err(move |error| {
            let kind = error.kind();
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::from(kind)
        });
        Ok(reqwest::Body::wrap_stream(stream))
    }
}

impl std::fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}
