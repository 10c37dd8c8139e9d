//! Annotations of images: `annotation[-<level>][[<platform>]].<key>=<value>` in an output, and the flag `--annotation`.

use std::collections::BTreeMap;
use std::fmt;

use oci::{Platform, PlatformError};

/// What is annotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnotationLevel {
    /// The manifest of an image.
    Manifest,
    /// What an index, or the index of a layout, says of the manifest.
    ManifestDescriptor,
    /// The index.
    Index,
    /// What the index of a layout says of the index.
    IndexDescriptor,
}

impl AnnotationLevel {
    const ALL: [Self; 4] = [Self::Manifest, Self::ManifestDescriptor, Self::Index, Self::IndexDescriptor];

    /// The level that is called `name`.
    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::ManifestDescriptor => "manifest-descriptor",
            Self::Index => "index",
            Self::IndexDescriptor => "index-descriptor",
        }
    }
}

impl fmt::Display for AnnotationLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Annotations of all levels, for all platforms or for one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotations(BTreeMap<(AnnotationLevel, Option<Platform>), BTreeMap<String, String>>);

/// Why something is no annotation of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// `--annotation` without a value.
    #[error("invalid annotation {0:?}, expected key=value")]
    NoValue(String),
    /// What stands before the colon of `--annotation` has not its form.
    #[error("invalid annotation type {0:?}, expected type and optional platform in square brackets")]
    Form(String),
    /// There is no such level.
    #[error("unknown annotation type {0:?}")]
    Level(String),
    /// What stands in brackets is no platform.
    #[error("invalid platform of annotation `{text}`")]
    Platform {
        /// The annotation.
        text: String,
        /// Why.
        #[source]
        source: PlatformError,
    },
    /// The image is not made for this platform.
    #[error("invalid annotation: no platform {0} found in source")]
    NoSuchPlatform(Platform),
    /// There is no index.
    #[error("index annotations not supported for single platform export")]
    NoIndex,
}

impl Annotations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one; the last one of a key holds.
    pub fn set(&mut self, level: AnnotationLevel, platform: Option<Platform>, key: &str, value: &str) {
        self.0.entry((level, platform)).or_default().insert(key.to_owned(), value.to_owned());
    }

    /// Takes over what `others` have.
    pub fn extend(&mut self, others: &Self) {
        for (place, pairs) in &others.0 {
            self.0.entry(place.clone()).or_default().extend(pairs.clone());
        }
    }

    /// Those of a level for a platform: what is said of all, and what is said of it alone, which takes precedence.
    pub fn of(&self, level: AnnotationLevel, platform: &Platform) -> BTreeMap<String, String> {
        let mut found = self.of_all(level);
        found.extend(self.0.get(&(level, Some(platform.clone()))).cloned().unwrap_or_default());
        found
    }

    /// Those of a level that are said of all platforms.
    pub fn of_all(&self, level: AnnotationLevel) -> BTreeMap<String, String> {
        self.0.get(&(level, None)).cloned().unwrap_or_default()
    }

    /// Whether there are some that Docker's media types have no place for.
    pub(crate) fn need_oci_types(&self) -> bool {
        self.0.keys().any(|(level, _)| *level != AnnotationLevel::Manifest)
    }

    /// Refuses those for which an image of `platforms`, with an index or not, has no place.
    pub fn check(&self, platforms: &[Platform], form: RootForm) -> Result<(), AnnotationError> {
        for (level, platform) in self.0.keys() {
            if let Some(platform) = platform
                && !platforms.contains(platform)
            {
                return Err(AnnotationError::NoSuchPlatform(platform.clone()));
            }
            let wants_index = matches!(level, AnnotationLevel::Index | AnnotationLevel::IndexDescriptor);
            if wants_index && form == RootForm::Manifest {
                return Err(AnnotationError::NoIndex);
            }
        }
        Ok(())
    }

    /// Sets the annotation that an output's field `key` asks for; tells whether it is one.
    pub(crate) fn read_field(&mut self, key: &str, value: &str) -> Result<bool, AnnotationError> {
        let Some(rest) = key.strip_prefix("annotation") else { return Ok(false) };
        // A key of an annotation has dots, and a platform has none.
        let Some((place, name)) = rest.split_once('.') else { return Ok(false) };
        let (level, platform) = match place.split_once('[') {
            Some((level, platform)) => match platform.strip_suffix(']') {
                Some(platform) => (level, Some(platform)),
                None => return Ok(false),
            },
            None => (place, None),
        };
        let level = match level.strip_prefix('-') {
            Some(level) => level,
            None if level.is_empty() => AnnotationLevel::Manifest.name(),
            None => return Ok(false),
        };
        if name.is_empty() {
            return Ok(false);
        }
        let level =
            AnnotationLevel::of_name(level).ok_or_else(|| AnnotationError::Level(level.to_owned()))?;
        self.set(level, platform_of(platform, key)?, name, value);
        Ok(true)
    }

    /// Reads `[<level>[[<platform>]][,…]:]<key>=<value>`, a value of `--annotation`; the level is `manifest` where none
    /// is named.
    pub fn read_flag(&mut self, text: &str) -> Result<(), AnnotationError> {
        let Some((left, value)) = text.split_once('=') else {
            return Err(AnnotationError::NoValue(text.to_owned()));
        };
        let Some((places, key)) = left.split_once(':') else {
            self.set(AnnotationLevel::Manifest, None, left, value);
            return Ok(());
        };
        for place in places.split(',') {
            let form = || AnnotationError::Form(place.to_owned());
            let (level, platform) = match place.split_once('[') {
                Some((level, platform)) => (level, Some(platform.strip_suffix(']').ok_or_else(form)?)),
                None => (place, None),
            };
            if level.is_empty() || !level.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                return Err(form());
            }
            let platform = platform_of(platform, place)?;
            let level =
                AnnotationLevel::of_name(level).ok_or_else(|| AnnotationError::Level(level.to_owned()))?;
            self.set(level, platform, key, value);
        }
        Ok(())
    }
}

