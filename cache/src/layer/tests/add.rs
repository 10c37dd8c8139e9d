//! Archives of ADD.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};

use super::archive_builder::ArchiveBuilder;
use super::listing::{OVERLAY, Times, list, list_archive};
use crate::layer::{
    ARCHIVE_START_BYTES, ExtractOptions, LayerSource, apply_layer, begins_archive, extract_archive,
    is_archive, write_layer,
};
use crate::tree::{Made, TreeWriter};

/// Unpacks `archive` into `/dst` over a layer; the tree and the names in the new layer.
fn added(lower: ArchiveBuilder, archive: &[u8], options: ExtractOptions, expected: &Expect) {
    let scratch = tempfile::tempdir().unwrap();
    let (below, upper) = (scratch.path().join("below"), scratch.path().join("upper"));
    std::fs::create_dir(&below).unwrap();
    std::fs::create_dir(&upper).unwrap();
    apply_layer(lower.bytes().as_slice(), &below, OVERLAY).unwrap().finish(&[]).unwrap();
    let writer = TreeWriter::new(&upper, std::slice::from_ref(&below), OVERLAY).unwrap();
    extract_archive(archive, &writer, Path::new("/dst"), &options).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let tree = list(&[upper.clone(), below.clone()], OVERLAY, Times::Hidden);
    let mut layer = Vec::new();
    let source = LayerSource::Overlay { upper, lower_dirs: vec![below], mode: OVERLAY };
    write_layer(&source, &mut layer).unwrap();
    expected.assert_eq(&format!("{tree}-- layer\n{}", list_archive(&layer, Times::Hidden)));
}

fn destination() -> ArchiveBuilder {
    ArchiveBuilder::new().directory("dst", 0o700)
}

