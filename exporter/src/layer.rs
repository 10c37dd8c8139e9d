//! One layer: from a snapshot to a compressed blob.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use cache::layer::write_layer;
use cache::{Layer, Snapshot, Store};
use oci::{Descriptor, DiffId};

use crate::compression::{Compression, MediaTypes};
use crate::encoder::LayerEncoder;
use crate::error::ExportError;
use crate::estargz::{TOC_DIGEST, UNCOMPRESSED_SIZE};
use crate::stream::{FollowedBlob, LayerStreams};

/// A diff ID, and the compressed layer that unpacks to it.
pub(crate) type Found = (DiffId, Descriptor);

/// What a compressed layer unpacks to, where that is not the tar that it was made of.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A layer as it stands in a manifest: of its annotations those alone that make eStargz of it, for which Docker's types
/// have no place.
pub(crate) fn in_manifest(layer: &Descriptor, media_types: MediaTypes) -> Descriptor {
    let media_type = media_types.layer(&layer.media_type);
    let mut written = Descriptor::new(media_type, layer.digest.clone(), layer.size);
    written.urls.clone_from(&layer.urls);
    if media_types == MediaTypes::Oci {
        let is_kept = |key: &str| key == TOC_DIGEST || key == UNCOMPRESSED_SIZE;
        let annotations = layer.annotations.iter().filter(|(key, _)| is_kept(key));
        written.annotations = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    }
    written
}

/// The compressed form of the tar, if it is known and in the store.
pub(crate) fn known(
    store: &Store,
    tar: &DiffId,
    compression: Compression,
) -> Result<Option<Found>, ExportError> {
    known_as(store, (tar, &compression.variant()))
}

/// What is remembered under a name and a variant, if it is in the store.
pub(crate) fn known_as(
    store: &Store,
    (name, variant): (&DiffId, &str),
) -> Result<Option<Found>, ExportError> {
    let Some(descriptor) = store.variant(name, variant)? else { return Ok(None) };
    if !store.blobs().contains(&descriptor.digest)? {
        return Ok(None);
    }
    let unpacked = descriptor.annotations.get(UNCOMPRESSED).and_then(|digest| digest.parse().ok());
    Ok(Some((unpacked.map_or_else(|| name.clone(), DiffId), descriptor)))
}

/// How new layers are written.
#[derive(Clone, Copy)]
pub(crate) struct Writing<'a> {
    pub(crate) compression: Compression,
    /// Where they are sent meanwhile.
    pub(crate) streams: Option<&'a Arc<LayerStreams>>,
}

impl From<Compression> for Writing<'_> {
    fn from(compression: Compression) -> Self {
        Self { compression, streams: None }
    }
}

/// An encoder that writes a new blob.
pub(crate) fn encoder(
    store: &Store,
    writing: Writing<'_>,
) -> Result<LayerEncoder<FollowedBlob>, ExportError> {
    let blob = FollowedBlob::new(store.blobs().unhashed_writer()?, writing.streams)?;
    Ok(LayerEncoder::new(blob, writing.compression))
}

/// What a tar is written to: headers come in small pieces, and an encoder hashes each piece that it gets.
pub(crate) fn buffered<W: Write>(out: W) -> BufWriter<W> {
    BufWriter::with_capacity(1 << 16, out)
}

/// What [`buffered`] was given, once all has been written to it.
pub(crate) fn unbuffered<W: Write>(out: BufWriter<W>) -> Result<W, ExportError> {
    out.into_inner().map_err(|error| ExportError::Encode(error.into_error()))
}

/// Writes what is left of a layer, puts its blob into the store and remembers it. What is returned first is the tar.
pub(crate) fn finish(
    store: &Store,
    encoder: LayerEncoder<FollowedBlob>,
    compression: Compression,
) -> Result<(Layer, Found), ExportError> {
    finish_as(store, encoder, compression, (None, &compression.variant()))
}

/// The same for what is remembered under a name, if that is not the digest of the tar, and a variant.
pub(crate) fn finish_as(
    store: &Store,
    encoder: LayerEncoder<FollowedBlob>,
    compression: Compression,
    (name, variant): (Option<DiffId>, &str),
) -> Result<(Layer, Found), ExportError> {
    let (blob, written) = encoder.finish().map_err(ExportError::Encode)?;
    let layer = Layer { diff_id: written.tar, size_bytes: written.tar_bytes };
    let name = name.unwrap_or_else(|| layer.diff_id.clone());
    // Another snapshot may have made the same layer: its blob has the same bytes, unless it was made by hand.
    if let Some(found) = known_as(store, (&name, variant))? {
        return Ok((layer, found));
    }
    let digest = blob.finish(&written.digest)?;
    let media_type = compression.media_type(MediaTypes::Oci);
    let mut descriptor = Descriptor::new(media_type, digest, written.compressed_size_bytes);
    descriptor.annotations = written.annotations;
    if written.diff_id != name {
        descriptor.annotations.insert(UNCOMPRESSED.to_owned(), written.diff_id.to_string());
    }
    store.set_variant(&name, variant, &descriptor)?;
    Ok((layer, (written.diff_id, descriptor)))
}

/// Writes the layer of `snapshot` into the blob store and remembers it, in one pass over its files.
pub(crate) fn write(store: &Store, snapshot: &Snapshot, writing: Writing<'_>) -> Result<Found, ExportError> {
    let failed = |source| ExportError::Layer { snapshot: snapshot.id, source };
    let source = store.layer_source(snapshot)?;
    let mut whole = buffered(encoder(store, writing)?);
    write_layer(&source, &mut whole).map_err(failed)?;
    let (layer, found) = finish(store, unbuffered(whole)?, writing.compression)?;
    store.set_layer(&snapshot.id, &layer)?;
    Ok(found)
}
