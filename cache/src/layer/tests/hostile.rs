//! Archives that want to do harm.

use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::archive_builder::{ArchiveBuilder, header};
use super::listing::{OVERLAY, Times, list};
use crate::layer::{ExtractOptions, apply_blob, apply_layer, extract_archive};
use crate::tree::{TreeMode, TreeWriter};

/// Applies beside a file that no archive may touch; the tree or the error as text.
fn outcome(archive: &[u8], mode: TreeMode) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let upper = scratch.path().join("a/b/upper");
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::write(scratch.path().join("outside"), "untouched").unwrap();
    let result = apply_layer(archive, &upper, mode).and_then(|layer| layer.finish(&[]));
    assert_eq!(std::fs::read_to_string(scratch.path().join("outside")).unwrap(), "untouched");
    assert_eq!(names(scratch.path()), ["a", "outside"]);
    assert_eq!(names(&scratch.path().join("a")), ["b"]);
    assert_eq!(names(&scratch.path().join("a/b")), ["upper"]);
    match result {
        Ok(()) => list(&[upper], mode, Times::Hidden),
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            format!("{error}{}", source.unwrap_or_default())
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_leads_outside() {
    let up = "../../../../outside";
    let table: Vec<(ArchiveBuilder, &str)> = vec![
        (ArchiveBuilder::new().file(up, b"x"), "/outside file \"x\" 0644 3:4\n"),
        (ArchiveBuilder::new().file("/outside", b"x"), "/outside file \"x\" 0644 3:4\n"),
        (
            ArchiveBuilder::new().symlink("l", "../../..").file("l/outside", b"x"),
            "/l dir 0755 0:0\n/l/outside file \"x\" 0644 3:4\n",
        ),
        (ArchiveBuilder::new().symlink("l", up).file("l", b"x"), "/l file \"x\" 0644 3:4\n"),
        (
            ArchiveBuilder::new().symlink("l", up).hard_link("h", "l").file("h", b"x"),
            "/h file \"x\" 0644 3:4\n/l link ../../../../outside 0777 3:4\n",
        ),
        (ArchiveBuilder::new().symlink("l", "../../..").directory("l", 0o700), "/l dir 0700 3:4\n"),
        (
            ArchiveBuilder::new().hard_link("h", up),
            "archive entry `/h` is a hard link to `/outside`, which does not exist",
        ),
        (
            ArchiveBuilder::new().symlink("l", "../../..").hard_link("h", "l/outside"),
            "archive entry `/h` is a hard link to `/l/outside`, which does not exist",
        ),
        (
            ArchiveBuilder::new().file(".wh...", b""),
            "invalid archive entry `/.wh...`: it is a whiteout of nothing",
        ),
        (
            ArchiveBuilder::new().file(".wh..", b""),
            "invalid archive entry `/.wh..`: it is a whiteout of nothing",
        ),
        (
            ArchiveBuilder::new().file(".wh.", b""),
            "invalid archive entry `/.wh.`: it is a whiteout of nothing",
        ),
        (ArchiveBuilder::new().directory("..", 0o777).symlink("/", "x"), ""),
    ];
    for (archive, expected) in table {
        let bytes = archive.bytes();
        assert_eq!(outcome(&bytes, OVERLAY), expected);
        assert_eq!(outcome(&bytes, TreeMode::PLAIN), expected);
    }
}

#[test]
fn headers_without_sense_are_errors() {
    let tamper = |flag: u8, at: usize, bytes: &[u8]| {
        let mut header = header(flag, "x", "", 0);
        header[at..at + bytes.len()].copy_from_slice(bytes);
        ArchiveBuilder::new().tampered(&header).bytes()
    };
    let huge = b"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff";
    let mut wrong_sum = ArchiveBuilder::new().file("x", b"").bytes();
    wrong_sum[0] = b'y';
    let table: Vec<(Vec<u8>, &str)> = vec![
        (wrong_sum, "its checksum is wrong"),
        (tamper(b'0', 124, b"zz"), "its size is no number"),
        (tamper(b'0', 124, &[0xff; 12]), "its size is negative"),
        (
            ArchiveBuilder::new().pax(&[("size", b"18446744073709551615")]).file("x", b"").bytes(),
            "its size is too large",
        ),
        (tamper(b'0', 108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), "its owner is no 32-bit number"),
        (tamper(b'x', 124, huge), "its extended header is too large"),
        (tamper(b'L', 124, b"77777777777"), "its extended header is too large"),
        (tamper(b'0', 108, &[0x80, 0, 1, 0, 0, 0, 0, 0]), "its owner is no 32-bit number"),
        (tamper(b'3', 329, b"zz"), "a field is no 32-bit number"),
        (tamper(b'V', 100, b"0"), "its type is unknown"),
        (tamper(b'S', 386, b"77777777777\x0077777777777\0"), "its map is no map"),
        (
            ArchiveBuilder::new().pax(&[("size", b"-1")]).file("x", b"").bytes(),
            "its extended header is malformed",
        ),
        (ArchiveBuilder::new().pax(&[("path", b"a\0b")]).file("x", b"").bytes(), "its name is too long"),
        (
            ArchiveBuilder::new().pax(&[("path", "a/".repeat(3000).as_bytes())]).file("x", b"").bytes(),
            "its name is too long",
        ),
        (
            ArchiveBuilder::new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"5")])
                .file("x", b"99999999999999\n")
                .bytes(),
            "its map is cut off",
        ),
        (
            ArchiveBuilder::new()
                .pax(&[("GNU.sparse.map", b"0,5"), ("GNU.sparse.size", b"5")])
                .file("x", b"abc")
                .bytes(),
            "its map needs more than there is",
        ),
    ];
    for (archive, reason) in table {
        let outcome = outcome(&archive, OVERLAY);
        assert!(outcome.starts_with("invalid archive entry `at byte "), "{outcome} ({reason})");
        assert!(outcome.ends_with(reason), "{outcome} ({reason})");
    }
}