#[test]
fn names_stay_below_the_destination() {
    let archive = ArchiveBuilder::new()
        .directory("./", 0o777)
        .file("ok", b"ok")
        .file("../../evil", b"evil")
        .file("/abs/f", b"f")
        .symlink("out", "../../../etc")
        .bytes();
    added(
        destination(),
        &archive,
        ExtractOptions::default(),
        &expect![[r#"
        /dst dir 0700 3:4
        /dst/abs dir 0755 0:0
        /dst/abs/f file "f" 0644 3:4
        /dst/evil file "evil" 0644 3:4
        /dst/ok file "ok" 0644 3:4
        /dst/out link ../../../etc 0777 3:4
        -- layer
        dst/ dir 0700 3:4
        dst/abs/ dir 0755 0:0
        dst/abs/f file 1 0644 3:4
        dst/evil file 4 0644 3:4
        dst/ok file 2 0644 3:4
        dst/out Symlink ../../../etc 0777 3:4
    "#]],
    );
}

#[test]
fn what_is_there_is_replaced_or_merged() {
    let lower = destination()
        .directory("dst/x", 0o755)
        .directory("dst/x/y", 0o755)
        .file("dst/z", b"f")
        .directory("dst/d", 0o700)
        .file("dst/d/keep", b"keep")
        .symlink("dst/l", "d")
        .symlink("dst/through", "/other")
        .directory("other", 0o755);
    let archive = ArchiveBuilder::new()
        .file("x", b"f")
        .directory("z", 0o755)
        .file("z/i", b"i")
        .directory("d", 0o755)
        .file("d/f", b"new")
        .directory("l", 0o755)
        .file("l/f", b"f")
        .file("through/f", b"f")
        .bytes();
    added(
        lower,
        &archive,
        ExtractOptions::default(),
        &expect![[r#"
        /dst dir 0700 3:4
        /dst/d dir 0755 3:4
        /dst/d/f file "new" 0644 3:4
        /dst/d/keep file "keep" 0644 3:4
        /dst/l dir 0755 3:4
        /dst/l/f file "f" 0644 3:4
        /dst/through link /other 0777 3:4
        /dst/x file "f" 0644 3:4
        /dst/z dir 0755 3:4
        /dst/z/i file "i" 0644 3:4
        /other dir 0755 3:4
        /other/f file "f" 0644 3:4
        -- layer
        dst/ dir 0700 3:4
        dst/d/ dir 0755 3:4
        dst/d/f file 3 0644 3:4
        dst/l/ dir 0755 3:4
        dst/l/f file 1 0644 3:4
        dst/x file 1 0644 3:4
        dst/z/ dir 0755 3:4
        dst/z/i file 1 0644 3:4
        other/ dir 0755 3:4
        other/f file 1 0644 3:4
    "#]],
    );
}

#[test]
fn names_of_whiteouts_are_whiteouts_of_the_layer() {
    let lower = destination().file("dst/a", b"a").file("dst/b", b"b");
    let archive = ArchiveBuilder::new().file(".wh.a", b"").file("c", b"c").bytes();
    added(
        lower,
        &archive,
        ExtractOptions::default(),
        &expect![[r#"
        /dst dir 0700 3:4
        /dst/.wh.a file "" 0644 3:4
        /dst/a file "a" 0644 3:4
        /dst/b file "b" 0644 3:4
        /dst/c file "c" 0644 3:4
        -- layer
        dst/ dir 0700 3:4
        dst/.wh.a file 0 0644 3:4
        dst/c file 1 0644 3:4
    "#]],
    );
}

#[test]
fn links_devices_and_an_owner_for_all() {
    let archive = ArchiveBuilder::new()
        .file("a", b"f")
        .hard_link("s/b", "a")
        .member(b'6', "p", 0o600, b"")
        .member(b'3', "c", 0o640, b"")
        .member(b'0', "x", 0o6711, b"x")
        .bytes();
    let options = ExtractOptions { owner: Some((1000, 50)), ..ExtractOptions::default() };
    added(
        destination(),
        &archive,
        options,
        &expect![[r#"
        /dst dir 0700 3:4
        /dst/a file "f" 0644 1000:50
        /dst/c char 1:5 0640 1000:50
        /dst/p fifo 0600 1000:50
        /dst/s dir 0755 1000:50
        /dst/s/b file "f" 0644 1000:50 = /dst/a
        /dst/x file "x" 6711 1000:50
        -- layer
        dst/ dir 0700 3:4
        dst/a file 1 0644 1000:50
        dst/c Char  0640 1000:50
        dst/p Fifo  0600 1000:50
        dst/s/ dir 0755 1000:50
        dst/s/b Link dst/a 0644 1000:50
        dst/x file 1 6711 1000:50
    "#]],
    );
}

#[test]
fn extended_attributes_may_be_left_out() {
    let archive = ArchiveBuilder::new().pax(&[("SCHILY.xattr.user.a", b"b")]).file("f", b"").bytes();
    for without_xattrs in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let writer = TreeWriter::new(scratch.path(), &[], OVERLAY).unwrap();
        let options = ExtractOptions { without_xattrs, ..ExtractOptions::default() };
        extract_archive(archive.as_slice(), &writer, Path::new("/"), &options).unwrap();
        assert_eq!(writer.view().xattrs(Path::new("/f")).unwrap().is_empty(), without_xattrs);
    }
}

/// The archive in every compression.
fn compressed(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(archive).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(archive).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(archive).unwrap();
    vec![
        archive.to_vec(),
        gzip.finish().unwrap(),
        bzip2.finish().unwrap(),
        xz.finish().unwrap(),
        zstd::encode_all(archive, 1).unwrap(),
    ]
}

#[test]
fn archives_are_known_by_content() {
    let archive = ArchiveBuilder::new().file("f", b"content").bytes();
    for bytes in compressed(&archive) {
        assert!(is_archive(bytes.as_slice()));
        assert!(begins_archive(&bytes[..bytes.len().min(ARCHIVE_START_BYTES)]));
        let scratch = tempfile::tempdir().unwrap();
        let writer = TreeWriter::new(scratch.path(), &[], OVERLAY).unwrap();
        let made = writer.make_directory(Path::new("/d"), &crate::tree::Attributes::default()).unwrap();
        assert_eq!(made, Made::Created);
        extract_archive(bytes.as_slice(), &writer, Path::new("/d"), &ExtractOptions::default()).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("d/f")).unwrap(), b"content");
        if bytes != archive {
            let half = &bytes[..bytes.len() / 2];
            let result = extract_archive(half, &writer, Path::new("/d"), &ExtractOptions::default());
            assert_eq!(result.unwrap_err().to_string(), "cannot read the archive");
        }
    }
    for bytes in compressed(&ArchiveBuilder::new().bytes()) {
        assert!(!is_archive(bytes.as_slice()), "no entries");
    }
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x1f\x8b\x08not really", &[b'x'; 2000]] {
        assert!(!is_archive(bytes));
    }
    for bytes in [
        &b""[..],
        b"FROM busybox\n",
        &[b'x'; ARCHIVE_START_BYTES],
        &[0; ARCHIVE_START_BYTES],
        &archive[..511],
    ] {
        assert!(!begins_archive(bytes));
    }
}

#[test]
fn an_archive_cannot_be_unpacked_over_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    let writer = TreeWriter::new(scratch.path(), &[] as &[PathBuf], OVERLAY).unwrap();
    let archive = ArchiveBuilder::new().file("f", b"").bytes();
    let error = extract_archive(archive.as_slice(), &writer, Path::new("/file"), &ExtractOptions::default())
        .unwrap_err();
    assert_eq!(error.to_string(), "`/file` is not a directory");
}
