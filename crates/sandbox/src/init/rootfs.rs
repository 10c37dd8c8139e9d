//! The root file system: mounting it and making it the root.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_remount,
    move_mount, open_tree, unmount,
};

use super::{During, Step};
use crate::{Fallback, OverlaySpec, ProcessSpec, RootFs, Security, UpperSpec};

/// Spelt out because distributions change the defaults: an upper directory with metadata-only copies or redirected
/// directories could not be exported.
const OVERLAY_OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("xino", "off")];
/// The same; implied by `userxattr`, with which the kernel refuses it.
const NO_REDIRECTS: (&str, &str) = ("redirect_dir", "off");

/// The kernel takes one page, and none is smaller.
const MAX_OPTIONS_BYTES: usize = 4096;

/// Mounts the root file system and makes it the root; the old one is gone then.
pub(super) fn enter(spec: &ProcessSpec) -> Step {
    let target = match &spec.rootfs {
        RootFs::Overlay { lower_dirs, upper, work, user_xattrs } if !lower_dirs.is_empty() => {
            let layers = Layers::new(lower_dirs, Some((upper, work)), *user_xattrs);
            mount_overlay(&layers, spec).during("mount the overlay at", upper)?;
            upper
        }
        // Nothing below: the upper directory is all there is, and an overlay needs a lower one.
        RootFs::Overlay { upper: directory, .. } | RootFs::Directory(directory) => {
            bind_directory(directory, spec).during("mount the root file system", directory)?;
            directory
        }
    };
    rustix::process::chdir(target).during("enter the root file system", target)?;
    // The old root lands on top of the new one and is taken away from there: no directory is needed for it.
    rustix::process::pivot_root(".", ".").during("change the root to", target)?;
    unmount(".", UnmountFlags::DETACH).during("detach the old root", "")?;
    rustix::process::chdir("/").during("enter the new root", "")
}

/// Mounts an overlay for a moment, and gives a mount of its own of what is at `source` in it. To be called before the
/// root changes.
pub(super) fn part_of_overlay(
    overlay: &OverlaySpec,
    source: &Path,
    spec: &ProcessSpec,
) -> io::Result<OwnedFd> {
    let OverlaySpec { lower_dirs, upper, user_xattrs } = overlay;
    let upper = upper.as_ref().map(|UpperSpec { directory, work }| (directory.as_path(), work.as_path()));
    let layers = Layers::new(lower_dirs, upper, *user_xattrs);
    mount_overlay(&layers, spec)?;
    // Only what is attached can be cloned. It hides one of its own directories meanwhile, of which others may be made.
    let part = clone_beneath(&layers.target, source);
    unmount(&layers.target, UnmountFlags::DETACH)?;
    part
}

/// A mount of what is at `path` beneath `root`, no link on the way.
fn clone_beneath(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let found = openat2(root, path, flags | OFlags::NOFOLLOW, Mode::empty(), resolve)?;
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(found, "", clone)?)
}

/// Device nodes that the program makes must not reach the machine's devices; `/dev` brings those that it may use.
pub(super) fn flags(spec: &ProcessSpec) -> (MountAttrFlags, MountFlags) {
    match spec.security {
        Security::Sandbox => (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        Security::Insecure => (MountAttrFlags::empty(), MountFlags::empty()),
    }
}

fn bind_directory(directory: &Path, spec: &ProcessSpec) -> io::Result<()> {
    let flags_of_open = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, directory, flags_of_open)?;
    attach_at(&tree, directory)?;
    if spec.security == Security::Sandbox {
        mount_remount(
            directory,
            MountFlags::BIND | MountFlags::NODEV | super::mounts::kept_flags(directory)?,
            c"",
        )?;
    }
    Ok(())
}

fn attach_at(tree: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// An overlay's directories, relative to the deepest one that holds them all: both ways of mounting limit the length
/// of what they are told.
struct Layers {
    base: PathBuf,
    lower_dirs: Vec<PathBuf>,
    /// The upper directory and the work directory.
    upper: Option<(PathBuf, PathBuf)>,
    user_xattrs: bool,
    /// Where it is mounted: over one of its own directories, so that none has to be made.
    target: PathBuf,
}

impl Layers {
    /// There is at least one lower directory, and without an upper one there are two.
    fn new(lower_dirs: &[PathBuf], upper: Option<(&Path, &Path)>, user_xattrs: bool) -> Self {
        let target = upper.map_or(lower_dirs[0].as_path(), |(upper, _)| upper);
        let all = lower_dirs.iter().map(PathBuf::as_path);
        let all = all.chain(upper.into_iter().flat_map(|(upper, work)| [upper, work]));
        let base = all.fold(target.to_owned(), |base, path| common_parent(&base, path));
        let relative = |path: &Path| {
            let rest = path.strip_prefix(&base).unwrap_or(path);
            if rest.as_os_str().is_empty() { PathBuf::from(".") } else { rest.to_owned() }
        };
        Self {
            lower_dirs: lower_dirs.iter().map(|lower| relative(lower)).collect(),
            upper: upper.map(|(upper, work)| (relative(upper), relative(work))),
            user_xattrs,
            target: target.to_owned(),
            base,
        }
    }

    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        OVERLAY_OPTIONS.into_iter().chain((!self.user_xattrs).then_some(NO_REDIRECTS))
    }

    /// An unmount must not wait for the disk: until it is recorded, an upper directory is thrown away after a crash.
    fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.upper.is_some().then_some("volatile").into_iter().chain(self.user_xattrs.then_some("userxattr"))
    }

    /// The upper directory and the work directory, each with its option, special bytes escaped.
    fn writable_dirs(&self, special: &[u8]) -> Vec<(&'static str, OsString)> {
        let Some((upper, work)) = &self.upper else { return Vec::new() };
        [("upperdir", upper), ("workdir", work)]
            .map(|(key, path)| (key, escape(path.as_os_str(), special)))
            .into()
    }
}

