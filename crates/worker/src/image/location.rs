//! Where images can be had, as the text that the store keeps.
//!
//! `registry:<reference>` or `oci-layout:<absolute directory>`; the latter needs no tag, because blobs are looked up by
//! their digests. A tag of the local store needs no text: what it names is in the store, or is known by the location of
//! the image it was built on.

use std::path::PathBuf;

use oci::ImageReference;
use solver::ImageLocation;

const REGISTRY: &str = "registry:";
const OCI_LAYOUT: &str = "oci-layout:";

/// A place that blobs can be fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlobPlace {
    Registry(ImageReference),
    OciLayout(PathBuf),
}

/// The text of `location`; `None` for one that is not worth remembering.
pub(super) fn to_text(location: &ImageLocation) -> Option<String> {
    match location {
        ImageLocation::Registry(reference) => Some(format!("{REGISTRY}{reference}")),
        ImageLocation::OciLayout { path, .. } => {
            let absolute = std::path::absolute(path).ok()?;
            Some(format!("{OCI_LAYOUT}{}", absolute.to_str()?))
        }
        ImageLocation::Store(_) => None,
    }
}

/// The place that `text` names; `None` for a text that this version does not know.
pub(super) fn from_text(text: &str) -> Option<BlobPlace> {
    if let Some(reference) = text.strip_prefix(REGISTRY) {
        return Some(BlobPlace::Registry(reference.parse().ok()?));
    }
    text.strip_prefix(OCI_LAYOUT).map(|path| BlobPlace::OciLayout(PathBuf::from(path)))
}

/// The place of `location`, where it has one.
pub(super) fn place(location: &ImageLocation) -> Option<BlobPlace> {
    match location {
        ImageLocation::Registry(reference) => Some(BlobPlace::Registry(reference.clone())),
        ImageLocation::OciLayout { path, .. } => Some(BlobPlace::OciLayout(path.clone())),
        ImageLocation::Store(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_as_text() {
        let reference: ImageReference = "localhost:5000/a/b:c".parse().unwrap();
        let registry = ImageLocation::Registry(reference.clone());
        let layout = ImageLocation::OciLayout { path: "/a b/c:d".into(), tag_or_digest: "latest".into() };
        let cases = [
            (registry, "registry:localhost:5000/a/b:c", BlobPlace::Registry(reference.clone())),
            (layout, "oci-layout:/a b/c:d", BlobPlace::OciLayout("/a b/c:d".into())),
        ];
        for (location, text, place) in cases {
            assert_eq!(to_text(&location).unwrap(), text);
            assert_eq!(from_text(text), Some(place));
        }
        assert_eq!(to_text(&ImageLocation::Store(reference)), None);
        assert_eq!(from_text("carrier-pigeon:x"), None);
    }
}
