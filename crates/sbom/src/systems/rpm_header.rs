//! The header of a package, as rpm's databases hold it: two counts, an index of tags, and their data, all big-endian
//! (rpm's `docs/manual/format_header.md`, without the magic bytes that files begin with).

use crate::scan::Malformed;

/// What an entry of the index has: tag, type, offset and count.
const ENTRY_BYTES: usize = 16;
/// As in rpm itself: no header has more tags, or more data.
const MOST_ENTRIES: usize = 0xffff;
const MOST_DATA_BYTES: usize = 256 << 20;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const PAGE: u32 = 1020;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;

const INTEGER: u32 = 4;
const STRING: u32 = 6;
const TRANSLATED: u32 = 9;

/// A header whose index was found to be whole.
pub(super) struct Header<'b> {
    index: &'b [u8],
    data: &'b [u8],
}

impl<'b> Header<'b> {
    pub(super) fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let count = |at| number(bytes, at);
        let (Some(entries), Some(length)) = (count(0), count(4)) else {
            return Err(Malformed::Form("a header of it is cut short"));
        };
        let (entries, length) = (entries as usize, length as usize);
        if entries > MOST_ENTRIES || length > MOST_DATA_BYTES {
            return Err(Malformed::Form("a header of it is larger than rpm allows"));
        }
        let data = 8 + entries * ENTRY_BYTES;
        match (bytes.get(8..data), bytes.get(data..data + length)) {
            (Some(index), Some(data)) => Ok(Self { index, data }),
            _ => Err(Malformed::Form("a header of it is cut short")),
        }
    }

    /// The type of a tag and where its data begins.
    fn find(&self, tag: u32) -> Option<(u32, &'b [u8])> {
        let entry = self.index.chunks_exact(ENTRY_BYTES).find(|entry| number(entry, 0) == Some(tag))?;
        Some((number(entry, 4)?, self.data.get(number(entry, 8)? as usize..)?))
    }

    fn text(&self, tag: u32) -> Option<&'b str> {
        let (kind, data) = self.find(tag)?;
        // Of a text in several languages the first is English.
        if !matches!(kind, STRING | TRANSLATED) {
            return None;
        }
        let end = data.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&data[..end]).ok().filter(|text| !text.is_empty())
    }

    pub(super) fn name(&self) -> Option<&'b str> {
        self.text(NAME)
    }

    pub(super) fn version(&self) -> Option<&'b str> {
        self.text(VERSION)
    }

    pub(super) fn release(&self) -> Option<&'b str> {
        self.text(RELEASE)
    }

    pub(super) fn epoch(&self) -> Option<u32> {
        self.find(EPOCH).filter(|(kind, _)| *kind == INTEGER).and_then(|(_, data)| number(data, 0))
    }

    pub(super) fn vendor(&self) -> Option<&'b str> {
        self.text(VENDOR)
    }

    pub(super) fn license(&self) -> Option<&'b str> {
        self.text(LICENSE)
    }

    pub(super) fn page(&self) -> Option<&'b str> {
        self.text(PAGE)
    }

    pub(super) fn architecture(&self) -> Option<&'b str> {
        self.text(ARCHITECTURE)
    }

    /// The name of the source package's file.
    pub(super) fn source(&self) -> Option<&'b str> {
        self.text(SOURCE)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header of tags with their types and data.
    pub(in crate::systems) fn header(tags: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::<u8>::new());
        for (tag, kind, value) in tags {
            let offset = u32::try_from(data.len()).unwrap();
            index.extend([*tag, *kind, offset, 1].iter().flat_map(|number| number.to_be_bytes()));
            data.extend(value);
        }
        let counts = [u32::try_from(tags.len()).unwrap(), u32::try_from(data.len()).unwrap()];
        let mut bytes: Vec<u8> = counts.iter().flat_map(|number| number.to_be_bytes()).collect();
        bytes.extend(index);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn headers_that_are_cut_or_lie_are_refused() {
        let whole = header(&[(1000, 6, b"a\0".to_vec()), (1001, 6, b"1".to_vec())]);
        let parsed = Header::parse(&whole).unwrap();
        // The second text has no end, and a third there is not.
        assert_eq!((parsed.name(), parsed.version(), parsed.epoch()), (Some("a"), None, None));
        for length in 0..whole.len() {
            assert!(Header::parse(&whole[..length]).is_err(), "{length}");
        }
        let mut large = whole.clone();
        large[..4].fill(0xff);
        assert!(Header::parse(&large).is_err());
        let mut far = whole;
        far[16..20].fill(0xff);
        assert_eq!(Header::parse(&far).unwrap().name(), None);
    }
}
