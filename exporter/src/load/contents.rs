//! What is in an archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use cache::layer::{Compression as Found, begins_archive, decompress, detect_compression};
use cache::{BlobWriter, Store};
use oci::{Descriptor, Digest};
use serde::de::DeserializeOwned;

use super::LoadError;
use crate::compression::{Compression, CompressionKind, MediaTypes};
use crate::error::ExportError;
use crate::layer;

/// The longest document that is read.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// How much of a file tells what it is.
const START_BYTES: usize = cache::layer::ARCHIVE_START_BYTES;
/// What is a layer even where it is empty, which begins like nothing.
const LAYER_ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// The files of an archive, by their paths in it.
#[derive(Default)]
pub(super) struct Contents {
    /// What is no layer and stands outside `blobs/`.
    documents: BTreeMap<String, Vec<u8>>,
    /// Layers outside `blobs/`, as they are in the store.
    layers: BTreeMap<String, Descriptor>,
    /// Links, by what they lead to.
    links: BTreeMap<String, String>,
}

impl Contents {
    /// Reads a tar, compressed in any way.
    pub(super) fn of_tar(store: &Store, reader: Box<dyn Read + Send>) -> Result<Self, LoadError> {
        let (start, reader) = begin(reader).map_err(LoadError::Read)?;
        let reader = decompress(reader, detect_compression(&start)).map_err(LoadError::Read)?;
        let mut contents = Self::default();
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 17, reader));
        for entry in archive.entries().map_err(LoadError::Read)? {
            let mut entry = entry.map_err(LoadError::Read)?;
            let path = clean(&entry.path().map_err(LoadError::Read)?);
            let kind = entry.header().entry_type();
            if let Some(target) = entry.link_name().map_err(LoadError::Read)? {
                contents.add_link(path, &target, kind.is_symlink());
            } else if kind.is_file() {
                contents.add(store, path, &mut entry)?;
            }
        }
        Ok(contents)
    }

    /// Reads a directory.
    pub(super) fn of_directory(store: &Store, directory: &Path) -> Result<Self, LoadError> {
        let mut contents = Self::default();
        let mut open = vec![directory.to_owned()];
        while let Some(path) = open.pop() {
            let failed = |source| LoadError::File { path: path.clone(), source };
            for entry in fs::read_dir(&path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                let failed = |source| LoadError::File { path: path.clone(), source };
                let kind = entry.file_type().map_err(failed)?;
                let name = clean(path.strip_prefix(directory).unwrap_or(&path));
                if kind.is_symlink() {
                    contents.add_link(name, &fs::read_link(&path).map_err(failed)?, true);
                } else if kind.is_dir() {
                    open.push(path);
                } else if kind.is_file() {
                    contents.add(store, name, &mut fs::File::open(&path).map_err(failed)?)?;
                }
            }
        }
        Ok(contents)
    }

    /// `docker save` of old has one file for layers that are the same, and links.
    fn add_link(&mut self, path: String, target: &Path, is_symbolic: bool) {
        let parent = Path::new(&path).parent().unwrap_or(Path::new(""));
        let target = if is_symbolic { clean(&parent.join(target)) } else { clean(target) };
        self.links.insert(path, target);
    }

    fn add(&mut self, store: &Store, path: String, reader: &mut dyn Read) -> Result<(), LoadError> {
        if let Some(digest) = blob_of(&path) {
            if !store.blobs().contains(&digest)? {
                let writer = store.blobs().writer(Some(&digest))?;
                keep(writer, reader, &path)?;
            }
            return Ok(());
        }
        let (start, reader) = begin(reader).map_err(LoadError::Read)?;
        if begins_archive(&start) || LAYER_ENDINGS.iter().any(|ending| path.ends_with(ending)) {
            let layer = keep_layer(store, &path, detect_compression(&start), reader)?;
            self.layers.insert(path, layer);
        } else {
            let mut bytes = Vec::new();
            reader.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes).map_err(LoadError::Read)?;
            self.documents.insert(path, bytes);
        }
        Ok(())
    }

    /// A document of the top.
    pub(super) fn document<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LoadError> {
        let document = self.documents.get(name).map(|bytes| serde_json::from_slice(bytes)).transpose();
        document.map_err(|source| LoadError::Document { name: name.to_owned(), source })
    }

    /// The bytes of a config.
    pub(super) fn bytes(&self, store: &Store, name: &str) -> Result<Vec<u8>, LoadError> {
        let path = self.resolve(name);
        if let Some(bytes) = self.documents.get(&path) {
            return Ok(bytes.clone());
        }
        match blob_of(&path) {
            Some(digest) if store.blobs().contains(&digest)? => Ok(store.blobs().read(&digest)?),
            _ => Err(LoadError::Missing { name: name.to_owned() }),
        }
    }

    /// A layer, as the store has it.
    pub(super) fn layer(&self, store: &Store, name: &str) -> Result<Descriptor, LoadError> {
        let missing = || LoadError::Missing { name: name.to_owned() };
        let path = self.resolve(name);
        if let Some(layer) = self.layers.get(&path) {
            return Ok(layer.clone());
        }
        let digest = blob_of(&path).ok_or_else(missing)?;
        let size = store.blobs().size_bytes(&digest)?.ok_or_else(missing)?;
        let mut start = Vec::new();
        let blob = store.blobs().open(&digest)?;
        blob.take(START_BYTES as u64).read_to_end(&mut start).map_err(LoadError::Read)?;
        Ok(Descriptor::new(media_type(detect_compression(&start)), digest, size))
    }

    /// Follows links.
    fn resolve(&self, name: &str) -> String {
        let mut path = clean(Path::new(name));
        // As many steps as there are links lead to the end, or around in a circle.
        for _ in 0..self.links.len() {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        path
    }
}

