//! Reading the members of a tar stream: ustar, PAX (POSIX.1-2001) and GNU headers, sparse files in the forms of
//! GNU tar. Nothing of the stream is trusted: what a header may make us hold in memory is bounded.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use super::LayerError;
use super::extension::{Extensions, parse_decimal};
use crate::tree::{Attributes, FileKind, Timestamp, is_hidden_attribute};

/// The unit of a tar stream.
pub(super) const BLOCK: usize = 512;

/// The most that the extended headers and long names of one member, or its map of a sparse file, may take.
const MAXIMUM_EXTENSION: u64 = 1 << 20;

/// The longest name; the kernel takes no longer path at once.
const MAXIMUM_NAME: usize = 4096;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    /// Something that the tree knows.
    Entry(FileKind),
    /// Another name of an earlier member, or of a file of a lower layer.
    HardLink,
}

/// One member; its content is read from [`Members`].
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Absolute and canonical: `..` stops at the root.
    pub(super) path: PathBuf,
    pub(super) kind: MemberKind,
    /// Target of a link as it is written.
    pub(super) link: PathBuf,
    pub(super) attributes: Attributes,
    pub(super) rdev: (u32, u32),
    /// Length of the file, holes included.
    pub(super) size: u64,
    /// Offset and length of what is not a hole, in the order of the content; `None` for a file without holes.
    pub(super) sparse: Option<Vec<(u64, u64)>>,
}

/// The members of a stream, one after the other.
pub(super) struct Members<R> {
    reader: R,
    /// Bytes of content, and of padding after it, that are still to come before the next header.
    content: u64,
    padding: u64,
    position: u64,
}

