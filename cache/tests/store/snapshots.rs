//! Snapshots of both kinds.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use cache::{SnapshotterKind, Store, StoreOptions};
use oci::{ChainId, Digest};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::support::{names, open, options, read, save, snapshot, with_each_kind};

#[test]
fn a_chain_has_the_files_of_all_its_snapshots() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let bottom = snapshot(&store, None, "a", "1");
        let top = snapshot(&store, Some(&bottom), "b", "2");
        assert_eq!((top.parent, top.depth), (Some(bottom.id), 2));
        assert_eq!(store.chain(&top).unwrap(), [bottom, top]);
        assert_eq!(read(&store, &top, "a").as_deref(), Some("1"));
        assert_eq!(read(&store, &top, "b").as_deref(), Some("2"));
        assert_eq!(read(&store, &bottom, "b"), None);
        let directories = store.layer_dirs(&top).unwrap();
        match kind {
            SnapshotterKind::Overlay => {
                assert_eq!(directories, [store.own_dir(&top.id), store.own_dir(&bottom.id)]);
            }
            SnapshotterKind::Copy => assert_eq!(directories, [store.own_dir(&top.id)]),
        }
    });
}

#[test]
fn what_is_not_committed_is_gone() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let active = store.prepare(None).unwrap();
        fs::write(active.upper().join("a"), "1").unwrap();
        let work = active.work_dir().unwrap();
        assert_ne!(work, active.work_dir().unwrap());
        assert_eq!(names(work), [""; 0]);
        drop(active);
        assert_eq!(names(store.run_directory().to_owned()), ["uses"]);
        assert_eq!(names(root.join("snapshots")), [""; 0]);
        drop(store);
        assert_eq!(names(root.join("tmp")), [""; 0]);
    });
}

#[test]
fn the_root_directory_is_like_its_parents() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let active = store.prepare(None).unwrap();
        let fresh = fs::metadata(active.upper()).unwrap();
        assert_eq!((fresh.mode() & 0o7777, fresh.uid(), fresh.gid()), (0o755, 0, 0));
        chown(active.upper(), Some(12), Some(34)).unwrap();
        fs::set_permissions(active.upper(), fs::Permissions::from_mode(0o1777)).unwrap();
        rustix::fs::setxattr(active.upper(), "user.kept", b"yes", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(active.upper(), "trusted.overlay.impure", b"y", XattrFlags::empty()).unwrap();
        let before = fs::metadata(active.upper()).unwrap();
        let parent = active.commit().unwrap();
        let child = store.prepare(Some(&parent)).unwrap();
        let after = fs::metadata(child.upper()).unwrap();
        assert_eq!(
            (after.mode(), after.uid(), after.gid(), after.mtime(), after.mtime_nsec()),
            (before.mode(), 12, 34, before.mtime(), before.mtime_nsec())
        );
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(child.upper(), "user.kept", &mut value).unwrap();
        assert_eq!(&value[..length], b"yes");
        let mark = rustix::fs::getxattr(child.upper(), "trusted.overlay.impure", &mut value);
        assert_eq!(mark.is_err(), kind == SnapshotterKind::Overlay);
    });
}

