//! Pulling: each layer streams from where it is into the blob store and, at the same time, into its snapshot.
//!
//! ```text
//! network task ── chunks ──▶ blob file + sha256 ──▶ decompression, diff ID ──▶ upper directory
//! ```
//!
//! Layers are written side by side, because writing one needs nothing of those below; what does (links into lower layers,
//! implied directories) waits until they are committed, bottom first. A copying snapshotter has no such shape: there the
//! layers are fetched side by side and applied one after the other.

use std::collections::VecDeque;
use std::io::{self, Read, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use cache::layer::{AppliedLayer, apply_blob};
use cache::{ActiveSnapshot, BlobWriter, Claim, KeyLock, RecordKey, Snapshot, SnapshotterKind, Store};
use oci::{ChainId, Descriptor, DiffId, Digest, Hasher, ImageReference};
use solver::{Event, ExecContext, ImageLocation, ImageSource};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::layout::Layout;
use super::location::{self, BlobPlace};
use super::{ImageError, ImageStore, LazyImage, blocking};

/// Chunks that wait between the network and the thread that unpacks. A chunk is at most a few hundred kilobytes.
const QUEUED_CHUNKS: usize = 32;
/// How much is read of a file at once.
const READ_BYTES: usize = 256 << 10;
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The pauses between two looks at a claim that another process holds.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);

/// One layer on its way.
struct LayerJob {
    images: ImageStore,
    image: Arc<LazyImage>,
    index: usize,
    context: ExecContext,
}

/// What the unpacking of a layer left.
enum Unpacked {
    /// It is written, on top of nothing so far.
    Written(Box<(ActiveSnapshot, AppliedLayer)>),
    /// Its blob is in the store.
    Fetched,
}

/// A layer in some place.
#[derive(Clone, Copy)]
struct Remote<'a> {
    /// The image, for messages.
    image: &'a str,
    place: &'a BlobPlace,
    layer: &'a Descriptor,
}

/// A layer that we have claimed, and the task that unpacks it.
struct Claimed {
    index: usize,
    lock: KeyLock,
    task: AbortOnDropHandle<Result<Unpacked, ImageError>>,
}

impl ImageStore {
    /// The snapshot of `image`, if all its layers are there already.
    pub fn materialized(&self, image: &LazyImage) -> Result<Option<Snapshot>, ImageError> {
        match image.chain_ids.last() {
            None => Ok(None),
            Some(chain) => Ok(self.store.snapshot_by_chain(chain)?),
        }
    }

    /// The snapshot of `image`: pulls and unpacks what is missing. `None` for an image without layers. Callers and
    /// processes that want the same layer at once unpack it once.
    pub async fn materialize(
        &self,
        image: &LazyImage,
        context: &ExecContext,
    ) -> Result<Option<Snapshot>, ImageError> {
        let image = Arc::new(image.clone());
        tokio::select! {
            () = context.cancel.cancelled() => Err(ImageError::Cancelled),
            result = self.pull(&image, context) => result,
        }
    }

