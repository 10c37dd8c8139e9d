//! eStargz layers: gzip that can be fetched in parts.
//!
//! The format is that of the stargz snapshotter, and laid out as BuildKit lays it out. The tar is kept byte by byte, cut
//! into gzip members so that the content of each file begins one, and each further 4 MiB of it another; what is between
//! the contents goes with the one before. After the end of the archive comes one more member with an archive of its own,
//! which holds the table of contents, and an empty member of 51 bytes that tells where that begins:
//!
//! ```text
//! [headers][content, padding, headers][content, …]…[stargz.index.json][footer]
//! ```
//!
//! Programs that know nothing of it unpack the tar and find its end before the table. There is no landmark, as in no
//! layer of BuildKit's: it would be a file in the image that its Dockerfile did not make.

use std::collections::BTreeMap;
use std::io::{self, Write};

use oci::{Digest, Hasher};

use crate::codec::gzip_member;
use crate::members::{Members, Seen};
use crate::ordered::Ordered;
use crate::toc::{EntryKind, TOC_NAME, Toc, TocEntry};

/// The digest of the table of contents.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The size in bytes of what the layer unpacks to.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// The most of a file that is in one gzip member.
const CHUNK_BYTES: u64 = 4 << 20;
/// How much is given to another thread at once, at least.
const BATCH_BYTES: usize = 1 << 20;

/// A layer that is being written.
pub(crate) struct Estargz {
    level: i32,
    members: Members,
    toc: Toc,
    file: Option<OpenFile>,
    owners: [BTreeMap<u64, String>; 2],
    batch: Batch,
    jobs: Ordered<io::Result<Compressed>>,
    /// How much has been written.
    offset: u64,
}

/// The file whose content comes.
struct OpenFile {
    /// Until its first byte has come.
    entry: Option<Box<TocEntry>>,
    name: String,
    /// The number of its entry.
    number: usize,
    size: u64,
    seen: u64,
    /// Where the file has several parts; else the digest of the only part is that of the file.
    hasher: Option<Hasher>,
}

/// Parts of the tar, each of which becomes a gzip member.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Clone, Copy)]
struct Part {
    /// In the batch.
    start: usize,
    content: Option<Content>,
}

/// What a part begins with.
#[derive(Clone, Copy)]
struct Content {
    /// The entry in the table.
    number: usize,
    bytes: usize,
}

/// A compressed batch.
struct Compressed {
    bytes: Vec<u8>,
    parts: Vec<(usize, Option<(usize, Digest)>)>,
}

impl Estargz {
    pub(crate) fn new(level: i32) -> Self {
        Self {
            level,
            members: Members::new(),
            toc: Toc::default(),
            file: None,
            owners: Default::default(),
            batch: Batch { bytes: Vec::new(), parts: vec![Part { start: 0, content: None }] },
            jobs: Ordered::new(),
            offset: 0,
        }
    }

    /// Takes `data` and writes what is ready.
    pub(crate) fn write(&mut self, mut data: &[u8], out: &mut impl Write) -> io::Result<()> {
        while !data.is_empty() {
            let (length, seen) = self.members.next(data)?;
            let (bytes, rest) = data.split_at(length);
            data = rest;
            match seen {
                Seen::Other => self.batch.bytes.extend_from_slice(bytes),
                Seen::Member(entry) => {
                    self.batch.bytes.extend_from_slice(bytes);
                    self.member(entry);
                }
                Seen::Content => self.content(bytes, out)?,
            }
        }
        Ok(())
    }

