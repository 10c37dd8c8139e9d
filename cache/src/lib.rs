//! Everything that rbuild keeps on disk: blobs, snapshots, layers, cache records, content digests, local tags, cache
//! mounts, and what may be thrown away.
//!
//! A [`Store`] is shared by any number of processes, without a daemon and without a global lock. Content is plain
//! files that are moved into place by a rename; what is known about it is one SQLite file. Whatever is in the store
//! is complete: a process that is killed leaves garbage, which [`Store::prune`] and the next run's sweep remove,
//! and never a wrong hit.
//!
//! Deliberately absent: cache keys are opaque here (the solver makes them), nothing is fetched (the registry client
//! does that), no mount stays (the sandbox mounts), and nothing is printed. All calls block.

mod blob;
mod cache_mount;
mod changes;
mod claim;
mod collect;
mod contents;
mod database;
mod disk;
mod duplicate;
mod entry;
mod error;
mod filter;
mod history;
mod id;
mod image;
mod links;
mod merge;
mod probe;
mod prune;
mod record;
mod removal;
mod run;
mod schema;
mod snapshot;
mod store;
mod usage;
mod verify;

pub mod context_stat;
pub mod layer;
pub mod tree;

pub use blob::{BlobReader, BlobStore, BlobWriter};
pub use cache_mount::{CacheMount, MountAttempt, MountKey, MountSharing};
pub use changes::{Change, FileChange};
pub use claim::{Claim, KeyLock};
pub use collect::{DiskSize, default_rules};
pub use contents::{Contents, SnapshotTree};
#[doc(hidden)]
pub use disk::{FaultKind, Faults};
pub use entry::{Entry, EntryId, EntryKind};
pub use error::StoreError;
pub use filter::{Filter, FilterError};
pub use history::{BuildId, BuildIdError, HistoryBounds};
pub use id::{RecordKey, SnapshotId};
pub use image::{ImageTag, Layer, Pin};
pub use links::{LinkError, LinkPolicy, LinkSource, Origins};
pub use probe::FileSystemSupport;
pub use prune::{PruneOptions, Pruned, SpaceBounds};
pub use record::{RecordDetails, Replace};
pub use snapshot::{ActiveSnapshot, Snapshot, WorkDirs};
pub use store::{IdMode, Seal, SnapshotterKind, Store, StoreOptions, WeakStore};
pub use usage::Usage;
pub use verify::{Defect, Outcome, Part, Verified};
