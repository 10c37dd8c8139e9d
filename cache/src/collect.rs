//! Keeping a store in bounds without being asked to, from time to time.

use std::fs::File;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, StatVfs};

use crate::{EntryKind, Filter, PruneOptions, Pruned, SpaceBounds, Store, StoreError};

/// Its time is that of the last collection, its lock is held by the one that is at it.
const STAMP: &str = "gc";
/// Collections are no more frequent than that.
const INTERVAL: Duration = Duration::from_secs(600);
const GIB: u64 = 1 << 30;

/// The size of a disk in bytes, 0 where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSize(pub u64);

impl DiskSize {
    /// So many hundredths of it, as BuildKit counts: rounded up to a billion bytes for each GiB begun.
    pub fn percent(self, hundredths: u64) -> u64 {
        if self.0 == 0 {
            return 2_000_000_000;
        }
        let part = u128::from(self.0) * u128::from(hundredths) / 100;
        u64::try_from(part).map_or(u64::MAX, |part| (part / GIB + 1).saturating_mul(1_000_000_000))
    }

    /// The bounds that hold where none are set: a tenth of the disk (at most 10 GB) may always stay, no more than four
    /// fifths of it (at most 100 GB) may, and a fifth of it is to be free.
    pub fn default_bounds(self) -> SpaceBounds {
        SpaceBounds {
            reserved: Some(self.percent(10).min(10_000_000_000)),
            max_used: Some(self.percent(80).min(100_000_000_000)),
            min_free: Some(self.percent(20)),
        }
    }
}

/// The rules that BuildKit goes by where none are set: what is easily had again and was not used for two days goes
/// first, then what was not used for two months, then whatever else.
pub fn default_rules(bounds: SpaceBounds) -> Vec<PruneOptions> {
    let days = |days: u64| Some(Duration::from_secs(days * 86400));
    let easily_had = [EntryKind::LocalSource, EntryKind::CacheMount, EntryKind::GitCheckout];
    vec![
        PruneOptions {
            unused_for: days(2),
            filters: easily_had.into_iter().map(Filter::of_kind).collect(),
            bounds: SpaceBounds { max_used: Some(512_000_000), ..SpaceBounds::default() },
        },
        PruneOptions { unused_for: days(60), filters: Vec::new(), bounds },
        PruneOptions { unused_for: None, filters: Vec::new(), bounds },
    ]
}

impl Store {
    /// The size of the disk that the store is on.
    pub fn disk_size(&self) -> DiskSize {
        let size = |space: StatVfs| space.f_blocks.saturating_mul(space.f_frsize);
        DiskSize(rustix::fs::statvfs(self.root()).map_or(0, size))
    }

    /// Whether it is time to collect: the last time was ten minutes ago or more. A new store begins to count now.
    pub fn collection_is_due(&self) -> bool {
        let path = self.root().join(STAMP);
        if let Ok(last) = std::fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            // A time in the future is the clock's mistake.
            return SystemTime::now().duration_since(last).map_or(true, |passed| passed >= INTERVAL);
        }
        // Whoever cannot write there has other troubles.
        let _ = File::create(&path);
        false
    }

    /// Throws away what the rules mean, one after the other. `None` if another process is at it.
    pub fn collect(&self, rules: &[PruneOptions]) -> Result<Option<Pruned>, StoreError> {
        let path = self.root().join(STAMP);
        let stamp = File::options().write(true).create(true).truncate(false).open(&path);
        let stamp = stamp.map_err(|error| StoreError::io("open", &path, error))?;
        match rustix::fs::flock(&stamp, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(|error| StoreError::io("lock", &path, error.into()))?,
        }
        stamp.set_modified(SystemTime::now()).map_err(|error| StoreError::io("write", &path, error))?;
        self.prune_by(rules).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_disks() {
        let disk = DiskSize(50 * GIB);
        assert_eq!(disk.percent(10), 6_000_000_000);
        let bounds = disk.default_bounds();
        assert_eq!((bounds.reserved, bounds.max_used), (Some(6_000_000_000), Some(41_000_000_000)));
        assert_eq!(bounds.min_free, Some(11_000_000_000));
        let large = DiskSize(4000 * GIB).default_bounds();
        assert_eq!((large.reserved, large.max_used), (Some(10_000_000_000), Some(100_000_000_000)));
        assert_eq!(DiskSize(0).percent(50), 2_000_000_000);
    }
}