impl<R: BufRead> Members<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, content: 0, padding: 0, position: 0 }
    }

    /// The reader, from which the rest after the last member can be read.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    /// The next member; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        let mut extensions = Extensions::default();
        let mut room = MAXIMUM_EXTENSION;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.number(124..136).ok_or_else(|| self.invalid("its size is no number"))?;
            let size = u64::try_from(size).map_err(|_| self.invalid("its size is negative"))?;
            match header.type_flag() {
                b'x' => {
                    let content = self.extension(size, &mut room)?;
                    extensions.parse_pax(&content).map_err(|why| self.invalid(why))?;
                }
                b'g' => drop(self.extension(size, &mut room)?),
                b'L' => extensions.set_long_name(self.extension(size, &mut room)?),
                b'K' => extensions.set_long_link(self.extension(size, &mut room)?),
                _ => return self.member(&header, size, extensions).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        size: u64,
        mut extensions: Extensions,
    ) -> Result<Member, LayerError> {
        let name = extensions.path.take().unwrap_or_else(|| header.name());
        let kind = header.kind(&name).ok_or_else(|| self.invalid("its type is unknown"))?;
        let stored = extensions.size.unwrap_or(size);
        let is_file = kind == MemberKind::Entry(FileKind::File);
        self.begin_content(if is_file { stored } else { 0 })?;
        let (sparse, size) = if is_file { self.sparse(header, stored, &extensions)? } else { (None, 0) };
        let link = extensions.link.take().unwrap_or_else(|| header.text(157..257).to_vec());
        let path = self.canonical(&name)?;
        if link.len() > MAXIMUM_NAME || link.contains(&0) {
            return Err(self.invalid("its link target is too long"));
        }
        Ok(Member {
            path,
            kind,
            link: PathBuf::from(OsString::from_vec(link)),
            attributes: self.attributes(header, extensions)?,
            rdev: (self.small(header, 329..337)?, self.small(header, 337..345)?),
            size,
            sparse,
        })
    }

    fn attributes(&self, header: &Header, extensions: Extensions) -> Result<Attributes, LayerError> {
        let id = |value: Option<u64>, range| {
            let value = value.or_else(|| header.number(range).and_then(|number| u64::try_from(number).ok()));
            // The last number is no owner (chown(2)).
            let id = value.and_then(|value| u32::try_from(value).ok()).filter(|id| *id != u32::MAX);
            id.ok_or_else(|| self.invalid("its owner is no 32-bit number"))
        };
        let mode = header.number(100..108).ok_or_else(|| self.invalid("its mode is no number"))?;
        let seconds = header.number(136..148).ok_or_else(|| self.invalid("its time is no number"))?;
        let mut xattrs = extensions.xattrs;
        xattrs.retain(|(name, _)| !is_hidden_attribute(name));
        Ok(Attributes {
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            uid: id(extensions.uid, 108..116)?,
            gid: id(extensions.gid, 116..124)?,
            mtime: Some(extensions.mtime.unwrap_or(Timestamp { seconds, nanoseconds: 0 })),
            xattrs,
        })
    }

    fn small(&self, header: &Header, range: std::ops::Range<usize>) -> Result<u32, LayerError> {
        let number = header.number(range).and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| self.invalid("a field is no 32-bit number"))
    }

    /// The map of a sparse file and its real size.
    #[expect(clippy::type_complexity, reason = "a map and a size")]
    fn sparse(
        &mut self,
        header: &Header,
        stored: u64,
        extensions: &Extensions,
    ) -> Result<(Option<Vec<(u64, u64)>>, u64), LayerError> {
        let (map, size) = if header.type_flag() == b'S' {
            (self.old_sparse_map(header)?, header.number(483..495).and_then(|size| u64::try_from(size).ok()))
        } else if extensions.sparse_in_content {
            (self.sparse_map_in_content()?, extensions.sparse_size)
        } else if extensions.sparse_size.is_some() {
            (extensions.sparse.clone(), extensions.sparse_size)
        } else {
            return Ok((None, stored));
        };
        let size = size.ok_or_else(|| self.invalid("its real size is no number"))?;
        let mut end = 0;
        let mut total: u64 = 0;
        for (offset, length) in &map {
            let is_after = *offset >= end;
            end = offset.checked_add(*length).ok_or_else(|| self.invalid("its map is no map"))?;
            if !is_after || end > size {
                return Err(self.invalid("its map is no map"));
            }
            total = total.saturating_add(*length);
        }
        if total > self.content {
            return Err(self.invalid("its map needs more than there is"));
        }
        Ok((Some(map), size))
    }

    /// The map of the old GNU format: in the header, and in blocks behind it.
    fn old_sparse_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, LayerError> {
        let mut map = Vec::new();
        let bad = "its map is no map";
        push_pairs(&header.0, 386, 4, &mut map).ok_or_else(|| self.invalid(bad))?;
        let mut is_extended = header.0.get(482).is_some_and(|byte| *byte != 0);
        while is_extended {
            let mut block = [0; BLOCK];
            self.reader.read_exact(&mut block).map_err(LayerError::Read)?;
            self.position += BLOCK as u64;
            push_pairs(&block, 0, 21, &mut map).ok_or_else(|| self.invalid(bad))?;
            is_extended = block.get(504).is_some_and(|byte| *byte != 0);
            if map.len() as u64 * 24 > MAXIMUM_EXTENSION {
                return Err(self.invalid("its map is too large"));
            }
        }
        Ok(map)
    }

    /// The map of the GNU format 1.0: decimal lines at the start of the content, padded to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<(u64, u64)>, LayerError> {
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        let mut read = 0;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK];
            self.read_content(&mut block)?;
            read += BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let number = parse_decimal(&line).ok_or_else(|| self.invalid("its map is no map"))?;
                line.clear();
                numbers.push(number);
                if numbers.len() == 1 {
                    wanted = usize::try_from(number)
                        .ok()
                        .and_then(|count| count.checked_mul(2)?.checked_add(1))
                        .ok_or_else(|| self.invalid("its map is no map"))?;
                }
                if numbers.len() == wanted {
                    break;
                }
            }
            if read > MAXIMUM_EXTENSION {
                return Err(self.invalid("its map is too large"));
            }
        }
        let pairs = numbers.get(1..).unwrap_or_default().as_chunks::<2>().0;
        Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
    }

    fn read_content(&mut self, block: &mut [u8; BLOCK]) -> Result<(), LayerError> {
        if self.content < BLOCK as u64 {
            return Err(self.invalid("its map is cut off"));
        }
        self.reader.read_exact(block).map_err(LayerError::Read)?;
        self.content -= BLOCK as u64;
        self.position += BLOCK as u64;
        Ok(())
    }

    /// Hands the next bytes of the member's content to `take`, at most `limit`; zero at the end of it.
    pub(super) fn with_content(
        &mut self,
        limit: u64,
        take: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let limit = limit.min(self.content);
        if limit == 0 {
            return Ok(0);
        }
        let buffer = self.reader.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(buffer.len());
        take(buffer.get(..length).unwrap_or_default())?;
        self.reader.consume(length);
        self.content -= length as u64;
        self.position += length as u64;
        Ok(length as u64)
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        while self.with_content(u64::MAX, |_| Ok(())).map_err(LayerError::Read)? > 0 {}
        self.content = std::mem::take(&mut self.padding);
        while self.with_content(u64::MAX, |_| Ok(())).map_err(LayerError::Read)? > 0 {}
        Ok(())
    }

    fn begin_content(&mut self, size: u64) -> Result<(), LayerError> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        self.padding = padded.ok_or_else(|| self.invalid("its size is too large"))? - size;
        self.content = size;
        Ok(())
    }

    fn extension(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>, LayerError> {
        // Many small headers add up like a large one.
        *room = room.checked_sub(size).ok_or_else(|| self.invalid("its extended header is too large"))?;
        self.begin_content(size)?;
        let mut content = Vec::new();
        while self
            .with_content(u64::MAX, |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            })
            .map_err(LayerError::Read)?
            > 0
        {}
        Ok(content)
    }

    /// The next header; `None` where the archive ends, with or without the blocks of zeros that should be there.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        if self.reader.fill_buf().map_err(LayerError::Read)?.is_empty() {
            return Ok(None);
        }
        let mut header = Header([0; BLOCK]);
        self.reader.read_exact(&mut header.0).map_err(LayerError::Read)?;
        if header.0.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !header.has_valid_checksum() {
            return Err(self.invalid("its checksum is wrong"));
        }
        self.position += BLOCK as u64;
        Ok(Some(header))
    }

    fn canonical(&self, name: &[u8]) -> Result<PathBuf, LayerError> {
        if name.len() > MAXIMUM_NAME || name.contains(&0) {
            return Err(self.invalid("its name is too long"));
        }
        Ok(canonical(Path::new(OsStr::from_bytes(name))))
    }

    fn invalid(&self, reason: &'static str) -> LayerError {
        LayerError::Header { name: format!("at byte {}", self.position), reason }
    }
}

