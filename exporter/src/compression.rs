//! How layers are compressed, and the parallel encoder.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc;

use oci::{DiffId, Digest, Hasher, MediaType};

/// The bytes of a layer that become one gzip member or one zstd frame. Part of the format: another number gives
/// other bytes, so a change of it needs a new [`ENCODER_VERSION`].
const MEMBER_BYTES: usize = 1 << 20;

/// The version of the encoder. It is in the name under which compressed layers are remembered, so that what an
/// older version made is not taken for what this one would make.
const ENCODER_VERSION: u32 = 1;

const DEFAULT_GZIP_LEVEL: i32 = 6;
const DEFAULT_ZSTD_LEVEL: i32 = 3;

/// An algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionKind {
    /// The tar as it is.
    Uncompressed,
    /// gzip (RFC 1952), as a series of members.
    Gzip,
    /// Zstandard (RFC 8878), as a series of frames.
    Zstd,
}

/// An algorithm and its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    kind: CompressionKind,
    level: i32,
}

/// A level that the algorithm does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression level {level} is out of range for {kind}: it should be between 0 and {max}")]
pub struct LevelError {
    kind: CompressionKind,
    level: i32,
    max: i32,
}

impl Default for Compression {
    fn default() -> Self {
        Self { kind: CompressionKind::Gzip, level: DEFAULT_GZIP_LEVEL }
    }
}

impl Compression {
    /// An algorithm with a level, or with its default level (gzip 6, zstd 3).
    pub fn new(kind: CompressionKind, level: Option<i32>) -> Result<Self, LevelError> {
        let (default, max) = match kind {
            CompressionKind::Uncompressed => return Ok(Self { kind, level: 0 }),
            CompressionKind::Gzip => (DEFAULT_GZIP_LEVEL, 9),
            CompressionKind::Zstd => (DEFAULT_ZSTD_LEVEL, 22),
        };
        let level = level.unwrap_or(default);
        if !(0..=max).contains(&level) {
            return Err(LevelError { kind, level, max });
        }
        Ok(Self { kind, level })
    }

    /// The algorithm.
    pub fn kind(&self) -> CompressionKind {
        self.kind
    }

    /// The name under which compressed forms of a layer are remembered: algorithm, level, version of the encoder.
    pub fn variant(&self) -> String {
        match self.kind {
            CompressionKind::Uncompressed => "uncompressed".to_owned(),
            kind => format!("{kind}-{}-v{ENCODER_VERSION}", self.level),
        }
    }

    /// The media type of a layer so compressed, in OCI's words or Docker's. Docker has no word for zstd; what
    /// containerd made of it is OCI's.
    pub fn media_type(&self, types: MediaTypes) -> &'static str {
        match (self.kind, types) {
            (CompressionKind::Uncompressed, MediaTypes::Oci) => MediaType::OCI_LAYER,
            (CompressionKind::Uncompressed, MediaTypes::Docker) => MediaType::DOCKER_LAYER,
            (CompressionKind::Gzip, MediaTypes::Oci) => MediaType::OCI_LAYER_GZIP,
            (CompressionKind::Gzip, MediaTypes::Docker) => MediaType::DOCKER_LAYER_GZIP,
            (CompressionKind::Zstd, _) => MediaType::OCI_LAYER_ZSTD,
        }
    }

    fn compress(self, data: &[u8]) -> io::Result<Vec<u8>> {
        match self.kind {
            CompressionKind::Uncompressed => Ok(data.to_vec()),
            CompressionKind::Gzip => gzip_member(data, self.level),
            CompressionKind::Zstd => zstd::bulk::compress(data, self.level),
        }
    }
}

impl fmt::Display for CompressionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Whose media types a manifest speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's schema 2.
    Docker,
}

impl MediaTypes {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_MANIFEST,
            Self::Docker => MediaType::DOCKER_MANIFEST,
        }
    }

    /// The media type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_INDEX,
            Self::Docker => MediaType::DOCKER_INDEX,
        }
    }

    /// The media type of an image config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => MediaType::OCI_CONFIG,
            Self::Docker => MediaType::DOCKER_CONFIG,
        }
    }

    /// The word for a layer of type `media_type`, where there is one; other types are passed on as they are.
    pub fn layer(self, media_type: &str) -> &str {
        match (self, media_type) {
            (Self::Oci, MediaType::DOCKER_LAYER) => MediaType::OCI_LAYER,
            (Self::Oci, MediaType::DOCKER_LAYER_GZIP) => MediaType::OCI_LAYER_GZIP,
            (Self::Docker, MediaType::OCI_LAYER) => MediaType::DOCKER_LAYER,
            (Self::Docker, MediaType::OCI_LAYER_GZIP) => MediaType::DOCKER_LAYER_GZIP,
            (_, other) => other,
        }
    }
}

