//! Applying layers.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use expect_test::expect;

use super::archive_builder::{ArchiveBuilder, header};
use super::listing::{OVERLAY, Times, list};
use crate::layer::{LayerError, apply_blob, apply_layer};
use crate::tree::{OwnerMode, TreeKind, TreeMode};

/// Applies archives on top of each other, in overlay directories; returns those, top first.
fn stack(root: &Path, archives: &[Vec<u8>], mode: TreeMode) -> Result<Vec<PathBuf>, LayerError> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for (index, archive) in archives.iter().enumerate() {
        let upper = root.join(index.to_string());
        std::fs::create_dir(&upper).unwrap();
        apply_layer(archive.as_slice(), &upper, mode)?.finish(&dirs)?;
        dirs.insert(0, upper);
    }
    Ok(dirs)
}

/// The same in one plain directory.
fn flat(root: &Path, archives: &[Vec<u8>]) -> Result<Vec<PathBuf>, LayerError> {
    let upper = root.join("flat");
    std::fs::create_dir(&upper).unwrap();
    for archive in archives {
        apply_layer(archive.as_slice(), &upper, TreeMode::PLAIN)?.finish(&[])?;
    }
    Ok(vec![upper])
}

/// Both ways give the same tree.
fn applied(archives: &[Vec<u8>]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let stacked = list(&stack(scratch.path(), archives, OVERLAY).unwrap(), OVERLAY, Times::Seconds);
    let flat = list(&flat(scratch.path(), archives).unwrap(), TreeMode::PLAIN, Times::Seconds);
    assert_eq!(stacked, flat);
    stacked
}