    /// The layers of the image at `source` that would have to be pulled for its files.
    pub async fn missing_layers(&self, source: &ImageSource) -> Result<Vec<Descriptor>, ImageError> {
        let image = self.lazy(source).await?;
        let (present, _) = self.highest_present(&image).await?;
        let store = self.store.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for layer in &image.manifest.layers[present..] {
                if !store.blobs().contains(&layer.digest)? {
                    missing.push(layer.clone());
                }
            }
            Ok(missing)
        })
        .await
    }

    async fn pull(
        &self,
        image: &Arc<LazyImage>,
        context: &ExecContext,
    ) -> Result<Option<Snapshot>, ImageError> {
        let count = image.chain_ids.len();
        let (mut next, mut top) = self.highest_present(image).await?;
        let mut claimed: VecDeque<Claimed> = VecDeque::new();
        while next < count || !claimed.is_empty() {
            // Claims are taken bottom first. Whoever has a chain ID below another has the same ones below that, so two
            // processes cannot wait for each other.
            while next < count {
                let lock = match self.try_claim(&image.chain_ids[next]).await? {
                    Claim::Acquired(lock) => lock,
                    // Before we wait, what we hold has to be done: the other one may wait for it.
                    Claim::Held { .. } if !claimed.is_empty() => break,
                    Claim::Held { process } => {
                        (context.events)(Event::Waiting { vertex: context.vertex, process });
                        self.wait_claim(&image.chain_ids[next]).await?
                    }
                };
                // While we hold a lower one nobody can have made this one. Else another may have been faster.
                if claimed.is_empty()
                    && let Some(present) = self.present(&image.chain_ids[next]).await?
                {
                    top = Some(present);
                    next += 1;
                    continue;
                }
                let job = LayerJob {
                    images: self.clone(),
                    image: Arc::clone(image),
                    index: next,
                    context: context.clone(),
                };
                let task = AbortOnDropHandle::new(tokio::spawn(job.unpack()));
                claimed.push_back(Claimed { index: next, lock, task });
                next += 1;
            }
            if let Some(layer) = claimed.pop_front() {
                top = Some(self.complete(image, top, layer).await?);
            }
        }
        Ok(top)
    }

    /// The number of layers, from the bottom, that are there, and the snapshot of the highest of them.
    async fn highest_present(&self, image: &LazyImage) -> Result<(usize, Option<Snapshot>), ImageError> {
        let (store, chain_ids) = (self.store.clone(), image.chain_ids.clone());
        blocking(move || {
            for (index, chain) in chain_ids.iter().enumerate().rev() {
                if let Some(snapshot) = store.snapshot_by_chain(chain)? {
                    return Ok((index + 1, Some(snapshot)));
                }
            }
            Ok((0, None))
        })
        .await
    }

    async fn present(&self, chain: &ChainId) -> Result<Option<Snapshot>, ImageError> {
        let (store, chain) = (self.store.clone(), chain.clone());
        blocking(move || Ok(store.snapshot_by_chain(&chain)?)).await
    }

    async fn try_claim(&self, chain: &ChainId) -> Result<Claim, ImageError> {
        let (store, key) = (self.store.clone(), claim_key(chain));
        blocking(move || Ok(store.try_claim(&key)?)).await
    }

    /// Looks again and again instead of waiting in the kernel: a thread that waits there could not be told that the
    /// build was cancelled.
    async fn wait_claim(&self, chain: &ChainId) -> Result<KeyLock, ImageError> {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
            if let Claim::Acquired(lock) = self.try_claim(chain).await? {
                return Ok(lock);
            }
        }
    }

    /// Puts an unpacked layer on top of `parent`, once it is there.
    async fn complete(
        &self,
        image: &Arc<LazyImage>,
        parent: Option<Snapshot>,
        layer: Claimed,
    ) -> Result<Snapshot, ImageError> {
        let unpacked = layer.task.await.map_err(|_| ImageError::Cancelled)??;
        let (images, image, index) = (self.clone(), Arc::clone(image), layer.index);
        let lock = layer.lock;
        blocking(move || {
            let snapshot = images.commit(&image, index, parent, unpacked)?;
            drop(lock);
            Ok(snapshot)
        })
        .await
    }

    fn commit(
        &self,
        image: &LazyImage,
        index: usize,
        parent: Option<Snapshot>,
        unpacked: Unpacked,
    ) -> Result<Snapshot, ImageError> {
        let store = &self.store;
        let (mut active, applied) = match unpacked {
            Unpacked::Written(written) => *written,
            Unpacked::Fetched => {
                let active = store.prepare(parent.as_ref())?;
                let reader = store.blobs().reader(&image.manifest.layers[index].digest)?;
                let applied = apply(store, image, index, &active, reader)?;
                (active, applied)
            }
        };
        let layer = cache::Layer { diff_id: applied.diff_id.clone(), size_bytes: applied.size_bytes };
        let mut lower_dirs = Vec::new();
        if store.snapshotter() == SnapshotterKind::Overlay
            && let Some(parent) = &parent
        {
            active.set_parent(parent)?;
            lower_dirs = store.layer_dirs(parent)?;
        }
        applied.finish(&lower_dirs).map_err(|source| unpack_error(image, index, source))?;
        let snapshot = active.commit_as(&image.chain_ids[index])?;
        store.set_layer(&snapshot.id, &layer)?;
        Ok(snapshot)
    }

    /// Brings a layer's compressed blob into the store, if it is not there, from wherever an image that was resolved
    /// before has it. For exporters: a layer of a base image may never have been pulled, and as it stands in the image
    /// that is made of it, a layer that is not in registries no longer says where it is.
    pub async fn fetch_layer_blob(&self, layer: &Descriptor) -> Result<(), ImageError> {
        let (store, digest) = (self.store.clone(), layer.digest.clone());
        let places = blocking(move || {
            if store.blobs().contains(&digest)? {
                return Ok(None);
            }
            Ok(Some((store.blob_locations(&digest)?, store.blob_addresses(&digest)?)))
        })
        .await?;
        let Some((places, addresses)) = places else { return Ok(()) };
        let layer = &match layer.urls.as_slice() {
            [] => Descriptor { urls: addresses, ..layer.clone() },
            _ => layer.clone(),
        };
        let mut last = None;
        for place in places.iter().filter_map(|text| location::from_text(text)) {
            let name = match &place {
                BlobPlace::Registry(reference) => reference.familiar(),
                BlobPlace::OciLayout(path) => path.display().to_string(),
            };
            let remote = Remote { image: &name, place: &place, layer };
            match self.fetch_into_store(remote, |_| ()).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let gone = || ImageError::Gone { image: "a base image".to_owned(), digest: layer.digest.clone() };
        Err(last.unwrap_or_else(gone))
    }

    /// Brings a layer's compressed blob into the store, if it is not there, from `location`.
    pub(crate) async fn fetch_layer_from(
        &self,
        location: &ImageLocation,
        name: &str,
        layer: &Descriptor,
    ) -> Result<(), ImageError> {
        let (store, digest) = (self.store.clone(), layer.digest.clone());
        if blocking(move || Ok(store.blobs().contains(&digest)?)).await? {
            return Ok(());
        }
        let gone = || ImageError::Gone { image: name.to_owned(), digest: layer.digest.clone() };
        let place = location::place(location).ok_or_else(gone)?;
        self.fetch_into_store(Remote { image: name, place: &place, layer }, |_| ()).await
    }

    /// The repositories that are known to have a blob, the latest first: a registry can mount it from there.
    pub async fn repositories(&self, blob: &Digest) -> Result<Vec<ImageReference>, ImageError> {
        let (store, digest) = (self.store.clone(), blob.clone());
        let texts = blocking(move || Ok(store.blob_locations(&digest)?)).await?;
        let places = texts.iter().filter_map(|text| location::from_text(text));
        Ok(places
            .filter_map(|place| match place {
                BlobPlace::Registry(reference) => Some(reference),
                BlobPlace::OciLayout(_) => None,
            })
            .collect())
    }

    /// Streams a layer from `place` into the blob store.
    async fn fetch_into_store(
        &self,
        remote: Remote<'_>,
        progress: impl FnMut(u64) + Send,
    ) -> Result<(), ImageError> {
        let (sender, chunks) = chunks();
        let (store, digest) = (self.store.clone(), remote.layer.digest.clone());
        let write = blocking(move || {
            let mut writer = store.blobs().writer_of_verified(&digest)?;
            let mut reader = Chunks { tee: None, ..chunks };
            // The transfer's own error is told instead of this one, which is only that the chunks ended early.
            let copied = io::copy(&mut reader, &mut writer);
            Ok(copied.map(|_| writer))
        });
        let transfer = self.transfer(remote, sender, progress);
        let (transferred, written) = tokio::join!(transfer, write);
        let written = written?;
        transferred?;
        let (image, layer) = (remote.image.to_owned(), remote.layer.digest.clone());
        let writer = written.map_err(|source| ImageError::LayerWrite { image, layer, source })?;
        blocking(move || {
            writer.finish()?;
            Ok(())
        })
        .await
    }

    /// Sends a layer's bytes from `place`. They are verified by the time that this returns without an error.
    async fn transfer(
        &self,
        remote: Remote<'_>,
        sender: mpsc::Sender<Chunk>,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), ImageError> {
        let Remote { image, place, layer } = remote;
        match place {
            BlobPlace::Registry(reference) => {
                let failed = |error| ImageError::LayerTransfer {
                    image: image.to_owned(),
                    layer: layer.digest.clone(),
                    source: Box::new(error),
                };
                let registry = self.registry(image, &format!("layer `{}`", layer.digest))?;
                let mut stream = registry.fetch_blob(reference, layer).await.map_err(failed)?;
                while let Some(bytes) = stream.chunk().await.map_err(failed)? {
                    progress(stream.received());
                    // A receiver that is gone has an error of its own to tell.
                    if sender.send(Chunk::Bytes(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            BlobPlace::OciLayout(path) => {
                let layout = Layout { path: path.clone(), image: image.to_owned() };
                let (digest, bytes) = (layer.digest.clone(), sender.clone());
                blocking(move || send_file(&layout, &digest, &bytes)).await?;
                progress(layer.size);
            }
        }
        // The end is said, so that a transfer that was dropped is not taken for a short layer.
        let _ = sender.send(Chunk::End).await;
        Ok(())
    }
}

impl LayerJob {
    async fn unpack(self) -> Result<Unpacked, ImageError> {
        let permits = Arc::clone(&self.images.unpacking);
        let _permit = permits.acquire_owned().await.map_err(|_| ImageError::Cancelled)?;
        let store = self.images.store.clone();
        let overlay = store.snapshotter() == SnapshotterKind::Overlay;
        let descriptor = self.image.manifest.layers[self.index].clone();
        let digest = descriptor.digest.clone();
        let stored = blocking(move || Ok(store.blobs().contains(&digest)?)).await?;
        if stored {
            return if overlay { self.apply_stored().await } else { Ok(Unpacked::Fetched) };
        }
        let Some(place) = location::place(&self.image.source.location) else {
            // A local tag whose layer was never pulled, or has been pruned: the base image's place is known.
            self.images.fetch_layer_blob(&descriptor).await?;
            return if overlay { self.apply_stored().await } else { Ok(Unpacked::Fetched) };
        };
        if overlay {
            return self.apply_streamed(&place, &descriptor).await;
        }
        let progress = self.progress(&descriptor);
        let remote = Remote { image: &self.image.source.name, place: &place, layer: &descriptor };
        self.images.fetch_into_store(remote, progress).await?;
        Ok(Unpacked::Fetched)
    }

    /// From a blob of the store.
    async fn apply_stored(self) -> Result<Unpacked, ImageError> {
        let (store, image, index) = (self.images.store, self.image, self.index);
        blocking(move || {
            let active = store.prepare(None)?;
            let reader = store.blobs().reader(&image.manifest.layers[index].digest)?;
            let applied = apply(&store, &image, index, &active, reader)?;
            Ok(Unpacked::Written(Box::new((active, applied))))
        })
        .await
    }

    /// From `place`, into the blob store and the snapshot at once.
    async fn apply_streamed(self, place: &BlobPlace, layer: &Descriptor) -> Result<Unpacked, ImageError> {
        let (sender, chunks) = chunks();
        let (store, image, index) = (self.images.store.clone(), Arc::clone(&self.image), self.index);
        let digest = layer.digest.clone();
        let write = blocking(move || {
            let writer = store.blobs().writer_of_verified(&digest)?;
            let active = store.prepare(None)?;
            let mut reader = Chunks { tee: Some(writer), ..chunks };
            let mut applied = apply(&store, &image, index, &active, &mut reader);
            // The end comes only after the transfer has seen that all bytes are right.
            if applied.is_ok()
                && let Err(source) = io::copy(&mut reader, &mut io::sink())
            {
                applied = Err(unpack_error(&image, index, cache::layer::LayerError::Read(source)));
            }
            if let Some(source) = reader.tee_error.take() {
                return Err(ImageError::LayerWrite {
                    image: image.source.name.clone(),
                    layer: digest,
                    source,
                });
            }
            let applied = applied?;
            let writer = reader.tee.take().expect("nobody else takes it");
            writer.finish()?;
            Ok(Unpacked::Written(Box::new((active, applied))))
        });
        let progress = self.progress(layer);
        let remote = Remote { image: &self.image.source.name, place, layer };
        let transfer = self.images.transfer(remote, sender, progress);
        let (transferred, written) = tokio::join!(transfer, write);
        // Where the transfer failed, the unpacking did too, for want of bytes.
        transferred?;
        written
    }

    fn progress(&self, layer: &Descriptor) -> impl FnMut(u64) + Send + use<> {
        let (events, vertex, total) = (self.context.events.clone(), self.context.vertex, layer.size);
        let name = format!("{} pull", layer.digest);
        let mut told: Option<Instant> = None;
        move |current| {
            let is_due = told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL);
            if is_due || current == total {
                told = Some(Instant::now());
                events(Event::Progress { vertex, name: name.clone(), current, total: Some(total) });
            }
        }
    }
}

/// Applies a compressed layer to `active` and checks what came out.
fn apply(
    store: &Store,
    image: &LazyImage,
    index: usize,
    active: &ActiveSnapshot,
    reader: impl Read + Send,
) -> Result<AppliedLayer, ImageError> {
    let applied = apply_blob(reader, active.upper(), store.tree_mode())
        .map_err(|source| unpack_error(image, index, source))?;
    let expected: &DiffId = &image.diff_ids[index];
    if applied.diff_id != *expected {
        return Err(ImageError::LayerContent {
            image: image.source.name.clone(),
            layer: image.manifest.layers[index].digest.clone(),
            expected: expected.clone(),
            actual: applied.diff_id.clone(),
        });
    }
    Ok(applied)
}

fn unpack_error(image: &LazyImage, index: usize, source: cache::layer::LayerError) -> ImageError {
    let layer = image.manifest.layers[index].digest.clone();
    ImageError::LayerUnpack { image: image.source.name.clone(), layer, source }
}

/// The key under which the making of a chain ID's snapshot is claimed. No cache record has it: their keys are hashes of
/// something else.
fn claim_key(chain: &ChainId) -> RecordKey {
    RecordKey(*blake3::hash(format!("image layers {chain}").as_bytes()).as_bytes())
}

/// Sends a file of a layout, and fails at its end if it does not have its digest.
fn send_file(layout: &Layout, digest: &Digest, sender: &mpsc::Sender<Chunk>) -> Result<(), ImageError> {
    let path = layout.blob_path(digest);
    let mut file = layout.open_blob(digest)?;
    let mut hasher = Hasher::new();
    loop {
        let mut buffer = vec![0; READ_BYTES];
        let read = file.read(&mut buffer).map_err(|source| ImageError::LayoutRead {
            image: layout.image.clone(),
            path: path.clone(),
            source,
        })?;
        if read == 0 {
            break;
        }
        buffer.truncate(read);
        hasher.update(&buffer);
        if sender.blocking_send(Chunk::Bytes(buffer.into())).is_err() {
            return Ok(());
        }
    }
    if hasher.finish() != *digest {
        return Err(ImageError::LayoutDigest { image: layout.image.clone(), path });
    }
    Ok(())
}

/// A part of a layer on its way to the thread that unpacks it.
enum Chunk {
    Bytes(Bytes),
    End,
}

/// The reading end: what comes is written to the blob too.
struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
    tee: Option<BlobWriter>,
    /// Why the blob could not be written: whoever reads only sees that reading failed.
    tee_error: Option<io::Error>,
}

fn chunks() -> (mpsc::Sender<Chunk>, Chunks) {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    (sender, Chunks { receiver, current: Bytes::new(), ended: false, tee: None, tee_error: None })
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => {
                    if let Some(tee) = &mut self.tee
                        && let Err(error) = tee.write_all(&bytes)
                    {
                        let kind = error.kind();
                        self.tee_error = Some(error);
                        return Err(kind.into());
                    }
                    self.current = bytes;
                }
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer broke off")),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}
