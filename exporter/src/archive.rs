//! OCI layouts, as a tar or a directory, and the tar that `docker load` reads.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use cache::Store;
use oci::{Descriptor, Digest, ImageReference, Index, MediaType};
use serde::Serialize;

use crate::destination::{OutputFile, write_file};
use crate::error::ExportError;
use crate::image::Assembled;
use crate::output::Destination;
use crate::set::ImageSet;

/// The annotation with an image's full name, as containerd reads it.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
pub(crate) const CREATED: &str = "org.opencontainers.image.created";

/// The blocks of a tar.
const BLOCK_BYTES: usize = 512;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Whether `docker load`'s `manifest.json` is in a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI layout alone.
    Oci,
    /// With `manifest.json`.
    Docker,
}

/// An entry of `manifest.json` (Docker image spec 1.2, "Combined Image JSON + Filesystem Changeset Format").
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image, or an index with its images, with the names that it has in an archive.
#[derive(Debug, Clone, Copy)]
pub struct NamedImages<'a> {
    /// What it is.
    pub images: &'a ImageSet,
    /// What it is called; may be empty.
    pub names: &'a [ImageReference],
}

/// Writes an image, or an index with its images, as a tar. All layers must be in the store. The same image gives the
/// same bytes: entries are sorted and have no times. Docker takes no index. Blocks.
pub fn write_archive(
    store: &Store,
    images: &ImageSet,
    names: &[ImageReference],
    kind: ArchiveKind,
    destination: &Destination,
) -> Result<(), ExportError> {
    write_archives(store, &[NamedImages { images, names }], kind, destination)
}

/// [`write_archive`] of several images, whose blobs are in the tar once.
pub fn write_archives(
    store: &Store,
    all: &[NamedImages<'_>],
    kind: ArchiveKind,
    destination: &Destination,
) -> Result<(), ExportError> {
    check_kind(all, kind)?;
    write_tar(store, all, kind, OutputFile::create(destination)?)
}

/// [`write_archives`] to a pipe or a socket.
pub fn stream_archives(
    store: &Store,
    all: &[NamedImages<'_>],
    kind: ArchiveKind,
    stream: fs::File,
) -> Result<(), ExportError> {
    check_kind(all, kind)?;
    write_tar(store, all, kind, OutputFile::stream(stream))
}

fn check_kind(all: &[NamedImages<'_>], kind: ArchiveKind) -> Result<(), ExportError> {
    match kind {
        ArchiveKind::Docker if all.iter().any(|one| one.images.single().is_none()) => {
            Err(ExportError::IndexForDocker)
        }
        ArchiveKind::Docker | ArchiveKind::Oci => Ok(()),
    }
}

fn write_tar(
    store: &Store,
    all: &[NamedImages<'_>],
    kind: ArchiveKind,
    file: OutputFile,
) -> Result<(), ExportError> {
    let mut tar = tar::Builder::new(file);
    write_entries(store, all, kind, &mut tar)?;
    // The end is written here, and not where it might fail unseen.
    let finished = tar.finish();
    finished.map_err(|source| tar.get_ref().error(source))?;
    let file = tar.into_inner().expect("a tar that is finished has nothing more to write");
    file.finish()
}

fn write_entries(
    store: &Store,
    all: &[NamedImages<'_>],
    kind: ArchiveKind,
    tar: &mut tar::Builder<OutputFile>,
) -> Result<(), ExportError> {
    append_directory(tar, "blobs/")?;
    append_directory(tar, "blobs/sha256/")?;
    // By digest: what two images have in common is there once.
    let mut blobs: BTreeMap<&str, (&Descriptor, Option<&[u8]>)> = BTreeMap::new();
    for one in all {
        let layers = one.images.layers().into_iter().map(|layer| (layer, None));
        let documents = one.images.documents().into_iter();
        let documents = documents.map(|(document, bytes)| (document, Some(bytes)));
        blobs.extend(layers.chain(documents).map(|blob| (blob.0.digest.hex(), blob)));
    }
    for (blob, bytes) in blobs.into_values() {
        let path = blob_path(&blob.digest);
        match bytes {
            Some(bytes) => append_bytes(tar, &path, bytes)?,
            None => append_blob(tar, &path, blob.size, &store.blobs().open(&blob.digest)?)?,
        }
    }
    let entries = all.iter().flat_map(|one| entries_of(one.images, one.names)).collect();
    let index = serde_json::to_vec(&index_of(entries)).map_err(ExportError::Json)?;
    append_bytes(tar, "index.json", &index)?;
    if kind == ArchiveKind::Docker {
        let manifests = all.iter().filter_map(|one| Some(docker_manifest(one.images.single()?, one.names)));
        let manifest = serde_json::to_vec(&manifests.collect::<Vec<_>>()).map_err(ExportError::Json)?;
        append_bytes(tar, "manifest.json", &manifest)?;
    }
    append_bytes(tar, "oci-layout", LAYOUT)
}

fn docker_manifest(image: &Assembled, names: &[ImageReference]) -> DockerManifest {
    DockerManifest {
        config: blob_path(&image.config_descriptor.digest),
        repo_tags: (!names.is_empty()).then(|| names.iter().map(ImageReference::familiar).collect()),
        layers: image.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
    }
}

/// Writes an image, or an index with its images, into a directory that is an OCI layout or becomes one. Images that are
/// there stay, save those of the same name. All layers must be in the store. Blocks.
pub fn write_layout(
    store: &Store,
    images: &ImageSet,
    names: &[ImageReference],
    directory: &Path,
) -> Result<(), ExportError> {
    write_blobs(store, images, directory)?;
    // The index comes last: what it names is there.
    let path = directory.join("index.json");
    let entries = merged(read_index(&path)?, entries_of(images, names));
    write_index(&path, entries)
}

/// Writes everything but the index. Blocks.
pub(crate) fn write_blobs(store: &Store, images: &ImageSet, directory: &Path) -> Result<(), ExportError> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|source| ExportError::Write { path: blobs.clone(), source })?;
    for layer in images.layers() {
        let path = directory.join(blob_path(&layer.digest));
        if !fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == layer.size) {
            copy_blob(store, &layer.digest, &path)?;
        }
    }
    for (document, bytes) in images.documents() {
        write_file(&directory.join(blob_path(&document.digest)), bytes)?;
    }
    write_file(&directory.join("oci-layout"), LAYOUT)
}

pub(crate) fn write_index(path: &Path, entries: Vec<Descriptor>) -> Result<(), ExportError> {
    let index = serde_json::to_vec(&index_of(entries)).map_err(ExportError::Json)?;
    write_file(path, &index)
}

fn copy_blob(store: &Store, digest: &Digest, path: &Path) -> Result<(), ExportError> {
    let blob = store.blobs().open(digest)?;
    let mut file = OutputFile::create(&Destination::Path(path.to_owned()))?;
    file.copy(&blob, u64::MAX).map_err(|source| file.error(source))?;
    file.finish()
}

pub(crate) fn read_index(path: &Path) -> Result<Vec<Descriptor>, ExportError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ExportError::Write { path: path.to_owned(), source }),
    };
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|source| ExportError::Layout { path: path.to_owned(), source })?;
    Ok(index.manifests)
}

