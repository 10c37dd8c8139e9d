//! `--cache-from` and `--cache-to`: where caches are read from and written to, as `docker buildx build` spells them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci::{Digest, ImageReference, ReferenceError};

use crate::compression::MediaTypes;
use crate::fields::{FieldError, Fields, Grammar};
use crate::form::LayerForm;

/// A value of `--cache-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheImport {
    /// Where the cache is.
    pub place: ImportPlace,
    /// Which cache mounts are restored from it (`mounts`).
    pub mounts: CacheMounts,
}

/// Where a cache is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportPlace {
    /// A cache, or an image that carries one.
    Registry {
        /// Its name.
        reference: ImageReference,
        /// Whether the registry may speak HTTP, or have any certificate (`registry.insecure`).
        insecure: bool,
    },
    /// An OCI layout.
    Local {
        /// The directory (`src`).
        directory: PathBuf,
        /// The tag or the digest of its manifest.
        tag_or_digest: String,
    },
}

/// A value of `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheExport {
    /// Where the cache goes.
    pub place: ExportPlace,
    /// How much goes there (`mode`).
    pub mode: CacheMode,
    /// Which cache mounts go there too (`mounts`).
    pub mounts: CacheMounts,
    /// How its layers are written.
    pub form: LayerForm,
    /// Whether the build succeeds where this fails.
    pub ignore_error: bool,
}

/// Where a cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportPlace {
    /// A registry.
    Registry {
        /// The cache's name.
        reference: ImageReference,
        /// Whether the registry may speak HTTP, or have any certificate (`registry.insecure`).
        insecure: bool,
    },
    /// An OCI layout.
    Local {
        /// The directory (`dest`).
        directory: PathBuf,
        /// The tag of its manifest.
        tag: String,
        /// Whether blobs that no manifest of the layout names are removed.
        reset: bool,
    },
    /// The image itself.
    Inline,
}

/// How much of a build is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// The layers of the result.
    Min,
    /// Those of all steps.
    Max,
}

/// A choice of cache mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheMounts {
    /// None.
    None,
    /// All.
    All,
    /// Those with these IDs.
    Ids(BTreeSet<String>),
}

/// Why a text names no cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheFlagError {
    /// It has not the form of one.
    #[error(transparent)]
    Fields(#[from] FieldError),
    /// A type that BuildKit has.
    #[error("the cache type `{0}` is not supported")]
    Unsupported(String),
    /// A cache in an image is read from where the image is.
    #[error(
        "the cache type `inline` cannot be read from: what an image carries is read with `type=registry`"
    )]
    FromInline,
    /// Something that has to be said is missing.
    #[error("the {option} type `{kind}` needs `{key}`, as in `type={kind},{key}={example}`")]
    Missing {
        /// What the text is to be.
        option: &'static str,
        /// The type.
        kind: &'static str,
        /// The key.
        key: &'static str,
        /// A value that would do.
        example: &'static str,
    },
    /// An image carries its own layers and no others.
    #[error("the cache type `inline` carries only the layers of the image: `mode=max` cannot be had")]
    InlineMax,
    /// A name that is no reference.
    #[error("invalid cache reference `{text}`")]
    Reference {
        /// What was written.
        text: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
}

impl CacheFlagError {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported(_) => Some("the types are `registry`, `local` and `inline`".to_owned()),
            Self::InlineMax => Some("`type=registry` takes it".to_owned()),
            _ => None,
        }
    }
}

const TYPES: &[&str] = &["registry", "local", "inline"];
/// Types that BuildKit has beside those.
const OTHER_TYPES: &[&str] = &["gha", "s3", "azblob"];

const IMPORT: Grammar =
    Grammar { option: "cache import", types: TYPES, example: "type=registry,ref=user/app:cache", later: &[] };
const EXPORT: Grammar = Grammar { option: "cache export", ..IMPORT };

const REGISTRY_IMPORT_KEYS: &[&str] = &["ref", "registry.insecure", "mounts"];
const LOCAL_IMPORT_KEYS: &[&str] = &["src", "tag", "digest", "mounts"];
const REGISTRY_EXPORT_KEYS: &[&str] = &[
    "ref",
    "registry.insecure",
    "mode",
    "mounts",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
];
const LOCAL_EXPORT_KEYS: &[&str] = &[
    "dest",
    "tag",
    "reset",
    "mode",
    "mounts",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "ignore-error",
];
const INLINE_EXPORT_KEYS: &[&str] = &["mode"];