/// What an image is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootForm {
    /// A manifest.
    Manifest,
    /// An index of manifests.
    Index,
}

fn platform_of(text: Option<&str>, whole: &str) -> Result<Option<Platform>, AnnotationError> {
    let Some(text) = text else { return Ok(None) };
    let parsed = text.parse();
    parsed.map(Some).map_err(|source| AnnotationError::Platform { text: whole.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Annotations, AnnotationError> {
        let mut annotations = Annotations::default();
        texts.iter().try_for_each(|text| annotations.read_flag(text))?;
        Ok(annotations)
    }

    #[test]
    fn flags_are_read_and_precede_each_other() {
        let arm: Platform = "linux/arm64".parse().unwrap();
        let amd: Platform = "linux/amd64".parse().unwrap();
        let found = read(&[
            "a=1",
            "manifest[linux/arm64]:a=2",
            "index,manifest-descriptor[linux/amd64]:org.Example=x=y",
            "manifest:b=",
        ])
        .unwrap();
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(found.of(AnnotationLevel::Manifest, &amd), pairs(&[("a", "1"), ("b", "")]));
        assert_eq!(found.of(AnnotationLevel::Manifest, &arm), pairs(&[("a", "2"), ("b", "")]));
        assert_eq!(found.of(AnnotationLevel::ManifestDescriptor, &amd), pairs(&[("org.Example", "x=y")]));
        assert!(found.of(AnnotationLevel::ManifestDescriptor, &arm).is_empty());
        assert_eq!(found.of_all(AnnotationLevel::Index), pairs(&[("org.Example", "x=y")]));
        assert_eq!(found.check(&[arm.clone(), amd.clone()], RootForm::Index), Ok(()));
        assert_eq!(found.check(&[arm.clone(), amd], RootForm::Manifest), Err(AnnotationError::NoIndex));
        let error = found.check(&[arm], RootForm::Index).unwrap_err().to_string();
        assert_eq!(error, "invalid annotation: no platform linux/amd64 found in source");
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_buildx() {
        let cases = [
            ("a", "invalid annotation \"a\", expected key=value"),
            ("layer:a=b", "unknown annotation type \"layer\""),
            (
                "index[linux/amd64:a=b",
                "invalid annotation type \"index[linux/amd64\", expected type and optional platform in square brackets",
            ),
            (
                "index,:a=b",
                "invalid annotation type \"\", expected type and optional platform in square brackets",
            ),
            ("index[a/b/c/d]:a=b", "invalid platform of annotation `index[a/b/c/d]`"),
        ];
        for (text, message) in cases {
            assert_eq!(read(&[text]).unwrap_err().to_string(), message, "{text}");
        }
    }
}
