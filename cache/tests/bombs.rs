//! Archives that are small and would fill memory or the disk. Alone in its program, since it looks at the most memory
//! that the program ever took.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;

use cache::layer::{ExtractOptions, LayerError, apply_blob, extract_archive};
use cache::tree::{OwnerMode, TreeKind, TreeMode, TreeWriter};
use rustix::mount::{MountFlags, UnmountFlags};

const OVERLAY: TreeMode =
    TreeMode { kind: TreeKind::Overlay { user_xattrs: false }, owners: OwnerMode::Native };
/// The most that the program may take, whatever it is fed.
const MAXIMUM_MEMORY_KIB: u64 = 400 << 10;

/// A small disk in memory for as long as this lives. Needs the right to mount (root).
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (flags, data) = (MountFlags::empty(), c"size=8m,nr_inodes=2000");
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, data).unwrap();
        Self(directory)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

/// What comes of an archive as a layer and as one of ADD; neither may be taken.
fn outcomes(archive: impl Fn() -> Box<dyn Read + Send>) -> [String; 2] {
    let told = |result: Result<(), LayerError>| match result {
        Ok(()) => "it was taken".to_owned(),
        Err(error) => chain(&error),
    };
    let disk = Disk::new();
    let layer = apply_blob(archive(), disk.0.path(), OVERLAY).and_then(|layer| layer.finish(&[]));
    drop(disk);
    let disk = Disk::new();
    let writer = TreeWriter::new(disk.0.path(), &[], OVERLAY).unwrap();
    let added = extract_archive(archive(), &writer, Path::new("/"), &ExtractOptions::default());
    [told(layer), told(added)]
}

fn header(flag: u8, name: &str, link: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_path(name).unwrap();
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A file of 16 MiB of zeros, and what compresses it.
fn zeros(compress: impl FnOnce(&[u8]) -> io::Result<Vec<u8>>) -> Vec<u8> {
    let mut archive = header(b'0', "zeros", "", 16 << 20);
    archive.resize(archive.len() + (16 << 20) + 1024, 0);
    compress(&archive).unwrap()
}

/// Members without an end: `member` makes the next one.
struct Endless<F> {
    member: F,
    number: u64,
    rest: io::Cursor<Vec<u8>>,
}

fn endless(member: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(Endless { member, number: 0, rest: io::Cursor::default() })
}

impl<F: Fn(u64) -> Vec<u8>> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.rest.read(buffer)?;
        if read > 0 {
            return Ok(read);
        }
        self.rest = io::Cursor::new((self.member)(self.number));
        self.number += 1;
        self.rest.read(buffer)
    }
}

/// A PAX header of one long record whose key is different each time.
fn extension(number: u64) -> Vec<u8> {
    let value = "v".repeat(400);
    let record = format!("434 SCHILY.xattr.user.{number:010}={value}\n");
    assert_eq!(record.len(), 434);
    let mut member = header(b'x', "x", "", 434);
    member.extend_from_slice(record.as_bytes());
    member.resize(1024, 0);
    member
}

/// An xz stream whose one block wants a dictionary of 4 GiB.
fn xz_of_a_huge_dictionary() -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let mut stream = b"\xfd7zXZ\0\0\x01".to_vec();
    stream.extend(crc(&[0, 1]));
    // Twelve bytes; one filter, LZMA2, of one byte of properties: the largest dictionary.
    let block = [2, 0, 0x21, 1, 40, 0, 0, 0];
    stream.extend(block);
    stream.extend(crc(&block));
    stream.extend([0; 64]);
    stream
}

#[test]
fn no_archive_takes_more_memory_than_it_should() {
    let gzip = zeros(|bytes| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes)?;
        encoder.finish()
    });
    let bzip2 = zeros(|bytes| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes)?;
        encoder.finish()
    });
    let xz = zeros(|bytes| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(bytes)?;
        encoder.finish()
    });
    let zstd = zeros(|bytes| zstd::encode_all(bytes, 1));
    for bomb in [gzip, bzip2, xz, zstd] {
        assert!(bomb.len() < 1 << 20);
        for outcome in outcomes(|| Box::new(io::Cursor::new(bomb.clone()))) {
            assert!(outcome.contains("No space left on device"), "{outcome}");
        }
    }
    for outcome in outcomes(|| Box::new(io::Cursor::new(xz_of_a_huge_dictionary()))) {
        assert!(outcome.contains("memory limit"), "{outcome}");
    }
    // A frame with a window of 2 GiB.
    for outcome in outcomes(|| Box::new(io::Cursor::new(b"\x28\xb5\x2f\xfd\0\xa8\0\0\0\0\0\0".to_vec()))) {
        assert!(outcome.contains("memory"), "{outcome}");
    }
    for outcome in outcomes(|| endless(extension)) {
        assert!(outcome.ends_with("its extended header is too large"), "{outcome}");
    }
    // A layer may link to what is below it, so that it is not known yet that nothing is there.
    let [layer, added] =
        outcomes(|| endless(|number| header(b'1', &format!("{number:090}"), &"n".repeat(90), 0)));
    assert!(layer.ends_with("there are too many hard links to lower layers"), "{layer}");
    assert!(added.ends_with("which does not exist"), "{added}");
    // Entries without content take the inodes of a disk, or nothing at all.
    for outcome in outcomes(|| endless(|number| header(b'0', &format!("f{number}"), "", 0))) {
        assert!(outcome.contains("No space left on device"), "{outcome}");
    }
    let same =
        || -> Box<dyn Read + Send> { Box::new(endless(|_| header(b'5', "d", "", 0)).take(50_000 * 512)) };
    assert_eq!(outcomes(same), ["it was taken", "it was taken"]);
    // A size that no disk has, and nothing but zeros in it.
    let huge = || -> Box<dyn Read + Send> {
        Box::new(io::Cursor::new(header_of_a_huge_file()).chain(io::repeat(0)))
    };
    for outcome in outcomes(huge) {
        assert!(outcome.contains("No space left on device"), "{outcome}");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MAXIMUM_MEMORY_KIB, "{peak} KiB");
}

fn header_of_a_huge_file() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1 << 62);
    header.set_cksum();
    header.as_bytes().to_vec()
}
