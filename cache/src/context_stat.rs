//! What the files of a build context contained when they were last looked at.
//!
//! A file whose device, inode, size, mode, time of change and time of inode change are what they were is taken to
//! have the content that it had. That holds only if a change after the look would have shown in its times: an entry
//! is kept only if both times are older than the start of the look by more than the file system's clock may lag
//! (20 ms where times are seen to have fractions of a second, else 2 s), and only on local file systems that are
//! known to keep such times. A file that is being written through a memory map escapes this.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::StoreError;
use crate::tree::{Entry, Timestamp};

/// Tells the time; tests give their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// First bytes of the file; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"rbstat\x00\x01";
/// Bytes of one entry: device, inode, size, mode, mtime, ctime (seconds and nanoseconds), digest, age.
const RECORD_BYTES: usize = 8 + 8 + 8 + 4 + 12 + 12 + 32 + 1;
/// Bytes of the digest at the end of the file, over all before it.
const CHECK_BYTES: usize = 32;
/// Entries that this many builds in a row had no use for are dropped when the file is written anew.
const MAX_AGE: u8 = 16;

/// The stat cache of one context directory. May be used from several threads.
pub struct ContextStats {
    file: PathBuf,
    clock: Clock,
    /// The entries of the file, sorted by device and inode.
    stored: Vec<u8>,
    /// What this run has learnt or found to be still right.
    state: Mutex<State>,
}

/// What this run has learnt.
#[derive(Default)]
struct State {
    /// By device and inode.
    fresh: HashMap<(u64, u64), Record>,
    /// Whether `fresh` has what the file does not have.
    is_dirty: bool,
    /// By device: whether its times can be relied on.
    reliable: HashMap<u64, bool>,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    size: u64,
    mode: u32,
    mtime: Timestamp,
    ctime: Timestamp,
    digest: [u8; 32],
}

impl Record {
    /// Whether `entry` is what it was.
    fn describes(&self, entry: &Entry) -> bool {
        (self.size, self.mode, self.mtime, self.ctime) == (entry.size, entry.mode, entry.mtime, entry.ctime)
    }
}

impl ContextStats {
    /// The stat cache of the directory `context` (absolute), kept below `directory`. A cache that cannot be read or
    /// is damaged is an empty one.
    pub fn load(directory: &Path, context: &Path) -> Self {
        Self::load_with_clock(directory, context, Arc::new(system_clock))
    }

    /// The same, with another clock.
    pub fn load_with_clock(directory: &Path, context: &Path, clock: Clock) -> Self {
        let name = blake3::hash(context.as_os_str().as_encoded_bytes()).to_hex();
        let file = directory.join(format!("{}.stat", &name[..32]));
        let stored = fs::read(&file).ok().and_then(checked).unwrap_or_default();
        Self { file, clock, stored, state: Mutex::default() }
    }

    /// The time, to be taken before a file is opened for [`remember`](Self::remember).
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// The digest of the content of the regular file that `entry` describes, if it is known.
    pub fn digest(&self, entry: &Entry) -> Option<[u8; 32]> {
        let key = (entry.dev, entry.ino);
        if let Some(record) = self.lock().fresh.get(&key) {
            return record.describes(entry).then_some(record.digest);
        }
        let record = self.stored_record(key).filter(|record| record.describes(entry))?;
        self.lock().fresh.insert(key, record);
        Some(record.digest)
    }

    /// Remembers the content of `file`, whose look began at `started`; `entry` is what it was before and after.
    pub fn remember(&self, file: &File, entry: &Entry, started: Timestamp, digest: [u8; 32]) {
        let slack = if entry.ctime.nanoseconds == 0 { 2_000_000_000 } else { 20_000_000 };
        let settled = [entry.mtime, entry.ctime]
            .into_iter()
            .all(|time| nanoseconds(time) + slack < nanoseconds(started));
        let mut state = self.lock();
        let reliable = settled && *state.reliable.entry(entry.dev).or_insert_with(|| keeps_times(file));
        let key = (entry.dev, entry.ino);
        if reliable {
            let Entry { size, mode, mtime, ctime, .. } = *entry;
            state.fresh.insert(key, Record { size, mode, mtime, ctime, digest });
            state.is_dirty = true;
        }
    }

    /// Writes what this run has learnt, if it has learnt anything.
    pub fn save(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.is_dirty {
            return Ok(());
        }
        let bytes = self.serialise(&state.fresh);
        let io = |action| {
            let path = self.file.clone();
            move |source| StoreError::Io { action, path, source }
        };
        let parent = self.file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(io("create the directory of"))?;
        let temporary = self.file.with_extension(format!("{}.tmp", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &self.file));
        if written.is_err() {
            // Nothing else knows of the file; a failure to remove it leaves a few bytes.
            fs::remove_file(&temporary).ok();
        }
        written.map_err(io("write"))?;
        state.is_dirty = false;
        Ok(())
    }