    /// Writes the rest, the table and the footer. `unpacked` has hashed the tar of `tar_bytes` bytes and hashes what
    /// follows it. What is returned goes into the annotations of the layer's descriptor.
    pub(crate) fn finish(
        mut self,
        out: &mut impl Write,
        unpacked: &mut Hasher,
        tar_bytes: u64,
    ) -> io::Result<BTreeMap<String, String>> {
        if !self.members.is_between_members() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive of a layer ends early"));
        }
        self.send_batch();
        while let Some(done) = self.jobs.next() {
            self.place(done??, out)?;
        }
        let table = std::mem::take(&mut self.toc).json().map_err(io::Error::other)?;
        let archive = archive_of(&table)?;
        unpacked.update(&archive);
        let mut end = Vec::new();
        gzip_member(&archive, self.level, &mut end)?;
        end.extend_from_slice(&footer(self.offset));
        out.write_all(&end)?;
        Ok(BTreeMap::from([
            (TOC_DIGEST.to_owned(), Digest::sha256(&table).to_string()),
            (UNCOMPRESSED_SIZE.to_owned(), (tar_bytes + archive.len() as u64).to_string()),
        ]))
    }

    fn member(&mut self, mut entry: Box<TocEntry>) {
        // Each name is told with its number once, until the number has another.
        let [users, groups] = &mut self.owners;
        only_if_new(users, entry.uid, &mut entry.user_name);
        only_if_new(groups, entry.gid, &mut entry.group_name);
        if entry.size > 0 {
            let (name, size) = (entry.name.clone(), entry.size);
            let hasher = (size > CHUNK_BYTES).then(Hasher::new);
            let number = self.toc.entries.len();
            self.file = Some(OpenFile { entry: Some(entry), name, number, size, seen: 0, hasher });
            return;
        }
        if entry.kind == EntryKind::Reg {
            entry.digest = Digest::sha256(&[]).to_string();
        }
        self.toc.entries.push(*entry);
    }

    fn content(&mut self, mut bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        while !bytes.is_empty() {
            let Some(mut file) = self.file.take() else { return Ok(()) };
            let in_chunk = file.seen % CHUNK_BYTES;
            if in_chunk == 0 {
                let content = file.begin_chunk(&mut self.toc);
                self.begin_part(content, out)?;
            }
            let left = usize::try_from(CHUNK_BYTES - in_chunk).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(bytes.len().min(left));
            bytes = rest;
            self.batch.bytes.extend_from_slice(now);
            if let Some(hasher) = &mut file.hasher {
                hasher.update(now);
            }
            file.seen += now.len() as u64;
            if file.seen < file.size {
                self.file = Some(file);
            } else if let Some(hasher) = file.hasher {
                self.toc.entries[file.number].digest = hasher.finish().to_string();
            }
        }
        Ok(())
    }

    fn begin_part(&mut self, content: Content, out: &mut impl Write) -> io::Result<()> {
        if self.batch.bytes.len() >= BATCH_BYTES {
            if self.jobs.is_full()
                && let Some(done) = self.jobs.next()
            {
                self.place(done??, out)?;
            }
            self.send_batch();
        }
        self.batch.parts.push(Part { start: self.batch.bytes.len(), content: Some(content) });
        Ok(())
    }

    fn send_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let level = self.level;
        self.jobs.begin(move || batch.compress(level));
    }

    /// Writes a batch, and the places of its parts into the table.
    fn place(&mut self, batch: Compressed, out: &mut impl Write) -> io::Result<()> {
        for (length, content) in batch.parts {
            if let Some((number, digest)) = content {
                let entry = &mut self.toc.entries[number];
                entry.offset = self.offset;
                entry.chunk_digest = digest.to_string();
                if entry.kind == EntryKind::Reg && entry.size <= CHUNK_BYTES {
                    entry.digest.clone_from(&entry.chunk_digest);
                }
            }
            self.offset += length as u64;
        }
        out.write_all(&batch.bytes)
    }
}

impl OpenFile {
    /// Enters the chunk that begins now.
    fn begin_chunk(&mut self, toc: &mut Toc) -> Content {
        let bytes = CHUNK_BYTES.min(self.size - self.seen);
        let entry = self.entry.take().map_or_else(
            || TocEntry { name: self.name.clone(), kind: EntryKind::Chunk, ..TocEntry::default() },
            |entry| *entry,
        );
        let chunk_size = if bytes == CHUNK_BYTES { bytes } else { 0 };
        toc.entries.push(TocEntry { chunk_offset: self.seen, chunk_size, ..entry });
        let bytes = usize::try_from(bytes).expect("a chunk has 4 MiB at most");
        Content { number: toc.entries.len() - 1, bytes }
    }
}

fn only_if_new(known: &mut BTreeMap<u64, String>, id: u64, name: &mut String) {
    if !name.is_empty() && known.insert(id, name.clone()).as_ref() == Some(name) {
        name.clear();
    }
}

impl Batch {
    fn compress(self, level: i32) -> io::Result<Compressed> {
        let Self { bytes, parts } = self;
        let ends = parts.iter().skip(1).map(|part| part.start).chain([bytes.len()]);
        let mut compressed =
            Compressed { bytes: Vec::with_capacity(bytes.len() / 2), parts: Vec::with_capacity(parts.len()) };
        for (part, end) in parts.iter().zip(ends) {
            let part_bytes = &bytes[part.start..end];
            let before = compressed.bytes.len();
            // What begins the layer may be empty, where there is no header before the first content.
            if !part_bytes.is_empty() {
                gzip_member(part_bytes, level, &mut compressed.bytes)?;
            }
            let content =
                part.content.map(|content| (content.number, Digest::sha256(&part_bytes[..content.bytes])));
            compressed.parts.push((compressed.bytes.len() - before, content));
        }
        Ok(compressed)
    }
}