/// `path` as an absolute path without dots; `..` stops at the root.
pub(super) fn canonical(path: &Path) -> PathBuf {
    let mut canonical = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => canonical.push(name),
            Component::ParentDir => drop(canonical.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    canonical
}

/// Whether `start` begins with the header of a member.
pub(super) fn is_header(start: &[u8]) -> bool {
    let block = start.get(..BLOCK).and_then(|block| block.try_into().ok());
    block.is_some_and(|block: [u8; BLOCK]| block != [0; BLOCK] && Header(block).has_valid_checksum())
}

fn push_pairs(block: &[u8; BLOCK], start: usize, count: usize, map: &mut Vec<(u64, u64)>) -> Option<()> {
    for index in 0..count {
        let at = start + index * 24;
        let offset = block.get(at..at + 12)?;
        if offset.first() == Some(&0) {
            break;
        }
        let length = parse_number(block.get(at + 12..at + 24)?)?;
        map.push((u64::try_from(parse_number(offset)?).ok()?, u64::try_from(length).ok()?));
    }
    Some(())
}

/// A header block.
struct Header([u8; BLOCK]);

impl Header {
    fn type_flag(&self) -> u8 {
        self.0.get(156).copied().unwrap_or(0)
    }

    fn field(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    /// A text field, up to its first zero byte.
    fn text(&self, range: std::ops::Range<usize>) -> &[u8] {
        let field = self.field(range);
        field.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn number(&self, range: std::ops::Range<usize>) -> Option<i64> {
        parse_number(self.field(range))
    }

    /// The name, with the prefix that only the POSIX format has there.
    fn name(&self) -> Vec<u8> {
        let name = self.text(0..100);
        let prefix = if self.field(257..263) == b"ustar\0" { self.text(345..500) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn kind(&self, name: &[u8]) -> Option<MemberKind> {
        let kind = match self.type_flag() {
            // Formats older than POSIX have no type for directories.
            0 | b'0' | b'7' if name.ends_with(b"/") => FileKind::Directory,
            0 | b'0' | b'7' | b'S' => FileKind::File,
            b'1' => return Some(MemberKind::HardLink),
            b'2' => FileKind::Symlink,
            b'3' => FileKind::CharDevice,
            b'4' => FileKind::BlockDevice,
            b'5' => FileKind::Directory,
            b'6' => FileKind::Fifo,
            _ => return None,
        };
        Some(MemberKind::Entry(kind))
    }

    fn has_valid_checksum(&self) -> bool {
        let outside = |index: usize| !(148..156).contains(&index);
        let bytes =
            || self.0.iter().enumerate().map(|(index, byte)| if outside(index) { *byte } else { b' ' });
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some old programs summed signed bytes.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        self.number(148..156).is_some_and(|sum| sum == unsigned || sum == signed)
    }
}

/// Octal digits between blanks, or base 256 where the first bit is set (GNU). An empty field is zero.
fn parse_number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let is_negative = first & 0x40 != 0;
        let start = if is_negative { i64::from(first | 0x80) - 256 } else { i64::from(first & 0x3f) };
        return rest
            .iter()
            .try_fold(start, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()));
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field.get(start..).unwrap_or_default().split(is_blank).next().unwrap_or_default();
    digits.iter().try_fold(0_i64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit.into())
    })
}
