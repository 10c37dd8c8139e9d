//! Files that snapshots share: no tree ever holds an inode twice that it did not link itself.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cache::layer::{ExtractOptions, apply_layer, extract_archive};
use cache::tree::{Attributes, FileContent, FileKind, Hashing, Made, TreeMode, TreeView, TreeWriter};
use cache::{
    ActiveSnapshot, Contents, LinkPolicy, LinkSource, PruneOptions, Snapshot, SnapshotTree, SnapshotterKind,
    Store, StoreOptions,
};
use proptest::prelude::*;
use rustix::fs::XattrFlags;

use crate::support::{key, open, options, save, with_each_kind};

/// A snapshot on top of another that gets files.
struct Draft<'a> {
    store: &'a Store,
    active: ActiveSnapshot,
    writer: TreeWriter,
}

impl<'a> Draft<'a> {
    fn new(store: &'a Store, parent: Option<&Snapshot>) -> Self {
        let active = store.prepare(parent).unwrap();
        let writer = TreeWriter::new(active.upper(), active.lower_dirs(), store.tree_mode()).unwrap();
        Self { store, active, writer }
    }

    fn write(self, name: &str) -> Self {
        let content = FileContent::Bytes(name.as_bytes());
        let attributes = Attributes { mode: 0o644, ..Attributes::default() };
        self.writer.file(Path::new(name), content, &attributes, Hashing::Skip).unwrap();
        self
    }

    /// Links the file `name` of `from`, if it may.
    fn link(&self, from: &Snapshot, name: &Path, new: &Path) -> bool {
        let tree = tree(self.store, from);
        let holder = tree.view().holder(name).unwrap();
        let entry = tree.view().entry(name).unwrap().unwrap();
        let origins = tree.origins(&holder).unwrap().unwrap();
        let source = LinkSource { holder: &holder, name: name.file_name().unwrap(), entry: &entry, origins };
        self.active.link(&self.writer, &source, new).unwrap()
    }

    fn commit(self) -> Snapshot {
        self.writer.finish().unwrap();
        self.active.commit().unwrap()
    }
}

fn tree(store: &Store, snapshot: &Snapshot) -> SnapshotTree {
    let view = TreeView::open(&store.layer_dirs(snapshot).unwrap(), store.tree_mode()).unwrap();
    SnapshotTree::new(store, snapshot, view).unwrap()
}

fn inode(store: &Store, snapshot: &Snapshot, name: &str) -> u64 {
    fs::metadata(store.own_dir(&snapshot.id).join(name)).unwrap().ino()
}

#[test]
fn a_file_moves_on_from_stage_to_stage_without_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let one = Draft::new(&store, None).write("/a").write("/b").commit();
    let draft = Draft::new(&store, None);
    assert!(draft.link(&one, Path::new("/a"), Path::new("/x")));
    assert!(!draft.link(&one, Path::new("/a"), Path::new("/y")), "it would be there twice");
    let two = draft.commit();
    let draft = Draft::new(&store, None);
    assert!(draft.link(&two, Path::new("/x"), Path::new("/x")));
    let three = draft.commit();
    assert_eq!(inode(&store, &three, "x"), inode(&store, &one, "a"));
    // On top of any of them nothing more of the others is linked, even what is not there yet.
    for parent in [&one, &two, &three] {
        let draft = Draft::new(&store, Some(parent));
        for (from, name) in [(&one, "/b"), (&two, "/x"), (&three, "/x")] {
            assert!(!draft.link(from, Path::new(name), Path::new("/new")), "{name} on {parent:?}");
        }
    }
    // Another process knows it too.
    for (number, snapshot) in [(1, &one), (2, &two), (3, &three)] {
        save(&store, number, snapshot);
    }
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    let three = store.lookup(&key(3)).unwrap().unwrap();
    let one = store.lookup(&key(1)).unwrap().unwrap();
    assert!(!Draft::new(&store, Some(&three)).link(&one, Path::new("/b"), Path::new("/new")));
    assert!(Draft::new(&store, None).link(&one, Path::new("/b"), Path::new("/new")));
}

