//! Members of ZIP archives (APPNOTE.TXT), found by the directory at their end.

use std::io::{Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

use crate::scan::Malformed;

const END: &[u8] = b"PK\x05\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
const END_BYTES: usize = 22;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;
/// A comment of any length may follow the directory.
const LONGEST_COMMENT: u64 = 0xffff;
/// The largest directory that is read: of a million members.
const DIRECTORY_BYTES: u64 = 128 << 20;
/// How many members are read at most.
const MOST_MEMBERS: usize = 10_000;

const NO_ARCHIVE: Malformed = Malformed::Form("it is no ZIP archive");
const CUT: Malformed = Malformed::Form("its directory is not whole");

/// What is in the members that are wanted, each up to `limit_bytes`.
pub(super) fn members(
    file: &mut (impl Read + Seek),
    is_wanted: impl Fn(&str) -> bool,
    limit_bytes: u64,
) -> Result<Vec<Vec<u8>>, Malformed> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(END_BYTES as u64 + LONGEST_COMMENT);
    let tail = part(file, start, length - start)?;
    let ends = tail.windows(END.len()).rposition(|window| window == END);
    let end = ends.and_then(|at| tail.get(at..at + END_BYTES)).ok_or(NO_ARCHIVE)?;
    let (size, at) = (number(end, 12, 4), number(end, 16, 4));
    if size > DIRECTORY_BYTES || at + size > length {
        return Err(CUT);
    }
    let directory = part(file, at, size)?;
    let mut found = Vec::new();
    let mut rest = directory.as_slice();
    while rest.starts_with(ENTRY) && found.len() < MOST_MEMBERS {
        let entry = rest.get(..ENTRY_BYTES).ok_or(CUT)?;
        let [name, extra, comment] =
            [28, 30, 32].map(|at| usize::try_from(number(entry, at, 2)).unwrap_or(0));
        let name_bytes = rest.get(ENTRY_BYTES..ENTRY_BYTES + name).ok_or(CUT)?;
        if is_wanted(&String::from_utf8_lossy(name_bytes)) {
            let member =
                Member { method: number(entry, 10, 2), size: number(entry, 20, 4), at: number(entry, 42, 4) };
            found.push(member.read(file, limit_bytes)?);
        }
        rest = rest.get(ENTRY_BYTES + name + extra + comment..).ok_or(CUT)?;
    }
    Ok(found)
}

struct Member {
    method: u64,
    size: u64,
    at: u64,
}

impl Member {
    fn read(&self, file: &mut (impl Read + Seek), limit_bytes: u64) -> Result<Vec<u8>, Malformed> {
        let head = part(file, self.at, LOCAL_BYTES as u64)?;
        if head.len() < LOCAL_BYTES || !head.starts_with(LOCAL) || self.size > limit_bytes {
            return Err(CUT);
        }
        let content = self.at + LOCAL_BYTES as u64 + number(&head, 26, 2) + number(&head, 28, 2);
        let bytes = part(file, content, self.size)?;
        match self.method {
            0 => Ok(bytes),
            8 => {
                let mut text = Vec::new();
                DeflateDecoder::new(bytes.as_slice()).take(limit_bytes).read_to_end(&mut text)?;
                Ok(text)
            }
            _ => Err(Malformed::Form("it is compressed in a way that is not read")),
        }
    }
}

fn part(file: &mut (impl Read + Seek), start: u64, length: u64) -> Result<Vec<u8>, Malformed> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A little-endian number; the caller has seen that it is there.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::write::DeflateEncoder;

    /// An archive; the first member is stored, the others are compressed.
    pub(in crate::languages) fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (number, (name, content)) in members.iter().enumerate() {
            let at = u32::try_from(bytes.len()).unwrap();
            let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).unwrap();
            let (method, data) = match number {
                0 => (0_u16, content.to_vec()),
                _ => (8, encoder.finish().unwrap()),
            };
            let sizes =
                [data.len(), content.len()].map(|size| u32::try_from(size).unwrap().to_le_bytes()).concat();
            let length = u16::try_from(name.len()).unwrap().to_le_bytes();
            let middle = [[20, 0, 0, 0].as_slice(), &method.to_le_bytes(), &[0; 8], &sizes, &length].concat();
            bytes.extend([b"PK\x03\x04".as_slice(), &middle, &[0; 2], name.as_bytes(), &data].concat());
            let tail = [[0; 12].as_slice(), &at.to_le_bytes()].concat();
            directory.extend([b"PK\x01\x02\x14\0".as_slice(), &middle, &tail, name.as_bytes()].concat());
        }
        let start = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
        bytes.extend(directory);
        bytes.extend([b"PK\x05\x06".as_slice(), &[0; 8], &size, &start, &[0; 2]].concat());
        bytes
    }
}
