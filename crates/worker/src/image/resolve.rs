//! From a reference to the manifest and the config of one platform.

use std::error::Error as _;

use oci::{ChainId, Descriptor, Digest, ImageConfig, ImageReference, Index, Manifest, MediaType, Platform};
use solver::{ImageLocation, ImageSource};

use super::layout::Layout;
use super::location::{self, BlobPlace};
use super::{ImageError, ImageStore, LazyImage, ResolvedImage, blocking};
use crate::PullPolicy;

/// How deep indexes may be nested.
pub(super) const MAX_INDEX_DEPTH: usize = 4;
/// Marks what is no image in an index (BuildKit's attestations).
pub(super) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// One look-up: where, and the image as the user wrote it.
pub(super) struct Lookup<'a> {
    pub(super) images: &'a ImageStore,
    pub(super) location: &'a ImageLocation,
    pub(super) name: &'a str,
}

/// What a reference leads to.
pub(super) struct Roots {
    /// One index or manifest, or several manifests of a layout.
    pub(super) descriptors: Vec<Descriptor>,
    /// What people should know.
    warning: Option<String>,
    /// Where they are in the end, if it is not where they were looked for: in the store.
    location: Option<ImageLocation>,
}

impl From<Vec<Descriptor>> for Roots {
    fn from(descriptors: Vec<Descriptor>) -> Self {
        Self { descriptors, warning: None, location: None }
    }
}

/// What is known here of a tag.
struct Known {
    /// What it was when a registry was last asked, and when that was.
    seen: Option<(Descriptor, i64)>,
    /// The image of the store that has this name, and when it was given it: by a build, a pull, `load` or `tag`.
    tagged: Option<(Descriptor, i64)>,
}

impl Known {
    /// What was learned last.
    fn latest(self, reference: &ImageReference) -> Option<Roots> {
        match (&self.seen, &self.tagged) {
            (Some((_, seen_at)), Some((_, tagged_at))) if seen_at > tagged_at => {
                self.seen.map(|(seen, _)| vec![seen].into())
            }
            (_, Some(_)) => self.tagged(reference),
            (seen, None) => seen.clone().map(|(seen, _)| vec![seen].into()),
        }
    }

    /// The image of the store.
    fn tagged(self, reference: &ImageReference) -> Option<Roots> {
        let (tagged, _) = self.tagged?;
        // What was pulled can be fetched again.
        let is_pulled = self.seen.is_some_and(|(seen, _)| seen.digest == tagged.digest);
        let location = ImageLocation::Store(reference.clone().with_default_tag());
        Some(Roots { location: (!is_pulled).then_some(location), ..vec![tagged].into() })
    }
}

/// A reference as a lock file names it.
fn tagged_name(reference: &ImageReference) -> String {
    reference.clone().with_default_tag().to_string()
}

/// A manifest with its config.
struct Candidate {
    descriptor: Descriptor,
    manifest: Manifest,
    config: ImageConfig,
}

impl ImageStore {
    /// Finds the image at `location` for `platform`. Manifest and config are verified and in the store when this returns;
    /// layers are not pulled. `name` is the image as the user wrote it.
    ///
    /// An image that exists for one other platform only is taken, with a warning.
    pub async fn resolve(
        &self,
        location: &ImageLocation,
        platform: &Platform,
        name: &str,
    ) -> Result<ResolvedImage, ImageError> {
        let lookup = Lookup { images: self, location, name };
        let Roots { descriptors: roots, warning: doubt, location: moved } = lookup.roots(platform).await?;
        let candidate = lookup.choose(&roots, platform).await?;
        let found = platform_of(&candidate.config);
        let warning = (!serves(&found, platform))
            .then(|| format!("`{name}` is for {found}, not for {platform}; it is used all the same"));
        let warning = match (doubt, warning) {
            (Some(doubt), Some(warning)) => Some(format!("{doubt}; {warning}")),
            (doubt, warning) => doubt.or(warning),
        };
        let source = ImageSource {
            name: name.to_owned(),
            manifest: candidate.descriptor.digest.clone(),
            location: moved.unwrap_or_else(|| location.clone()),
            platform: found,
        };
        let resolved = ResolvedImage {
            index_or_manifest: match roots.as_slice() {
                [root] => root.digest.clone(),
                _ => candidate.descriptor.digest.clone(),
            },
            source,
            config: candidate.config,
            manifest: candidate.manifest,
            descriptor: candidate.descriptor,
            warning,
        };
        // Checks that manifest and config belong together while there is a line of a Dockerfile to point at.
        LazyImage::of(&resolved.source, &resolved.manifest, &resolved.config)?;
        self.remember(&resolved, platform).await?;
        Ok(resolved)
    }