#[test]
fn every_kind_of_entry() {
    let archive = ArchiveBuilder::new()
        .directory("./", 0o755)
        .directory("d/", 0o2750)
        .member(b'0', "d/setuid", 0o4755, b"x")
        .symlink("d/l", "../nowhere")
        .hard_link("d/h", "d/setuid")
        .member(b'6', "fifo", 0o600, b"")
        .member(b'3', "char", 0o620, b"")
        .member(b'4', "block", 0o660, b"")
        .pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"12.5"), ("uid", b"70000")])
        .file("attributes", b"")
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.user.rbuild.owner", b"1:1")])
        .directory("tricks", 0o700)
        .bytes();
    expect![[r#"
        /attributes file "" 0644 70000:4 @12 user.a=b
        /block block 1:5 0660 3:4 @1500000000
        /char char 1:5 0620 3:4 @1500000000
        /d dir 2750 3:4 @1500000000
        /d/h file "x" 4755 3:4 @1500000000
        /d/l link ../nowhere 0777 3:4 @1500000000
        /d/setuid file "x" 4755 3:4 @1500000000 = /d/h
        /fifo fifo 0600 3:4 @1500000000
        /tricks dir 0700 3:4 @1500000000
    "#]]
    .assert_eq(&applied(&[archive]));
}

#[test]
fn long_names_in_all_forms() {
    let long = "n".repeat(120);
    let pax = format!("p/{}", "p".repeat(150));
    let mut prefixed = header(b'0', "tail", "", 0);
    prefixed[345..350].copy_from_slice(b"start");
    let archive = ArchiveBuilder::new()
        .member(b'L', "././@LongLink", 0, format!("{long}\0").as_bytes())
        .file("short", b"1")
        .member(b'K', "././@LongLink", 0, format!("{long}\0").as_bytes())
        .symlink("gnu-link", "short")
        .pax(&[("path", pax.as_bytes())])
        .file("short", b"2")
        .tampered(&prefixed)
        .bytes();
    let names = applied(&[archive]);
    let expected = format!(
        "/gnu-link link {long} 0777 3:4 @1500000000\n\
         /{long} file \"1\" 0644 3:4 @1500000000\n\
         /p dir 0755 0:0 @0\n\
         /{pax} file \"2\" 0644 3:4 @1500000000\n\
         /start dir 0755 0:0 @0\n\
         /start/tail file \"\" 0644 3:4 @1500000000\n"
    );
    assert_eq!(names, expected);
}

#[test]
fn sparse_files_in_all_forms() {
    let mut old = header(b'S', "old", "", 3);
    for (at, number) in [(386, 4), (398, 2), (410, 9), (422, 1), (483, 12)] {
        old[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
    }
    old[257..265].copy_from_slice(b"ustar  \0");
    let mut content = b"abc".to_vec();
    content.resize(512, 0);
    let mut map = b"2\n4\n2\n9\n1\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abc");
    let sizes: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"12")];
    let mut bytes = ArchiveBuilder::new().tampered(&old).unterminated();
    bytes.extend_from_slice(&content);
    let rest = ArchiveBuilder::new()
        .pax(sizes)
        .file("new", &map)
        .pax(&[("GNU.sparse.map", b"4,2,9,1"), ("GNU.sparse.size", b"12"), ("GNU.sparse.name", b"mid")])
        .file("GNUSparseFile.0/mid", b"abc")
        .bytes();
    bytes.extend_from_slice(&rest);
    expect![[r#"
        /mid file "\x00\x00\x00\x00ab\x00\x00\x00c\x00\x00" 0644 3:4 @1500000000
        /new file "\x00\x00\x00\x00ab\x00\x00\x00c\x00\x00" 0644 3:4 @1500000000
        /old file "\x00\x00\x00\x00ab\x00\x00\x00c\x00\x00" 0644 3:4 @1500000000
    "#]]
    .assert_eq(&applied(&[bytes]));
}

#[test]
fn whiteouts_hide_lower_entries_and_not_their_own_layer() {
    let lower = ArchiveBuilder::new()
        .directory("d", 0o755)
        .file("d/a", b"a")
        .file("d/b", b"b")
        .file("f", b"f")
        .directory("o", 0o755)
        .file("o/old", b"")
        .directory("r", 0o755)
        .file("r/old", b"")
        .bytes();
    let upper = ArchiveBuilder::new()
        .file("d/.wh.a", b"")
        .file(".wh.f", b"")
        .file("f", b"new")
        .directory("o", 0o700)
        .file("o/new", b"")
        .file("o/.wh..wh..opq", b"")
        .directory("r", 0o711)
        .file("r/new", b"")
        .file(".wh.r", b"")
        .file(".wh..wh.plnk", b"")
        .file(".wh.nothing", b"")
        .bytes();
    expect![[r#"
        /d dir 0755 3:4 @1500000000
        /d/b file "b" 0644 3:4 @1500000000
        /f file "new" 0644 3:4 @1500000000
        /o dir 0700 3:4 @1500000000
        /o/new file "" 0644 3:4 @1500000000
        /r dir 0711 3:4 @1500000000
        /r/new file "" 0644 3:4 @1500000000
    "#]]
    .assert_eq(&applied(&[lower, upper]));
}

#[test]
fn entries_replace_each_other() {
    let lower = ArchiveBuilder::new().directory("a", 0o755).file("a/x", b"").file("b", b"").bytes();
    let upper = ArchiveBuilder::new()
        .file("a", b"now a file")
        .directory("b", 0o755)
        .file("b/y", b"")
        .directory("c", 0o755)
        .file("c/z", b"")
        .file("c", b"twice")
        .file("d", b"")
        .file("d/e", b"")
        .bytes();
    expect![[r#"
        /a file "now a file" 0644 3:4 @1500000000
        /b dir 0755 3:4 @1500000000
        /b/y file "" 0644 3:4 @1500000000
        /c file "twice" 0644 3:4 @1500000000
        /d dir 0755 0:0 @0
        /d/e file "" 0644 3:4 @1500000000
    "#]]
    .assert_eq(&applied(&[lower, upper]));
}

#[test]
fn links_to_lower_files_and_implied_parents_are_completed() {
    let lower = ArchiveBuilder::new()
        .directory("etc", 0o751)
        .file("etc/passwd", b"p")
        .directory("usr", 0o755)
        .directory("usr/lib", 0o750)
        .file("usr/lib/old", b"")
        .symlink("lib", "usr/lib")
        .bytes();
    let upper = ArchiveBuilder::new()
        .hard_link("etc/shadow", "etc/passwd")
        .hard_link("again", "/etc/shadow")
        .file("lib/new", b"")
        .file("lib/.wh.old", b"")
        .file("lib/sub/deep", b"")
        .bytes();
    let scratch = tempfile::tempdir().unwrap();
    let dirs = stack(scratch.path(), &[lower.clone(), upper.clone()], OVERLAY).unwrap();
    expect![[r#"
        /again file "p" 0644 3:4
        /etc dir 0751 3:4
        /etc/passwd file "p" 0644 3:4 = /again
        /etc/shadow file "p" 0644 3:4 = /again
        /lib link usr/lib 0777 3:4
        /usr dir 0755 3:4
        /usr/lib dir 0750 3:4
        /usr/lib/new file "" 0644 3:4
        /usr/lib/sub dir 0755 0:0
        /usr/lib/sub/deep file "" 0644 3:4
    "#]]
    .assert_eq(&list(&dirs, OVERLAY, Times::Hidden));
    let flat = flat(scratch.path(), &[lower, upper]).unwrap();
    assert_eq!(list(&flat, TreeMode::PLAIN, Times::Hidden), list(&dirs, OVERLAY, Times::Hidden));
}

#[test]
fn owners_are_recorded_where_they_cannot_be_set() {
    let mode = TreeMode { kind: TreeKind::Overlay { user_xattrs: true }, owners: OwnerMode::Recorded };
    let scratch = tempfile::tempdir().unwrap();
    let archive = ArchiveBuilder::new()
        .directory("d", 0o2750)
        .file("d/f", b"x")
        .member(b'3', "null", 0o666, b"")
        .symlink("l", "d")
        .bytes();
    let dirs = stack(scratch.path(), &[archive], mode).unwrap();
    expect![[r#"
        /d dir 2750 3:4
        /d/f file "x" 0644 3:4
        /l link d 0777 0:0
        /null char 1:5 0666 3:4
    "#]]
    .assert_eq(&list(&dirs, mode, Times::Hidden));
    expect![[r#"
        /d dir 2750 0:0
        /d/f file "x" 0644 0:0
        /l link d 0777 0:0
        /null file "" 0666 0:0
    "#]]
    .assert_eq(&list(&dirs, TreeMode::PLAIN, Times::Hidden));
}

#[test]
fn compressed_blobs_have_the_digest_of_the_archive() {
    let mut archive = ArchiveBuilder::new().file("a", &vec![7; 300_000]).bytes();
    archive.extend_from_slice(&[0; 10_240]);
    let (first, second) = archive.split_at(1000);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let blobs = [
        archive.clone(),
        [gzip(first), gzip(second)].concat(),
        zstd::encode_all(archive.as_slice(), 1).unwrap(),
    ];
    for blob in blobs {
        let scratch = tempfile::tempdir().unwrap();
        let layer = apply_blob(blob.as_slice(), scratch.path(), OVERLAY).unwrap();
        assert_eq!(layer.diff_id.0, oci::Digest::sha256(&archive));
        assert_eq!(layer.size_bytes, archive.len() as u64);
        layer.finish(&[]).unwrap();
        assert_eq!(std::fs::read(scratch.path().join("a")).unwrap(), vec![7; 300_000]);
    }
}
