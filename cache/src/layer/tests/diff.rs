//! Writing layers.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use expect_test::expect;

use super::archive_builder::ArchiveBuilder;
use super::listing::{OVERLAY, Times, list, list_archive};
use crate::layer::{FileTimes, LayerSource, apply_layer, export_tree, write_layer, write_trees};
use crate::tree::{
    Attributes, FileContent, FileKind, Hashing, Timestamp, TreeKind, TreeMode, TreeView, TreeWriter,
};

struct Chain {
    scratch: tempfile::TempDir,
    dirs: Vec<PathBuf>,
}

impl Chain {
    /// A layer made of `archive`, and an empty directory on top.
    fn over(archive: ArchiveBuilder) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (below, upper) = (scratch.path().join("below"), scratch.path().join("upper"));
        std::fs::create_dir(&below).unwrap();
        std::fs::create_dir(&upper).unwrap();
        apply_layer(archive.bytes().as_slice(), &below, OVERLAY).unwrap().finish(&[]).unwrap();
        Self { scratch, dirs: vec![upper, below] }
    }

    fn writer(&self) -> TreeWriter {
        TreeWriter::new(&self.dirs[0], &self.dirs[1..], OVERLAY).unwrap()
    }

    fn layer(&self) -> Vec<u8> {
        let source = LayerSource::Overlay {
            upper: self.dirs[0].clone(),
            lower_dirs: self.dirs[1..].to_vec(),
            mode: OVERLAY,
        };
        let mut layer = Vec::new();
        write_layer(&source, &mut layer).unwrap();
        layer
    }
}

fn attributes(mode: u32) -> Attributes {
    let mtime = Some(Timestamp { seconds: 1_600_000_000, nanoseconds: 5 });
    Attributes { mode, uid: 3, gid: 4, mtime, xattrs: Vec::new() }
}

fn write(writer: &TreeWriter, path: &str, content: &[u8]) {
    let content = FileContent::Bytes(content);
    writer.file(Path::new(path), content, &attributes(0o644), Hashing::Skip).unwrap();
}

