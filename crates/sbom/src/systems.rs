//! The packages of distributions.

mod apk;
mod dpkg;
mod rpm;
mod rpm_header;

use std::path::Path;

use crate::scan::Reader;

pub(crate) const READERS: &[Reader] = &[
    Reader { takes: |path, _| dpkg::is_status(path), read: dpkg::read },
    Reader { takes: |path, _| ends_with(path, &["lib/apk/db/installed"]), read: apk::read },
    Reader { takes: |path, _| is_rpm(path, "rpmdb.sqlite"), read: rpm::read_sqlite },
    Reader { takes: |path, _| is_rpm(path, "rpmdb.sqlite-wal"), read: rpm::read_log },
    Reader { takes: |path, _| is_rpm(path, "Packages.db"), read: rpm::read_ndb },
    Reader { takes: |path, _| is_rpm(path, "Packages"), read: rpm::read_berkeley },
];

fn is_rpm(path: &Path, name: &str) -> bool {
    path.ends_with(name)
        && path.parent().is_some_and(|directory| {
            ends_with(directory, &["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"])
        })
}

fn ends_with(path: &Path, ends: &[&str]) -> bool {
    ends.iter().any(|end| path.ends_with(end))
}
