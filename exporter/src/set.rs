//! What outputs hold: an image, or the images of an index.

use std::collections::BTreeSet;

use cache::Store;
use oci::{Descriptor, Digest, Index, MediaType};

use crate::annotations::AnnotationLevel;
use crate::error::ExportError;
use crate::form::ImageForm;
use crate::image::Assembled;

/// An image, or an index with an image for each of several platforms.
#[derive(Debug, Clone)]
pub struct ImageSet {
    images: Vec<Assembled>,
    index: Option<IndexDocument>,
}

/// An index as it is stored and sent.
#[derive(Debug, Clone)]
struct IndexDocument {
    bytes: Vec<u8>,
    descriptor: Descriptor,
}

impl From<Assembled> for ImageSet {
    fn from(image: Assembled) -> Self {
        Self { images: vec![image], index: None }
    }
}

impl ImageSet {
    /// An index of `images`, in their order.
    pub fn with_index(images: Vec<Assembled>, form: &ImageForm) -> Result<Self, ExportError> {
        let media_types = form.media_types();
        let index = Index {
            schema_version: 2,
            media_type: Some(media_types.index().to_owned()),
            manifests: images.iter().map(Assembled::index_entry).collect(),
            annotations: form.annotations.of_all(AnnotationLevel::Index),
        };
        // Indented as manifests are.
        let bytes = serde_json::to_vec_pretty(&index).map_err(ExportError::Json)?;
        let annotations = form.annotations.of_all(AnnotationLevel::IndexDescriptor);
        let descriptor = Descriptor { annotations, ..Descriptor::of(media_types.index(), &bytes) };
        Ok(Self { images, index: Some(IndexDocument { bytes, descriptor }) })
    }

    /// What a manifest or an index in the store describes.
    pub fn load(store: &Store, descriptor: &Descriptor) -> Result<Self, ExportError> {
        if !MediaType::is_index(&descriptor.media_type) {
            return Ok(Assembled::load(store, descriptor)?.into());
        }
        let bytes = store.blobs().read(&descriptor.digest)?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|source| ExportError::Document { digest: descriptor.digest.clone(), source })?;
        let images = index.manifests.iter().map(|entry| {
            let plain = Descriptor { platform: None, ..entry.clone() };
            Assembled::load(store, &plain)
        });
        let index = IndexDocument { bytes, descriptor: descriptor.clone() };
        Ok(Self { images: images.collect::<Result<_, _>>()?, index: Some(index) })
    }

    /// Writes configs, manifests and the index into the store.
    pub fn save(&self, store: &Store) -> Result<(), ExportError> {
        for (_, bytes) in self.documents() {
            store.blobs().write_bytes(bytes)?;
        }
        Ok(())
    }

    /// The images, in the order of the index.
    pub fn images(&self) -> &[Assembled] {
        &self.images
    }

    /// The only image; `None` for an index, whatever is in it.
    pub fn single(&self) -> Option<&Assembled> {
        if self.index.is_some() { None } else { self.images.first() }
    }

    /// The descriptor of the index, or of the only manifest.
    pub fn descriptor(&self) -> &Descriptor {
        match (&self.index, self.images.first()) {
            (Some(index), _) => &index.descriptor,
            (None, Some(image)) => &image.descriptor,
            (None, None) => unreachable!("a set without an index is made of an image"),
        }
    }

    /// The layers of all images, each once.
    pub fn layers(&self) -> Vec<&Descriptor> {
        let mut seen = BTreeSet::new();
        let layers = self.images.iter().flat_map(|image| &image.layers);
        layers.filter(|layer| seen.insert(&layer.digest)).collect()
    }

    /// The configs, each once.
    pub(crate) fn configs(&self) -> Vec<(&Descriptor, &[u8])> {
        let mut seen = BTreeSet::new();
        let configs = self.images.iter().map(|image| (&image.config_descriptor, image.config.as_slice()));
        configs.filter(|(config, _)| seen.insert(&config.digest)).collect()
    }

    /// The manifests that the index names, each once; none without an index.
    pub(crate) fn indexed_manifests(&self) -> Vec<(&Descriptor, &[u8])> {
        let mut seen = BTreeSet::new();
        let images = self.images.iter().filter(|_| self.index.is_some());
        let manifests = images.map(|image| (&image.descriptor, image.manifest.as_slice()));
        manifests.filter(|(manifest, _)| seen.insert(&manifest.digest)).collect()
    }

    /// The index, or the only manifest.
    pub(crate) fn root(&self) -> &[u8] {
        match (&self.index, self.images.first()) {
            (Some(index), _) => &index.bytes,
            (None, Some(image)) => &image.manifest,
            (None, None) => unreachable!("a set without an index is made of an image"),
        }
    }

    /// Everything but layers, each thing once and after what it names.
    pub(crate) fn documents(&self) -> Vec<(&Descriptor, &[u8])> {
        let mut documents = self.configs();
        documents.extend(self.indexed_manifests());
        documents.push((self.descriptor(), self.root()));
        documents
    }

    /// The descriptor of the root as it stands in the index of a layout: with the platform, where there is one.
    pub(crate) fn layout_entry(&self) -> Descriptor {
        self.single().map_or_else(|| self.descriptor().clone(), Assembled::index_entry)
    }

    /// When the images were made, RFC 3339: the time of the first.
    pub fn created(&self) -> Option<&str> {
        self.images.first()?.created.as_deref()
    }

    /// Whether `digest` is one of the documents, whose bytes are here and perhaps not in the store.
    pub(crate) fn document(&self, digest: &Digest) -> Option<&[u8]> {
        let found = self.documents().into_iter().find(|(descriptor, _)| descriptor.digest == *digest);
        found.map(|(_, bytes)| bytes)
    }
}
