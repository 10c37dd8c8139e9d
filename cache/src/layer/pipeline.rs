//! Decompressing and hashing a stream in one thread while another one uses it.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use oci::{Digest, Hasher};

use super::LayerError;
use super::compression::decompress_detected;

/// The size of the pieces that go from one thread to the other.
const PIECE_BYTES: usize = 256 * 1024;
/// How many pieces may wait; each thread can run ahead or fall behind by so much.
const PIECES: usize = 16;

/// What a stream was.
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

/// Runs `consume` on the decompressed bytes of `reader`, all of which it must read.
pub(super) fn with_decompressed<T>(
    reader: impl Read + Send,
    consume: impl FnOnce(&mut PieceReader) -> Result<T, LayerError>,
) -> Result<(T, Hashed), LayerError> {
    std::thread::scope(|scope| {
        let (full, pieces) = sync_channel(PIECES);
        let (recycle, empty) = channel();
        let producer = scope.spawn(move || produce(reader, &full, &empty));
        let mut pieces = PieceReader { pieces, recycle, current: Vec::new(), at: 0 };
        let consumed = consume(&mut pieces);
        // A producer that still has something to send stops.
        drop(pieces);
        let hashed =
            producer.join().map_err(|_| LayerError::Read(io::Error::other("decompression panicked")))?;
        Ok((consumed?, hashed))
    })
}

fn produce(
    reader: impl Read + Send,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) -> Hashed {
    let mut hasher = Hasher::new();
    let mut size_bytes = 0;
    let result = decompress_detected(reader).and_then(|mut reader| {
        loop {
            let mut piece = empty.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
            piece.resize(PIECE_BYTES, 0);
            let length = read_full(&mut reader, &mut piece)?;
            piece.truncate(length);
            hasher.update(&piece);
            size_bytes += length as u64;
            // No one listens any more when the other side has failed.
            if length == 0 || full.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    });
    if let Err(error) = result {
        drop(full.send(Err(error)));
    }
    Hashed { digest: hasher.finish(), size_bytes }
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The using end.
pub(super) struct PieceReader {
    pieces: Receiver<io::Result<Vec<u8>>>,
    recycle: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.current.len() {
            let used = std::mem::take(&mut self.current);
            self.at = 0;
            if used.capacity() > 0 {
                drop(self.recycle.send(used));
            }
            if let Ok(piece) = self.pieces.recv() {
                self.current = piece?;
            }
        }
        Ok(self.current.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Hashes what is read through it.
pub(super) struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
    size_bytes: u64,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, hasher: Hasher::new(), size_bytes: 0 }
    }

    pub(super) fn finish(self) -> Hashed {
        Hashed { digest: self.hasher.finish(), size_bytes: self.size_bytes }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.size_bytes += length as u64;
        Ok(length)
    }
}
