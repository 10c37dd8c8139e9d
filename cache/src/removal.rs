//! Removing trees of any depth and any modes, without following a link.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Deeper directories are moved up to the top of the tree first, so that neither the stack nor the number of open
/// files grows with the depth.
const MAX_DEPTH: usize = 64;
/// What `st_blocks` counts (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Removes whatever is at `path`, and returns the bytes that this frees on the disk: those of files of which no
/// other link is left.
pub(crate) fn remove_tree(path: &Path) -> io::Result<u64> {
    let mut removal = Removal { freed_bytes: 0, moved: 0 };
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let top = match open_directory(CWD, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        while removal.empty(&top, &top, 0)? == Emptied::NotYet {}
        unlink(CWD, path, AtFlags::REMOVEDIR)?;
    } else {
        unlink(CWD, path, AtFlags::empty())?;
    }
    removal.count(&stat);
    Ok(removal.freed_bytes)
}

/// The bytes that a file takes on the disk.
pub(crate) fn disk_bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

#[derive(PartialEq, Eq)]
enum Emptied {
    Yes,
    /// Directories have been moved into the top one.
    NotYet,
}

struct Removal {
    freed_bytes: u64,
    moved: u64,
}

impl Removal {
    fn count(&mut self, stat: &Stat) {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink <= 1 {
            self.freed_bytes += disk_bytes(stat);
        }
    }

    fn empty(&mut self, top: &OwnedFd, directory: &OwnedFd, depth: usize) -> io::Result<Emptied> {
        let mut emptied = Emptied::Yes;
        let entries = match entries(directory) {
            // The directory itself, that is.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(emptied),
            other => other?,
        };
        for (name, kind) in entries {
            let stat = match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Another process sweeps the same garbage.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if kind != FileType::Directory {
                unlink(directory.as_fd(), &name, AtFlags::empty())?;
                self.count(&stat);
            } else if depth >= MAX_DEPTH {
                self.move_up(top, directory, &name)?;
                emptied = Emptied::NotYet;
            } else {
                let child = match open_directory(directory.as_fd(), &name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                if self.empty(top, &child, depth + 1)? == Emptied::NotYet {
                    emptied = Emptied::NotYet;
                }
                unlink(directory.as_fd(), &name, AtFlags::REMOVEDIR)?;
                self.count(&stat);
            }
        }
        Ok(emptied)
    }

    fn move_up(&mut self, top: &OwnedFd, directory: &OwnedFd, name: &CString) -> io::Result<()> {
        loop {
            let target = format!("moved-{}", self.moved);
            self.moved += 1;
            match rustix::fs::renameat_with(directory, name, top, &target, rustix::fs::RenameFlags::NOREPLACE)
            {
                Err(Errno::EXIST) => {}
                // Without NOREPLACE a directory still replaces nothing but an empty directory.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    match rustix::fs::renameat(directory, name, top, &target) {
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        other => return Ok(other?),
                    }
                }
                other => return Ok(other?),
            }
        }
    }
}

/// The entries of a directory, without `.` and `..`.
pub(crate) fn entries(directory: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        found.push((name.to_owned(), kind));
    }
    Ok(found)
}

/// Opens a directory without following a link in its last component; one that its owner may not read is made
/// readable.
fn open_directory<P: rustix::path::Arg + Copy>(at: impl AsFd, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&at, name, Mode::RWXU, AtFlags::empty())?;
            Ok(rustix::fs::openat(&at, name, flags, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

/// Unlinks; in a directory that its owner may not write to, too.
fn unlink<P: rustix::path::Arg + Copy>(directory: impl AsFd, name: P, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(&directory, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(&directory, Mode::RWXU)?;
            Ok(rustix::fs::unlinkat(&directory, name, flags)?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_are_removed_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink(directory.path(), tree.join("a/b/up")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        assert_eq!(remove_tree(&tree).unwrap(), 0);
    }

    #[test]
    fn only_the_last_link_frees() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        fs::write(first.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(first.join("file"), second.join("file")).unwrap();
        assert!(remove_tree(&first).unwrap() < 1 << 20);
        assert!(remove_tree(&second).unwrap() >= 1 << 20);
    }

    #[test]
    fn several_remove_the_same_tree() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        for round in 0..5 {
            for inner in 0..20 {
                fs::create_dir_all(tree.join(format!("{round}/{inner}/deep"))).unwrap();
            }
            std::thread::scope(|scope| {
                let removals = [scope.spawn(|| remove_tree(&tree)), scope.spawn(|| remove_tree(&tree))];
                for removal in removals {
                    removal.join().unwrap().unwrap();
                }
            });
            assert!(!tree.exists());
        }
    }

    #[test]
    fn a_very_deep_tree_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = open_directory(CWD, &tree).unwrap();
        for _ in 0..1000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_directory(at.as_fd(), c"d").unwrap();
        }
        drop(at);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