#[test]
fn a_cut_off_archive_is_an_error_wherever_it_is_cut() {
    let archive = ArchiveBuilder::new().directory("d", 0o755).file("d/f", &[1; 700]).bytes();
    let whole = archive.len() - 1024;
    for length in (1..whole).filter(|length| *length != 512) {
        let outcome = outcome(&archive[..length], OVERLAY);
        assert!(outcome.starts_with("cannot read the archive: "), "{length}: {outcome}");
    }
    let compressed = zstd::encode_all(archive.as_slice(), 1).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let error = apply_blob(&compressed[..compressed.len() / 2], scratch.path(), OVERLAY).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the archive");
}

#[test]
fn nothing_outside_a_destination_is_written_while_its_directories_are_swapped() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let mut archive = ArchiveBuilder::new();
    for number in 0..50 {
        archive =
            archive.file(&format!("d/sub/f{number}"), b"x").hard_link(&format!("d/h{number}"), "d/sub/f0");
    }
    let archive = archive.bytes();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::fs::create_dir_all(path("upper/out/d/sub")).unwrap();
    std::fs::create_dir_all(path("outside/sub")).unwrap();
    std::os::unix::fs::symlink("../../outside", path("upper/out/e")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (one, other) = (path("upper/out/d"), path("upper/out/e"));
                // What is in the way is gone for a moment.
                let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..20 {
            // A link in the way may be an error, or may give way to what it leads to inside.
            let writer = TreeWriter::new(&path("upper"), &[], OVERLAY).unwrap();
            let options = ExtractOptions::default();
            drop(extract_archive(archive.as_slice(), &writer, Path::new("/out"), &options));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(&path("outside")), ["sub"]);
    assert_eq!(names(&path("outside/sub")), [""; 0]);
}
