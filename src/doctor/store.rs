//! The store: where it is, how it keeps snapshots, and how much room it has.

use std::path::{Path, PathBuf};

use cache::{FileSystemSupport, SnapshotterKind};
use rustix::fs::{StatVfs, statfs, statvfs};

use super::{Finding, Status};
use crate::progress::bytes;
use crate::report::{Failure, FailureKind};
use crate::session::Session;
use crate::settings::Environment;

/// Builds of any size need more.
const LITTLE_BYTES: u64 = 1 << 30;

pub(super) fn findings(root: &Path, session: &Session) -> Vec<Finding> {
    match look(root, session) {
        Ok(findings) => findings,
        Err(failure) => vec![Finding::of_failure("store", &failure)],
    }
}

fn look(root: &Path, session: &Session) -> Result<Vec<Finding>, Failure> {
    let environment = |error: &cache::StoreError| Failure::from_error(FailureKind::Environment, error);
    if root.exists() && !root.is_dir() {
        let message = format!("`{}` is no directory", root.display());
        return Err(Failure::new(FailureKind::Environment, message).with_hint("name another with `--root`"));
    }
    let exists = root.join("meta.db").exists();
    let (directory, chosen, state) = if exists {
        let store = session.open_store_now(root.to_owned())?;
        (root.to_owned(), Some(store.snapshotter()), "is there")
    } else {
        (nearest(root), Environment::snapshotter()?, "is made by the first build")
    };
    let support = FileSystemSupport::try_in(&directory, session.ids()).map_err(|error| {
        environment(&error)
            .with_hint(format!("make `{}` writable, or name another with `--root`", root.display()))
    })?;
    let kind = chosen.unwrap_or(if support.overlay.is_ok() {
        SnapshotterKind::Overlay
    } else {
        SnapshotterKind::Copy
    });
    let file_system = file_system(&directory);
    let mut findings = vec![Finding::ok("store", format!("`{}` {state}, on {file_system}", root.display()))];
    findings.push(snapshots(kind, &support, file_system));
    findings.extend(room(&directory));
    Ok(findings)
}

/// The nearest directory above that is there.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn snapshots(kind: SnapshotterKind, support: &FileSystemSupport, file_system: &str) -> Finding {
    let files = if support.clones {
        "files share their bytes (reflinks)"
    } else {
        "no reflinks, files are linked or copied"
    };
    match (kind, &support.overlay) {
        (SnapshotterKind::Overlay, _) => Finding::ok("snapshots", format!("overlay; {files}")),
        (SnapshotterKind::Copy, Ok(())) => Finding::limited(
            "snapshots",
            format!(
                "whole trees, each step a copy, as was asked for or found when the store was made; {files}"
            ),
        )
        .with_remedy("overlay works here: unset RBUILD_SNAPSHOTTER, or make a new store"),
        (SnapshotterKind::Copy, Err(error)) => {
            let status = if support.clones { Status::Ok } else { Status::Limited };
            let detail = format!(
                "whole trees, each step a copy, as overlay is refused on {file_system} ({error}); {files}"
            );
            Finding::new("snapshots", status, detail).with_remedy(
                "a store (`--root`) on ext4, xfs or btrfs that is no overlay, such as a volume of the container",
            )
        }
    }
}

fn room(directory: &Path) -> Option<Finding> {
    let StatVfs { f_bavail, f_frsize, f_files, f_favail, .. } = statvfs(directory).ok()?;
    let free = f_bavail.saturating_mul(f_frsize);
    let detail = format!("{} free", bytes(free));
    // Some file systems make inodes as they need them and count none.
    let inodes_are_out = f_files > 0 && f_favail == 0;
    Some(if free < LITTLE_BYTES || inodes_are_out {
        let inodes = if inodes_are_out { ", and no inodes" } else { "" };
        Finding::limited("space", format!("{detail}{inodes}"))
            .with_remedy("`rbuild prune`, or a store on another file system (`--root`)")
    } else {
        Finding::ok("space", detail)
    })
}

/// The name of the file system of a directory, by its magic number (`statfs(2)`).
fn file_system(directory: &Path) -> &'static str {
    let Ok(found) = statfs(directory) else { return "an unknown file system" };
    match u32::try_from(found.f_type).unwrap_or_default() {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0xCA45_1A4E => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlay",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0xFE53_4D42 => "smb",
        0x0102_1997 => "9p",
        _ => "an unknown file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_snapshots_are_kept_as_they_are() {
        let refused = || Err(std::io::Error::from_raw_os_error(22));
        let finding =
            |kind, overlay, clones| snapshots(kind, &FileSystemSupport { overlay, clones }, "overlay");
        let overlay = finding(SnapshotterKind::Overlay, Ok(()), false);
        assert_eq!((overlay.status, overlay.remedy), (Status::Ok, None));
        let copy = finding(SnapshotterKind::Copy, refused(), false);
        assert_eq!(copy.status, Status::Limited);
        assert!(copy.detail.contains("refused on overlay (Invalid argument"), "{}", copy.detail);
        assert_eq!(finding(SnapshotterKind::Copy, refused(), true).status, Status::Ok);
        assert!(finding(SnapshotterKind::Copy, Ok(()), true).remedy.unwrap().contains("RBUILD_SNAPSHOTTER"));
    }

    #[test]
    fn the_nearest_directory_is_found() {
        assert_eq!(nearest(Path::new("/proc/none/at/all")), Path::new("/proc"));
        assert_eq!(file_system(Path::new("/proc")), "an unknown file system");
    }
}
