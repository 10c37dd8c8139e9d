//! Finding the members of an archive while its bytes go by.

use std::io;

use base64::Engine as _;
use jiff::Timestamp;

use crate::toc::{EntryKind, TOC_NAME, TocEntry};

const BLOCK: usize = 512;
/// The most that is kept of an extended header; names and attributes are far smaller.
const MAX_EXTENDED_BYTES: u64 = 16 << 20;
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// What the next bytes of an archive are.
pub(crate) enum Seen {
    /// A part of a header, padding, or what follows the end of the archive.
    Other,
    /// The end of the header of this member, whose content follows.
    Member(Box<TocEntry>),
    /// Content of the file that was told of last.
    Content,
}

/// Takes a tar apart that comes in pieces of any size: ustar with the extensions of POSIX and GNU.
#[derive(Debug)]
pub(crate) struct Members {
    state: State,
    extended: Extended,
}

#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    /// The content of an extended header, of so many bytes, and padding.
    Extended {
        kind: tar::EntryType,
        bytes: u64,
        read: Vec<u8>,
    },
    Content {
        left: u64,
        padding: u64,
    },
    Padding(u64),
    End,
}

/// What extended headers say of the next member.
#[derive(Debug, Default)]
struct Extended {
    records: Vec<(String, Vec<u8>)>,
}

impl Members {
    pub(crate) fn new() -> Self {
        Self { state: State::Header(Vec::with_capacity(BLOCK)), extended: Extended::default() }
    }

    /// Whether the archive may end here.
    pub(crate) fn is_between_members(&self) -> bool {
        match &self.state {
            State::Header(block) => block.is_empty() && self.extended.records.is_empty(),
            State::End => true,
            _ => false,
        }
    }

    /// Looks at `data`, which is not empty and follows what was looked at before: how many of its bytes belong together,
    /// at least one, and what they are.
    pub(crate) fn next(&mut self, data: &[u8]) -> io::Result<(usize, Seen)> {
        let at_most = |limit: u64| data.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        match &mut self.state {
            State::Header(block) => {
                let length = data.len().min(BLOCK - block.len());
                block.extend_from_slice(&data[..length]);
                if block.len() < BLOCK {
                    return Ok((length, Seen::Other));
                }
                let block = std::mem::take(block);
                Ok((length, self.header(&block)?))
            }
            State::Extended { kind, bytes, read } => {
                let all = padded(*bytes);
                let length = at_most(all - read.len() as u64);
                read.extend_from_slice(&data[..length]);
                if read.len() as u64 == all {
                    read.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
                    self.extended.add(*kind, read)?;
                    self.state = State::Header(Vec::with_capacity(BLOCK));
                }
                Ok((length, Seen::Other))
            }
            State::Content { left, padding } => {
                let length = at_most(*left);
                *left -= length as u64;
                if *left == 0 {
                    self.state = after_content(*padding);
                }
                Ok((length, Seen::Content))
            }
            State::Padding(left) => {
                let length = at_most(*left);
                let left = *left - length as u64;
                self.state = after_content(left);
                Ok((length, Seen::Other))
            }
            State::End => Ok((data.len(), Seen::Other)),
        }
    }

    fn header(&mut self, block: &[u8]) -> io::Result<Seen> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(Seen::Other);
        }
        let header = tar::Header::from_byte_slice(block);
        let kind = header.entry_type();
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            let bytes = header.entry_size()?;
            if bytes > MAX_EXTENDED_BYTES {
                return Err(malformed("an extended header of more than 16 MiB"));
            }
            self.state = State::Extended { kind, bytes, read: Vec::new() };
            return Ok(Seen::Other);
        }
        if kind.is_pax_global_extensions() {
            self.state = after_content(padded(header.entry_size()?));
            return Ok(Seen::Other);
        }
        let extended = std::mem::take(&mut self.extended);
        let entry = extended.entry(header)?;
        self.state = if entry.size == 0 {
            State::Header(Vec::with_capacity(BLOCK))
        } else {
            State::Content { left: entry.size, padding: padded(entry.size) - entry.size }
        };
        Ok(Seen::Member(Box::new(entry)))
    }
}

fn after_content(padding: u64) -> State {
    if padding == 0 { State::Header(Vec::with_capacity(BLOCK)) } else { State::Padding(padding) }
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK as u64)
}

