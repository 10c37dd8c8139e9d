//! `rewrite-timestamp`: the tar of a layer with no time later than the epoch.

use std::io::{self, Write};

use cache::Layer;
use cache::layer::pax_record;
use oci::{DiffId, Hasher};

const BLOCK: usize = 512;
const SIZE: std::ops::Range<usize> = 124..136;
const TIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;

/// The first number that eleven octal digits cannot hold.
const OCTAL_END: i64 = 1 << 33;

/// Passes a tar (ustar, PAX or GNU) on with each time that is later than `latest` replaced by it, and hashes what came
/// in. What it passes on of a tar that the store's own writer made is what that writer would have made of files with the
/// earlier times. A number before 1970 counts as 0.
pub(crate) struct Rewriter<W: Write> {
    out: W,
    latest: i64,
    original: Hasher,
    original_bytes: u64,
    state: State,
    /// A PAX header that waits for the header it is about.
    extended: Option<Extended>,
}

enum State {
    /// Within a header block.
    Header(Vec<u8>),
    /// Within the content of a member: so many bytes are left, with its padding.
    Content(u64),
    /// Within the content of a PAX header.
    Extended(Extended, usize),
}

/// A PAX header.
struct Extended {
    header: Vec<u8>,
    /// Its content, with the padding while it is read.
    content: Vec<u8>,
}

impl<W: Write> Rewriter<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W, latest: i64) -> Self {
        let (original, state) = (Hasher::new(), State::Header(Vec::with_capacity(BLOCK)));
        Self { out, latest: latest.max(0), original, original_bytes: 0, state, extended: None }
    }

    /// Gives the writer back and tells what came in, which has to be whole.
    pub(crate) fn finish(self) -> io::Result<(W, Layer)> {
        match self.state {
            State::Header(begun) if begun.is_empty() => {}
            _ => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar of a layer is cut off")),
        }
        let original = Layer { diff_id: DiffId(self.original.finish()), size_bytes: self.original_bytes };
        Ok((self.out, original))
    }

    /// Takes from the beginning of `data` what belongs to the present state; tells how much that was.
    fn take(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Content(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                let content = data.get(..length).unwrap_or_default();
                *left -= length as u64;
                if *left == 0 {
                    self.state = State::Header(Vec::with_capacity(BLOCK));
                }
                self.out.write_all(content)?;
                Ok(length)
            }
            State::Header(block) => {
                let length = (BLOCK - block.len()).min(data.len());
                block.extend_from_slice(data.get(..length).unwrap_or_default());
                if block.len() == BLOCK {
                    let block = std::mem::take(block);
                    self.state = self.header(block)?;
                }
                Ok(length)
            }
            State::Extended(extended, size) => {
                let length = (size.next_multiple_of(BLOCK) - extended.content.len()).min(data.len());
                extended.content.extend_from_slice(data.get(..length).unwrap_or_default());
                if extended.content.len() == size.next_multiple_of(BLOCK) {
                    extended.content.truncate(*size);
                    let header = std::mem::take(&mut extended.header);
                    self.extended = Some(Extended { header, content: std::mem::take(&mut extended.content) });
                    self.state = State::Header(Vec::with_capacity(BLOCK));
                }
                Ok(length)
            }
        }
    }

    fn header(&mut self, mut block: Vec<u8>) -> io::Result<State> {
        if block.iter().all(|byte| *byte == 0) {
            self.out.write_all(&block)?;
            return Ok(State::Header(Vec::with_capacity(BLOCK)));
        }
        let size = number(block.get(SIZE).unwrap_or_default()).unwrap_or(0);
        if block.get(TYPE) == Some(&b'x') && size > 0 {
            let size = usize::try_from(size).unwrap_or(usize::MAX).min(1 << 26);
            return Ok(State::Extended(Extended { header: block, content: Vec::new() }, size));
        }
        let mut records = self.extended.as_ref().map_or_else(Vec::new, |extended| records(&extended.content));
        let value = |key: &[u8]| {
            let record = records.iter().find(|(known, _)| known == key);
            record.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        let size = value(b"size").and_then(|text| text.parse().ok()).unwrap_or(size);
        let of_record =
            value(b"mtime").map(|text| text.split('.').next().unwrap_or_default().parse().unwrap_or(0));
        let time = of_record.or_else(|| number(block.get(TIME).unwrap_or_default()));
        let is_late = time.is_some_and(|time| time > self.latest);
        if is_late {
            records.retain(|(key, _)| *key != b"mtime");
            if self.latest < OCTAL_END {
                put_number(&mut block, TIME, self.latest);
            } else {
                records.push((b"mtime".to_vec(), self.latest.to_string().into_bytes()));
                records.sort_unstable();
            }
            put_checksum(&mut block);
        }
        if let Some(extended) = self.extended.take() {
            self.extended_header(extended, is_late.then_some(records))?;
        }
        self.out.write_all(&block)?;
        let has_content = !matches!(block.get(TYPE), Some(b'1'..=b'6'));
        let padded = u64::try_from(size).unwrap_or(0).next_multiple_of(BLOCK as u64);
        Ok(match padded {
            length if has_content && length > 0 => State::Content(length),
            _ => State::Header(Vec::with_capacity(BLOCK)),
        })
    }

    /// Writes a PAX header, with other records if there are some.
    fn extended_header(
        &mut self,
        extended: Extended,
        changed: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    ) -> io::Result<()> {
        let Extended { mut header, mut content } = extended;
        if let Some(records) = changed {
            if records.is_empty() {
                return Ok(());
            }
            content = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            put_number(&mut header, SIZE, i64::try_from(content.len()).unwrap_or(i64::MAX));
            put_checksum(&mut header);
        }
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        self.out.write_all(&header)?;
        self.out.write_all(&content)
    }
}