    /// The image of `source` with the names of its layers. Manifest and config come from the store, or from where
    /// `source` says if they have been pruned.
    pub async fn lazy(&self, source: &ImageSource) -> Result<LazyImage, ImageError> {
        let lookup = Lookup { images: self, location: &source.location, name: &source.name };
        let candidate = lookup.candidate(&source.manifest).await?;
        LazyImage::of(source, &candidate.manifest, &candidate.config)
    }

    /// Keeps what the tag was seen to be, and where the blobs are.
    async fn remember(&self, resolved: &ResolvedImage, platform: &Platform) -> Result<(), ImageError> {
        let Some(text) = location::to_text(&resolved.source.location) else { return Ok(()) };
        let mut blobs = vec![resolved.manifest.config.clone()];
        blobs.extend(resolved.manifest.layers.iter().cloned());
        let (store, manifest) = (self.store.clone(), resolved.descriptor.digest.clone());
        let (platform, index) = (platform.clone(), resolved.index_or_manifest.clone());
        if let ImageLocation::Registry(reference) = &resolved.source.location
            && reference.digest().is_none()
        {
            self.sources.found().images.insert(tagged_name(reference), index.clone());
        }
        blocking(move || {
            store.set_image(&manifest, &blobs, &text)?;
            Ok(store.set_pin(&text, &platform, &index)?)
        })
        .await
    }
}

impl LazyImage {
    /// The image of a manifest and its config; an error if they do not have the same number of layers.
    pub fn of(source: &ImageSource, manifest: &Manifest, config: &ImageConfig) -> Result<Self, ImageError> {
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::LayerCount {
                image: source.name.clone(),
                layers: manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let chain_ids = ChainId::of_each(&diff_ids);
        Ok(Self { source: source.clone(), manifest: manifest.clone(), diff_ids, chain_ids })
    }
}

impl Lookup<'_> {
    /// What the reference leads to.
    pub(super) async fn roots(&self, platform: &Platform) -> Result<Roots, ImageError> {
        match self.location {
            ImageLocation::Registry(reference) => {
                if reference.digest().is_some() {
                    return self.by_digest(reference).await;
                }
                let policy = &self.images.sources.policy;
                if let Some(locked) = &policy.locked {
                    let image = tagged_name(reference);
                    let digest = locked.images.get(&image).cloned();
                    let digest = digest.ok_or(ImageError::NotLocked { image })?;
                    return self.by_digest(&reference.clone().with_digest(digest)).await;
                }
                self.by_tag(reference, platform).await
            }
            ImageLocation::OciLayout { path, tag_or_digest } => {
                let (layout, tag) = (self.layout(path), tag_or_digest.clone());
                Ok(blocking(move || layout.find(&tag)).await?.into())
            }
            ImageLocation::Store(reference) => {
                let (store, reference) = (self.images.store.clone(), reference.clone());
                let tag = blocking(move || Ok(store.image(&reference)?)).await?;
                let tag = tag.ok_or_else(|| ImageError::NotInStore { image: self.name.to_owned() })?;
                Ok(vec![tag.target].into())
            }
        }
    }

