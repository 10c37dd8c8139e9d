//! What extended headers say about the member after them: PAX records and GNU's long names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use crate::tree::Timestamp;

/// The collected extensions of one member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
    /// The map of GNU's sparse formats 0.0 and 0.1.
    pub(super) sparse: Vec<(u64, u64)>,
    /// The real size of a sparse file.
    pub(super) sparse_size: Option<u64>,
    /// GNU's sparse format 1.0: the map is at the start of the content.
    pub(super) sparse_in_content: bool,
    sparse_offset: Option<u64>,
}

impl Extensions {
    pub(super) fn set_long_name(&mut self, content: Vec<u8>) {
        self.path = Some(until_zero(content));
    }

    pub(super) fn set_long_link(&mut self, content: Vec<u8>) {
        self.link = Some(until_zero(content));
    }

    /// Takes the records `LENGTH KEY=VALUE\n` of a PAX header.
    pub(super) fn parse_pax(&mut self, mut content: &[u8]) -> Result<(), &'static str> {
        const BAD: &str = "its extended header is malformed";
        let mut name = None;
        while !content.is_empty() {
            let space = content.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
            let digits = content.get(..space).unwrap_or_default();
            let length = parse_decimal(digits).and_then(|length| usize::try_from(length).ok()).ok_or(BAD)?;
            let record = content.get(space + 1..length).ok_or(BAD)?.strip_suffix(b"\n").ok_or(BAD)?;
            content = content.get(length..).unwrap_or_default();
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key == b"GNU.sparse.name" {
                name = Some(value.to_vec());
            } else {
                self.record(key, value).ok_or(BAD)?;
            }
        }
        if name.is_some() {
            self.path = name;
        }
        Ok(())
    }

    /// One record; an empty value takes an earlier one back. `None` for a value that makes no sense.
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let number =
            |value: &[u8]| if value.is_empty() { Some(None) } else { parse_decimal(value).map(Some) };
        let text = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(value),
            b"linkpath" => self.link = text(value),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(parse_time(value)?) },
            b"GNU.sparse.major" => self.sparse_in_content = value == b"1",
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = number(value)?,
            b"GNU.sparse.offset" => self.sparse_offset = number(value)?,
            b"GNU.sparse.numbytes" => {
                let length = parse_decimal(value)?;
                self.sparse.push((self.sparse_offset.take()?, length));
            }
            b"GNU.sparse.map" => self.sparse = parse_map(value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(OsStr::from_bytes(name), value)?;
                }
            }
        }
        Some(())
    }

    fn set_xattr(&mut self, name: &OsStr, value: &[u8]) -> Option<()> {
        // What the kernel takes (xattr(7)); more would be an error later.
        if name.is_empty() || name.len() > 255 || name.as_bytes().contains(&0) || value.len() > 1 << 16 {
            return None;
        }
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_owned(), value.to_vec()));
        Some(())
    }
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

/// `OFFSET,LENGTH,OFFSET,LENGTH…`
fn parse_map(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = value.split(|byte| *byte == b',').map(parse_decimal).collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

/// Decimal digits and nothing else.
pub(super) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are dropped.
fn parse_time(value: &[u8]) -> Option<Timestamp> {
    let (is_negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(parse_decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for index in 0..9 {
            nanoseconds = nanoseconds * 10 + u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
        }
    }
    Some(match (is_negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
        (true, nanoseconds) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_fractions_and_signs() {
        let time = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(parse_time(b"1"), time(1, 0));
        assert_eq!(parse_time(b"1.5"), time(1, 500_000_000));
        assert_eq!(parse_time(b"1.0000000019"), time(1, 1));
        assert_eq!(parse_time(b"-1"), time(-1, 0));
        assert_eq!(parse_time(b"-1.25"), time(-2, 750_000_000));
        assert_eq!(parse_time(b"1.x"), None);
        assert_eq!(parse_time(b""), None);
    }

    #[test]
    fn malformed_records_are_errors() {
        for content in ["x", "5 a=b", "6 a=b\n9", "3 a\n", "99 a=b\n", "0 a=b\n", "9 size=x\n", "2 a=b\n"] {
            assert!(Extensions::default().parse_pax(content.as_bytes()).is_err(), "{content:?}");
        }
    }
}