impl<W: Write> Write for Rewriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            done += self.take(rest)?;
        }
        self.original.update(data);
        self.original_bytes += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A number in octal digits, or in GNU's binary form.
fn number(field: &[u8]) -> Option<i64> {
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        if *first != 0x80 {
            // Negative.
            return Some(0);
        }
        return rest.iter().try_fold(0_i64, |sum, byte| sum.checked_mul(256)?.checked_add(i64::from(*byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|character| character == '\0' || character == ' ');
    i64::from_str_radix(if digits.is_empty() { "0" } else { digits }, 8).ok()
}

fn put_number(block: &mut [u8], field: std::ops::Range<usize>, number: i64) {
    let width = field.len() - 1;
    let text = format!("{number:0width$o}\0");
    if let Some(field) = block.get_mut(field) {
        field.copy_from_slice(text.as_bytes());
    }
}

/// Six digits, a zero and a blank, as POSIX has it; or seven digits, where there were so many.
fn put_checksum(block: &mut [u8]) {
    let Some(field) = block.get_mut(CHECKSUM) else { return };
    let is_long = field.get(6).is_some_and(u8::is_ascii_digit);
    field.fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = if is_long { format!("{sum:07o}\0") } else { format!("{sum:06o}\0 ") };
    if let Some(field) = block.get_mut(CHECKSUM) {
        field.copy_from_slice(text.as_bytes());
    }
}

/// The records of a PAX header; what cannot be read ends them.
fn records(mut content: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(blank) = content.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&content[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some(whole) = length.and_then(|length| content.get(blank + 1..length)) else { break };
        let Some(equals) = whole.iter().position(|byte| *byte == b'=') else { break };
        let (key, value) = whole.split_at(equals);
        found.push((key.to_vec(), value[1..].strip_suffix(b"\n").unwrap_or(&value[1..]).to_vec()));
        content = &content[blank + 1 + whole.len()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;

    /// A tar of members, each with a name, a time and a content.
    fn archive(members: &[(&str, u64, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, time, content) in members {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            header.set_mtime(*time);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn rewritten(tar: &[u8], latest: i64, step: usize) -> (Vec<u8>, Layer) {
        let mut rewriter = Rewriter::new(Vec::new(), latest);
        for piece in tar.chunks(step) {
            rewriter.write_all(piece).unwrap();
        }
        rewriter.finish().unwrap()
    }

    #[test]
    fn later_times_become_the_epoch() {
        let content = "x".repeat(700);
        let tar = archive(&[("a", 5, "one"), ("b", 4_000_000_000, &content), ("c", 7, "")]);
        let expected = archive(&[("a", 5, "one"), ("b", 6, &content), ("c", 6, "")]);
        for step in [1, 100, 512, 1 << 20] {
            let (found, original) = rewritten(&tar, 6, step);
            assert!(found == expected, "in pieces of {step} bytes");
            assert_eq!(original.diff_id.0, Digest::sha256(&tar));
            assert_eq!(original.size_bytes, tar.len() as u64);
        }
        assert!(rewritten(&tar, 4_000_000_000, 512).0 == tar, "none is later");
        let negative = archive(&[("a", 0, "one"), ("b", 0, &content), ("c", 0, "")]);
        assert!(rewritten(&tar, -7, 512).0 == negative, "a header has no time before 1970");
    }

    /// With PAX records for the first member.
    fn with_records(records: &[(&str, &str)], time: u64) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let pairs = records.iter().map(|(key, value)| (*key, value.as_bytes()));
        builder.append_pax_extensions(pairs).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(3);
        header.set_mtime(time);
        builder.append_data(&mut header, "a", b"one".as_slice()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn times_in_records_go_with_them() {
        // A time that no header holds, and one with a fraction; other records stay.
        let far = with_records(&[("mtime", "9000000000")], 0);
        assert!(rewritten(&far, 6, 512).0 == with_records(&[], 6), "a header without records is gone");
        let found = rewritten(&with_records(&[("mtime", "7.5"), ("path", "b")], 7), 6, 512).0;
        let mut archive = tar::Archive::new(found.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!((entry.path().unwrap().to_str(), entry.header().mtime().unwrap()), (Some("b"), 6));
        let early = with_records(&[("mtime", "-5"), ("path", "b")], 0);
        assert!(rewritten(&early, 6, 512).0 == early);
        let later = rewritten(&far, 8_900_000_000, 512).0;
        assert!(later == with_records(&[("mtime", "8900000000")], 0), "an epoch that no header holds");
    }

    #[test]
    fn a_tar_that_is_cut_off_is_an_error() {
        let tar = archive(&[("a", 5, "one")]);
        for length in [100, 600, 1100] {
            let mut rewriter = Rewriter::new(Vec::new(), 6);
            rewriter.write_all(&tar[..length]).unwrap();
            assert!(rewriter.finish().is_err(), "{length}");
        }
    }

    #[test]
    fn numbers_are_read_in_both_forms() {
        assert_eq!(number(b"00000000017\0"), Some(15));
        assert_eq!(number(b"      17 \0  "), Some(15));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(1 << 33));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(0));
    }
}
