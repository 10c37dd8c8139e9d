//! OCI image layouts (OCI image spec, "Image Layout"): a directory with `index.json` and `blobs/`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use oci::{Descriptor, Digest, Index};

use super::ImageError;

/// The annotation with an image's name or tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's, with the full name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The longest document that is read.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// A layout that was opened for one image.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) path: PathBuf,
    /// The image as the user wrote it, for messages.
    pub(super) image: String,
}

impl Layout {
    /// The file of a blob.
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// The bytes of a manifest or config, verified.
    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let bytes = self.read(&path)?;
        if Digest::sha256(&bytes) != *digest {
            return Err(ImageError::LayoutDigest { image: self.image.clone(), path });
        }
        Ok(bytes)
    }

    /// A blob's file.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| self.unreadable(&path, source))
    }

    /// What `tag_or_digest` stands for. More than one if the layout has an image of several platforms without an index.
    ///
    /// A digest needs no entry. A tag is an entry's whole name, its name with `:latest`, or its name beginning with the
    /// image's own (the context `busybox` of a layout with `busybox:latest` and others); else the one entry that ends in
    /// `:tag`; and where nothing was asked for, the only image that there is.
    pub(super) fn find(&self, tag_or_digest: &str) -> Result<Vec<Descriptor>, ImageError> {
        let path = self.path.join("index.json");
        let bytes = self.read(&path)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
            image: self.image.clone(),
            what: "index.json",
            source,
        })?;
        if let Ok(digest) = tag_or_digest.parse::<Digest>() {
            return self.by_digest(&index, digest);
        }
        let own_name = self.image.split([':', '@']).next().unwrap_or_default();
        let wanted = [
            tag_or_digest.to_owned(),
            format!("{tag_or_digest}:latest"),
            format!("{own_name}:{tag_or_digest}"),
        ];
        for name in &wanted {
            let found: Vec<_> =
                index.manifests.iter().filter(|entry| has_name(entry, name)).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let suffix = format!(":{tag_or_digest}");
        let mut by_tag =
            index.manifests.iter().filter(|entry| names(entry).any(|name| name.ends_with(&suffix)));
        if let (Some(entry), None) = (by_tag.next(), by_tag.next()) {
            return Ok(vec![entry.clone()]);
        }
        if let ([entry], "latest") = (index.manifests.as_slice(), tag_or_digest) {
            return Ok(vec![entry.clone()]);
        }
        let available = index.manifests.iter().filter_map(|entry| names(entry).next().map(str::to_owned));
        Err(ImageError::LayoutTag {
            path: self.path.clone(),
            tag: tag_or_digest.to_owned(),
            available: available.collect(),
        })
    }

    /// The entry of `digest`, or a manifest that only an index below names.
    fn by_digest(&self, index: &Index, digest: Digest) -> Result<Vec<Descriptor>, ImageError> {
        if let Some(entry) = index.manifests.iter().find(|entry| entry.digest == digest) {
            return Ok(vec![entry.clone()]);
        }
        let bytes = self.read_blob(&digest)?;
        let media_type = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|document| Some(document.get("mediaType")?.as_str()?.to_owned()));
        let media_type = media_type.unwrap_or_else(|| oci::MediaType::OCI_MANIFEST.to_owned());
        Ok(vec![Descriptor::new(&media_type, digest, bytes.len() as u64)])
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|source| self.unreadable(path, source))?;
        file.take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| self.unreadable(path, source))?;
        Ok(bytes)
    }

    fn unreadable(&self, path: &Path, source: std::io::Error) -> ImageError {
        ImageError::LayoutRead { image: self.image.clone(), path: path.to_owned(), source }
    }
}

fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [REF_NAME, IMAGE_NAME].into_iter().filter_map(|key| entry.annotations.get(key).map(String::as_str))
}

fn has_name(entry: &Descriptor, name: &str) -> bool {
    names(entry).any(|own| own == name)
}
