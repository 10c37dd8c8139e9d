//! The caches of a RUN: directories of the store that outlive the build.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::layer::{LayerError, apply_blob};
use cache::tree::{Attributes, TreeKind, TreeMode, TreeWriter};
use cache::{CacheMount, MountAttempt, MountKey, MountSharing};
use solver::{CacheSharing, ContentDigest, Event, ExecContext, RunCache, RunMountKind, RunOp};

use super::mounts::Preparation;
use crate::WorkerError;
use crate::carry::{ImportedMount, with_causes};
use crate::copy;
use crate::image::ImageError;
use crate::local::{Pauses, blocking, unless_cancelled};

/// The mode of the directory of a new cache.
const DEFAULT_MODE: u32 = 0o755;

/// The caches of a RUN, in use until this is dropped.
#[derive(Default)]
pub(super) struct Caches(BTreeMap<MountKey, CacheMount>);

impl Caches {
    /// Takes all that `op` mounts, waiting for those that others have. One that is mounted at two places is taken
    /// once, in the strictest way that is asked for.
    pub(super) async fn take(
        preparation: &Arc<Preparation>,
        op: &RunOp,
        context: &ExecContext,
    ) -> Result<Self, WorkerError> {
        let mut wanted: BTreeMap<MountKey, (MountSharing, RunCache)> = BTreeMap::new();
        for mount in &op.mounts {
            let RunMountKind::Cache(cache) = &mount.kind else { continue };
            let sharing = sharing(cache.sharing);
            let (strictest, _) =
                wanted.entry(preparation.cache_key(cache)).or_insert((sharing, cache.clone()));
            *strictest = sharing.max(*strictest);
        }
        let mut taken = BTreeMap::new();
        // In the order of the keys, as all others take them: whoever waits holds only such as come before.
        for (key, (sharing, cache)) in wanted {
            restore(preparation, &key, &cache, context).await?;
            let mount = wait_for(preparation, &key, (sharing, &cache), context).await?;
            taken.insert(key, mount);
        }
        Ok(Self(taken))
    }

    /// The directory of one of them.
    pub(super) fn directory(&self, key: &MountKey) -> PathBuf {
        self.0[key].directory()
    }
}

/// Fills a cache that is not there yet, or has nothing in it, with what a cache that lies elsewhere has of it. Where that
/// fails it begins as any other does: it is there to save time.
async fn restore(
    preparation: &Arc<Preparation>,
    key: &MountKey,
    cache: &RunCache,
    context: &ExecContext,
) -> Result<(), WorkerError> {
    let Some((import, carried)) = preparation.imports.restorable_mount(key).await else { return Ok(()) };
    let (store, wanted) = (preparation.store.clone(), key.clone());
    let is_missing = blocking(move || {
        store.remove_empty_mount(&wanted)?;
        let found = store.try_existing_mount(&wanted, MountSharing::Shared)?;
        Ok(matches!(found, MountAttempt::Missing))
    });
    if !is_missing.await? {
        return Ok(());
    }
    let restoring = async {
        import.fetch(&carried.descriptor).await?;
        let (preparation, key, cache) = (Arc::clone(preparation), key.clone(), cache.clone());
        let name = import.name().to_owned();
        let mount = blocking(move || {
            preparation.store.try_mount(&key, MountSharing::Shared, |directory| {
                preparation.begin_cache(&cache, directory)?;
                preparation.restore_cache((&carried, &name), directory)
            })
        });
        mount.await.map(drop)
    };
    match unless_cancelled(context, restoring).await {
        Err(WorkerError::Image(error)) => {
            let id = key.id.strip_prefix('/').unwrap_or(&key.id);
            let message = format!("the cache `{id}` cannot be restored: {}", with_causes(&error));
            (context.events)(Event::Warning { vertex: context.vertex, message });
            Ok(())
        }
        restored => restored,
    }
}

async fn wait_for(
    preparation: &Arc<Preparation>,
    key: &MountKey,
    (sharing, cache): (MountSharing, &RunCache),
    context: &ExecContext,
) -> Result<CacheMount, WorkerError> {
    let mut pauses = Pauses::default();
    loop {
        let (preparation, key, cache) = (Arc::clone(preparation), key.clone(), cache.clone());
        let id = key.id.clone();
        let mount = blocking(move || {
            preparation.store.try_mount(&key, sharing, |directory| preparation.begin_cache(&cache, directory))
        });
        if let Some(mount) = mount.await? {
            return Ok(mount);
        }
        if pauses.is_first() {
            (context.events)(Event::WaitingForCache { vertex: context.vertex, id });
        }
        pauses.next(context).await?;
    }
}

