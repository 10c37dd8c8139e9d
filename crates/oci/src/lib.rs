//! The data types of OCI images: digests, descriptors, manifests, image configs, references and platforms.
//!
//! Types are strict in what they write and lenient in what they read. Serialisation is byte-stable, because
//! digests depend on bytes. This crate does no I/O and knows nothing of builds.

mod cache_config;
mod config;
mod descriptor;
mod digest;
mod platform;
mod reference;

pub use cache_config::{
    CacheConfig, CacheHash, CacheLayer, CacheMountLayer, CacheRecord, CarryingConfig, InlineCache,
};
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, Index, Manifest, MediaType};
pub use digest::{ChainId, DiffId, Digest, DigestError, Hasher};
pub use platform::{Platform, PlatformError};
pub use reference::{ImageReference, ReferenceError};