    /// The file's new content: what is fresh, and what is stored and not too old.
    fn serialise(&self, fresh: &HashMap<(u64, u64), Record>) -> Vec<u8> {
        let mut records: Vec<_> = fresh.iter().map(|(key, record)| (*key, *record, 0)).collect();
        for bytes in self.stored.chunks_exact(RECORD_BYTES) {
            let (key, record, age) = decode(bytes);
            if age < MAX_AGE && !fresh.contains_key(&key) {
                records.push((key, record, age + 1));
            }
        }
        records.sort_unstable_by_key(|(key, ..)| *key);
        let mut bytes = Vec::with_capacity(MAGIC.len() + records.len() * RECORD_BYTES + CHECK_BYTES);
        bytes.extend_from_slice(MAGIC);
        for record in &records {
            encode(record, &mut bytes);
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    /// The entry of the file for a device and inode.
    fn stored_record(&self, key: (u64, u64)) -> Option<Record> {
        let (mut low, mut high) = (0, self.stored.len() / RECORD_BYTES);
        while low < high {
            let middle = usize::midpoint(low, high);
            let (found, record, _) = decode(&self.stored[middle * RECORD_BYTES..][..RECORD_BYTES]);
            match found.cmp(&key) {
                std::cmp::Ordering::Equal => return Some(record),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The state; a thread that panicked leaves it whole, as every change is one insertion.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a file, if it is whole.
pub(crate) fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.len().checked_sub(CHECK_BYTES)?;
    let body = bytes[..end].strip_prefix(MAGIC)?;
    if body.len() % RECORD_BYTES != 0 || blake3::hash(&bytes[..end]).as_bytes()[..] != bytes[end..] {
        return None;
    }
    bytes.truncate(end);
    bytes.drain(..MAGIC.len());
    Some(bytes)
}

/// Appends one entry.
fn encode((key, record, age): &((u64, u64), Record, u8), bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&key.0.to_le_bytes());
    bytes.extend_from_slice(&key.1.to_le_bytes());
    bytes.extend_from_slice(&record.size.to_le_bytes());
    bytes.extend_from_slice(&record.mode.to_le_bytes());
    for time in [record.mtime, record.ctime] {
        bytes.extend_from_slice(&time.seconds.to_le_bytes());
        bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    bytes.extend_from_slice(&record.digest);
    bytes.push(*age);
}

/// Reads one entry of [`RECORD_BYTES`].
fn decode(bytes: &[u8]) -> ((u64, u64), Record, u8) {
    let eight = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let four = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let time = |at: usize| Timestamp { seconds: eight(at).cast_signed(), nanoseconds: four(at + 8) };
    let record = Record {
        size: eight(16),
        mode: four(24),
        mtime: time(28),
        ctime: time(40),
        digest: bytes[52..84].try_into().expect("32 bytes"),
    };
    ((eight(0), eight(8)), record, bytes[84])
}

/// Nanoseconds since 1970.
fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

/// The time of the machine.
fn system_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

/// Whether `file` is on a local file system that is known to change a file's ctime with its content. Numbers from
/// `linux/magic.h` and statfs(2).
fn keeps_times(file: &File) -> bool {
    const KNOWN: [u64; 6] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683E, // btrfs
        0x0102_1994, // tmpfs
        0xF2F5_2010, // f2fs
        0x2FC1_2FC1, // zfs
    ];
    rustix::fs::fstatfs(file.as_fd()).is_ok_and(|found| {
        u64::try_from(found.f_type).is_ok_and(|magic| KNOWN.contains(&(magic & 0xFFFF_FFFF)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{TreeMode, TreeView};

    /// A context with one file, and a stat cache whose clock stands at `offset` nanoseconds after the file's times.
    struct Scene {
        root: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a temporary directory");
            fs::write(root.path().join("file"), "content").expect("write");
            Self { root }
        }

        fn entry(&self) -> Entry {
            let view = TreeView::open(&[self.root.path().to_owned()], TreeMode::PLAIN).expect("open");
            view.entry(Path::new("/file")).expect("stat").expect("a file")
        }

        fn load(&self, clock: Timestamp) -> ContextStats {
            let directory = self.root.path().join("contexts");
            ContextStats::load_with_clock(&directory, self.root.path(), Arc::new(move || clock))
        }

        fn open(&self) -> File {
            File::open(self.root.path().join("file")).expect("open")
        }
    }

    fn later(time: Timestamp, by_nanoseconds: i128) -> Timestamp {
        let total = nanoseconds(time) + by_nanoseconds;
        Timestamp {
            seconds: i64::try_from(total.div_euclid(1_000_000_000)).expect("in range"),
            nanoseconds: u32::try_from(total.rem_euclid(1_000_000_000)).expect("below a second"),
        }
    }

    #[test]
    fn a_settled_file_is_known_in_this_run_and_the_next() {
        let scene = Scene::new();
        let entry = scene.entry();
        let stats = scene.load(later(entry.ctime, 3_000_000_000));
        assert_eq!(stats.digest(&entry), None);
        stats.remember(&scene.open(), &entry, stats.now(), [7; 32]);
        assert_eq!(stats.digest(&entry), Some([7; 32]));
        stats.save().expect("saved");
        let next = scene.load(later(entry.ctime, 3_000_000_000));
        assert_eq!(next.digest(&entry), Some([7; 32]));
        let changes: [fn(&mut Entry); 6] = [
            |entry| entry.ino += 1,
            |entry| entry.dev += 1,
            |entry| entry.size += 1,
            |entry| entry.mode ^= 1,
            |entry| entry.mtime.nanoseconds ^= 1,
            |entry| entry.ctime.nanoseconds ^= 1,
        ];
        for change in changes {
            let mut other = entry;
            change(&mut other);
            assert_eq!(next.digest(&other), None);
        }
    }

    #[test]
    fn a_file_that_may_still_change_within_its_times_is_not_known() {
        let scene = Scene::new();
        let fine = Entry { ctime: Timestamp { seconds: 1000, nanoseconds: 5 }, ..scene.entry() };
        let fine = Entry { mtime: fine.ctime, ..fine };
        let coarse = Timestamp { seconds: 1000, nanoseconds: 0 };
        let coarse = Entry { ctime: coarse, mtime: coarse, ..fine };
        let table = [
            (fine, 19_000_000, false),
            (fine, 21_000_000, true),
            (fine, -1_000_000, false),
            (coarse, 1_900_000_000, false),
            (coarse, 2_100_000_000, true),
            (Entry { mtime: later(fine.mtime, 60_000_000_000), ..fine }, 21_000_000, false),
        ];
        for (entry, after, is_known) in table {
            let stats = scene.load(later(fine.ctime, after));
            stats.remember(&scene.open(), &entry, stats.now(), [1; 32]);
            assert_eq!(stats.digest(&entry).is_some(), is_known, "{after}");
        }
    }

    #[test]
    fn files_of_unknown_file_systems_are_not_known() {
        let scene = Scene::new();
        let entry = Entry { dev: 0, ..scene.entry() };
        let stats = scene.load(later(entry.ctime, 3_000_000_000));
        let file = File::open("/proc/self/status").expect("open");
        stats.remember(&file, &entry, stats.now(), [1; 32]);
        assert_eq!(stats.digest(&entry), None);
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let scene = Scene::new();
        let entry = scene.entry();
        let clock = later(entry.ctime, 3_000_000_000);
        let stats = scene.load(clock);
        stats.remember(&scene.open(), &entry, stats.now(), [7; 32]);
        stats.save().expect("saved");
        let whole = fs::read(&stats.file).expect("read");
        assert_eq!(whole.len(), MAGIC.len() + RECORD_BYTES + CHECK_BYTES);
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(&stats.file, damaged).expect("write");
            assert_eq!(scene.load(clock).digest(&entry), None, "{position}");
            fs::write(&stats.file, &whole[..position]).expect("write");
            assert_eq!(scene.load(clock).digest(&entry), None, "{position}");
        }
    }

    #[test]
    fn entries_are_found_among_many_and_leave_when_no_one_wants_them() {
        let scene = Scene::new();
        let entry = scene.entry();
        let clock = later(entry.ctime, 3_000_000_000);
        let nth = |number: u8| Entry { ino: u64::from(number), ..entry };
        let stats = scene.load(clock);
        for number in 0..200 {
            stats.remember(&scene.open(), &nth(number), stats.now(), [number; 32]);
        }
        stats.save().expect("saved");
        for round in 0..=MAX_AGE {
            let stats = scene.load(clock);
            assert_eq!(stats.digest(&nth(3)), Some([3; 32]), "{round}");
            // Something new makes it write.
            stats.remember(&scene.open(), &nth(200 + round), stats.now(), [0; 32]);
            stats.save().expect("saved");
        }
        let last = scene.load(clock);
        assert_eq!(last.digest(&nth(3)), Some([3; 32]));
        assert_eq!(last.digest(&nth(4)), None);
    }
}
