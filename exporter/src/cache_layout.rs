//! Caches in OCI layouts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use cache::Store;
use oci::{Descriptor, Index, Manifest};

use crate::archive::{REF_NAME, blob_path, read_index, write_blobs, write_index};
use crate::error::ExportError;
use crate::set::ImageSet;

/// Writes a cache under `tag` into a directory that is an OCI layout or becomes one. All layers must be in the store.
/// The index is written last, so that whoever reads the layout meanwhile finds the earlier cache whole. With `reset`,
/// blobs that no manifest of the layout names any more are removed then. Blocks.
pub fn write_cache_layout(
    store: &Store,
    cache: &ImageSet,
    (directory, tag): (&Path, &str),
    reset: bool,
) -> Result<(), ExportError> {
    write_blobs(store, cache, directory)?;
    let path = directory.join("index.json");
    let mut entries = read_index(&path)?;
    let has_tag = |entry: &Descriptor| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag);
    entries.retain(|entry| !has_tag(entry));
    let mut entry = cache.descriptor().clone();
    entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    entries.push(entry);
    write_index(&path, entries.clone())?;
    if reset { remove_others(directory, entries) } else { Ok(()) }
}

/// Removes the blobs that `entries` do not lead to.
fn remove_others(directory: &Path, entries: Vec<Descriptor>) -> Result<(), ExportError> {
    let mut used = BTreeSet::new();
    let mut open = entries;
    while let Some(entry) = open.pop() {
        let path = directory.join(blob_path(&entry.digest));
        if !used.insert(path.clone()) {
            continue;
        }
        let Ok(bytes) = fs::read(&path) else { continue };
        if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
            let blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
            used.extend(blobs.map(|blob| directory.join(blob_path(&blob.digest))));
        } else if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            open.extend(index.manifests);
        }
    }
    let blobs = directory.join("blobs/sha256");
    let failed = |source| ExportError::Write { path: blobs.clone(), source };
    for entry in fs::read_dir(&blobs).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Hidden ones are being written.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || used.contains(&path) {
            continue;
        }
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ExportError::Write { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}