#[test]
fn removed_and_remade_directories_have_a_whiteout_for_each_old_name() {
    let lower = ArchiveBuilder::new()
        .directory("d", 0o755)
        .file("d/a", b"a")
        .file("d/same", b"s")
        .directory("d/sub", 0o755)
        .file("d/sub/deep", b"")
        .directory("d/kept", 0o755)
        .file("d/kept/x", b"")
        .file("d/kept/y", b"")
        .directory("gone", 0o755)
        .file("gone/x", b"");
    let chain = Chain::over(lower);
    let writer = chain.writer();
    for path in ["/d", "/gone"] {
        assert!(writer.remove(Path::new(path)).unwrap());
    }
    writer.make_directory(Path::new("/d"), &attributes(0o755)).unwrap();
    writer.make_directory(Path::new("/d/kept"), &attributes(0o755)).unwrap();
    write(&writer, "/d/kept/y", b"new");
    write(&writer, "/d/new", b"new");
    let same =
        Attributes { mtime: Some(Timestamp { seconds: 1_500_000_000, nanoseconds: 7 }), ..attributes(0o644) };
    writer.file(Path::new("/d/same"), FileContent::Bytes(b"s"), &same, Hashing::Skip).unwrap();
    writer.finish().unwrap();
    expect![[r"
        d/ dir 0755 3:4 @1600000000
        d/.wh.a file 0 0000 0:0 @0
        d/kept/ dir 0755 3:4 @1600000000
        d/kept/.wh.x file 0 0000 0:0 @0
        d/kept/y file 3 0644 3:4 @1600000000
        d/new file 3 0644 3:4 @1600000000
        d/.wh.sub file 0 0000 0:0 @0
        .wh.gone file 0 0000 0:0 @0
    "]]
    .assert_eq(&list_archive(&chain.layer(), Times::Seconds));
}

#[test]
fn unchanged_files_drop_out_and_parents_of_changes_are_there() {
    let lower = ArchiveBuilder::new()
        .directory("p", 0o755)
        .directory("p/q", 0o750)
        .file("p/q/f", b"f")
        .directory("other", 0o755)
        .file("other/same", b"content")
        .file("other/chmod", b"content");
    let chain = Chain::over(lower);
    let writer = chain.writer();
    let as_below =
        Attributes { mtime: Some(Timestamp { seconds: 1_500_000_000, nanoseconds: 0 }), ..attributes(0o644) };
    let same = FileContent::Bytes(b"content");
    writer.file(Path::new("/other/same"), same, &as_below, Hashing::Skip).unwrap();
    writer.finish().unwrap();
    assert_eq!(list_archive(&chain.layer(), Times::Hidden), "");
    let writer = chain.writer();
    let chmod = Attributes { mode: 0o4711, ..as_below };
    writer.file(Path::new("/other/chmod"), FileContent::Bytes(b"content"), &chmod, Hashing::Skip).unwrap();
    write(&writer, "/p/q/f", b"g");
    writer.finish().unwrap();
    expect![[r"
        other/ dir 0755 3:4 @1500000000
        other/chmod file 7 4711 3:4 @1500000000
        p/ dir 0755 3:4 @1500000000
        p/q/ dir 0750 3:4 @1500000000
        p/q/f file 1 0644 3:4 @1600000000
    "]]
    .assert_eq(&list_archive(&chain.layer(), Times::Seconds));
}

#[test]
fn hard_links_within_a_layer_and_to_lower_files() {
    let chain = Chain::over(ArchiveBuilder::new().file("low", b"low"));
    let writer = chain.writer();
    writer.hard_link(Path::new("/low"), Path::new("/high")).unwrap();
    write(&writer, "/b", b"x");
    writer.hard_link(Path::new("/b"), Path::new("/a")).unwrap();
    writer.symlink(Path::new("/s"), Path::new("b"), &attributes(0o777)).unwrap();
    writer.hard_link(Path::new("/s"), Path::new("/t")).unwrap();
    writer.special(Path::new("/socket"), FileKind::Socket, (0, 0), &attributes(0o600)).unwrap();
    writer.finish().unwrap();
    expect![[r"
        a file 1 0644 3:4
        b Link a 0644 3:4
        high file 3 0644 3:4
        s Symlink b 0777 3:4
        t Link s 0777 3:4
    "]]
    .assert_eq(&list_archive(&chain.layer(), Times::Hidden));
}

#[test]
fn only_capabilities_and_whole_seconds_are_written() {
    let chain = Chain::over(ArchiveBuilder::new());
    let writer = chain.writer();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs = vec![("security.capability".into(), capability.to_vec()), ("user.x".into(), b"y".to_vec())];
    let with = Attributes { xattrs, ..attributes(0o755) };
    writer.file(Path::new("/ping"), FileContent::Bytes(b""), &with, Hashing::Skip).unwrap();
    writer.finish().unwrap();
    assert_eq!(writer.view().xattrs(Path::new("/ping")).unwrap().len(), 2);
    assert_eq!(
        list_archive(&chain.layer(), Times::Seconds),
        "ping file 0 0755 3:4 @1600000000 SCHILY.xattr.security.capability\n"
    );
}

#[test]
fn large_numbers_and_long_names_are_read_back() {
    let chain = Chain::over(ArchiveBuilder::new());
    let writer = chain.writer();
    let (part, long) = ("n".repeat(90), "l".repeat(255));
    let deep = format!("/{part}/{part}/{part}");
    for length in [91, 182, 273] {
        writer.make_directory(Path::new(&deep[..length]), &attributes(0o755)).unwrap();
    }
    let old = Attributes {
        uid: 4_000_000,
        mtime: Some(Timestamp { seconds: -1, nanoseconds: 0 }),
        ..attributes(0o644)
    };
    let file = format!("{deep}/ü\n");
    writer.file(Path::new(&file), FileContent::Bytes(b"x"), &old, Hashing::Skip).unwrap();
    writer.symlink(Path::new(&format!("/{long}")), Path::new(&deep), &attributes(0o777)).unwrap();
    writer.hard_link(Path::new(&file), Path::new("/zz")).unwrap();
    writer.finish().unwrap();
    let again = chain.scratch.path().join("again");
    std::fs::create_dir(&again).unwrap();
    apply_layer(chain.layer().as_slice(), &again, OVERLAY).unwrap().finish(&[]).unwrap();
    assert_eq!(list(&[again], OVERLAY, Times::Seconds), list(&chain.dirs, OVERLAY, Times::Seconds));
}

#[test]
fn a_sparse_file_is_written_in_full() {
    let chain = Chain::over(ArchiveBuilder::new());
    let file = std::fs::File::create(chain.dirs[0].join("sparse")).unwrap();
    file.set_len(3_000_001).unwrap();
    file.write_all_at(b"middle", 1_000_000).unwrap();
    let again = chain.scratch.path().join("again");
    std::fs::create_dir(&again).unwrap();
    apply_layer(chain.layer().as_slice(), &again, OVERLAY).unwrap().finish(&[]).unwrap();
    let (a, b) =
        (std::fs::read(chain.dirs[0].join("sparse")).unwrap(), std::fs::read(again.join("sparse")).unwrap());
    assert!(a == b && a.len() == 3_000_001);
}

#[test]
fn recorded_owners_are_written() {
    let mode =
        TreeMode { kind: TreeKind::Overlay { user_xattrs: true }, owners: crate::tree::OwnerMode::Recorded };
    let scratch = tempfile::tempdir().unwrap();
    let writer = TreeWriter::new(scratch.path(), &[], mode).unwrap();
    write(&writer, "/f", b"x");
    writer.special(Path::new("/null"), FileKind::CharDevice, (1, 3), &attributes(0o666)).unwrap();
    writer.finish().unwrap();
    let source = LayerSource::Overlay { upper: scratch.path().to_owned(), lower_dirs: Vec::new(), mode };
    let mut layer = Vec::new();
    write_layer(&source, &mut layer).unwrap();
    assert_eq!(list_archive(&layer, Times::Hidden), "f file 1 0644 3:4\nnull Char  0666 3:4\n");
}

#[test]
fn whole_trees_as_archive_and_as_directory() {
    let lower = ArchiveBuilder::new().directory("d", 0o750).file("d/gone", b"").file("f", b"f");
    let chain = Chain::over(lower);
    let writer = chain.writer();
    writer.remove(Path::new("/d/gone")).unwrap();
    writer.hard_link(Path::new("/f"), Path::new("/d/f")).unwrap();
    writer.symlink(Path::new("/l"), Path::new("d"), &attributes(0o777)).unwrap();
    writer.finish().unwrap();
    let view = TreeView::open(&chain.dirs, OVERLAY).unwrap();
    let mut archive = Vec::new();
    write_trees(&[(None, &view)], FileTimes::Own, &mut archive).unwrap();
    expect![[r"
        d/ dir 0750 3:4 @1500000000
        d/f file 1 0644 3:4 @1500000000
        f Link d/f 0644 3:4 @1500000000
        l Symlink d 0777 3:4 @1600000000
    "]]
    .assert_eq(&list_archive(&archive, Times::Seconds));
    let mut both = Vec::new();
    write_trees(&[(Some("x".as_ref()), &view), (Some("y".as_ref()), &view)], FileTimes::Own, &mut both)
        .unwrap();
    expect![[r"
        x/ dir 0755 0:0 @0
        x/d/ dir 0750 3:4 @1500000000
        x/d/f file 1 0644 3:4 @1500000000
        x/f Link x/d/f 0644 3:4 @1500000000
        x/l Symlink d 0777 3:4 @1600000000
        y/ dir 0755 0:0 @0
        y/d/ dir 0750 3:4 @1500000000
        y/d/f file 1 0644 3:4 @1500000000
        y/f Link y/d/f 0644 3:4 @1500000000
        y/l Symlink d 0777 3:4 @1600000000
    "]]
    .assert_eq(&list_archive(&both, Times::Seconds));
    let destination = chain.scratch.path().join("new/destination");
    std::fs::create_dir_all(destination.join("d")).unwrap();
    std::fs::write(destination.join("stays"), "").unwrap();
    std::os::unix::fs::symlink("/nowhere", destination.join("f")).unwrap();
    export_tree(&view, FileTimes::Own, &destination).unwrap();
    assert!(destination.join("stays").exists());
    std::fs::remove_file(destination.join("stays")).unwrap();
    assert_eq!(std::fs::metadata(destination.join("f")).unwrap().nlink(), 2);
    assert_eq!(
        list(&[destination], TreeMode::PLAIN, Times::Seconds),
        // All of it belongs to whoever exports it.
        list(&chain.dirs, OVERLAY, Times::Seconds).replace(" 3:4 ", " 0:0 ")
    );
}