/// A stream whose first bytes have been looked at.
type Begun<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// The first bytes of a stream, and all of it.
fn begin<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, Begun<R>)> {
    let mut start = Vec::with_capacity(START_BYTES);
    reader.by_ref().take(START_BYTES as u64).read_to_end(&mut start)?;
    Ok((start.clone(), io::Cursor::new(start).chain(reader)))
}

/// A path without `.` and `..`.
fn clean(path: &Path) -> String {
    let mut parts: Vec<std::borrow::Cow<'_, str>> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.to_string_lossy()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

/// The digest of a file in `blobs/`.
fn blob_of(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    let digest: Digest = format!("{algorithm}:{hex}").parse().ok()?;
    (algorithm == "sha256").then_some(digest)
}

/// Puts a blob into the store as it is.
fn keep(mut writer: BlobWriter, reader: impl Read, name: &str) -> Result<Digest, LoadError> {
    let mut reader = BufReader::with_capacity(1 << 17, reader);
    io::copy(&mut reader, &mut writer)
        .map_err(|source| LoadError::Layer { name: name.to_owned(), source })?;
    Ok(writer.finish()?)
}

/// Puts a layer into the store: as it is where registries take it so, else compressed as layers of builds are.
fn keep_layer(store: &Store, name: &str, found: Found, reader: impl Read) -> Result<Descriptor, LoadError> {
    if found == Found::None {
        return compress(store, name, reader);
    }
    let failed = |source| LoadError::Layer { name: name.to_owned(), source };
    let digest = keep(store.blobs().writer(None)?, reader, name)?;
    let blob = store.blobs().open(&digest)?;
    if matches!(found, Found::Gzip | Found::Zstd) {
        let size = blob.metadata().map_err(failed)?.len();
        return Ok(Descriptor::new(media_type(found), digest, size));
    }
    compress(store, name, decompress(blob, found).map_err(failed)?)
}

fn compress(store: &Store, name: &str, plain: impl Read) -> Result<Descriptor, LoadError> {
    let compression = Compression::default();
    let mut encoder = layer::encoder(store, compression.into())?;
    let failed = |source| LoadError::Layer { name: name.to_owned(), source };
    io::copy(&mut BufReader::with_capacity(1 << 17, plain), &mut encoder).map_err(failed)?;
    match layer::finish(store, encoder, compression) {
        Ok((_, (_, descriptor))) => Ok(descriptor),
        Err(ExportError::Encode(source)) => Err(failed(source)),
        Err(error) => Err(error.into()),
    }
}

fn media_type(found: Found) -> &'static str {
    let kind = match found {
        Found::Gzip => CompressionKind::Gzip,
        Found::Zstd => CompressionKind::Zstd,
        Found::None | Found::Bzip2 | Found::Xz => CompressionKind::Uncompressed,
    };
    let compression = Compression::new(kind, None).expect("every algorithm has a default level");
    compression.media_type(MediaTypes::Oci)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_files_and_circles_end() {
        let mut contents = Contents::default();
        contents.add_link("b/layer.tar".to_owned(), Path::new("../a/layer.tar"), true);
        contents.add_link("c/layer.tar".to_owned(), Path::new("b/layer.tar"), false);
        contents.add_link("x".to_owned(), Path::new("y"), true);
        contents.add_link("y".to_owned(), Path::new("x"), true);
        assert_eq!(contents.resolve("./c/layer.tar"), "a/layer.tar");
        assert_eq!(contents.resolve("a/layer.tar"), "a/layer.tar");
        assert!(["x", "y"].contains(&contents.resolve("x").as_str()));
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean(Path::new("./a/../../b")), "b");
        assert_eq!(clean(Path::new("/blobs/sha256/x")), "blobs/sha256/x");
        assert_eq!(blob_of("blobs/md5/00"), None);
    }
}
