//! Which images of the store are meant.

use cache::{ImageTag, Store};
use exporter::ImageSet;
use oci::{Digest, ImageReference, Platform};

use super::{export_failure, store_failure};
use crate::report::{Failure, FailureKind};

/// Fewer digits are no ID: they would be names, as a rule.
const FEWEST_DIGITS: usize = 4;

/// The name of an image, with `latest` where it has no tag.
pub(crate) fn reference(text: &str) -> Result<ImageReference, Failure> {
    match text.parse::<ImageReference>() {
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// An image that is not there.
pub(crate) fn unknown(name: &str) -> Failure {
    Failure::new(FailureKind::Build, format!("there is no image `{name}` in the store"))
        .with_hint("`rbuild images` lists those there are")
}

/// What a text names.
pub(crate) enum Named {
    /// The image of a name.
    Tag(Box<ImageTag>),
    /// All names of the image of an ID; at least one.
    Id(Vec<ImageTag>),
}

impl Named {
    /// One of its names.
    pub(crate) fn first(self) -> ImageTag {
        match self {
            Self::Tag(tag) => *tag,
            Self::Id(tags) => tags.into_iter().next().expect("an ID has at least one name"),
        }
    }
}

/// What `text` names: a name, a name with a digest, or the beginning of an ID. Blocks.
pub(crate) fn find(store: &Store, text: &str) -> Result<Option<Named>, Failure> {
    let by_name = text.parse::<ImageReference>();
    if let Ok(reference) = &by_name
        && let Some(tag) = by_reference(store, reference)?
    {
        return Ok(Some(Named::Tag(Box::new(tag))));
    }
    let tags = by_id(store, text)?;
    if !tags.is_empty() {
        return Ok(Some(Named::Id(tags)));
    }
    match by_name {
        Err(error) if id_digits(text).is_none() => Err(Failure::usage(error.to_string())),
        _ => Ok(None),
    }
}

/// The same, which has to be there.
pub(crate) fn find_one(store: &Store, text: &str) -> Result<ImageTag, Failure> {
    find(store, text)?.map(Named::first).ok_or_else(|| unknown(text))
}

fn by_reference(store: &Store, reference: &ImageReference) -> Result<Option<ImageTag>, Failure> {
    let reference = reference.clone().with_default_tag();
    let found = store.image(&reference).map_err(|error| store_failure(&error))?;
    let (None, Some(digest)) = (&found, reference.digest()) else { return Ok(found) };
    let all = store.images().map_err(|error| store_failure(&error))?;
    let same = all.into_iter().find(|tag| {
        tag.target.digest == *digest
            && (tag.reference.registry(), tag.reference.repository())
                == (reference.registry(), reference.repository())
    });
    match same {
        Some(tag) => store.image(&tag.reference).map_err(|error| store_failure(&error)),
        None => Ok(None),
    }
}

/// The digits of what may be an ID.
fn id_digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_id = digits.len() >= FEWEST_DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some(digits)
}

fn by_id(store: &Store, text: &str) -> Result<Vec<ImageTag>, Failure> {
    let Some(digits) = id_digits(text) else { return Ok(Vec::new()) };
    let mut found: Vec<ImageTag> = Vec::new();
    for tag in store.images().map_err(|error| store_failure(&error))? {
        let is_it = tag.target.digest.hex().starts_with(digits)
            || id_of(store, &tag).is_some_and(|id| id.hex().starts_with(digits));
        if is_it {
            // Declares the use.
            found.extend(store.image(&tag.reference).map_err(|error| store_failure(&error))?);
        }
    }
    match found.split_first() {
        Some((first, rest)) if rest.iter().any(|tag| tag.target.digest != first.target.digest) => {
            Err(Failure::usage(format!("`{text}` is the beginning of the IDs of several images")))
        }
        _ => Ok(found),
    }
}

/// The ID of an image: the digest of its config; that of an index is its own. `None` for one that cannot be read.
pub(crate) fn id_of(store: &Store, tag: &ImageTag) -> Option<Digest> {
    let images = ImageSet::load(store, &tag.target).ok()?;
    Some(id_of_set(&images))
}

/// The same of what was read.
pub(crate) fn id_of_set(images: &ImageSet) -> Digest {
    let single = images.single().map(|image| &image.config_descriptor);
    single.unwrap_or_else(|| images.descriptor()).digest.clone()
}

/// What an image consists of; of an index only the image for `platform`, if one is given.
pub(crate) fn read(store: &Store, tag: &ImageTag, platform: Option<&Platform>) -> Result<ImageSet, Failure> {
    let images = ImageSet::load(store, &tag.target).map_err(|error| export_failure(&error))?;
    let Some(platform) = platform else { return Ok(images) };
    let found = images.images().iter().find(|image| image.platform.matches(platform));
    let name = tag.reference.familiar();
    let missing = || Failure::new(FailureKind::Build, format!("`{name}` is not for {platform}"));
    Ok(ImageSet::from(found.ok_or_else(missing)?.clone()))
}
