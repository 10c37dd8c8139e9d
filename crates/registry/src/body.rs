//! What requests carry, and how long one waits while nothing of it moves.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use oci::Digest;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// How much of a body is handed to a connection at once.
const PIECE_BYTES: usize = 256 << 10;
/// For how many times of the idle time the answer to a body may take: registries put a blob together, and hash it, once
/// they have it.
const ANSWER_PERIODS: u32 = 5;

/// The future that opens a [`BlobSource::Reader`].
pub type OpenFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn AsyncRead + Send + Unpin>>> + Send>>;

/// Where the bytes of a push come from. It is opened anew for every attempt, and not at all where the registry has the
/// blob.
#[derive(Clone)]
pub enum BlobSource {
    /// Memory.
    Bytes(Bytes),
    /// A file, from its beginning to its end.
    File(PathBuf),
    /// An open file, whose position is neither used nor moved. It may still be written to beyond what is sent.
    Open(Arc<File>),
    /// Whatever the function opens.
    Reader(Arc<dyn Fn() -> OpenFuture + Send + Sync>),
}

/// Whoever wants to know how far a blob has got: is told how many of its bytes have been taken to be sent.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Watcher {
    /// Calls `told` often, with a number that falls where bytes are sent again.
    pub fn new(told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    fn tell(&self, bytes: u64) {
        if let Some(told) = &self.0 {
            told(bytes);
        }
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Watcher" } else { "Nobody" })
    }
}

/// What a request carries.
pub(crate) enum Body<'a> {
    Empty,
    Bytes(Bytes),
    Source(SourcePart<'a>),
}

/// A part of a blob.
#[derive(Clone, Copy)]
pub(crate) struct SourcePart<'a> {
    pub(crate) source: &'a BlobSource,
    /// Who is told how far the blob has got.
    pub(crate) watcher: Option<&'a Watcher>,
    /// Of the whole blob where it is known, for messages.
    pub(crate) digest: Option<&'a Digest>,
    /// The first byte.
    pub(crate) start: u64,
    /// How many bytes.
    pub(crate) length: u64,
}

/// A body on its way.
pub(crate) struct Flow {
    /// How many bytes it has.
    pub(crate) length: u64,
    /// How many of them the connection has taken.
    taken: AtomicU64,
    /// Why it could not be read: the HTTP client tells only of a broken request.
    failed: Mutex<Option<io::Error>>,
}

impl Flow {
    pub(crate) fn new(length: u64) -> Arc<Self> {
        Arc::new(Self { length, taken: AtomicU64::new(0), failed: Mutex::new(None) })
    }

    /// The error of the source, if there was one.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for `exchange`; `None` once nothing of the body has moved for `idle`, or for some times as long where all
    /// of it was taken and the answer is missing.
    pub(crate) async fn watch<T>(&self, exchange: impl Future<Output = T>, idle: Duration) -> Option<T> {
        let mut exchange = pin!(exchange);
        let (mut seen, mut quiet) = (0, 0);
        loop {
            if let Ok(done) = tokio::time::timeout(idle, &mut exchange).await {
                return Some(done);
            }
            let taken = self.taken.load(Ordering::Relaxed);
            quiet = if taken == seen { quiet + 1 } else { 0 };
            seen = taken;
            if quiet >= if taken < self.length { 1 } else { ANSWER_PERIODS } {
                return None;
            }
        }
    }

    fn body(
        self: &Arc<Self>,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        (watcher, start): (Watcher, u64),
    ) -> reqwest::Body {
        let (counting, failing) = (Arc::clone(self), Arc::clone(self));
        let pieces = pieces.map_err(move |error| {
            let kind = error.kind();
            *failing.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            io::Error::from(kind)
        });
        reqwest::Body::wrap_stream(pieces.inspect_ok(move |piece| {
            let count = piece.len() as u64;
            let before = counting.taken.fetch_add(count, Ordering::Relaxed);
            watcher.tell(start + before + count);
        }))
    }
}