/// Reads a value of `--cache-from`. References alone, separated by commas, are several of `type=registry`.
pub fn parse_cache_import(text: &str) -> Result<Vec<CacheImport>, CacheFlagError> {
    let plain = |reference| CacheImport {
        place: ImportPlace::Registry { reference, insecure: false },
        mounts: CacheMounts::None,
    };
    read(IMPORT, text, plain, |mut fields| {
        let place = match fields.kind {
            "registry" => {
                fields.check_keys(REGISTRY_IMPORT_KEYS)?;
                let (reference, insecure) = registry(IMPORT, &mut fields)?;
                ImportPlace::Registry { reference, insecure }
            }
            "local" => {
                fields.check_keys(LOCAL_IMPORT_KEYS)?;
                let directory = required(IMPORT, &mut fields, "src", "cache")?;
                let tag = fields.take("tag").unwrap_or_else(|| "latest".to_owned());
                let digest = fields.take("digest");
                if let Some(digest) = &digest
                    && digest.parse::<Digest>().is_err()
                {
                    return Err(fields.wrong("digest", digest.clone(), "a digest, `sha256:…`").into());
                }
                ImportPlace::Local { directory: directory.into(), tag_or_digest: digest.unwrap_or(tag) }
            }
            _ => return Err(CacheFlagError::FromInline),
        };
        Ok(CacheImport { place, mounts: mounts(&mut fields) })
    })
}

/// Reads a value of `--cache-to`. References alone, separated by commas, are several of `type=registry`.
pub fn parse_cache_export(text: &str) -> Result<Vec<CacheExport>, CacheFlagError> {
    let plain = |reference| CacheExport {
        place: ExportPlace::Registry { reference, insecure: false },
        mode: CacheMode::Min,
        mounts: CacheMounts::None,
        form: LayerForm::default(),
        ignore_error: false,
    };
    read(EXPORT, text, plain, |mut fields| {
        fields.check_keys(match fields.kind {
            "registry" => REGISTRY_EXPORT_KEYS,
            "local" => LOCAL_EXPORT_KEYS,
            _ => INLINE_EXPORT_KEYS,
        })?;
        let place = match fields.kind {
            "registry" => {
                let (reference, insecure) = registry(EXPORT, &mut fields)?;
                ExportPlace::Registry { reference, insecure }
            }
            "local" => ExportPlace::Local {
                directory: required(EXPORT, &mut fields, "dest", "cache")?.into(),
                tag: fields.take("tag").unwrap_or_else(|| "latest".to_owned()),
                reset: fields.boolean("reset")?.unwrap_or(false),
            },
            _ => ExportPlace::Inline,
        };
        let mode = match fields.take("mode").as_deref() {
            None | Some("min") => CacheMode::Min,
            Some("max") if place == ExportPlace::Inline => return Err(CacheFlagError::InlineMax),
            Some("max") => CacheMode::Max,
            Some(other) => return Err(fields.wrong("mode", other.to_owned(), "`min` or `max`").into()),
        };
        if fields.boolean("image-manifest")? == Some(false) {
            let expected = "`true`, as a cache is always an image manifest here";
            return Err(fields.wrong("image-manifest", "false".to_owned(), expected).into());
        }
        Ok(CacheExport {
            place,
            mode,
            mounts: mounts(&mut fields),
            form: fields.layer_form(MediaTypes::Oci)?,
            ignore_error: fields.boolean("ignore-error")?.unwrap_or(false),
        })
    })
}

fn read<T>(
    grammar: Grammar,
    text: &str,
    plain: impl Fn(ImageReference) -> T,
    read: impl Fn(Fields) -> Result<T, CacheFlagError>,
) -> Result<Vec<T>, CacheFlagError> {
    let fields = grammar.split(text)?;
    if fields.iter().all(|field| !field.contains('=') && !field.trim().is_empty()) {
        return fields.iter().map(|field| Ok(plain(reference(field.trim())?))).collect();
    }
    let other = fields.iter().find_map(|field| field.strip_prefix("type="));
    if let Some(other) = other.filter(|kind| OTHER_TYPES.contains(kind)) {
        return Err(CacheFlagError::Unsupported(other.to_owned()));
    }
    Ok(vec![read(grammar.read(text, &fields)?)?])
}

fn registry(grammar: Grammar, fields: &mut Fields) -> Result<(ImageReference, bool), CacheFlagError> {
    let text = required(grammar, fields, "ref", "user/app:cache")?;
    Ok((reference(&text)?, fields.boolean("registry.insecure")?.unwrap_or(false)))
}

fn required(
    grammar: Grammar,
    fields: &mut Fields,
    key: &'static str,
    example: &'static str,
) -> Result<String, CacheFlagError> {
    let (option, kind) = (grammar.option, fields.kind);
    let value = fields.take(key).filter(|value| !value.is_empty());
    value.ok_or(CacheFlagError::Missing { option, kind, key, example })
}

fn reference(text: &str) -> Result<ImageReference, CacheFlagError> {
    match text.parse::<ImageReference>() {
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(source) => Err(CacheFlagError::Reference { text: text.to_owned(), source }),
    }
}