/// An archive that holds the table.
fn archive_of(table: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(table.len() as u64);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, TOC_NAME, table)?;
    archive.into_inner()
}

/// An empty gzip member with a field (RFC 1952, section 2.3.1.1) that tells where the table begins.
fn footer(table: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    let field = format!("{table:016x}STARGZ");
    footer.extend_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    footer.extend_from_slice(field.as_bytes());
    // An empty stored block that is the last, no checksum, no bytes.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read;

    use serde_json::Value;

    use super::*;
    use crate::compression::{Compression, CompressionKind};
    use crate::encoder::LayerEncoder;

    /// A layer as a program sees it that knows the format: the table, found by the footer, and the bytes.
    struct Layer {
        bytes: Vec<u8>,
        table: Value,
        table_at: usize,
    }

    fn member_at(bytes: &[u8], offset: usize) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::bufread::GzDecoder::new(&bytes[offset..]).read_to_end(&mut plain).unwrap();
        plain
    }

    impl Layer {
        fn of(bytes: Vec<u8>) -> Self {
            let (_, footer) = bytes.split_at(bytes.len() - 51);
            let mut decoder = flate2::bufread::GzDecoder::new(footer);
            assert_eq!(decoder.read_to_end(&mut Vec::new()).unwrap(), 0);
            let field = decoder.header().unwrap().extra().unwrap();
            assert_eq!(&field[..4], b"SG\x16\0");
            let text = std::str::from_utf8(&field[4..]).unwrap();
            let table_at = usize::from_str_radix(text.strip_suffix("STARGZ").unwrap(), 16).unwrap();
            let archive = member_at(&bytes, table_at);
            let mut archive = tar::Archive::new(archive.as_slice());
            let mut entries = archive.entries().unwrap();
            let mut member = entries.next().unwrap().unwrap();
            assert_eq!(member.path_bytes().as_ref(), TOC_NAME.as_bytes());
            let mut json = Vec::new();
            member.read_to_end(&mut json).unwrap();
            assert!(entries.next().is_none());
            Self { table: serde_json::from_slice(&json).unwrap(), bytes, table_at }
        }

        /// The contents of all files by name, each part checked against its digests.
        fn contents(&self) -> HashMap<String, Vec<u8>> {
            let mut contents: HashMap<String, Vec<u8>> = HashMap::new();
            let entries = self.table["entries"].as_array().unwrap();
            for (number, entry) in entries.iter().enumerate() {
                let number_of = |key: &str| usize::try_from(entry[key].as_u64().unwrap_or(0)).unwrap();
                let kind = entry["type"].as_str().unwrap();
                if !matches!(kind, "reg" | "chunk") || (kind == "reg" && number_of("size") == 0) {
                    continue;
                }
                let file = entries[..=number].iter().rfind(|entry| entry["type"] == "reg").unwrap();
                assert_eq!(file["name"], entry["name"]);
                let size = usize::try_from(file["size"].as_u64().unwrap()).unwrap();
                let length = match number_of("chunkSize") {
                    0 => size - number_of("chunkOffset"),
                    length => length,
                };
                let part = &member_at(&self.bytes, number_of("offset"))[..length];
                assert_eq!(Digest::sha256(part).as_str(), entry["chunkDigest"].as_str().unwrap());
                let content = contents.entry(entry["name"].as_str().unwrap().to_owned()).or_default();
                assert_eq!(content.len(), number_of("chunkOffset"));
                content.extend_from_slice(part);
                if content.len() == size {
                    assert_eq!(Digest::sha256(content).as_str(), file["digest"].as_str().unwrap());
                }
            }
            contents
        }
    }

    fn encoded(tar: &[u8]) -> io::Result<(Vec<u8>, crate::encoder::EncodedLayer)> {
        let compression = Compression::new(CompressionKind::Estargz, None).unwrap();
        let mut encoder = LayerEncoder::new(Vec::new(), compression);
        for piece in tar.chunks(100_000) {
            encoder.write_all(piece)?;
        }
        encoder.finish()
    }

    fn header(kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(0);
        header.set_username("seven").unwrap();
        header.set_mtime(86400);
        header
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        build(&mut archive).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn the_table_leads_to_every_part_of_every_file() {
        let long = "d/".repeat(80) + "name";
        let of_size =
            |size: u32| -> Vec<u8> { (0..size).map(|i| (i.wrapping_mul(i) >> 7).to_le_bytes()[0]).collect() };
        let sizes = [0, 1, 512, 70_000, 4 << 20, (4 << 20) + 1, 9 << 20, 3];
        let tar = archive(|tar| {
            tar.append_data(&mut header(tar::EntryType::Directory, 0), "dir/", io::empty())?;
            for size in sizes {
                let mut header = header(tar::EntryType::Regular, size.into());
                tar.append_data(&mut header, format!("dir/{size}"), of_size(size).as_slice())?;
            }
            tar.append_pax_extensions([
                ("SCHILY.xattr.security.capability", b"\x01\x02".as_slice()),
                ("mtime", b"1700000000.6"),
            ])?;
            tar.append_data(&mut header(tar::EntryType::Regular, 2), &long, b"hi".as_slice())?;
            tar.append_link(&mut header(tar::EntryType::Link, 0), "hard", "dir/1")?;
            tar.append_link(&mut header(tar::EntryType::Symlink, 0), "soft", "dir/1")
        });
        let (bytes, layer) = encoded(&tar).unwrap();
        let read = Layer::of(bytes);
        let mut contents = read.contents();
        assert_eq!(contents.remove(&long).unwrap(), b"hi");
        for size in sizes.into_iter().filter(|size| *size > 0) {
            assert!(contents.remove(&format!("dir/{size}")).unwrap() == of_size(size), "{size}");
        }
        assert!(contents.is_empty());

        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(read.bytes.as_slice()).read_to_end(&mut plain).unwrap();
        assert!(plain.starts_with(&tar));
        assert_eq!(layer.tar.0, Digest::sha256(&tar));
        assert_eq!(layer.diff_id.0, Digest::sha256(&plain));
        assert_eq!(layer.annotations[UNCOMPRESSED_SIZE], plain.len().to_string());
        let table = &plain[tar.len() + 512..];
        let length =
            usize::from_str_radix(std::str::from_utf8(&plain[tar.len() + 124..tar.len() + 135]).unwrap(), 8);
        assert_eq!(layer.annotations[TOC_DIGEST], Digest::sha256(&table[..length.unwrap()]).to_string());
        assert!(read.table_at < read.bytes.len());

        let entries = read.table["entries"].as_array().unwrap();
        let named = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap().clone();
        let mut file = named(&long);
        for key in ["offset", "digest", "chunkDigest"] {
            file.as_object_mut().unwrap().remove(key).unwrap();
        }
        assert_eq!(
            [file, named("dir/"), named("hard"), named("soft")],
            [
                serde_json::json!({
                    "name": long, "type": "reg", "size": 2, "modtime": "2023-11-14T22:13:21Z", "mode": 420,
                    "uid": 7, "xattrs": {"security.capability": "AQI="},
                }),
                serde_json::json!({
                    "name": "dir/", "type": "dir", "modtime": "1970-01-02T00:00:00Z", "mode": 420, "uid": 7,
                    "userName": "seven",
                }),
                serde_json::json!({
                    "name": "hard", "type": "hardlink", "modtime": "1970-01-02T00:00:00Z", "mode": 420,
                    "uid": 7, "linkName": "dir/1",
                }),
                serde_json::json!({
                    "name": "soft", "type": "symlink", "modtime": "1970-01-02T00:00:00Z", "mode": 420,
                    "uid": 7, "linkName": "dir/1",
                }),
            ]
        );
    }

    #[test]
    fn what_cannot_be_in_the_table_is_refused() {
        let own =
            archive(|tar| tar.append_data(&mut header(tar::EntryType::Regular, 0), TOC_NAME, io::empty()));
        assert_eq!(
            encoded(&own).unwrap_err().to_string(),
            "a file named `stargz.index.json` cannot be in an eStargz layer"
        );
        let short = archive(|tar| {
            tar.append_data(&mut header(tar::EntryType::Regular, 9), "a", b"123456789".as_slice())
        });
        assert_eq!(encoded(&short[..515]).unwrap_err().to_string(), "the archive of a layer ends early");
        // An archive without an end is one all the same.
        assert_eq!(Layer::of(encoded(&short[..1024]).unwrap().0).contents()["a"], b"123456789");
    }
}
