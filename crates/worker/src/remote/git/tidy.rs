//! What a checkout is made to look like, whoever made it.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};

type Failed = (PathBuf, io::Error);

const EXECUTABLE: u32 = 0o755;
const FILE: u32 = 0o644;
const READ_ONLY: u32 = 0o444;

/// Removes `.git` at the top, and in submodules what leads there.
pub(super) fn remove_repositories(tree: &Path) -> Result<(), Failed> {
    // First, so that what is in it need not be walked.
    remove(&tree.join(".git"))?;
    walk(tree, &mut |path, _| {
        if path.file_name().is_some_and(|name| name == ".git") { remove(path) } else { Ok(()) }
    })
}

/// Gives everything to root, and the modes that git knows (0644 and 0755), whatever the umask was.
pub(super) fn set_owners_and_modes(tree: &Path) -> Result<(), Failed> {
    let set = |path: &Path, metadata: &Metadata| -> Result<(), Failed> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |error: rustix::io::Errno| (path.to_owned(), io::Error::from(error));
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        rustix::fs::chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if metadata.is_symlink() {
            return Ok(());
        }
        let mode = metadata.permissions().mode();
        let mode = match (metadata.is_dir() || mode & 0o100 != 0, mode & 0o200 != 0) {
            (true, _) => EXECUTABLE,
            (false, true) => FILE,
            // Objects of a repository that is kept.
            (false, false) => READ_ONLY,
        };
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed)
    };
    walk(tree, &mut |path, metadata| set(path, metadata))?;
    let metadata = fs::symlink_metadata(tree).map_err(|error| (tree.to_owned(), error))?;
    set(tree, &metadata)
}

/// Gives everything the same time, in seconds since 1970.
pub(super) fn set_times(tree: &Path, seconds: i64) -> Result<(), Failed> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let set = |path: &Path| {
        let set = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|error| (path.to_owned(), io::Error::from(error)))
    };
    walk(tree, &mut |path, _| set(path))?;
    set(tree)
}

/// Visits everything in a directory, a directory before what is in it. Links are not followed.
fn walk(tree: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> Result<(), Failed>) -> Result<(), Failed> {
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |error| (directory.clone(), error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let metadata = fs::symlink_metadata(&path).map_err(|error| (path.clone(), error))?;
            visit(&path, &metadata)?;
            if metadata.is_dir() && path.exists() {
                directories.push(path);
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failed> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_checkout_has_the_modes_of_git_and_no_repositories() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path();
        for path in [".git/objects", "sub"] {
            fs::create_dir_all(tree.join(path)).unwrap();
        }
        symlink("/etc/passwd", tree.join("link")).unwrap();
        for (path, mode) in
            [(".git/config", 0o600), ("sub/.git", 0o600), ("sub/a", 0o600), ("run", 0o700), ("ro", 0o400)]
        {
            fs::write(tree.join(path), "").unwrap();
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(tree.join("sub"), fs::Permissions::from_mode(0o700)).unwrap();
        let before = fs::metadata("/etc/passwd").unwrap().permissions();
        remove_repositories(tree).unwrap();
        set_owners_and_modes(tree).unwrap();
        assert!(!tree.join(".git").exists() && !tree.join("sub/.git").exists());
        let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o7777;
        let modes = [mode("sub"), mode("sub/a"), mode("run"), mode("ro")];
        assert_eq!(modes, [0o755, 0o644, 0o755, 0o444]);
        assert_eq!(fs::metadata("/etc/passwd").unwrap().permissions(), before);
    }
}
