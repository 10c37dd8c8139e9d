//! Reading OCI layouts for the registries of tests.

use std::path::{Path, PathBuf};

use oci::{Descriptor, Digest, Index, Manifest, MediaType};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image or index of a layout under a name in a registry.
pub(crate) struct NamedImage {
    /// `namespace/busybox`.
    pub(crate) repository: String,
    /// `latest`.
    pub(crate) tag: String,
    /// The manifest or index of the tag.
    pub(crate) root: Descriptor,
    /// All manifests and indexes, those of the tag last: a registry wants what they refer to before them.
    pub(crate) manifests: Vec<Descriptor>,
    /// Configs and layers.
    pub(crate) blobs: Vec<Descriptor>,
}

/// The images of the layout at `path`; `busybox:latest` becomes tag `latest` of `<namespace>/busybox`.
///
/// # Panics
/// When it is not a whole OCI layout.
pub(crate) fn read(path: &Path, namespace: &str) -> Vec<NamedImage> {
    let index: Index = parse(&path.join("index.json"));
    let named = index.manifests.into_iter().map(|root| {
        let name = root.annotations.get(REF_NAME).cloned();
        let name = name.unwrap_or_else(|| panic!("an entry of {} has no name", path.display()));
        let (name, tag) = name.split_once(':').unwrap_or((&name, "latest"));
        let mut image = NamedImage {
            repository: if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") },
            tag: tag.to_owned(),
            root: root.clone(),
            manifests: Vec::new(),
            blobs: Vec::new(),
        };
        collect(path, &root, &mut image);
        image
    });
    named.collect()
}

/// The file of a blob.
pub(crate) fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm()).join(digest.hex())
}

fn collect(layout: &Path, descriptor: &Descriptor, image: &mut NamedImage) {
    let path = blob_path(layout, &descriptor.digest);
    if MediaType::is_index(&descriptor.media_type) {
        let index: Index = parse(&path);
        for entry in &index.manifests {
            collect(layout, entry, image);
        }
    } else {
        let manifest: Manifest = parse(&path);
        image.blobs.push(manifest.config);
        image.blobs.extend(manifest.layers);
    }
    image.manifests.push(descriptor.clone());
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("cannot parse {}: {error}", path.display()))
}