fn names_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

fn sharing(sharing: CacheSharing) -> MountSharing {
    match sharing {
        CacheSharing::Shared => MountSharing::Shared,
        CacheSharing::Private => MountSharing::Private,
        CacheSharing::Locked => MountSharing::Locked,
    }
}

/// Which directory of the store a cache is that begins with files of that digest. One that begins with other files, or
/// belongs to another user, is another one.
///
/// Written format of the beginning: blake3 of `rbuild cache beginning 1` and four parts, each 1 and its value or 0 for
/// none: the digest of the files; mode, owner and group (four bytes each, little endian).
pub(crate) fn mount_key(cache: &RunCache, begins_with: Option<&ContentDigest>) -> MountKey {
    let digest = begins_with.map(|digest| digest.0.to_vec());
    let defaults = if cache.input.is_none() { [Some(DEFAULT_MODE), Some(0), Some(0)] } else { [None; 3] };
    let attributes = [cache.mode, cache.uid, cache.gid].into_iter().zip(defaults);
    let attributes =
        attributes.map(|(value, default)| value.or(default).map(|value| value.to_le_bytes().to_vec()));
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rbuild cache beginning 1");
    for part in std::iter::once(digest).chain(attributes) {
        hasher.update(&[u8::from(part.is_some())]);
        hasher.update(&part.unwrap_or_default());
    }
    MountKey { id: cache.id.clone(), beginning: *hasher.finalize().as_bytes() }
}

impl Preparation {
    /// Which directory of the store a cache of this step is.
    pub(super) fn cache_key(&self, cache: &RunCache) -> MountKey {
        mount_key(cache, cache.input.and_then(|input| self.digests[input].as_ref()))
    }

    /// Fills the directory of a new cache with the files of a layer instead of those that it begins with.
    fn restore_cache(
        &self,
        (carried, name): (&ImportedMount, &str),
        directory: &Path,
    ) -> Result<(), WorkerError> {
        let failed = |source| ImageError::LayerUnpack {
            image: name.to_owned(),
            layer: carried.descriptor.digest.clone(),
            source,
        };
        let reader = self.store.blobs().reader(&carried.descriptor.digest)?;
        let begun = names_in(directory).map_err(|error| failed(LayerError::Read(error)))?;
        for path in begun {
            let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|error| failed(LayerError::Read(error)))?;
        }
        let plain = TreeMode { kind: TreeKind::Plain, ..self.store.tree_mode() };
        let applied = apply_blob(reader, directory, plain).map_err(failed)?;
        if applied.diff_id != carried.diff_id {
            return Err(WorkerError::Image(ImageError::LayerContent {
                image: name.to_owned(),
                layer: carried.descriptor.digest.clone(),
                expected: carried.diff_id.clone(),
                actual: applied.diff_id,
            }));
        }
        Ok(applied.finish(&[]).map_err(failed)?)
    }

    /// Fills the directory of a new cache.
    fn begin_cache(&self, cache: &RunCache, directory: &Path) -> Result<(), WorkerError> {
        let plain = TreeMode { kind: TreeKind::Plain, ..self.store.tree_mode() };
        let writer = TreeWriter::new(directory, &[], plain)?;
        let root = Path::new("/");
        if let Some(input) = cache.input {
            let (tree, selection) = self.selected(input)?;
            let node = &selection.sources[0].matches[0].node;
            if !node.is_directory() {
                let (id, path) = (cache.id.clone(), node.path.clone());
                return Err(WorkerError::CacheFromFile { id, path });
            }
            copy::copy_whole(&tree, node, &writer, &self.cancel)?;
        }
        let entry = writer.view().entry(root)?;
        let begun = entry.map(|entry| Attributes::of(&entry, Vec::new())).unwrap_or_default();
        let attributes = Attributes {
            mode: cache.mode.unwrap_or(begun.mode),
            uid: cache.uid.unwrap_or(begun.uid),
            gid: cache.gid.unwrap_or(begun.gid),
            mtime: None,
            xattrs: Vec::new(),
        };
        writer.set_attributes(root, &attributes)?;
        Ok(writer.finish()?)
    }
}
