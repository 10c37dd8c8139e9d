//! Archives for tests, made header by header.

use std::io::Write as _;

/// Builds a tar out of members that need make no sense.
#[derive(Default)]
pub(super) struct ArchiveBuilder(Vec<u8>);

impl ArchiveBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn directory(self, name: &str, mode: u32) -> Self {
        self.member(b'5', name, mode, b"")
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(b'0', name, 0o644, content)
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.tampered(&header(b'2', name, target, 0))
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.tampered(&header(b'1', name, target, 0))
    }

    /// A PAX header for the member after it.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(content, "{length} {key}=").unwrap();
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.member(b'x', "PaxHeaders/x", 0o644, &content)
    }

    /// Owner 3:4, time 1500000000, device 1:5.
    pub(super) fn member(mut self, flag: u8, name: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = header(flag, name, "", content.len() as u64);
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        self.raw_header(header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header alone, with whatever was done to it.
    pub(super) fn tampered(mut self, header: &[u8; 512]) -> Self {
        self.raw_header(*header);
        self
    }

    fn raw_header(&mut self, mut header: [u8; 512]) {
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
    }

    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub(super) fn unterminated(self) -> Vec<u8> {
        self.0
    }
}

pub(super) fn header(flag: u8, name: &str, link: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    for (at, field) in
        [(100, "0000644"), (108, "0000003"), (116, "0000004"), (329, "0000001"), (337, "0000005")]
    {
        header[at..at + 7].copy_from_slice(field.as_bytes());
    }
    header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    header[136..147].copy_from_slice(format!("{:011o}", 1_500_000_000).as_bytes());
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}