thread_local! {
    /// An encoder costs more to make than to compress a small layer with, so each thread keeps its last one.
    static GZIP: RefCell<Option<(i32, libdeflater::Compressor)>> = const { RefCell::new(None) };
}

fn gzip_member(data: &[u8], level: i32) -> io::Result<Vec<u8>> {
    GZIP.with_borrow_mut(|slot| {
        let encoder = match slot {
            Some((known, encoder)) if *known == level => encoder,
            _ => {
                let level_of = libdeflater::CompressionLvl::new(level)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such gzip level"))?;
                &mut slot.insert((level, libdeflater::Compressor::new(level_of))).1
            }
        };
        let mut out = vec![0; encoder.gzip_compress_bound(data.len())];
        let length = encoder
            .gzip_compress(data, &mut out)
            .map_err(|_| io::Error::other("the gzip encoder ran out of its bound"))?;
        out.truncate(length);
        Ok(out)
    })
}

/// What a [`LayerEncoder`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLayer {
    /// The digest of the uncompressed bytes.
    pub diff_id: DiffId,
    /// The number of uncompressed bytes.
    pub size_bytes: u64,
    /// The digest of the compressed bytes.
    pub digest: Digest,
    /// The number of compressed bytes.
    pub compressed_size_bytes: u64,
}

/// Takes the tar of a layer, hashes it, compresses it and hands the result to a writer, in one pass.
///
/// The input is cut into pieces of a fixed size, each of which becomes a gzip member or a zstd frame of its own.
/// Pieces are compressed side by side and written in order, so the bytes depend on the input and the compression
/// alone. A layer of one piece is compressed where it is and wakes no other thread.
///
/// Waits for rayon's threads, so it must not run on one of them.
pub struct LayerEncoder<W: Write> {
    out: W,
    compression: Compression,
    piece: Vec<u8>,
    in_flight: VecDeque<mpsc::Receiver<io::Result<Vec<u8>>>>,
    plain: Hasher,
    plain_bytes: u64,
    encoded: Hasher,
    encoded_bytes: u64,
}

impl<W: Write> LayerEncoder<W> {
    /// An encoder that has seen nothing.
    pub fn new(out: W, compression: Compression) -> Self {
        Self {
            out,
            compression,
            piece: Vec::new(),
            in_flight: VecDeque::new(),
            plain: Hasher::new(),
            plain_bytes: 0,
            encoded: Hasher::new(),
            encoded_bytes: 0,
        }
    }

    /// Writes what is left; gives the writer back and says what was written.
    pub fn finish(mut self) -> io::Result<(W, EncodedLayer)> {
        if self.compression.kind != CompressionKind::Uncompressed {
            while let Some(next) = self.in_flight.pop_front() {
                self.write_compressed(&receive(&next)?)?;
            }
            // An empty layer still needs a member, else its bytes would be no gzip file at all.
            if !self.piece.is_empty() || self.plain_bytes == 0 {
                let last = self.compression.compress(&self.piece)?;
                self.write_compressed(&last)?;
            }
        }
        self.out.flush()?;
        let plain = self.plain.finish();
        let digest = match self.compression.kind {
            CompressionKind::Uncompressed => plain.clone(),
            _ => self.encoded.finish(),
        };
        let encoded = EncodedLayer {
            diff_id: DiffId(plain),
            size_bytes: self.plain_bytes,
            digest,
            compressed_size_bytes: self.encoded_bytes,
        };
        Ok((self.out, encoded))
    }

