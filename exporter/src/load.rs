//! Archives of images, read: OCI layouts and what `docker save` has written, of any age.
//!
//! A tar is read once, from its beginning to its end, as it may come from a pipe: what is in it goes into the blob store,
//! and which of it are images is found out afterwards. What belongs to none is left to prune.

mod contents;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use cache::{Store, StoreError};
use oci::{Descriptor, Digest, ImageConfig, ImageReference, Index, Manifest, MediaType, Platform};
use serde::Deserialize;

use crate::archive::{IMAGE_NAME, REF_NAME};
use crate::compression::MediaTypes;
use crate::error::ExportError;
use crate::image::Assembled;
use crate::set::ImageSet;
use contents::Contents;

/// How deep indexes may be nested.
const MAX_INDEX_DEPTH: usize = 4;

/// Where images are read from.
pub enum ArchiveSource {
    /// A tar, compressed or not.
    Stream(Box<dyn Read + Send>),
    /// A directory with what would be in the tar.
    Directory(PathBuf),
}

/// An image that was in an archive. All of it is in the store, without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its manifest, or its index: of the platforms that were there.
    pub descriptor: Descriptor,
    /// The names that it had.
    pub names: Vec<ImageReference>,
}

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive could not be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A file of a directory could not be read.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no image in it.
    #[error("there is no image in it: it has neither `index.json` nor `manifest.json`")]
    NoImage,
    /// A document is not what it should be.
    #[error("`{name}` in the archive is malformed")]
    Document {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Something that an image consists of is not there.
    #[error("the archive lacks `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A manifest and its config do not have the same number of layers.
    #[error("the image `{config}` has {layers} layers in the archive and {diff_ids} in its config")]
    LayerCount {
        /// The digest of the config.
        config: Digest,
        /// The layers.
        layers: usize,
        /// The diff IDs of the config.
        diff_ids: usize,
    },
    /// A layer could not be compressed or stored.
    #[error("cannot keep the layer `{name}`")]
    Layer {
        /// Its name in the archive.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image could not be put together.
    #[error(transparent)]
    Assemble(#[from] ExportError),
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Brings the images of an archive into the store. Layers that are not compressed, as `docker save` writes them, are.
/// Blocks; not on a thread of rayon's.
pub fn load_archive(store: &Store, source: ArchiveSource) -> Result<Vec<LoadedImage>, LoadError> {
    let contents = match source {
        ArchiveSource::Stream(reader) => Contents::of_tar(store, reader)?,
        ArchiveSource::Directory(directory) => Contents::of_directory(store, &directory)?,
    };
    let mut loading = Loading { store, contents, found: Vec::new() };
    let index: Option<Index> = loading.contents.document("index.json")?;
    let docker: Option<Vec<DockerEntry>> = loading.contents.document("manifest.json")?;
    if index.is_none() && docker.is_none() {
        return Err(LoadError::NoImage);
    }
    for entry in index.into_iter().flat_map(|index| index.manifests) {
        loading.add_layout_entry(&entry)?;
    }
    for entry in docker.into_iter().flatten() {
        loading.add_docker_entry(&entry)?;
    }
    Ok(loading.found)
}

/// How much of an image is there.
enum Completeness {
    /// All of what this describes.
    Whole(Box<Descriptor>),
    /// Not all.
    Lacking,
    /// It is something else.
    NoImage,
}

/// What has been found so far.
struct Loading<'a> {
    store: &'a Store,
    contents: Contents,
    found: Vec<LoadedImage>,
}

impl Loading<'_> {
    /// An entry of `index.json`.
    fn add_layout_entry(&mut self, entry: &Descriptor) -> Result<(), LoadError> {
        let plain = Descriptor { platform: None, annotations: BTreeMap::new(), ..entry.clone() };
        let descriptor = match self.complete(&plain, 0)? {
            Completeness::Whole(descriptor) => *descriptor,
            Completeness::Lacking => return Err(LoadError::Missing { name: entry.digest.to_string() }),
            // Signatures and their like.
            Completeness::NoImage => return Ok(()),
        };
        let names = [IMAGE_NAME, REF_NAME].into_iter().find_map(|key| full_name(entry.annotations.get(key)?));
        self.add(descriptor, names);
        Ok(())
    }

    fn add(&mut self, descriptor: Descriptor, names: impl IntoIterator<Item = ImageReference>) {
        let known = self.found.iter().position(|image| image.descriptor.digest == descriptor.digest);
        let at = known.unwrap_or_else(|| {
            self.found.push(LoadedImage { descriptor, names: Vec::new() });
            self.found.len() - 1
        });
        let image = &mut self.found[at];
        for name in names {
            if !image.names.contains(&name) {
                image.names.push(name);
            }
        }
    }

    /// What there is of a manifest or an index: itself, a new index of the images that are there, or the only one of them.
    /// An archive of one platform may name the others.
    fn complete(&self, descriptor: &Descriptor, depth: usize) -> Result<Completeness, LoadError> {
        let malformed = |source| LoadError::Document { name: descriptor.digest.to_string(), source };
        let is_index = MediaType::is_index(&descriptor.media_type);
        if !is_index && !MediaType::is_manifest(&descriptor.media_type) {
            return Ok(Completeness::NoImage);
        }
        if !self.store.blobs().contains(&descriptor.digest)? || depth > MAX_INDEX_DEPTH {
            return Ok(Completeness::Lacking);
        }
        let bytes = self.store.blobs().read(&descriptor.digest)?;
        if !is_index {
            let manifest: Manifest = serde_json::from_slice(&bytes).map_err(malformed)?;
            let is_config = matches!(
                manifest.config.media_type.as_str(),
                MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG | ""
            );
            return Ok(match is_config {
                false => Completeness::NoImage,
                true if self.has_all_of(&manifest)? => Completeness::Whole(Box::new(descriptor.clone())),
                true => Completeness::Lacking,
            });
        }
        let index: Index = serde_json::from_slice(&bytes).map_err(malformed)?;
        let mut there = Vec::new();
        for entry in &index.manifests {
            if let Completeness::Whole(whole) = self.complete(entry, depth + 1)? {
                there.push(*whole);
            }
        }
        if there == index.manifests {
            return Ok(Completeness::Whole(Box::new(descriptor.clone())));
        }
        self.smaller(descriptor, index, there)
    }

    /// An index of those of its images that are there.
    fn smaller(
        &self,
        descriptor: &Descriptor,
        index: Index,
        there: Vec<Descriptor>,
    ) -> Result<Completeness, LoadError> {
        // What is about an image, such as BuildKit's attestations, is of no use without it.
        let runs =
            |entry: &Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
        let images: Vec<Descriptor> = there.into_iter().filter(runs).collect();
        Ok(match images.as_slice() {
            [] => Completeness::Lacking,
            [only] => Completeness::Whole(Box::new(Descriptor { platform: None, ..only.clone() })),
            _ => {
                let smaller = Index { manifests: images, ..index };
                let bytes = serde_json::to_vec_pretty(&smaller).map_err(ExportError::Json)?;
                self.store.blobs().write_bytes(&bytes)?;
                Completeness::Whole(Box::new(Descriptor::of(&descriptor.media_type, &bytes)))
            }
        })
    }

    fn has_all_of(&self, manifest: &Manifest) -> Result<bool, LoadError> {
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let is_elsewhere = MediaType::is_foreign_layer(&blob.media_type);
            if !is_elsewhere && !self.store.blobs().contains(&blob.digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An entry of `manifest.json`: its names where the image is known by `index.json`, else an image.
    fn add_docker_entry(&mut self, entry: &DockerEntry) -> Result<(), LoadError> {
        let tags = entry.repo_tags.iter().flatten();
        let names: Vec<ImageReference> = tags.filter_map(|tag| full_name(tag)).collect();
        let bytes = self.contents.bytes(self.store, &entry.config)?;
        let config = Digest::sha256(&bytes);
        for image in &self.found {
            let set = ImageSet::load(self.store, &image.descriptor)?;
            if set.images().iter().any(|image| image.config_descriptor.digest == config) {
                let descriptor = image.descriptor.clone();
                self.add(descriptor, names);
                return Ok(());
            }
        }
        let image = self.assemble(entry, bytes)?;
        let set = ImageSet::from(image);
        set.save(self.store)?;
        self.add(set.descriptor().clone(), names);
        Ok(())
    }

    fn assemble(&self, entry: &DockerEntry, config: Vec<u8>) -> Result<Assembled, LoadError> {
        let read: ImageConfig = serde_json::from_slice(&config)
            .map_err(|source| LoadError::Document { name: entry.config.clone(), source })?;
        let mut layers = Vec::new();
        for name in entry.layers.iter().flatten() {
            layers.push(self.contents.layer(self.store, name)?);
        }
        let diff_ids = read.rootfs.diff_ids.len();
        if diff_ids != layers.len() {
            let config = Digest::sha256(&config);
            return Err(LoadError::LayerCount { config, layers: layers.len(), diff_ids });
        }
        let platform = Platform::new(&read.os, &read.architecture, read.variant.as_deref());
        let image = Assembled::new(
            (MediaType::OCI_CONFIG, config),
            layers,
            (MediaTypes::Oci, BTreeMap::new()),
            platform,
        )?;
        Ok(Assembled { created: read.created, ..image })
    }
}

/// A name with a repository; tags alone, as layouts have them, say nothing here.
fn full_name(text: &str) -> Option<ImageReference> {
    let reference: ImageReference = text.contains([':', '/']).then(|| text.parse().ok())??;
    Some(reference.with_default_tag())
}
