//! One layer: from a snapshot to a compressed blob.

use std::io::BufWriter;

use cache::layer::write_layer;
use cache::{Layer, Snapshot, Store};
use oci::{Descriptor, DiffId};

use crate::compression::{Compression, LayerEncoder, MediaTypes};
use crate::error::ExportError;

/// Writes the layer of `snapshot` into the blob store and remembers it, in one pass over its files.
pub(crate) fn write(
    store: &Store,
    snapshot: &Snapshot,
    compression: Compression,
) -> Result<(DiffId, Descriptor), ExportError> {
    let failed = |source| ExportError::Layer { snapshot: snapshot.id, source };
    let source = store.layer_source(snapshot)?;
    let blob = store.blobs().writer(None)?;
    // Headers are written in small pieces; the encoder hashes each piece that it gets.
    let mut encoder = BufWriter::with_capacity(1 << 16, LayerEncoder::new(blob, compression));
    write_layer(&source, &mut encoder).map_err(failed)?;
    let encoder = encoder.into_inner().map_err(|error| ExportError::Encode(error.into_error()))?;
    let (blob, written) = encoder.finish().map_err(ExportError::Encode)?;
    let variant = compression.variant();
    let descriptor = match store.variant(&written.diff_id, &variant)? {
        // Another snapshot made the same layer: its blob has the same bytes, unless it was made by hand.
        Some(descriptor) if store.blobs().contains(&descriptor.digest)? => descriptor,
        _ => {
            let digest = blob.finish()?;
            let media_type = compression.media_type(MediaTypes::Oci);
            let descriptor = Descriptor::new(media_type, digest, written.compressed_size_bytes);
            store.set_variant(&written.diff_id, &variant, &descriptor)?;
            descriptor
        }
    };
    let layer = Layer { diff_id: written.diff_id.clone(), size_bytes: written.size_bytes };
    store.set_layer(&snapshot.id, &layer)?;
    Ok((written.diff_id, descriptor))
}