    fn write_compressed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.encoded.update(bytes);
        self.encoded_bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn send_piece(&mut self) -> io::Result<()> {
        // Twice as many pieces as threads keep every thread busy while this one waits for the eldest.
        if self.in_flight.len() >= 2 * rayon::current_num_threads()
            && let Some(eldest) = self.in_flight.pop_front()
        {
            self.write_compressed(&receive(&eldest)?)?;
        }
        let piece = std::mem::take(&mut self.piece);
        let compression = self.compression;
        let (sender, receiver) = mpsc::sync_channel(1);
        rayon::spawn(move || {
            // The receiver is gone when the encoder was dropped half-way; nobody wants the piece then.
            let _ = sender.send(compression.compress(&piece));
        });
        self.in_flight.push_back(receiver);
        Ok(())
    }
}

fn receive(receiver: &mpsc::Receiver<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    receiver.recv().map_err(|_| io::Error::other("the thread that compressed a layer is gone"))?
}

impl<W: Write> Write for LayerEncoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = if self.compression.kind == CompressionKind::Uncompressed {
            let length = self.out.write(data)?;
            self.encoded_bytes += length as u64;
            length
        } else {
            // Only a piece that is followed by more goes to another thread: the last is for `finish`.
            if self.piece.len() == MEMBER_BYTES {
                self.send_piece()?;
            }
            let length = data.len().min(MEMBER_BYTES - self.piece.len());
            self.piece.extend_from_slice(&data[..length]);
            length
        };
        self.plain.update(&data[..length]);
        self.plain_bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn encode(data: &[u8], compression: Compression, step: usize) -> (Vec<u8>, EncodedLayer) {
        let mut encoder = LayerEncoder::new(Vec::new(), compression);
        for part in data.chunks(step) {
            encoder.write_all(part).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from((i * i / 7 + i) % 61).expect("below 61")).collect()
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for length in [0, 1, 1024, MEMBER_BYTES - 1, MEMBER_BYTES, MEMBER_BYTES + 1, 5 * MEMBER_BYTES + 3] {
            let data = sample(length);
            let gzip = Compression::default();
            let (bytes, layer) = encode(&data, gzip, 40_000);
            assert_eq!(gunzip(&bytes), data, "gzip of {length}");
            assert_eq!(layer.diff_id.0, Digest::sha256(&data));
            assert_eq!(layer.digest, Digest::sha256(&bytes));
            assert_eq!((layer.size_bytes, layer.compressed_size_bytes), (length as u64, bytes.len() as u64));

            let zstd = Compression::new(CompressionKind::Zstd, None).unwrap();
            let (bytes, layer) = encode(&data, zstd, 40_000);
            assert_eq!(zstd::decode_all(bytes.as_slice()).unwrap(), data, "zstd of {length}");
            assert_eq!(layer.digest, Digest::sha256(&bytes));

            let none = Compression::new(CompressionKind::Uncompressed, None).unwrap();
            let (bytes, layer) = encode(&data, none, 40_000);
            assert_eq!(bytes, data);
            assert_eq!(layer.digest, layer.diff_id.0);
        }
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_how_the_input_is_cut() {
        let data = sample(4 * MEMBER_BYTES + 77);
        let expected = encode(&data, Compression::default(), 1 << 16);
        // The encoder waits on one of the pool's threads here, so a pool needs another one.
        for threads in [2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| encode(&data, Compression::default(), 999));
            assert_eq!(found, expected, "{threads} threads");
        }
    }

    #[test]
    fn the_bytes_of_version_1_are_known() {
        assert_eq!(ENCODER_VERSION, 1);
        let (_, layer) = encode(&sample(3000), Compression::default(), 3000);
        assert_eq!(
            (layer.diff_id.to_string().as_str(), layer.digest.as_str()),
            (
                "sha256:f3c18701d6233ffcefe4d64ad6139d5afa11be5b532ee2949b51e17c502c6676",
                "sha256:42cd62ca3b938bf64aaa118bf724f504e5f0edd64ac7952d206e0b977b8a01a5"
            )
        );
    }

    #[test]
    fn levels_have_bounds() {
        assert_eq!(
            Compression::new(CompressionKind::Gzip, Some(10)).unwrap_err().to_string(),
            "compression level 10 is out of range for gzip: it should be between 0 and 9"
        );
        assert!(Compression::new(CompressionKind::Zstd, Some(22)).is_ok());
        assert_eq!(Compression::default().variant(), "gzip-6-v1");
        assert_eq!(
            Compression::new(CompressionKind::Uncompressed, Some(3)).unwrap().variant(),
            "uncompressed"
        );
    }
}
