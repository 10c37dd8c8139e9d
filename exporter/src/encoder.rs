//! From the tar of a layer to its compressed form, in one pass.

use std::collections::BTreeMap;
use std::io::{self, Write};

use oci::{DiffId, Digest, Hasher};

use crate::compression::{Compression, CompressionKind};
use crate::estargz::Estargz;
use crate::pieces::Pieces;

/// What a [`LayerEncoder`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLayer {
    /// The digest of the tar that came in.
    pub tar: DiffId,
    /// Its number of bytes.
    pub tar_bytes: u64,
    /// The digest of what the compressed bytes unpack to. That of the tar, save for eStargz, which adds to it.
    pub diff_id: DiffId,
    /// The digest of the compressed bytes.
    pub digest: Digest,
    /// The number of compressed bytes.
    pub compressed_size_bytes: u64,
    /// What has to be said of the layer beside its digest and size, for eStargz.
    pub annotations: BTreeMap<String, String>,
}

/// Takes the tar of a layer, hashes it, compresses it and hands the result to a writer, in one pass.
///
/// The work is done side by side on rayon's threads, and the bytes depend on the tar and the compression alone. Waits for
/// those threads, so it must not run on one of them.
pub struct LayerEncoder<W: Write> {
    out: Hashed<W>,
    body: Body,
    tar: Hasher,
    tar_bytes: u64,
}

/// What becomes of the bytes.
enum Body {
    Plain,
    Pieces(Pieces),
    Estargz(Box<Estargz>),
}

/// Counts and hashes what is written.
struct Hashed<W> {
    out: W,
    /// `None` where the bytes are those of the tar, which are hashed as they come.
    hasher: Option<Hasher>,
    bytes: u64,
}

impl<W: Write> LayerEncoder<W> {
    /// An encoder that has seen nothing.
    pub fn new(out: W, compression: Compression) -> Self {
        let body = match compression.kind() {
            CompressionKind::Uncompressed => Body::Plain,
            CompressionKind::Gzip | CompressionKind::Zstd => Body::Pieces(Pieces::new(compression)),
            CompressionKind::Estargz => Body::Estargz(Box::new(Estargz::new(compression.level()))),
        };
        let hasher = (!matches!(body, Body::Plain)).then(Hasher::new);
        Self { out: Hashed { out, hasher, bytes: 0 }, body, tar: Hasher::new(), tar_bytes: 0 }
    }

    /// Writes what is left; gives the writer back and says what was written.
    pub fn finish(self) -> io::Result<(W, EncodedLayer)> {
        let Self { mut out, body, tar, tar_bytes } = self;
        let mut annotations = BTreeMap::new();
        let mut unpacked = None;
        match body {
            Body::Plain => {}
            Body::Pieces(pieces) => pieces.finish(&mut out)?,
            Body::Estargz(layer) => {
                let mut hasher = tar.clone();
                annotations = layer.finish(&mut out, &mut hasher, tar_bytes)?;
                unpacked = Some(DiffId(hasher.finish()));
            }
        }
        out.flush()?;
        let tar = DiffId(tar.finish());
        let encoded = EncodedLayer {
            diff_id: unpacked.unwrap_or_else(|| tar.clone()),
            digest: out.hasher.map_or_else(|| tar.0.clone(), Hasher::finish),
            tar,
            tar_bytes,
            compressed_size_bytes: out.bytes,
            annotations,
        };
        Ok((out.out, encoded))
    }
}

impl<W: Write> Write for LayerEncoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = match &mut self.body {
            Body::Plain => self.out.write(data)?,
            Body::Pieces(pieces) => pieces.write(data, &mut self.out)?,
            Body::Estargz(layer) => {
                layer.write(data, &mut self.out)?;
                data.len()
            }
        };
        self.tar.update(&data[..length]);
        self.tar_bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.out.write(data)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&data[..length]);
        }
        self.bytes += length as u64;
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
    use crate::compression::ENCODER_VERSION;
    use crate::pieces::piece_bytes;

    fn encode(data: &[u8], compression: Compression, step: usize) -> (Vec<u8>, EncodedLayer) {
        let mut encoder = LayerEncoder::new(Vec::new(), compression);
        for part in data.chunks(step) {
            encoder.write_all(part).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn of(kind: CompressionKind) -> Compression {
        Compression::new(kind, None).unwrap()
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from((i * i / 7 + i) % 61).expect("below 61")).collect()
    }

    /// An archive with files of these sizes.
    fn archive(sizes: &[usize]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(*size as u64);
            archive.append_data(&mut header, format!("dir/{number}"), sample(*size).as_slice()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_was_compressed_comes_back() {
        let gzip = Compression::default();
        let zstd = of(CompressionKind::Zstd);
        let (member, frame) = (piece_bytes(gzip), piece_bytes(zstd));
        for length in [0, 1, member - 1, member, member + 1, 5 * member + 3, frame + 1] {
            let data = sample(length);
            let (bytes, layer) = encode(&data, gzip, 40_000);
            assert_eq!(gunzip(&bytes), data, "gzip of {length}");
            assert_eq!(layer.diff_id.0, Digest::sha256(&data));
            assert_eq!(layer.tar, layer.diff_id);
            assert_eq!(layer.digest, Digest::sha256(&bytes));
            assert_eq!((layer.tar_bytes, layer.compressed_size_bytes), (length as u64, bytes.len() as u64));

            let (bytes, layer) = encode(&data, zstd, 40_000);
            assert_eq!(zstd::decode_all(bytes.as_slice()).unwrap(), data, "zstd of {length}");
            assert_eq!(layer.digest, Digest::sha256(&bytes));

            let (bytes, layer) = encode(&data, of(CompressionKind::Uncompressed), 40_000);
            assert_eq!(bytes, data);
            assert_eq!(layer.digest, layer.diff_id.0);
        }
    }

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_how_the_input_is_cut() {
        let tar = archive(&[77, 0, 5 << 20, 1 << 20, 3, 1 << 20, 9 << 20]);
        for kind in [CompressionKind::Gzip, CompressionKind::Zstd, CompressionKind::Estargz] {
            let expected = encode(&tar, of(kind), 1 << 16);
            // The encoder waits on one of the pool's threads here, so a pool needs another one.
            for threads in [2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| encode(&tar, of(kind), 999));
                assert_eq!(found.1, expected.1, "{kind} with {threads} threads");
                assert!(found.0 == expected.0);
            }
        }
    }

    #[test]
    fn the_bytes_of_version_2_are_known() {
        assert_eq!(ENCODER_VERSION, 2);
        let tar = archive(&[3000, 5]);
        let digest = |kind| encode(&tar, of(kind), 3000).1.digest.to_string();
        assert_eq!(
            [CompressionKind::Gzip, CompressionKind::Zstd, CompressionKind::Estargz].map(digest),
            [
                "sha256:15562c32826dfdd4f17eb4e731db410fd993322ed93eda17c7840aaafb7ef23d",
                "sha256:a06d94b1b53d3508d0e2a68bd2bd21bb43957eda5f088ac1d2c60821457df430",
                "sha256:f8ee620137630eff894da2625991ca933c6c376f8b3d84a65fc583f024a1736e"
            ]
        );
    }
}