/// `mounts`: a boolean, or IDs with semicolons between them.
fn mounts(fields: &mut Fields) -> CacheMounts {
    match fields.take("mounts").as_deref() {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => CacheMounts::None,
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => CacheMounts::All,
        Some(ids) => {
            CacheMounts::Ids(ids.split(';').filter(|id| !id.is_empty()).map(str::to_owned).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::{Compression, CompressionKind};

    fn named(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn imports_are_read() {
        let registry = |name: &str| CacheImport {
            place: ImportPlace::Registry { reference: named(name), insecure: false },
            mounts: CacheMounts::None,
        };
        let local = |tag: &str| CacheImport {
            place: ImportPlace::Local { directory: "a b".into(), tag_or_digest: tag.to_owned() },
            mounts: CacheMounts::None,
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        let cases = [
            ("user/app:cache".to_owned(), vec![registry("user/app:cache")]),
            ("a,b:c".to_owned(), vec![registry("a:latest"), registry("b:c")]),
            ("type=registry,ref=user/app".to_owned(), vec![registry("user/app:latest")]),
            ("type=local,src=a b".to_owned(), vec![local("latest")]),
            ("type=local,src=a b,tag=x".to_owned(), vec![local("x")]),
            (format!("type=local,src=a b,tag=x,digest={digest}"), vec![local(&digest)]),
            (
                "type=registry,ref=a:b,registry.insecure=true,mounts=/go;x".to_owned(),
                vec![CacheImport {
                    place: ImportPlace::Registry { reference: named("a:b"), insecure: true },
                    mounts: CacheMounts::Ids(["/go".to_owned(), "x".to_owned()].into()),
                }],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_cache_import(&text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn exports_are_read() {
        let base = parse_cache_export("a:b").unwrap().remove(0);
        assert_eq!(base.mode, CacheMode::Min);
        let cases = [
            ("type=registry,ref=a:b", base.clone()),
            (
                "type=registry,ref=a:b,mode=max,ignore-error=true,image-manifest=true,oci-mediatypes=false",
                CacheExport {
                    mode: CacheMode::Max,
                    ignore_error: true,
                    form: LayerForm { media_types: MediaTypes::Docker, ..LayerForm::default() },
                    ..base.clone()
                },
            ),
            ("type=inline", CacheExport { place: ExportPlace::Inline, ..base.clone() }),
            (
                "type=local,dest=c,reset=1,compression=zstd,compression-level=9,force-compression=true,mounts=true",
                CacheExport {
                    place: ExportPlace::Local {
                        directory: "c".into(),
                        tag: "latest".to_owned(),
                        reset: true,
                    },
                    form: LayerForm {
                        compression: Compression::new(CompressionKind::Zstd, Some(9)).unwrap(),
                        force: true,
                        ..LayerForm::default()
                    },
                    mounts: CacheMounts::All,
                    ..base
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_cache_export(text).unwrap(), [expected], "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("type=gha,scope=x", "the cache type `gha` is not supported"),
            ("type=s3,region=x,bucket=y", "the cache type `s3` is not supported"),
            ("type=azblob", "the cache type `azblob` is not supported"),
            ("type=regestry,ref=a", "unknown cache export type `regestry` (did you mean registry?)"),
            (
                "type=registry",
                "the cache export type `registry` needs `ref`, as in `type=registry,ref=user/app:cache`",
            ),
            ("type=local", "the cache export type `local` needs `dest`, as in `type=local,dest=cache`"),
            ("type=local,dest=a,ref=b", "unknown key `ref` for cache export type `local`"),
            (
                "type=inline,mode=max",
                "the cache type `inline` carries only the layers of the image: `mode=max` cannot be had",
            ),
            ("type=inline,mounts=true", "unknown key `mounts` for cache export type `inline`"),
            (
                "ref=a",
                "invalid cache export `ref=a`: a `type` is required, as in `type=registry,ref=user/app:cache`",
            ),
            (
                "type=registry,ref=a,mode=all",
                "invalid value `all` for `mode` of cache export type `registry`: it should be `min` or `max`",
            ),
            (
                "type=registry,ref=a,image-manifest=false",
                "invalid value `false` for `image-manifest` of cache export type `registry`: it should be `true`, as a cache is always an image manifest here",
            ),
            ("type=registry,ref=A", "invalid cache reference `A`"),
        ];
        for (text, message) in cases {
            assert_eq!(parse_cache_export(text).unwrap_err().to_string(), message, "{text}");
        }
        let error = parse_cache_import("type=inline").unwrap_err();
        assert_eq!(error, CacheFlagError::FromInline);
        let error = parse_cache_import("type=local,src=a,digest=x").unwrap_err().to_string();
        assert!(error.starts_with("invalid value `x` for `digest` of cache import type `local`"), "{error}");
    }
}
