//! Telling compressed streams apart by their first bytes, and reading them.

use std::io::{self, Read};

use liblzma::stream::{CONCATENATED, Stream};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard (RFC 8878), any number of frames.
    Zstd,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
}

/// How many bytes [`detect_compression`] looks at.
const MAGIC_BYTES: usize = 6;

/// How a stream that begins with `start` (six bytes are enough) is compressed.
pub fn detect_compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        // A frame, or a skippable frame before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
}

/// What reading an xz stream may take: `xz -9` wants 65 MiB, and a header may claim 4 GiB.
const XZ_MEMORY_BYTES: u64 = 256 << 20;
/// The largest window of a Zstandard frame, as with `zstd -d`: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The decompressed bytes of `reader`. A stream that needs more memory than such streams usually do (128 MiB for
/// Zstandard, 256 MiB for xz; gzip and bzip2 take less than 8 MiB) is an error.
pub fn decompress<'a>(
    reader: impl Read + Send + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(reader))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(reader))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(reader))),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(buffered(reader), stream))
        }
    })
}

/// The decompressed bytes of `reader`, whose first bytes tell how it is compressed. As [`decompress`].
pub fn decompress_detected<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    reader.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    let compression = detect_compression(&start);
    decompress(io::Cursor::new(start).chain(reader), compression)
}

fn buffered<R: Read>(reader: R) -> io::BufReader<R> {
    io::BufReader::with_capacity(128 * 1024, reader)
}