impl Body<'_> {
    /// The body for one attempt; `None` if it is empty. An error is the source's.
    pub(crate) async fn open(&self) -> io::Result<Option<(reqwest::Body, Arc<Flow>)>> {
        let (bytes, length, watching) = match self {
            Self::Empty => return Ok(None),
            Self::Bytes(bytes) => (bytes.clone(), bytes.len() as u64, (Watcher::default(), 0)),
            Self::Source(SourcePart { source: BlobSource::Bytes(bytes), start, length, watcher, .. }) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                (
                    bytes.slice(at(*start)..at(start + length)),
                    *length,
                    (watcher.cloned().unwrap_or_default(), *start),
                )
            }
            Self::Source(SourcePart { source: BlobSource::Open(file), start, length, watcher, .. }) => {
                let flow = Flow::new(*length);
                let pieces = pieces_of(Arc::clone(file), *start..start + length);
                let body = flow.body(pieces, (watcher.cloned().unwrap_or_default(), *start));
                return Ok(Some((body, flow)));
            }
            Self::Source(part) => {
                let reader = part.reader().await?.take(part.length);
                let flow = Flow::new(part.length);
                let pieces = ReaderStream::with_capacity(reader, PIECE_BYTES);
                let body = flow.body(pieces, (part.watcher.cloned().unwrap_or_default(), part.start));
                return Ok(Some((body, flow)));
            }
        };
        let flow = Flow::new(length);
        let starts = (0..bytes.len()).step_by(PIECE_BYTES);
        let piece = move |start: usize| Ok(bytes.slice(start..bytes.len().min(start + PIECE_BYTES)));
        Ok(Some((flow.body(stream::iter(starts).map(piece), watching), flow)))
    }
}

impl SourcePart<'_> {
    /// The source from the part's first byte on.
    async fn reader(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        match self.source {
            BlobSource::Bytes(_) | BlobSource::Open(_) => {
                unreachable!("what is at hand is sent as it is, and not read")
            }
            BlobSource::File(path) => {
                let mut file = tokio::fs::File::open(path).await?;
                file.seek(io::SeekFrom::Start(self.start)).await?;
                Ok(Box::new(file))
            }
            BlobSource::Reader(open) => {
                let mut reader = open().await?;
                tokio::io::copy(&mut (&mut reader).take(self.start), &mut tokio::io::sink()).await?;
                Ok(reader)
            }
        }
    }
}

/// A part of a file, read without moving its position: an attempt that was given up may still be reading.
fn pieces_of(file: Arc<File>, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(range, move |mut range| {
        let file = Arc::clone(&file);
        async move {
            let wanted = usize::try_from(range.end - range.start).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            if wanted == 0 {
                return Ok(None);
            }
            let start = range.start;
            let reading = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; wanted];
                file.read_exact_at(&mut piece, start).map(|()| Bytes::from(piece))
            });
            let piece = reading.await.map_err(io::Error::other)??;
            range.start += wanted as u64;
            Ok(Some((piece, range)))
        }
    })
}

impl std::fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Open(file) => f.debug_tuple("Open").field(file).finish(),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for() {
        let idle = Duration::from_secs(60);
        let flow = Flow::new(10);
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                flow.taken.fetch_add(1, Ordering::Relaxed);
            }
            // The answer takes long, and not too long.
            tokio::time::sleep(Duration::from_secs(290)).await;
        };
        assert_eq!(flow.watch(moving, idle).await, Some(()));
        assert_eq!(flow.watch(std::future::pending::<()>(), idle).await, None, "no answer ever comes");
        let start = tokio::time::Instant::now();
        assert_eq!(Flow::new(10).watch(std::future::pending::<()>(), idle).await, None, "nothing is taken");
        assert_eq!(start.elapsed(), idle);
    }
}
