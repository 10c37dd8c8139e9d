//! One gzip member or one zstd frame.

use std::cell::RefCell;
use std::io;

use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::compress_bound;

thread_local! {
    /// An encoder costs more to make than to compress a small layer with, so each thread keeps its last one, and the
    /// room that it writes to.
    static GZIP: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends `data` to `out`, as one gzip member.
pub(crate) fn gzip_member(data: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    GZIP.with_borrow_mut(|slot| {
        let encoder = match slot {
            Some((known, encoder)) if *known == level => encoder,
            _ => {
                let level_of = CompressionLvl::new(level)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such gzip level"))?;
                &mut slot.insert((level, Compressor::new(level_of))).1
            }
        };
        through_room(encoder.gzip_compress_bound(data.len()), out, |room| {
            encoder
                .gzip_compress(data, room)
                .map_err(|_| io::Error::other("the gzip encoder ran out of its bound"))
        })
    })
}

/// Appends `data` to `out`, as one zstd frame that tells the size of its content.
pub(crate) fn zstd_frame(data: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    ZSTD.with_borrow_mut(|slot| {
        let encoder = match slot {
            Some((known, encoder)) if *known == level => encoder,
            _ => &mut slot.insert((level, zstd::bulk::Compressor::new(level)?)).1,
        };
        through_room(compress_bound(data.len()), out, |room| encoder.compress_to_buffer(data, room))
    })
}

/// Appends what `write` puts into the beginning of a buffer of at least `bound` bytes.
fn through_room(
    bound: usize,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<()> {
    ROOM.with_borrow_mut(|room| {
        if room.len() < bound {
            room.resize(bound, 0);
        }
        let length = write(room)?;
        out.extend_from_slice(&room[..length]);
        Ok(())
    })
}