fn common_parent(one: &Path, other: &Path) -> PathBuf {
    one.components()
        .zip(other.components())
        .take_while(|(one, other)| one == other)
        .map(|(one, _)| one)
        .collect()
}

fn mount_overlay(layers: &Layers, spec: &ProcessSpec) -> io::Result<()> {
    rustix::process::chdir(&layers.base)?;
    if !spec.fallbacks.contains(&Fallback::OverlayByMount) {
        match overlay_piecewise(layers, spec) {
            // A kernel that knows no `lowerdir+`, or a real mistake, which mount(2) then finds too.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    overlay_by_mount(layers, spec)
}

/// Linux 6.7: one call for each lower directory, thus no limit but the kernel's 500.
fn overlay_piecewise(layers: &Layers, spec: &ProcessSpec) -> rustix::io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let overlay = overlay.as_fd();
    fsconfig_set_string(overlay, "source", "overlay")?;
    for (key, value) in layers.options() {
        fsconfig_set_string(overlay, key, value)?;
    }
    for flag in layers.flags() {
        fsconfig_set_flag(overlay, flag)?;
    }
    for lower in &layers.lower_dirs {
        fsconfig_set_string(overlay, "lowerdir+", lower)?;
    }
    for (key, directory) in layers.writable_dirs(b"\\") {
        fsconfig_set_string(overlay, key, directory)?;
    }
    fsconfig_create(overlay)?;
    let mounted = fsmount(overlay, FsMountFlags::FSMOUNT_CLOEXEC, flags(spec).0)?;
    attach_at(&mounted, &layers.target)
}

/// Older kernels: all in one page.
fn overlay_by_mount(layers: &Layers, spec: &ProcessSpec) -> io::Result<()> {
    let mut options = OsString::new();
    for (key, value) in layers.options() {
        options.push(format!("{key}={value},"));
    }
    for flag in layers.flags() {
        options.push(format!("{flag},"));
    }
    for (key, directory) in layers.writable_dirs(b"\\,") {
        options.push(format!("{key}="));
        options.push(directory);
        options.push(",");
    }
    for (index, lower) in layers.lower_dirs.iter().enumerate() {
        options.push(if index == 0 { "lowerdir=" } else { ":" });
        options.push(escape(lower.as_os_str(), b"\\,:"));
    }
    if options.len() >= MAX_OPTIONS_BYTES {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let options = std::ffi::CString::new(options.into_vec())?;
    Ok(mount("overlay", &layers.target, "overlay", flags(spec).1, options.as_c_str())?)
}

fn escape(name: &OsStr, special: &[u8]) -> OsString {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if special.contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_from_their_common_parent() {
        let lower = [PathBuf::from("/s/snapshots/b/fs"), PathBuf::from("/s/snapshots/a:1/fs")];
        let upper = (Path::new("/s/tmp/1/fs"), Path::new("/s/tmp/1/work"));
        let layers = Layers::new(&lower, Some(upper), false);
        assert_eq!(layers.base, Path::new("/s"));
        assert_eq!(layers.target, Path::new("/s/tmp/1/fs"));
        assert_eq!(layers.lower_dirs, [Path::new("snapshots/b/fs"), Path::new("snapshots/a:1/fs")]);
        assert_eq!(layers.upper, Some((PathBuf::from("tmp/1/fs"), PathBuf::from("tmp/1/work"))));
        let layers = Layers::new(&lower, None, false);
        assert_eq!((layers.base.as_path(), &layers.target), (Path::new("/s/snapshots"), &lower[0]));
        assert_eq!(layers.flags().count(), 0);
        assert_eq!(escape(OsStr::new("a:1,\\"), b"\\,:"), OsStr::new("a\\:1\\,\\\\"));
    }
}
