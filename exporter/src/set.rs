//! What outputs hold: an image, or the images of an index.

use std::collections::BTreeSet;

use cache::Store;
use oci::{Descriptor, ImageReference, Index, MediaType};

use crate::annotations::{AnnotationLevel, RootForm};
use crate::attestation::{Attestation, AttestationManifest};
use crate::error::ExportError;
use crate::form::ImageForm;
use crate::image::Assembled;

/// An image, or an index with an image for each of several platforms.
#[derive(Debug, Clone)]
pub struct ImageSet {
    images: Vec<Assembled>,
    attestations: Vec<AttestationManifest>,
    index: Option<IndexDocument>,
}

/// What an index of one image or several is to say of them.
#[derive(Debug)]
pub struct IndexBuild<'b> {
    /// What is said of each image, in their order; nothing of those beyond its end.
    pub attestations: &'b [Vec<Attestation>],
    /// The names that the images get.
    pub names: &'b [ImageReference],
    /// What the images are to be known by: an index with one image, if need be.
    pub root: RootForm,
}

/// An index as it is stored and sent.
#[derive(Debug, Clone)]
struct IndexDocument {
    bytes: Vec<u8>,
    descriptor: Descriptor,
}

impl From<Assembled> for ImageSet {
    fn from(image: Assembled) -> Self {
        Self { images: vec![image], attestations: Vec::new(), index: None }
    }
}

impl ImageSet {
    /// A single image, or an index of `images` in their order; an image of which something is said is in an index.
    /// What is said of images comes after all of them.
    pub fn new(
        mut images: Vec<Assembled>,
        form: &ImageForm,
        build: &IndexBuild<'_>,
    ) -> Result<Self, ExportError> {
        let makes_index = |said: &Vec<Attestation>| form.attestations.make_an_index(said);
        if build.root == RootForm::Manifest
            && !build.attestations.iter().any(makes_index)
            && images.len() == 1
            && let Some(image) = images.pop()
        {
            return Ok(image.into());
        }
        let said = images.iter().zip(build.attestations).filter(|(_, said)| !said.is_empty());
        let attestations: Vec<AttestationManifest> = said
            .map(|(image, said)| AttestationManifest::new(image, said, build.names, form.attestations))
            .collect::<Result<_, _>>()?;
        Self::with_index(images, attestations, form)
    }

    fn with_index(
        images: Vec<Assembled>,
        attestations: Vec<AttestationManifest>,
        form: &ImageForm,
    ) -> Result<Self, ExportError> {
        let media_types = form.media_types();
        let entries = images.iter().map(Assembled::index_entry);
        let entries = entries.chain(attestations.iter().map(|manifest| manifest.descriptor.clone()));
        let index = Index {
            schema_version: 2,
            media_type: Some(media_types.index().to_owned()),
            manifests: entries.collect(),
            annotations: form.annotations.of_all(AnnotationLevel::Index),
        };
        // Indented as manifests are.
        let bytes = serde_json::to_vec_pretty(&index).map_err(ExportError::Json)?;
        let annotations = form.annotations.of_all(AnnotationLevel::IndexDescriptor);
        let descriptor = Descriptor { annotations, ..Descriptor::of(media_types.index(), &bytes) };
        Ok(Self { images, attestations, index: Some(IndexDocument { bytes, descriptor }) })
    }

    /// What a manifest or an index in the store describes.
    pub fn load(store: &Store, descriptor: &Descriptor) -> Result<Self, ExportError> {
        if !MediaType::is_index(&descriptor.media_type) {
            return Ok(Assembled::load(store, descriptor)?.into());
        }
        let bytes = store.blobs().read(&descriptor.digest)?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|source| ExportError::Document { digest: descriptor.digest.clone(), source })?;
        let (mut images, mut attestations) = (Vec::new(), Vec::new());
        for entry in index.manifests {
            if AttestationManifest::is_named_by(&entry) {
                attestations.push(AttestationManifest::load(store, &entry)?);
            } else {
                images.push(Assembled::load(store, &Descriptor { platform: None, ..entry })?);
            }
        }
        let index = IndexDocument { bytes, descriptor: descriptor.clone() };
        Ok(Self { images, attestations, index: Some(index) })
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

    /// The configs and what is said of the images, each once.
    pub(crate) fn configs(&self) -> Vec<(&Descriptor, &[u8])> {
        let mut seen = BTreeSet::new();
        let configs = self.images.iter().map(|image| (&image.config_descriptor, image.config.as_slice()));
        let said = self.attestations.iter().flat_map(|manifest| {
            let statements = manifest.statements.iter();
            statements.chain([&manifest.config]).map(|(descriptor, bytes)| (descriptor, bytes.as_slice()))
        });
        configs.chain(said).filter(|(config, _)| seen.insert(&config.digest)).collect()
    }

    /// The manifests that the index names, each once; none without an index.
    pub(crate) fn indexed_manifests(&self) -> Vec<(&Descriptor, &[u8])> {
        let mut seen = BTreeSet::new();
        let images = self.images.iter().filter(|_| self.index.is_some());
        let manifests = images.map(|image| (&image.descriptor, image.manifest.as_slice()));
        let said = self.attestations.iter();
        let said = said.map(|manifest| (&manifest.descriptor, manifest.manifest.as_slice()));
        manifests.chain(said).filter(|(manifest, _)| seen.insert(&manifest.digest)).collect()
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
}