    /// What is named by its digest cannot have changed.
    async fn by_digest(&self, reference: &ImageReference) -> Result<Roots, ImageError> {
        if let Some(digest) = reference.digest()
            && let Some(descriptor) = self.stored(digest).await?
        {
            return Ok(vec![descriptor].into());
        }
        self.asked(reference).await
    }

    /// What a tag is, or what is known of it here: as the policy says. An image of the store stands in for one that its
    /// registry does not give, whatever the policy: often there is none there, and the name is known here alone.
    async fn by_tag(&self, reference: &ImageReference, platform: &Platform) -> Result<Roots, ImageError> {
        let policy = &self.images.sources.policy;
        let is_asked = !policy.offline && matches!(policy.pull, PullPolicy::Always | PullPolicy::Newer);
        let asked = if is_asked {
            match self.asked(reference).await {
                Err(error @ ImageError::Registry { .. }) => Some(error),
                asked => return asked,
            }
        } else {
            None
        };
        let known = self.known(reference, platform).await?;
        let Some(error) = asked else {
            return match known.latest(reference) {
                Some(roots) => Ok(roots),
                None => self.asked(reference).await,
            };
        };
        let tagged = known.tagged.as_ref().map(|(tagged, _)| tagged.digest.clone());
        let stand_in = match policy.pull {
            PullPolicy::Newer => known.latest(reference),
            PullPolicy::Always | PullPolicy::Missing | PullPolicy::Never => known.tagged(reference),
        };
        let Some(roots) = stand_in else { return Err(error) };
        let is_tagged = roots.descriptors.first().map(|root| &root.digest) == tagged.as_ref();
        let what = if is_tagged {
            "the image of that name in the store, as its registry did not give it"
        } else {
            "what was last seen, as the registry did not answer"
        };
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        let warning = format!("`{}` is {what}: {error}{cause}", self.name);
        Ok(Roots { warning: Some(warning), ..roots })
    }

    async fn known(&self, reference: &ImageReference, platform: &Platform) -> Result<Known, ImageError> {
        let (store, wanted) = (self.images.store.clone(), platform.clone());
        let (text, reference) = (location::to_text(self.location), reference.clone().with_default_tag());
        let (pin, tag) = blocking(move || {
            let pin = text.map(|text| store.pin(&text, &wanted)).transpose()?;
            Ok((pin.flatten(), store.image(&reference)?))
        })
        .await?;
        let seen = match pin {
            Some(pin) => self.stored(&pin.digest).await?.map(|seen| (seen, pin.seen_at)),
            None => None,
        };
        Ok(Known { seen, tagged: tag.map(|tag| (tag.target, tag.tagged_at)) })
    }

    /// What the registry says that the reference is.
    pub(super) async fn asked(&self, reference: &ImageReference) -> Result<Roots, ImageError> {
        let resolved = self.images.registry(self.name, "the manifest")?.resolve(reference).await;
        let resolved = resolved.map_err(|source| self.registry_error(source))?;
        self.keep(resolved.bytes.to_vec()).await?;
        Ok(vec![resolved.descriptor].into())
    }

