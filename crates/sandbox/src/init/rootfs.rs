//! The root file system: mounting it and making it the root.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_remount,
    move_mount, open_tree, unmount,
};

use super::{During, Step};
use crate::{Fallback, ProcessSpec, RootFs, Security};

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
            let layers = Layers::new(lower_dirs, upper, work, *user_xattrs);
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

/// Device nodes that the program makes must not reach the machine's devices; `/dev` brings those that it may use.
fn flags(spec: &ProcessSpec) -> (MountAttrFlags, MountFlags) {
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
    upper: PathBuf,
    work: PathBuf,
    user_xattrs: bool,
    target: PathBuf,
}

impl Layers {
    fn new(lower_dirs: &[PathBuf], upper: &Path, work: &Path, user_xattrs: bool) -> Self {
        let all = lower_dirs.iter().map(PathBuf::as_path).chain([upper, work]);
        let base = all.fold(upper.to_owned(), |base, path| common_parent(&base, path));
        let relative = |path: &Path| {
            let rest = path.strip_prefix(&base).unwrap_or(path);
            if rest.as_os_str().is_empty() { PathBuf::from(".") } else { rest.to_owned() }
        };
        Self {
            lower_dirs: lower_dirs.iter().map(|lower| relative(lower)).collect(),
            upper: relative(upper),
            work: relative(work),
            user_xattrs,
            target: upper.to_owned(),
            base,
        }
    }

    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        OVERLAY_OPTIONS.into_iter().chain((!self.user_xattrs).then_some(NO_REDIRECTS))
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
    // An unmount must not wait for the disk: until it is recorded, an upper directory is thrown away after a crash.
    fsconfig_set_flag(overlay, "volatile")?;
    if layers.user_xattrs {
        fsconfig_set_flag(overlay, "userxattr")?;
    }
    for lower in &layers.lower_dirs {
        fsconfig_set_string(overlay, "lowerdir+", lower)?;
    }
    fsconfig_set_string(overlay, "upperdir", escape(layers.upper.as_os_str(), b"\\"))?;
    fsconfig_set_string(overlay, "workdir", escape(layers.work.as_os_str(), b"\\"))?;
    fsconfig_create(overlay)?;
    let mounted = fsmount(overlay, FsMountFlags::FSMOUNT_CLOEXEC, flags(spec).0)?;
    attach_at(&mounted, &layers.target)
}

/// Older kernels: all in one page.
fn overlay_by_mount(layers: &Layers, spec: &ProcessSpec) -> io::Result<()> {
    let mut options = OsString::from("volatile");
    for (key, value) in layers.options() {
        options.push(format!(",{key}={value}"));
    }
    if layers.user_xattrs {
        options.push(",userxattr");
    }
    options.push(",upperdir=");
    options.push(escape(layers.upper.as_os_str(), b"\\,"));
    options.push(",workdir=");
    options.push(escape(layers.work.as_os_str(), b"\\,"));
    for (index, lower) in layers.lower_dirs.iter().enumerate() {
        options.push(if index == 0 { ",lowerdir=" } else { ":" });
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
        let layers = Layers::new(&lower, Path::new("/s/tmp/1/fs"), Path::new("/s/tmp/1/work"), false);
        assert_eq!(layers.base, Path::new("/s"));
        assert_eq!(layers.lower_dirs, [Path::new("snapshots/b/fs"), Path::new("snapshots/a:1/fs")]);
        assert_eq!(
            (layers.upper.as_path(), layers.work.as_path()),
            (Path::new("tmp/1/fs"), Path::new("tmp/1/work"))
        );
        assert_eq!(escape(OsStr::new("a:1,\\"), b"\\,:"), OsStr::new("a\\:1\\,\\\\"));
    }
}
