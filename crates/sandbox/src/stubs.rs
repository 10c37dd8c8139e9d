//! Removing the mount points that a sandbox had to make, once its process has ended.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, fstat, futimens, openat,
    openat2, statat, unlinkat,
};
use rustix::io::Errno;

use crate::SandboxError;
use crate::wire::Stub;

/// Removes what is still as it was made (an empty file, an empty directory) below the directory that was written to,
/// children first. Directories keep their times.
pub(crate) fn remove(root: &Path, stubs: &[Stub]) -> Result<(), SandboxError> {
    for stub in stubs.iter().rev() {
        match remove_one(root, stub) {
            // Gone or replaced by the program, or never in this directory: on a mount of the sandbox.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => {
                return Err(SandboxError::MountPoint { path: stub.path.clone(), source: error.into() });
            }
        }
    }
    Ok(())
}

fn remove_one(root: &Path, stub: &Stub) -> rustix::io::Result<()> {
    let (Some(parent), Some(name)) = (stub.path.parent(), stub.path.file_name()) else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty())?;
    // The program may have put links in the way.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let relative = parent.strip_prefix("/").unwrap_or(parent);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let parent = openat2(root, relative, flags, Mode::empty(), resolve)?;
    let before = fstat(&parent)?;
    if stub.is_directory {
        unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
    } else if is_empty_file(&parent, name)? {
        unlinkat(&parent, name, AtFlags::empty())?;
    }
    futimens(&parent, &times(&before))
}

/// The times of a file, to be set again.
pub(crate) fn times(of: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: of.st_atime, tv_nsec: of.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: of.st_mtime, tv_nsec: of.st_mtime_nsec.cast_signed() },
    }
}

fn is_empty_file(parent: impl std::os::fd::AsFd, name: &OsStr) -> rustix::io::Result<bool> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn stub(path: &str, is_directory: bool) -> Stub {
        Stub { path: path.into(), is_directory }
    }

    #[test]
    fn only_untouched_ones_go_and_times_stay() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for made in ["etc/used", "other"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        for (file, content) in
            [("etc/empty", ""), ("etc/full", "x"), ("etc/used/file", ""), ("other/kept", "")]
        {
            fs::write(root.join(file), content).unwrap();
        }
        std::os::unix::fs::symlink("other", root.join("link")).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
        fs::File::open(root.join("etc")).unwrap().set_modified(long_ago).unwrap();
        let stubs = [
            stub("/etc", true),
            stub("/etc/empty", false),
            stub("/etc/full", false),
            stub("/etc/used", true),
            stub("/gone/x", false),
            stub("/link/kept", false),
        ];
        remove(root, &stubs).unwrap();
        assert!(!root.join("etc/empty").exists());
        for kept in ["etc/full", "etc/used/file", "other/kept"] {
            assert!(root.join(kept).exists(), "{kept}");
        }
        assert_eq!(fs::metadata(root.join("etc")).unwrap().modified().unwrap(), long_ago);
    }
}