    /// The manifest for `wanted` below `roots`.
    async fn choose(&self, roots: &[Descriptor], wanted: &Platform) -> Result<Candidate, ImageError> {
        let mut found: Vec<(Platform, Descriptor)> = Vec::new();
        let mut open: Vec<(usize, Descriptor)> = roots.iter().rev().map(|root| (0, root.clone())).collect();
        while let Some((depth, descriptor)) = open.pop() {
            if descriptor.annotations.contains_key(REFERENCE_TYPE) {
                continue;
            }
            if self.is_index(&descriptor).await? {
                if depth == MAX_INDEX_DEPTH {
                    return Err(self.not_an_image("its indexes are nested too deeply"));
                }
                let index: Index = self.document(&descriptor.digest, "index").await?;
                open.extend(index.manifests.into_iter().rev().map(|entry| (depth + 1, entry)));
                continue;
            }
            match &descriptor.platform {
                Some(platform) if platform.os == "unknown" => {}
                Some(platform) => found.push((platform.clone(), descriptor)),
                // Nothing to choose from: no need to know the platform before the manifest is fetched anyway.
                None if roots.len() == 1 && depth == 0 => return self.candidate(&descriptor.digest).await,
                None => {
                    let candidate = self.candidate(&descriptor.digest).await?;
                    found.push((platform_of(&candidate.config), descriptor));
                }
            }
        }
        let chosen = match found.as_slice() {
            [] => return Err(self.not_an_image("its index names no image")),
            [(_, only)] => only,
            several => choose_platform(several, wanted).ok_or_else(|| ImageError::Platform {
                image: self.name.to_owned(),
                wanted: Box::new(wanted.clone()),
                available: several.iter().map(|(platform, _)| platform.to_string()).collect(),
            })?,
        };
        self.candidate(&chosen.digest).await
    }

    async fn candidate(&self, digest: &Digest) -> Result<Candidate, ImageError> {
        let bytes = self.bytes(digest, None).await?;
        let manifest: Manifest = self.parse(&bytes, "manifest")?;
        let media_type = manifest.media_type.clone().unwrap_or_else(|| MediaType::OCI_MANIFEST.to_owned());
        if !MediaType::is_manifest(&media_type) {
            return Err(self.not_an_image(&format!("its media type is `{media_type}`")));
        }
        let descriptor = Descriptor::new(&media_type, digest.clone(), bytes.len() as u64);
        let config_type = manifest.config.media_type.as_str();
        if !matches!(config_type, MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG | "") {
            return Err(self.not_an_image(&format!("its config's media type is `{config_type}`")));
        }
        let bytes = self.bytes(&manifest.config.digest, Some(&manifest.config)).await?;
        let config: ImageConfig = self.parse(&bytes, "config")?;
        Ok(Candidate { descriptor, manifest, config })
    }

    /// Whether `descriptor` is an index: by its type, or by its members where it has none that is known.
    pub(super) async fn is_index(&self, descriptor: &Descriptor) -> Result<bool, ImageError> {
        if MediaType::is_index(&descriptor.media_type) || MediaType::is_manifest(&descriptor.media_type) {
            return Ok(MediaType::is_index(&descriptor.media_type));
        }
        let document: serde_json::Value = self.document(&descriptor.digest, "manifest").await?;
        Ok(document.get("manifests").is_some())
    }

