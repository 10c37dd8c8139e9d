//! Trees and archives as text, for whole comparisons.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::tree::{FileKind, OwnerMode, TreeKind, TreeMode, TreeView};

pub(super) const OVERLAY: TreeMode =
    TreeMode { kind: TreeKind::Overlay { user_xattrs: false }, owners: OwnerMode::Native };

/// Which times a listing shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Hidden,
    Seconds,
}

/// One line for each entry: path, type, mode, owner, time, content, inodes.
pub(super) fn list(dirs: &[PathBuf], mode: TreeMode, times: Times) -> String {
    let view = TreeView::open(dirs, mode).unwrap();
    let mut lines = String::new();
    let mut inodes = HashMap::new();
    walk(&view, Path::new("/"), times, &mut inodes, &mut lines);
    lines
}

fn walk(
    view: &TreeView,
    directory: &Path,
    times: Times,
    inodes: &mut HashMap<u64, PathBuf>,
    lines: &mut String,
) {
    for (name, entry) in view.read_dir(directory).unwrap() {
        let path = directory.join(&name);
        let mut text = format!("{} ", path.as_os_str().as_bytes().escape_ascii());
        match entry.kind {
            FileKind::File => {
                let mut content = Vec::new();
                view.open_file(&path).unwrap().read_to_end(&mut content).unwrap();
                assert_eq!(content.len() as u64, entry.size);
                if content.len() > 40 {
                    write!(text, "file {}", blake3::hash(&content)).unwrap();
                } else {
                    write!(text, "file \"{}\"", content.escape_ascii()).unwrap();
                }
            }
            FileKind::Directory => text.push_str("dir"),
            FileKind::Symlink => write!(text, "link {}", view.read_link(&path).unwrap().display()).unwrap(),
            FileKind::Fifo => text.push_str("fifo"),
            FileKind::Socket => text.push_str("socket"),
            FileKind::CharDevice => write!(text, "char {}:{}", entry.rdev.0, entry.rdev.1).unwrap(),
            FileKind::BlockDevice => write!(text, "block {}:{}", entry.rdev.0, entry.rdev.1).unwrap(),
        }
        write!(text, " {:04o} {}:{}", entry.mode, entry.uid, entry.gid).unwrap();
        if times == Times::Seconds {
            write!(text, " @{}", entry.mtime.seconds).unwrap();
        }
        for (name, value) in view.xattrs(&path).unwrap() {
            write!(text, " {}={}", name.display(), value.escape_ascii()).unwrap();
        }
        if entry.nlink > 1 && entry.kind != FileKind::Directory {
            let first = inodes.entry(entry.ino).or_insert_with(|| path.clone());
            if *first != path {
                write!(text, " = {}", first.as_os_str().as_encoded_bytes().escape_ascii()).unwrap();
            }
        }
        writeln!(lines, "{text}").unwrap();
        if entry.kind == FileKind::Directory {
            walk(view, &path, times, inodes, lines);
        }
    }
}

/// One line for each member of an archive, as an independent reader sees it.
pub(super) fn list_archive(bytes: &[u8], times: Times) -> String {
    let mut lines = String::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path_bytes().escape_ascii().to_string();
        let header = entry.header().clone();
        write!(lines, "{name} ").unwrap();
        match header.entry_type() {
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                write!(lines, "file {}", content.len()).unwrap();
            }
            tar::EntryType::Directory => lines.push_str("dir"),
            kind => {
                let link = entry.link_name_bytes().unwrap_or_default();
                write!(lines, "{kind:?} {}", link.escape_ascii()).unwrap();
            }
        }
        write!(lines, " {:04o} {}:{}", header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap())
            .unwrap();
        if times == Times::Seconds {
            write!(lines, " @{}", header.mtime().unwrap()).unwrap();
        }
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                if extension.key().unwrap().starts_with("SCHILY.xattr.") {
                    write!(lines, " {}", extension.key().unwrap()).unwrap();
                }
            }
        }
        lines.push('\n');
    }
    lines
}