fn merged(mut entries: Vec<Descriptor>, new: Vec<Descriptor>) -> Vec<Descriptor> {
    let name = |entry: &Descriptor| entry.annotations.get(IMAGE_NAME).cloned();
    entries.retain(|old| {
        !new.iter().any(|new| match (name(old), name(new)) {
            (Some(old), Some(new)) => old == new,
            (None, None) => old.digest == new.digest,
            _ => false,
        })
    });
    entries.extend(new);
    entries
}

/// An entry for each name; one without a name where there is none.
fn entries_of(images: &ImageSet, names: &[ImageReference]) -> Vec<Descriptor> {
    let entry = |name: Option<&ImageReference>| {
        let mut annotations = images.layout_entry().annotations;
        if let Some(created) = images.created() {
            annotations.insert(CREATED.to_owned(), created.to_owned());
        }
        if let Some(name) = name {
            annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
            if let Some(tag) = name.tag() {
                annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            }
        }
        Descriptor { annotations, ..images.layout_entry() }
    };
    if names.is_empty() { vec![entry(None)] } else { names.iter().map(|name| entry(Some(name))).collect() }
}

fn index_of(manifests: Vec<Descriptor>) -> Index {
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.to_owned()),
        manifests,
        annotations: BTreeMap::new(),
    }
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn append_directory(tar: &mut tar::Builder<OutputFile>, path: &str) -> Result<(), ExportError> {
    let mut header = header(0, 0o755);
    header.set_entry_type(tar::EntryType::Directory);
    let result = tar.append_data(&mut header, path, io::empty());
    result.map_err(|source| tar.get_ref().error(source))
}

fn append_bytes(tar: &mut tar::Builder<OutputFile>, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
    let mut header = header(bytes.len() as u64, 0o444);
    header.set_entry_type(tar::EntryType::Regular);
    let result = tar.append_data(&mut header, path, bytes);
    result.map_err(|source| tar.get_ref().error(source))
}

fn append_blob(
    tar: &mut tar::Builder<OutputFile>,
    path: &str,
    size: u64,
    blob: &fs::File,
) -> Result<(), ExportError> {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let mut header = header(size, 0o444);
    header.set_entry_type(tar::EntryType::Regular);
    // The content goes past the builder, which would take it through memory, and so does what fills the last block.
    let padding = ZEROS.len() - usize::try_from(size % BLOCK_BYTES as u64).unwrap_or(0);
    let result = tar.append_data(&mut header, path, io::empty());
    let copied = result.and_then(|()| tar.get_mut().copy(blob, size));
    let result = copied.and_then(|copied| {
        if copied == size {
            return tar.get_mut().write_all(&ZEROS[..padding % BLOCK_BYTES]);
        }
        // A blob that is shorter than its descriptor says would shift everything that follows it.
        let problem = format!("`{path}` is shorter than its manifest says");
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem))
    });
    result.map_err(|source| tar.get_ref().error(source))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