#[test]
fn links_are_made_neither_where_trees_are_whole_nor_where_nobody_wants_them() {
    let never =
        |root: &Path| StoreOptions { links: LinkPolicy::Never, ..options(root, SnapshotterKind::Overlay) };
    with_each_kind(|root, kind| {
        let store = match kind {
            SnapshotterKind::Copy => open(root, kind),
            SnapshotterKind::Overlay => Store::open(&never(root)).unwrap(),
        };
        let one = Draft::new(&store, None).write("/a").commit();
        assert!(!Draft::new(&store, None).link(&one, Path::new("/a"), Path::new("/a")));
    });
}

#[test]
fn contents_stay_with_their_snapshot() {
    with_each_kind(|root, kind| {
        let store = open(root, kind);
        let known = |snapshot: &Snapshot, name: &str| {
            let tree = tree(&store, snapshot);
            let holder = tree.view().holder(Path::new(name)).unwrap();
            tree.content(&holder, Path::new(name))
        };
        let draft = Draft::new(&store, None).write("/a").write("/b");
        let mut contents = Contents::default();
        contents.insert(PathBuf::from("/a"), [1; 32]);
        draft.active.set_contents(contents);
        let one = draft.commit();
        assert_eq!((known(&one, "/a"), known(&one, "/b")), (Some([1; 32]), None));
        let two = Draft::new(&store, Some(&one)).write("/b").commit();
        // In a whole tree of its own the file might be another's.
        let expected = (kind == SnapshotterKind::Overlay).then_some([1; 32]);
        assert_eq!(known(&two, "/a"), expected);
        let three = Draft::new(&store, Some(&two)).write("/a").commit();
        assert_eq!(known(&three, "/a"), None);
    });
}

#[test]
fn the_last_copy_is_found_until_it_is_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert_eq!(store.last_copy(&[7; 32]).unwrap(), None);
    let mut last = None;
    for number in 1..3 {
        let draft = Draft::new(&store, None).write("/a");
        draft.active.set_copy([7; 32]);
        let made = draft.commit();
        assert_eq!(store.last_copy(&[7; 32]).unwrap(), Some(made));
        save(&store, number, &made);
        last = Some(made);
    }
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    assert_eq!(store.last_copy(&[7; 32]).unwrap(), last);
    drop(store);
    let store = open(directory.path(), SnapshotterKind::Overlay);
    store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(store.last_copy(&[7; 32]).unwrap(), None);
}

/// One snapshot of a random history.
#[derive(Debug, Clone)]
struct Step {
    parent: Option<prop::sample::Index>,
    writes: u8,
    /// From which snapshots something is linked, and which of their files.
    links: Vec<(prop::sample::Index, prop::sample::Index)>,
}

fn step() -> impl Strategy<Value = Step> {
    let link = || (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let parent = prop::option::weighted(0.6, any::<prop::sample::Index>());
    (parent, 0_u8..3, prop::collection::vec(link(), 0..6)).prop_map(|(parent, writes, links)| Step {
        parent,
        writes,
        links,
    })
}

/// The files of a tree with their inodes, by directory of the chain: what a lower one holds counts even where it is
/// hidden, as it may show again in a tree on a part of the chain.
fn inodes(store: &Store, snapshot: &Snapshot) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for directory in store.layer_dirs(snapshot).unwrap() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            all.push((entry.path(), entry.metadata().unwrap().ino()));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_chain_holds_an_inode_twice(steps in prop::collection::vec(step(), 2..24)) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path(), SnapshotterKind::Overlay);
        let mut made: Vec<Snapshot> = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let parent = step.parent.filter(|_| !made.is_empty()).map(|parent| *parent.get(&made));
            let mut draft = Draft::new(&store, parent.as_ref());
            for write in 0..step.writes {
                draft = draft.write(&format!("/w{number}-{write}"));
            }
            for (index, (from, file)) in step.links.iter().enumerate() {
                if made.is_empty() {
                    continue;
                }
                let from = *from.get(&made);
                let names = tree(&store, &from).view().read_dir(Path::new("/")).unwrap();
                if !names.is_empty() {
                    let name = Path::new("/").join(&file.get(&names).0);
                    draft.link(&from, &name, Path::new(&format!("/l{number}-{index}")));
                }
            }
            let snapshot = draft.commit();
            let mut seen = HashSet::new();
            for (path, inode) in inodes(&store, &snapshot) {
                prop_assert!(seen.insert(inode), "{} is there twice", path.display());
            }
            save(&store, number as u64, &snapshot);
            made.push(snapshot);
            if number % 5 == 4 {
                store = open(directory.path(), SnapshotterKind::Overlay);
            }
        }
    }
}

