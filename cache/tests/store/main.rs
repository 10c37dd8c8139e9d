//! The store as its callers see it: both snapshotters, several processes, prune, crashes at every write, full disks.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod blobs;
mod children;
mod concurrency;
mod crashes;
mod disks;
mod history;
mod images;
mod links;
mod mounts;
mod pruning;
mod records;
mod snapshots;
mod support;
mod verify;
