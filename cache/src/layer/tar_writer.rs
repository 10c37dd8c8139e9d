//! Writing tar in the PAX form, the same bytes for the same tree.
//!
//! Headers are ustar; what does not fit (long or non-ASCII names, large numbers, times before 1970, extended
//! attributes) goes into a PAX header before it. No user or group names, no access or change times.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::export::FileTimes;
use super::member::BLOCK;
use crate::tree::{Entry, FileKind};

/// What is written of one member, apart from its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberHeader<'a> {
    /// Absolute path in the tree.
    pub(super) path: &'a Path,
    pub(super) kind: TarKind<'a>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_seconds: i64,
    /// Value of `security.capability`.
    pub(super) capability: Option<&'a [u8]>,
}

/// The types of members.
#[derive(Debug, Clone, Copy)]
pub(super) enum TarKind<'a> {
    File { size: u64 },
    HardLink { target: &'a Path },
    Symlink { target: &'a OsStr },
    Directory,
    Fifo,
    Device { is_block: bool, rdev: (u32, u32) },
}

impl<'a> MemberHeader<'a> {
    pub(super) fn of(path: &'a Path, entry: &Entry, kind: TarKind<'a>) -> Self {
        let Entry { mode, uid, gid, .. } = *entry;
        Self { path, kind, mode, uid, gid, mtime_seconds: entry.mtime.seconds, capability: None }
    }

    /// An empty file without an owner or a time.
    pub(super) fn empty(path: &'a Path) -> Self {
        let kind = TarKind::File { size: 0 };
        Self { path, kind, mode: 0, uid: 0, gid: 0, mtime_seconds: 0, capability: None }
    }
}

/// Writes members one after the other.
pub(super) struct TarWriter<W: Write> {
    out: io::BufWriter<W>,
    /// Which times members have.
    pub(super) times: FileTimes,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: io::BufWriter::with_capacity(128 * 1024, out), times: FileTimes::Own }
    }

    /// Writes a header. The content of a file, exactly as long as it says, must follow.
    pub(super) fn header(&mut self, member: &MemberHeader<'_>) -> io::Result<()> {
        let mut block = Block([0; BLOCK]);
        let mut records = Vec::new();
        let name = archive_name(member);
        block.text(0..100, &name, "path", &mut records);
        if let Some(link) = link_name(member) {
            block.text(157..257, &link, "linkpath", &mut records);
        }
        block.number(100..108, i128::from(member.mode & 0o7777), "mode", &mut records);
        block.number(108..116, member.uid.into(), "uid", &mut records);
        block.number(116..124, member.gid.into(), "gid", &mut records);
        let (flag, size, rdev) = match member.kind {
            TarKind::File { size } => (b'0', size, (0, 0)),
            TarKind::HardLink { .. } => (b'1', 0, (0, 0)),
            TarKind::Symlink { .. } => (b'2', 0, (0, 0)),
            TarKind::Device { is_block: false, rdev } => (b'3', 0, rdev),
            TarKind::Device { is_block: true, rdev } => (b'4', 0, rdev),
            TarKind::Directory => (b'5', 0, (0, 0)),
            TarKind::Fifo => (b'6', 0, (0, 0)),
        };
        block.number(124..136, size.into(), "size", &mut records);
        let seconds = self.times.of(member.mtime_seconds);
        block.number(136..148, seconds.into(), "mtime", &mut records);
        block.number(329..337, rdev.0.into(), "SCHILY.devmajor", &mut records);
        block.number(337..345, rdev.1.into(), "SCHILY.devminor", &mut records);
        if let Some(value) = member.capability {
            records.push(("SCHILY.xattr.security.capability", value.to_vec()));
        }
        if !records.is_empty() {
            self.extended_header(&name, records)?;
        }
        self.out.write_all(&block.finish(flag))
    }

    fn extended_header(&mut self, name: &[u8], mut records: Vec<(&str, Vec<u8>)>) -> io::Result<()> {
        records.sort_unstable();
        let content: Vec<u8> =
            records.iter().flat_map(|(key, value)| pax_record(key.as_bytes(), value)).collect();
        let mut block = Block([0; BLOCK]);
        // Only for programs that do not know extended headers: they extract it as a file.
        let base = Path::new(OsStr::from_bytes(name)).file_name().unwrap_or_default().as_bytes();
        let short: Vec<u8> = base.iter().filter(|byte| byte.is_ascii_graphic()).take(80).copied().collect();
        let mut unused = Vec::new();
        block.text(0..100, &[b"PaxHeaders.0/", short.as_slice()].concat(), "path", &mut unused);
        block.number(100..108, 0, "mode", &mut unused);
        block.number(108..116, 0, "uid", &mut unused);
        block.number(116..124, 0, "gid", &mut unused);
        block.number(124..136, content.len() as i128, "size", &mut unused);
        block.number(136..148, 0, "mtime", &mut unused);
        self.out.write_all(&block.finish(b'x'))?;
        self.out.write_all(&content)?;
        self.padding(content.len() as u64)
    }

    /// Writes a piece of the content of a file.
    pub(super) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Writes zeros as content.
    pub(super) fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while count > 0 {
            let length = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.out.write_all(ZEROS.get(..length).unwrap_or_default())?;
            count -= length as u64;
        }
        Ok(())
    }

    /// Ends the content of a file of `size` bytes.
    pub(super) fn padding(&mut self, size: u64) -> io::Result<()> {
        let over = size % BLOCK as u64;
        if over == 0 { Ok(()) } else { self.zeros(BLOCK as u64 - over) }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.zeros(2 * BLOCK as u64)?;
        self.out.flush()
    }
}

