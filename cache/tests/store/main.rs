//! The store as its callers see it: both snapshotters, several processes, prune, crashes at every write, full disks.

mod blobs;
mod children;
mod concurrency;
mod crashes;
mod disks;
mod images;
mod pruning;
mod records;
mod snapshots;
mod support;