#[test]
fn a_copied_tree_is_the_same_and_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Copy);
    let active = store.prepare(None).unwrap();
    let upper = active.upper();
    fs::create_dir_all(upper.join("dir/sub")).unwrap();
    fs::write(upper.join("dir/file"), "content").unwrap();
    chown(upper.join("dir/file"), Some(7), Some(8)).unwrap();
    fs::set_permissions(upper.join("dir/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(upper.join("dir/file"), "user.x", b"1", XattrFlags::empty()).unwrap();
    fs::hard_link(upper.join("dir/file"), upper.join("dir/sub/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", upper.join("symlink")).unwrap();
    std::os::unix::fs::lchown(upper.join("symlink"), Some(7), Some(8)).unwrap();
    rustix::fs::mknodat(CWD, upper.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, upper.join("null"), FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    fs::set_permissions(upper.join("dir"), fs::Permissions::from_mode(0o500)).unwrap();
    let parent = active.commit().unwrap();
    let child = store.prepare(Some(&parent)).unwrap();
    let (from, to) = (store.own_dir(&parent.id), child.upper());
    for name in ["", "dir", "dir/file", "dir/sub", "dir/sub/link", "symlink", "fifo", "null"] {
        let describe = |base: &Path| {
            let m = fs::symlink_metadata(base.join(name)).unwrap();
            (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.rdev(), m.nlink())
        };
        assert_eq!(describe(&from), describe(to), "{name}");
    }
    let inode = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
    assert_eq!(inode(&to.join("dir/file")), inode(&to.join("dir/sub/link")));
    assert_ne!(inode(&to.join("dir/file")), inode(&from.join("dir/file")));
    assert_eq!(fs::read(to.join("dir/file")).unwrap(), b"content");
    let mut value = [0; 4];
    assert_eq!(rustix::fs::getxattr(to.join("dir/file"), "user.x", &mut value).unwrap(), 1);
}

#[test]
fn image_layers_are_found_by_chain_id_and_the_first_stays() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let chain = ChainId(Digest::sha256(b"chain"));
        assert_eq!(store.snapshot_by_chain(&chain).unwrap(), None);
        let one = store.prepare(None).unwrap();
        let two = store.prepare(None).unwrap();
        let first = one.commit_as(&chain).unwrap();
        assert_eq!(two.commit_as(&chain).unwrap(), first);
        assert_eq!(store.snapshot_by_chain(&chain).unwrap(), Some(first));
        assert_eq!(names(root.join("snapshots")), [first.id.to_string()]);
        let other = open(root, kind);
        assert_eq!(other.snapshot_by_chain(&chain).unwrap(), Some(first));
        assert_eq!(other.snapshot(&first.id).unwrap(), Some(first));
    });
}

#[test]
fn a_layer_can_be_written_before_what_is_below_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let mut upper = store.prepare(None).unwrap();
    fs::write(upper.upper().join("b"), "2").unwrap();
    let bottom = snapshot(&store, None, "a", "1");
    upper.set_parent(&bottom).unwrap();
    assert_eq!(upper.lower_dirs(), [store.own_dir(&bottom.id)]);
    let top = upper.commit().unwrap();
    assert_eq!(store.chain(&top).unwrap(), [bottom, top]);
}

#[test]
fn snapshots_of_another_kind_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let overlay = snapshot(&store, None, "a", "1");
    save(&store, 1, &overlay);
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Copy);
    assert_eq!(store.lookup(&crate::support::key(1)).unwrap(), None);
    assert_eq!(store.snapshot(&overlay.id).unwrap(), None);
    let copy = snapshot(&store, None, "a", "1");
    assert_eq!(save(&store, 1, &copy), copy);
}

#[test]
fn overlay_is_found_out_and_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let probing = StoreOptions { snapshotter: None, ..options(directory.path(), SnapshotterKind::Overlay) };
    assert_eq!(Store::open(&probing).unwrap().snapshotter(), SnapshotterKind::Overlay);
    assert_eq!(Store::open(&probing).unwrap().snapshotter(), SnapshotterKind::Overlay);
}

