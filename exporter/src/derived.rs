//! Layers that are made of others: compressed anew, with earlier times, or several in one.

use std::io::{self, BufReader, Write};

use cache::layer::{decompress_detected, write_layer};
use cache::{Snapshot, Store};
use oci::{Descriptor, DiffId, Digest};

use crate::error::ExportError;
use crate::layer::{self, Found, Writing, buffered, unbuffered};
use crate::timestamps::Rewriter;

/// The annotation of a layer whose times were rewritten: the epoch. BuildKit's.
pub(crate) const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// What a layer is derived from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The layer of a snapshot.
    Snapshot(&'a Snapshot),
    /// A compressed layer, whose blob is in the store.
    Blob(&'a DiffId, &'a Descriptor),
    /// All that a snapshot has on top of another one, or of nothing.
    Merged {
        /// The one below.
        below: Option<&'a Snapshot>,
        /// The uppermost.
        top: &'a Snapshot,
    },
}

impl Source<'_> {
    /// What the layers that were derived from it are remembered under: its diff ID if that is known, or for a merged
    /// layer a digest of what it is made of.
    fn name(&self, store: &Store) -> Result<Option<DiffId>, ExportError> {
        Ok(match self {
            Self::Snapshot(snapshot) => store.layer(&snapshot.id)?.map(|layer| layer.diff_id),
            Self::Blob(diff_id, _) => Some((*diff_id).clone()),
            Self::Merged { below, top } => {
                let below = below.map_or_else(|| "nothing".to_owned(), |below| below.id.to_string());
                Some(DiffId(Digest::sha256(format!("{} on {below}", top.id).as_bytes())))
            }
        })
    }

    fn write(&self, store: &Store, mut out: impl Write) -> Result<(), ExportError> {
        let (source, snapshot) = match self {
            Self::Blob(_, layer) => {
                let blob = BufReader::new(store.blobs().open(&layer.digest)?);
                let mut plain = decompress_detected(blob).map_err(ExportError::Encode)?;
                return io::copy(&mut plain, &mut out).map(drop).map_err(ExportError::Encode);
            }
            Self::Snapshot(snapshot) => (store.layer_source(snapshot)?, snapshot),
            Self::Merged { below, top } => (store.merged_source(*below, top)?, top),
        };
        write_layer(&source, out).map_err(|source| ExportError::Layer { snapshot: snapshot.id, source })
    }
}

/// The layer that is derived from `source` in a compression and, if there is an epoch, with no time later than that
/// (seconds since 1970). Its blob is in the store; what was made before is found again.
pub(crate) fn derive(
    store: &Store,
    source: Source<'_>,
    writing: Writing<'_>,
    epoch: Option<i64>,
) -> Result<Found, ExportError> {
    let compression = writing.compression;
    let variant = match epoch {
        Some(epoch) => format!("{} until {epoch}", compression.variant()),
        None => compression.variant(),
    };
    let name = source.name(store)?;
    if let Some(name) = &name
        && let Some(found) = layer::known_as(store, (name, &variant))?
    {
        return Ok(found);
    }
    let encoder = layer::encoder(store, writing)?;
    let Some(epoch) = epoch else {
        let mut whole = buffered(encoder);
        source.write(store, &mut whole)?;
        let name = name.filter(|_| matches!(source, Source::Merged { .. }));
        let (tar, found) = layer::finish_as(store, unbuffered(whole)?, compression, (name, &variant))?;
        check(source, &tar.diff_id)?;
        return Ok(found);
    };
    // Headers are written in small pieces, and both ends of the rewriter hash each piece that they get.
    let mut whole = buffered(Rewriter::new(buffered(encoder), epoch));
    source.write(store, &mut whole)?;
    let (encoder, original) = unbuffered(whole)?.finish().map_err(ExportError::Encode)?;
    check(source, &original.diff_id)?;
    let name = name.unwrap_or_else(|| original.diff_id.clone());
    let (_, found) = layer::finish_as(store, unbuffered(encoder)?, compression, (Some(name), &variant))?;
    if let Source::Snapshot(snapshot) = source {
        store.set_layer(&snapshot.id, &original)?;
    }
    Ok(found)
}

/// Whether a layer that was read is what it was said to be.
fn check(source: Source<'_>, found: &DiffId) -> Result<(), ExportError> {
    match source {
        Source::Blob(expected, layer) if found != expected => Err(ExportError::WrongLayer {
            digest: layer.digest.clone(),
            expected: expected.clone(),
            found: found.clone(),
        }),
        Source::Snapshot(_) | Source::Blob(..) | Source::Merged { .. } => Ok(()),
    }
}