    pub(super) async fn document<T: serde::de::DeserializeOwned>(
        &self,
        digest: &Digest,
        what: &'static str,
    ) -> Result<T, ImageError> {
        let bytes = self.bytes(digest, None).await?;
        self.parse(&bytes, what)
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(
        &self,
        bytes: &[u8],
        what: &'static str,
    ) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
            image: self.name.to_owned(),
            what,
            source,
        })
    }

    /// The bytes of a manifest, an index, or (with its descriptor) a config: from the store, else from the location, and
    /// then in the store too.
    pub(super) async fn bytes(
        &self,
        digest: &Digest,
        blob: Option<&Descriptor>,
    ) -> Result<Vec<u8>, ImageError> {
        let (store, wanted) = (self.images.store.clone(), digest.clone());
        let stored = blocking(move || {
            if store.blobs().contains(&wanted)? { Ok(Some(store.blobs().read(&wanted)?)) } else { Ok(None) }
        })
        .await?;
        if let Some(bytes) = stored {
            return Ok(bytes);
        }
        let bytes = match location::place(self.location) {
            Some(BlobPlace::Registry(reference)) => {
                let registry = self.images.registry(self.name, &format!("`{digest}`"))?;
                let fetched = match blob {
                    Some(descriptor) => registry.fetch_blob_bytes(&reference, descriptor).await,
                    None => registry.fetch_manifest(&reference, digest).await.map(|found| found.bytes),
                };
                fetched.map_err(|source| self.registry_error(source))?.to_vec()
            }
            Some(BlobPlace::OciLayout(path)) => {
                let (layout, wanted) = (self.layout(&path), digest.clone());
                blocking(move || layout.read_blob(&wanted)).await?
            }
            None => {
                return Err(ImageError::Gone { image: self.name.to_owned(), digest: digest.clone() });
            }
        };
        self.keep(bytes).await
    }

    /// Puts `bytes` into the store and gives them back.
    async fn keep(&self, bytes: Vec<u8>) -> Result<Vec<u8>, ImageError> {
        let store = self.images.store.clone();
        blocking(move || {
            store.blobs().write_bytes(&bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// The descriptor of a manifest or index that is in the store.
    async fn stored(&self, digest: &Digest) -> Result<Option<Descriptor>, ImageError> {
        let (store, wanted) = (self.images.store.clone(), digest.clone());
        blocking(move || {
            let size = store.blobs().size_bytes(&wanted)?;
            // Its type is read off its members.
            Ok(size.map(|size| Descriptor::new("", wanted, size)))
        })
        .await
    }

    fn layout(&self, path: &std::path::Path) -> Layout {
        Layout { path: path.to_owned(), image: self.name.to_owned() }
    }

    fn registry_error(&self, error: registry::RegistryError) -> ImageError {
        ImageError::Registry { image: self.name.to_owned(), source: Box::new(error) }
    }

    fn not_an_image(&self, problem: &str) -> ImageError {
        ImageError::NotAnImage { image: self.name.to_owned(), problem: problem.to_owned() }
    }
}

/// The platform of an image, normalised.
fn platform_of(config: &ImageConfig) -> Platform {
    let mut platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    platform.os_version.clone_from(&config.os_version);
    platform
}

/// The best of several: `wanted` itself, else the highest older variant of the same architecture.
fn choose_platform<'a>(found: &'a [(Platform, Descriptor)], wanted: &Platform) -> Option<&'a Descriptor> {
    let variants = served_variants(wanted);
    variants.iter().find_map(|variant| {
        let candidate = found.iter().find(|(platform, _)| platform.matches(variant));
        candidate.map(|(_, descriptor)| descriptor)
    })
}

/// Whether programs of `platform` run where `wanted` do.
fn serves(platform: &Platform, wanted: &Platform) -> bool {
    served_variants(wanted).iter().any(|variant| platform.matches(variant))
}

/// `wanted`, then the older variants that its processors run too.
fn served_variants(wanted: &Platform) -> Vec<Platform> {
    let older: &[&str] = match (wanted.architecture.as_str(), wanted.variant.as_deref()) {
        ("arm", Some("v8")) => &["v7", "v6", "v5"],
        ("arm", Some("v7") | None) => &["v6", "v5"],
        ("arm", Some("v6")) => &["v5"],
        ("amd64", Some("v4")) => &["v3", "v2", "v1"],
        ("amd64", Some("v3")) => &["v2", "v1"],
        ("amd64", Some("v2")) => &["v1"],
        ("arm64", Some("v9")) => &["v8"],
        _ => &[],
    };
    let older = older.iter().map(|variant| Platform::new(&wanted.os, &wanted.architecture, Some(variant)));
    std::iter::once(wanted.clone()).chain(older).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_variants_serve() {
        let cases = [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v3", true),
            ("linux/amd64/v3", "linux/amd64", false),
            ("linux/arm/v6", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/arm64", "linux/amd64", false),
        ];
        for (platform, wanted, expected) in cases {
            let (platform, wanted): (Platform, Platform) =
                (platform.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(serves(&platform, &wanted), expected, "{platform} for {wanted}");
        }
    }
}
