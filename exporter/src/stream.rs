//! Sending layers to a registry while they are being compressed.
//!
//! A layer grows in its file in the store, and its upload follows it there: a registry that is slow holds nothing up and
//! takes no memory, and what breaks off goes on where it ended. A stream is a short cut and never fails a build: whatever
//! goes wrong with it, the finished blob is pushed as any other is.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cache::{BlobWriter, StoreError};
use oci::{Digest, ImageReference};
use registry::{BlobSource, Client, RegistryError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Smaller layers are pushed when they are whole: that takes fewer requests, and none where the registry has them.
const LEAST_BYTES: u64 = 8 << 20;

/// Uploads to one repository that follow layers as they are compressed.
#[derive(Debug)]
pub struct LayerStreams {
    client: Client,
    target: ImageReference,
    runtime: Handle,
    begun: Mutex<HashMap<Digest, JoinHandle<Result<Outcome, RegistryError>>>>,
    /// Whether the registry refused one; it would refuse the others, too.
    is_refused: AtomicBool,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The registry has the layer.
    Sent,
    /// It is to be pushed like any other.
    NotSent,
}

/// How far a layer has come.
#[derive(Debug, Clone, Default)]
struct Growth {
    bytes: u64,
    /// Once it is complete.
    digest: Option<Digest>,
}

/// A blob that is written, and followed by an upload if there is one. Dropped before its end, the upload is given up.
pub(crate) struct FollowedBlob {
    blob: BlobWriter,
    follower: Option<Follower>,
}

struct Follower {
    streams: Arc<LayerStreams>,
    growth: watch::Sender<Growth>,
    task: JoinHandle<Result<Outcome, RegistryError>>,
}

impl LayerStreams {
    /// Streams to the repository of `target`. To be called where tokio runs.
    pub fn new(client: &Client, target: &ImageReference) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            target: target.clone(),
            runtime: Handle::current(),
            begun: Mutex::default(),
            is_refused: AtomicBool::new(false),
        })
    }

    fn follow(self: &Arc<Self>, blob: &BlobWriter) -> Result<Option<Follower>, StoreError> {
        if self.is_refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let file = blob.reader()?;
        let (growth, seen) = watch::channel(Growth::default());
        let streams = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            let outcome = send(&streams.client, &streams.target, file, seen).await;
            if let Err(error) = &outcome {
                streams.is_refused.store(true, Ordering::Relaxed);
                tracing::debug!(%error, "a layer cannot be sent while it is compressed");
            }
            outcome
        });
        Ok(Some(Follower { streams: Arc::clone(self), growth, task }))
    }

    /// Waits for the stream of a layer, if there is one: whether it has brought the layer to the repository of `target`.
    pub(crate) async fn has_sent(&self, target: &ImageReference, layer: &Digest) -> bool {
        if (target.registry(), target.repository()) != (self.target.registry(), self.target.repository()) {
            return false;
        }
        let task = self.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        match task {
            Some(task) => matches!(task.await, Ok(Ok(Outcome::Sent))),
            None => false,
        }
    }
}

/// Sends what there is of `file` until it is complete.
async fn send(
    client: &Client,
    target: &ImageReference,
    file: File,
    mut growth: watch::Receiver<Growth>,
) -> Result<Outcome, RegistryError> {
    let source = BlobSource::Open(Arc::new(file));
    let begins = growth.wait_for(|growth| growth.bytes >= LEAST_BYTES || growth.digest.is_some()).await;
    if begins.map_or(true, |growth| growth.bytes < LEAST_BYTES) {
        return Ok(Outcome::NotSent);
    }
    let mut upload = client.start_upload(target).await?;
    loop {
        let wanted = upload.sent() + upload.least_bytes();
        let grown = growth.wait_for(|growth| growth.bytes >= wanted || growth.digest.is_some()).await;
        let Ok(Growth { bytes, digest }) = grown.map(|growth| growth.clone()) else {
            // Whoever wrote the layer has given it up.
            upload.cancel().await;
            return Ok(Outcome::NotSent);
        };
        let Some(digest) = digest else {
            upload.send(&source, bytes).await?;
            continue;
        };
        // Another machine may have pushed the same: then the rest need not be sent.
        if bytes > wanted && client.blob_exists(target, &digest).await? {
            upload.cancel().await;
            return Ok(Outcome::Sent);
        }
        upload.send(&source, bytes).await?;
        upload.finish(&digest).await?;
        return Ok(Outcome::Sent);
    }
}

impl FollowedBlob {
    /// Has the blob followed by an upload, if there are streams.
    pub(crate) fn new(blob: BlobWriter, streams: Option<&Arc<LayerStreams>>) -> Result<Self, StoreError> {
        let follower = match streams {
            Some(streams) => streams.follow(&blob)?,
            None => None,
        };
        Ok(Self { blob, follower })
    }

    /// Puts the blob into the store as `digest`, which its bytes were found to have.
    pub(crate) fn finish(self, digest: &Digest) -> Result<Digest, StoreError> {
        let bytes = self.blob.size_bytes();
        let digest = self.blob.finish_hashed(digest)?;
        if let Some(Follower { streams, growth, task }) = self.follower {
            growth.send_replace(Growth { bytes, digest: Some(digest.clone()) });
            let mut begun = streams.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.insert(digest.clone(), task);
        }
        Ok(digest)
    }
}

impl Write for FollowedBlob {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.blob.write(data)?;
        if let Some(follower) = &self.follower {
            let bytes = self.blob.size_bytes();
            follower.growth.send_modify(|growth| growth.bytes = bytes);
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.blob.flush()
    }
}