fn relative(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

/// Names are relative, those of directories end with a slash.
fn archive_name(member: &MemberHeader<'_>) -> Vec<u8> {
    let mut name = relative(member.path).to_vec();
    if matches!(member.kind, TarKind::Directory) {
        name.push(b'/');
    }
    name
}

fn link_name(member: &MemberHeader<'_>) -> Option<Vec<u8>> {
    match member.kind {
        TarKind::HardLink { target } => Some(relative(target).to_vec()),
        TarKind::Symlink { target } => Some(target.as_bytes().to_vec()),
        _ => None,
    }
}

/// A record of a PAX header: `LENGTH KEY=VALUE\n`, where the length counts its own digits.
pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// A header block that is being filled.
struct Block([u8; BLOCK]);

impl Block {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(field) = self.0.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }

    fn text(
        &mut self,
        field: std::ops::Range<usize>,
        text: &[u8],
        key: &'static str,
        records: &mut Vec<(&'static str, Vec<u8>)>,
    ) {
        if text.is_ascii() && text.len() <= field.len() {
            self.put(field.start, text);
            return;
        }
        records.push((key, text.to_vec()));
        let ascii: Vec<u8> = text.iter().filter(|byte| byte.is_ascii()).take(field.len()).copied().collect();
        self.put(field.start, &ascii);
    }

    fn number(
        &mut self,
        field: std::ops::Range<usize>,
        number: i128,
        key: &'static str,
        records: &mut Vec<(&'static str, Vec<u8>)>,
    ) {
        let width = field.len() - 1;
        let digits = format!("{:0width$o}", number.max(0));
        if number < 0 || digits.len() > width {
            records.push((key, number.to_string().into_bytes()));
            self.put(field.start, "0".repeat(width).as_bytes());
        } else {
            self.put(field.start, digits.as_bytes());
        }
    }

    fn finish(mut self, type_flag: u8) -> [u8; BLOCK] {
        self.put(156, &[type_flag]);
        self.put(257, b"ustar\x0000");
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

impl TarKind<'_> {
    /// The type of an entry that has neither content nor a target; `None` for the others and for sockets, which
    /// no archive holds.
    pub(super) fn simple(entry: &Entry) -> Option<Self> {
        match entry.kind {
            FileKind::Directory => Some(Self::Directory),
            FileKind::Fifo => Some(Self::Fifo),
            FileKind::CharDevice => Some(Self::Device { is_block: false, rdev: entry.rdev }),
            FileKind::BlockDevice => Some(Self::Device { is_block: true, rdev: entry.rdev }),
            FileKind::File | FileKind::Symlink | FileKind::Socket => None,
        }
    }
}
