//! Applying the difference of two trees to the first gives the second.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::listing::{OVERLAY, Times, list};
use crate::layer::{LayerSource, apply_layer, write_layer};
use crate::tree::{Attributes, FileContent, FileKind, Hashing, Timestamp, TreeMode, TreeWriter};

/// One change of a tree; names are taken from a small set, so that changes meet each other.
#[derive(Debug, Clone)]
enum Change {
    Directory(PathBuf, u32),
    File(PathBuf, Vec<u8>, u32, i64),
    Symlink(PathBuf, String),
    Fifo(PathBuf),
    Device(PathBuf, FileKind, u32),
    Remove(PathBuf),
    HardLink(PathBuf, PathBuf),
}

/// `CAP_NET_BIND_SERVICE`, effective and permitted, in the form of version 2 (capabilities(7)).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An extended attribute that layers drop.
const NOTE: &str = "trusted.note";

fn path() -> impl Strategy<Value = PathBuf> {
    // The last one is longer than a header has room for.
    let long = "0123456789".repeat(20);
    let names = ["a", "b", "c", "d\n", "e\u{fc}", ".wx", &long].map(str::to_owned);
    let name = prop::sample::select(names.to_vec());
    prop::collection::vec(name, 1..4).prop_map(|names| Path::new("/").join(names.join("/")))
}

fn change() -> impl Strategy<Value = Change> {
    let mode = || prop::sample::select(vec![0o644, 0o755, 0o4711, 0o1777, 0o600]);
    prop_oneof![
        3 => (path(), mode()).prop_map(|(path, mode)| Change::Directory(path, mode)),
        4 => (path(), "[xy]{0,2}", mode(), 0_i64..3)
            .prop_map(|(path, content, mode, time)| Change::File(path, content.into_bytes(), mode, time)),
        1 => (path(), "[ab/.]{1,4}").prop_map(|(path, target)| Change::Symlink(path, target)),
        1 => path().prop_map(Change::Fifo),
        1 => (path(), prop::sample::select(vec![FileKind::CharDevice, FileKind::BlockDevice]), 1_u32..300)
            .prop_map(|(path, kind, minor)| Change::Device(path, kind, minor)),
        2 => path().prop_map(Change::Remove),
        1 => (path(), path()).prop_map(|(a, b)| Change::HardLink(a, b)),
    ]
}

fn make(writer: &TreeWriter, changes: &[Change]) {
    let attributes = |mode, seconds| Attributes {
        mode,
        uid: mode % 7,
        gid: 9,
        // Layers drop the parts of seconds.
        mtime: Some(Timestamp { seconds, nanoseconds: mode * 1000 }),
        xattrs: Vec::new(),
    };
    for change in changes {
        // A change for which there is no parent does nothing.
        let path = match change {
            Change::Directory(path, _)
            | Change::File(path, ..)
            | Change::Symlink(path, _)
            | Change::Fifo(path)
            | Change::Device(path, ..)
            | Change::Remove(path)
            | Change::HardLink(_, path) => path,
        };
        let parent = writer.view().entry(path.parent().unwrap()).unwrap();
        if parent.is_none_or(|parent| parent.kind != FileKind::Directory) {
            continue;
        }
        match change {
            Change::Directory(path, mode) => {
                writer.make_directory(path, &attributes(*mode, 5)).unwrap();
            }
            Change::File(path, content, mode, time) => {
                let content = FileContent::Bytes(content);
                let mut attributes = attributes(*mode, *time);
                if *mode == 0o755 {
                    attributes.xattrs.push(("security.capability".into(), CAPABILITY.to_vec()));
                } else {
                    attributes.xattrs.push((NOTE.into(), b"x".to_vec()));
                }
                writer.file(path, content, &attributes, Hashing::Skip).unwrap();
            }
            Change::Symlink(path, target) => {
                writer.symlink(path, Path::new(target), &attributes(0o777, 6)).unwrap();
            }
            Change::Fifo(path) => {
                writer.special(path, FileKind::Fifo, (0, 0), &attributes(0o640, 7)).unwrap();
            }
            Change::Device(path, kind, minor) => {
                writer.special(path, *kind, (1, *minor), &attributes(0o600, 8)).unwrap();
            }
            Change::Remove(path) => {
                writer.remove(path).unwrap();
            }
            Change::HardLink(existing, path) => {
                let kind = writer.view().entry(existing).unwrap().map(|entry| entry.kind);
                if kind.is_some_and(|kind| kind != FileKind::Directory) && !path.starts_with(existing) {
                    writer.hard_link(existing, path).unwrap();
                }
            }
        }
    }
    writer.finish().unwrap();
}

/// What layers keep of a tree.
fn kept(listing: &str) -> String {
    listing.replace(&format!(" {NOTE}=x"), "")
}

/// Without the groups of hard links: a link to an unchanged file becomes a file of its own.
fn unlinked(listing: &str) -> BTreeMap<String, String> {
    let lines = listing.lines().map(|line| line.split(" = ").next().unwrap_or(line));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn directory(root: &Path, name: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

fn write(source: &LayerSource) -> Vec<u8> {
    let mut layer = Vec::new();
    write_layer(source, &mut layer).unwrap();
    layer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn differences_are_applied_to_what_they_were_taken_from(
        layers in prop::collection::vec(prop::collection::vec(change(), 0..16), 1..4),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let (mut chain, mut applied): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
        let (flat, flat_applied) = (directory(root, "flat"), directory(root, "flat-applied"));
        for (index, changes) in layers.iter().enumerate() {
            // As a chain of overlay directories.
            let upper = directory(root, &format!("upper{index}"));
            make(&TreeWriter::new(&upper, &chain, OVERLAY).unwrap(), changes);
            let layer = write(&LayerSource::Overlay {
                upper: upper.clone(), lower_dirs: chain.clone(), mode: OVERLAY,
            });
            chain.insert(0, upper);
            let again = directory(root, &format!("applied{index}"));
            apply_layer(layer.as_slice(), &again, OVERLAY).unwrap().finish(&applied).unwrap();
            applied.insert(0, again);
            let expected = list(&chain, OVERLAY, Times::Seconds);
            prop_assert_eq!(unlinked(&list(&applied, OVERLAY, Times::Seconds)), unlinked(&kept(&expected)));

            // As two full trees.
            let old = directory(root, &format!("old{index}"));
            let copied = write(&LayerSource::Trees { old: Vec::new(), new: vec![flat.clone()], mode: TreeMode::PLAIN });
            apply_layer(copied.as_slice(), &old, TreeMode::PLAIN).unwrap().finish(&[]).unwrap();
            make(&TreeWriter::new(&flat, &[], TreeMode::PLAIN).unwrap(), changes);
            let between = LayerSource::Trees { old: vec![old], new: vec![flat.clone()], mode: TreeMode::PLAIN };
            apply_layer(write(&between).as_slice(), &flat_applied, TreeMode::PLAIN).unwrap().finish(&[]).unwrap();
            let expected_flat = list(std::slice::from_ref(&flat), TreeMode::PLAIN, Times::Seconds);
            let listed = list(std::slice::from_ref(&flat_applied), TreeMode::PLAIN, Times::Seconds);
            prop_assert_eq!(unlinked(&listed), unlinked(&kept(&expected_flat)));
            prop_assert_eq!(unlinked(&expected_flat), unlinked(&expected));
        }
    }
}