/// An inode outside of the tree that is written, with another name at `/f` in it.
struct Shared {
    directory: tempfile::TempDir,
    mode: TreeMode,
}

impl Shared {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mode = open(&directory.path().join("store"), SnapshotterKind::Overlay).tree_mode();
        let shared = Self { directory, mode };
        fs::create_dir(shared.upper()).unwrap();
        fs::write(shared.outside(), "kept").unwrap();
        rustix::fs::setxattr(shared.outside(), "user.mark", b"kept", XattrFlags::empty()).unwrap();
        fs::hard_link(shared.outside(), shared.upper().join("f")).unwrap();
        shared
    }

    fn upper(&self) -> PathBuf {
        self.directory.path().join("upper")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn writer(&self) -> TreeWriter {
        TreeWriter::new(&self.upper(), &[], self.mode).unwrap()
    }

    /// What the inode is, its number of names and the time of its last change aside.
    fn state(&self) -> (String, u32, [u32; 2], [i64; 2], Vec<u8>) {
        let metadata = fs::metadata(self.outside()).unwrap();
        let mut value = vec![0; 64];
        let length = rustix::fs::getxattr(self.outside(), "user.mark", &mut value).unwrap();
        value.truncate(length);
        let times = [metadata.mtime(), metadata.mtime_nsec()];
        let content = fs::read_to_string(self.outside()).unwrap();
        (content, metadata.mode(), [metadata.uid(), metadata.gid()], times, value)
    }
}

fn write(writer: &TreeWriter, name: &str) {
    let attributes = Attributes { mode: 0o4777, uid: 7, gid: 8, ..Attributes::default() };
    writer.file(Path::new(name), FileContent::Bytes(b"new"), &attributes, Hashing::Skip).unwrap();
}

#[test]
fn no_writer_writes_to_an_inode_that_is_there() {
    let path = Path::new("/f");
    let metadata = Attributes { mode: 0o600, uid: 7, gid: 8, ..Attributes::default() };
    let changes: [&dyn Fn(&TreeWriter); 7] = [
        &|writer| write(writer, "/f"),
        &|writer| writer.symlink(path, Path::new("x"), &metadata).unwrap(),
        &|writer| writer.special(path, FileKind::Fifo, (0, 0), &metadata).unwrap(),
        &|writer| assert_eq!(writer.make_directory(path, &metadata).unwrap(), Made::Created),
        &|writer| assert!(writer.remove(path).unwrap()),
        &|writer| {
            writer.hard_link(path, Path::new("/g")).unwrap();
            write(writer, "/g");
        },
        &|writer| assert!(writer.set_attributes(path, &metadata).is_err()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let shared = Shared::new();
        let before = shared.state();
        let writer = shared.writer();
        change(&writer);
        writer.finish().unwrap();
        assert_eq!(shared.state(), before, "change {number}");
    }
}

#[test]
fn no_archive_writes_to_an_inode_that_is_there() {
    for kind in [tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Symlink] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4777);
        header.set_uid(7);
        header.set_size(0);
        archive.append_link(&mut header, "f", "x").unwrap();
        let archive = archive.into_inner().unwrap();
        let shared = Shared::new();
        let before = shared.state();
        apply_layer(archive.as_slice(), &shared.upper(), shared.mode).unwrap().finish(&[]).unwrap();
        assert_eq!(shared.state(), before, "{kind:?} of a layer");
        let shared = Shared::new();
        let before = shared.state();
        let options = ExtractOptions { owner: Some((7, 8)), ..ExtractOptions::default() };
        let extracted = extract_archive(archive.as_slice(), &shared.writer(), Path::new("/"), &options);
        assert_eq!(shared.state(), before, "{kind:?} of an archive: {extracted:?}");
    }
}
