//! Layers as a series of gzip members or zstd frames of a fixed size.

use std::io::{self, Write};

use crate::codec::{gzip_member, zstd_frame};
use crate::compression::{Compression, CompressionKind};
use crate::ordered::Ordered;

/// The bytes of a layer that become one gzip member. Part of the format, as the numbers below: others give other bytes,
/// so a change of them needs a new [`crate::compression::ENCODER_VERSION`]. Larger members are smaller by a thousandth.
const MEMBER_BYTES: usize = 1 << 20;

/// The bytes of a layer that become one zstd frame, up to a level. What is beyond the beginning of a frame cannot be
/// referred to, so a frame is twice as large as what the level looks back to, and more for the costly ones.
const FRAME_BYTES: [(i32, usize); 3] = [(8, 4 << 20), (15, 16 << 20), (i32::MAX, 32 << 20)];

/// The bytes that become one piece.
pub(crate) fn piece_bytes(compression: Compression) -> usize {
    if compression.kind() != CompressionKind::Zstd {
        return MEMBER_BYTES;
    }
    let found = FRAME_BYTES.iter().find(|(level, _)| compression.level() <= *level);
    found.map_or(MEMBER_BYTES, |(_, bytes)| *bytes)
}

/// Cuts what comes into pieces of a fixed size, each of which becomes a member or a frame of its own. They are compressed
/// side by side and written in order, so the bytes depend on the input and the compression alone. A layer of one piece
/// is compressed where it is and wakes no other thread.
pub(crate) struct Pieces {
    compression: Compression,
    piece_bytes: usize,
    piece: Vec<u8>,
    /// Results, each with the input, whose room is used again: to ask the kernel for it anew would cost more than to
    /// copy what goes into it.
    jobs: Ordered<(Vec<u8>, io::Result<Vec<u8>>)>,
    room: Vec<Vec<u8>>,
    is_empty: bool,
}

impl Pieces {
    pub(crate) fn new(compression: Compression) -> Self {
        Self {
            compression,
            piece_bytes: piece_bytes(compression),
            piece: Vec::new(),
            jobs: Ordered::new(),
            room: Vec::new(),
            is_empty: true,
        }
    }

    /// Takes some of `data`, at least a byte of it, and writes what is ready.
    pub(crate) fn write(&mut self, data: &[u8], out: &mut impl Write) -> io::Result<usize> {
        // Only a piece that is followed by more goes to another thread: the last is for `finish`.
        if self.piece.len() == self.piece_bytes {
            self.begin_piece(out)?;
        }
        let length = data.len().min(self.piece_bytes - self.piece.len());
        self.piece.extend_from_slice(&data[..length]);
        self.is_empty = false;
        Ok(length)
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(done) = self.jobs.next() {
            out.write_all(&done?.1?)?;
        }
        // An empty layer still needs a member, else its bytes would be no gzip file at all.
        if !self.piece.is_empty() || self.is_empty {
            out.write_all(&compressed(&self.piece, self.compression)?)?;
        }
        Ok(())
    }

    fn begin_piece(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.jobs.is_full()
            && let Some(done) = self.jobs.next()
        {
            let (mut used, bytes) = done?;
            out.write_all(&bytes?)?;
            used.clear();
            self.room.push(used);
        }
        let piece = std::mem::replace(&mut self.piece, self.room.pop().unwrap_or_default());
        let compression = self.compression;
        self.jobs.begin(move || {
            let bytes = compressed(&piece, compression);
            (piece, bytes)
        });
        Ok(())
    }
}

fn compressed(piece: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    match compression.kind() {
        CompressionKind::Zstd => zstd_frame(piece, compression.level(), &mut out)?,
        _ => gzip_member(piece, compression.level(), &mut out)?,
    }
    Ok(out)
}