#[test]
fn deep_chains_are_merged_and_read_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let mut top = None;
    for number in 0..1030 {
        let active = store.prepare(top.as_ref()).unwrap();
        assert!(active.lower_dirs().len() <= Store::MAX_LAYER_DIRECTORIES);
        let upper = active.upper();
        fs::write(upper.join(format!("file-{number}")), number.to_string()).unwrap();
        fs::create_dir(upper.join("shared")).unwrap();
        fs::write(upper.join("shared/last"), number.to_string()).unwrap();
        match number {
            10 => {
                fs::create_dir_all(upper.join("hidden/below")).unwrap();
                fs::write(upper.join("hidden/below/file"), "").unwrap();
                fs::create_dir(upper.join("opaque")).unwrap();
                fs::write(upper.join("opaque/old"), "").unwrap();
                fs::write(upper.join("turns"), "").unwrap();
            }
            20 => {
                let device = FileType::CharacterDevice;
                rustix::fs::mknodat(CWD, upper.join("hidden"), device, Mode::empty(), 0).unwrap();
                fs::create_dir(upper.join("opaque")).unwrap();
                let mark = "trusted.overlay.opaque";
                rustix::fs::setxattr(upper.join("opaque"), mark, b"y", XattrFlags::empty()).unwrap();
                fs::write(upper.join("opaque/new"), "").unwrap();
                fs::create_dir(upper.join("turns")).unwrap();
                chown(upper.join("turns"), Some(5), Some(6)).unwrap();
            }
            _ => {}
        }
        top = Some(active.commit().unwrap());
    }
    let top = top.unwrap();
    let directories = store.layer_dirs(&top).unwrap();
    // 1024 snapshots are merged, 6 lie on top of them.
    assert_eq!(directories.len(), 7);
    let merged = directories.last().unwrap();
    assert_eq!(names(merged.clone()).len(), 1024 + 3);
    assert_eq!(names(merged.join("opaque")), ["new"]);
    assert_eq!(fs::metadata(merged.join("turns")).unwrap().uid(), 5);
    assert_eq!(fs::read_to_string(merged.join("shared/last")).unwrap(), "1023");
    assert_eq!(read(&store, &top, "shared/last").as_deref(), Some("1029"));
    assert_eq!(read(&store, &top, "file-0").as_deref(), Some("0"));
    let mut value = [0; 4];
    assert!(rustix::fs::getxattr(merged.join("opaque"), "trusted.overlay.opaque", &mut value).is_err());
    // Another process finds what was merged.
    save(&store, 1, &top);
    let other = open(directory.path(), SnapshotterKind::Overlay);
    let found = other.lookup(&crate::support::key(1)).unwrap().unwrap();
    assert_eq!(other.layer_dirs(&found).unwrap(), directories);
}

#[test]
fn how_trees_are_read_follows_from_snapshotter_and_ids() {
    use cache::IdMode;
    use cache::tree::{OwnerMode, TreeKind};
    let mapped = || IdMode::Mapped { map: "0 1000 1\n1 100000 65536\n".to_owned() };
    let cases = [
        (SnapshotterKind::Overlay, IdMode::Root, TreeKind::Overlay { user_xattrs: false }, OwnerMode::Native),
        (SnapshotterKind::Overlay, mapped(), TreeKind::Overlay { user_xattrs: true }, OwnerMode::Native),
        (
            SnapshotterKind::Overlay,
            IdMode::Single,
            TreeKind::Overlay { user_xattrs: true },
            OwnerMode::Recorded,
        ),
        (SnapshotterKind::Copy, IdMode::Root, TreeKind::Plain, OwnerMode::Native),
        (SnapshotterKind::Copy, mapped(), TreeKind::Plain, OwnerMode::Native),
        (SnapshotterKind::Copy, IdMode::Single, TreeKind::Plain, OwnerMode::Recorded),
    ];
    for (kind, ids, tree, owners) in cases {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions { ids, ..options(directory.path(), kind) }).unwrap();
        let mode = store.tree_mode();
        assert_eq!((mode.kind, mode.owners), (tree, owners));
    }
}

#[test]
fn results_are_compared_by_what_enters_a_key() {
    use cache::{Change, FileChange};
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let base = snapshot(&store, None, "base", "same");
        let make = |content: &str, mode: u32, link: &str, extra: &str| {
            let active = store.prepare(Some(&base)).unwrap();
            let path = |name: &str| active.upper().join(name);
            fs::create_dir_all(path("dir/sub")).unwrap();
            fs::write(path("dir/sub/content"), content).unwrap();
            fs::write(path("dir/mode"), "x").unwrap();
            fs::set_permissions(path("dir/mode"), fs::Permissions::from_mode(mode)).unwrap();
            symlink(link, path("link")).unwrap();
            fs::write(path(extra), "x").unwrap();
            active.commit().unwrap()
        };
        let (old, new) = (make("abc", 0o644, "a", "gone"), make("abd", 0o755, "b", "new"));
        let expected = [
            ("/dir/mode", Change::Mode),
            ("/dir/sub/content", Change::Content),
            ("/gone", Change::Removed),
            ("/link", Change::Content),
            ("/new", Change::Added),
        ]
        .map(|(path, change)| FileChange { path: path.into(), change });
        assert_eq!(store.changes(&old, &new, 100).unwrap(), (expected.to_vec(), false));
        assert_eq!(store.changes(&old, &old, 100).unwrap(), (Vec::new(), false));
        let (some, has_more) = store.changes(&old, &new, 2).unwrap();
        assert_eq!((some.len(), has_more), (2, true));
    });
}