fn malformed(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

impl Extended {
    fn add(&mut self, kind: tar::EntryType, content: &[u8]) -> io::Result<()> {
        if kind.is_pax_local_extensions() {
            for record in tar::PaxExtensions::new(content) {
                let record = record?;
                let key = String::from_utf8_lossy(record.key_bytes()).into_owned();
                if key.starts_with("GNU.sparse.") {
                    return Err(malformed("a sparse file cannot be in an eStargz layer"));
                }
                self.records.push((key, record.value_bytes().to_vec()));
            }
            return Ok(());
        }
        let key = if kind.is_gnu_longname() { "path" } else { "linkpath" };
        let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
        self.records.push((key.to_owned(), content[..end].to_vec()));
        Ok(())
    }

    /// The value of the last record with a key.
    fn text(&self, key: &str) -> Option<String> {
        let found = self.records.iter().rev().find(|(known, _)| known == key);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    fn number(&self, key: &str, otherwise: io::Result<u64>) -> io::Result<u64> {
        match self.text(key) {
            Some(text) => text.parse().map_err(|_| malformed(format!("`{text}` is no {key}"))),
            None => otherwise,
        }
    }

    /// The member of a header.
    fn entry(&self, header: &tar::Header) -> io::Result<TocEntry> {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = self.text("path").unwrap_or_else(|| lossy(&header.path_bytes()));
        if name.trim_start_matches(['.', '/']) == TOC_NAME {
            return Err(malformed(format!("a file named `{TOC_NAME}` cannot be in an eStargz layer")));
        }
        let kind = kind_of(header.entry_type(), &name)?;
        let is_link = matches!(kind, EntryKind::Symlink | EntryKind::Hardlink);
        let link = || self.text("linkpath").or_else(|| header.link_name_bytes().map(|bytes| lossy(&bytes)));
        let is_device = matches!(kind, EntryKind::Char | EntryKind::Block);
        let device = |number: io::Result<Option<u32>>| -> io::Result<u64> {
            Ok(if is_device { number?.unwrap_or(0).into() } else { 0 })
        };
        let owner = |name: Option<&[u8]>| name.map(lossy).unwrap_or_default();
        Ok(TocEntry {
            kind,
            size: if kind == EntryKind::Reg { self.number("size", header.entry_size())? } else { 0 },
            modified: self.modified(header)?,
            link_name: if is_link { link().unwrap_or_default() } else { String::new() },
            // Fields that are left empty are zero.
            mode: header.mode().unwrap_or(0).into(),
            uid: self.number("uid", Ok(header.uid().unwrap_or(0)))?,
            gid: self.number("gid", Ok(header.gid().unwrap_or(0)))?,
            user_name: self.text("uname").unwrap_or_else(|| owner(header.username_bytes())),
            group_name: self.text("gname").unwrap_or_else(|| owner(header.groupname_bytes())),
            dev_major: self.number("SCHILY.devmajor", device(header.device_major()))?,
            dev_minor: self.number("SCHILY.devminor", device(header.device_minor()))?,
            xattrs: self
                .records
                .iter()
                .filter_map(|(key, value)| Some((key.strip_prefix(XATTR_PREFIX)?, value)))
                .map(|(key, value)| (key.to_owned(), base64::engine::general_purpose::STANDARD.encode(value)))
                .collect(),
            name,
            ..TocEntry::default()
        })
    }

    /// The time in whole seconds; the first second of 1970 stands for none.
    fn modified(&self, header: &tar::Header) -> io::Result<String> {
        #[expect(clippy::cast_possible_truncation, reason = "jiff refuses what is out of its range")]
        let seconds = match self.text("mtime") {
            Some(text) => {
                text.parse::<f64>().map_err(|_| malformed(format!("`{text}` is no mtime")))?.round() as i64
            }
            None => header.mtime().unwrap_or(0).cast_signed(),
        };
        let time = Timestamp::from_second(seconds).map_err(|_| malformed("a time out of range"))?;
        Ok(if seconds == 0 { String::new() } else { time.to_string() })
    }
}

fn kind_of(kind: tar::EntryType, name: &str) -> io::Result<EntryKind> {
    Ok(match kind {
        // Archives from before POSIX have directories as files whose names end so.
        tar::EntryType::Regular if name.ends_with('/') => EntryKind::Dir,
        tar::EntryType::Regular | tar::EntryType::Continuous => EntryKind::Reg,
        tar::EntryType::Link => EntryKind::Hardlink,
        tar::EntryType::Symlink => EntryKind::Symlink,
        tar::EntryType::Directory => EntryKind::Dir,
        tar::EntryType::Char => EntryKind::Char,
        tar::EntryType::Block => EntryKind::Block,
        tar::EntryType::Fifo => EntryKind::Fifo,
        other => {
            let flag = char::from(other.as_byte());
            return Err(malformed(format!("`{name}` of type `{flag}` cannot be in an eStargz layer")));
        }
    })
}
