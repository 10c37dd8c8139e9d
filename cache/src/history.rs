//! The history of builds.
//!
//! ```text
//! history/<id>/           what a build has told, complete: moved into place at its end
//!     build.json          written and read by the caller
//!     log                 the output of its steps, where there was any
//! ```
//!
//! Names sort by time: milliseconds since 1970 in twelve hexadecimal digits, and eight random ones. Who writes one
//! removes the oldest beyond the bounds.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::store::random_u64;
use crate::usage::names;
use crate::{Store, StoreError};

const DOCUMENT: &str = "build.json";
const LOG: &str = "log";

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBounds {
    /// The number of builds.
    pub builds: usize,
    /// The bytes of all their logs and documents.
    pub bytes: u64,
    /// How old they may be.
    pub age: Option<Duration>,
}

impl Default for HistoryBounds {
    fn default() -> Self {
        Self { builds: 100, bytes: 256 << 20, age: None }
    }
}

/// The name of a build in the history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(String);

impl BuildId {
    /// The name of a build that begins now.
    pub fn new() -> Self {
        Self(format!("{:012x}{:08x}", milliseconds(SystemTime::now()), random_u64() & 0xffff_ffff))
    }

    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX) & 0xffff_ffff_ffff
}

impl Default for BuildId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no name of a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a build: it should be 20 hexadecimal digits")]
pub struct BuildIdError(String);

impl FromStr for BuildId {
    type Err = BuildIdError;

    fn from_str(text: &str) -> Result<Self, BuildIdError> {
        if text.len() == 20 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BuildIdError(text.to_owned()))
        }
    }
}

impl Store {
    /// Adds a build, and removes the oldest ones beyond `bounds`. `log`, a file of this run, is moved away.
    pub fn add_history(
        &self,
        id: &BuildId,
        document: &[u8],
        log: Option<PathBuf>,
        bounds: HistoryBounds,
    ) -> Result<(), StoreError> {
        let disk = &self.shared.disk;
        let directory = self.fresh_path();
        disk.create_dir(&directory, 0o700)?;
        let path = directory.join(DOCUMENT);
        disk.write_all(&disk.create_file(&path)?, &path, document)?;
        if let Some(log) = log {
            disk.rename(&log, &directory.join(LOG))?;
        }
        if fs::metadata(self.history_directory()).is_err() {
            disk.create_dir_all(&self.history_directory())?;
        }
        disk.rename(&directory, &self.history_directory().join(id.as_str()))?;
        self.bound_history(bounds)
    }

    /// The builds there are, the oldest first.
    pub fn history(&self) -> Result<Vec<BuildId>, StoreError> {
        let directory = self.history_directory();
        if fs::metadata(&directory).is_err() {
            return Ok(Vec::new());
        }
        let mut ids: Vec<BuildId> = names(&directory)?.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// What was written of a build; `None` if there is no such build.
    pub fn history_document(&self, id: &BuildId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.history_directory().join(id.as_str()).join(DOCUMENT);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// The file with the output of a build; `None` if there is no such build, or it had none.
    pub fn history_log(&self, id: &BuildId) -> Result<Option<fs::File>, StoreError> {
        let path = self.history_directory().join(id.as_str()).join(LOG);
        match fs::File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Removes a build from the history; false if there is no such build.
    pub fn remove_history(&self, id: &BuildId) -> Result<bool, StoreError> {
        let disk = &self.shared.disk;
        let away = self.fresh_path();
        match disk.rename(&self.history_directory().join(id.as_str()), &away) {
            Ok(()) => {
                disk.remove_tree(&away)?;
                Ok(true)
            }
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The newest build always stays.
    fn bound_history(&self, bounds: HistoryBounds) -> Result<(), StoreError> {
        let ids = self.history()?;
        let oldest = bounds.age.and_then(|age| SystemTime::now().checked_sub(age));
        let oldest = oldest.map(|time| format!("{:012x}", milliseconds(time)));
        let mut bytes = 0;
        for (index, id) in ids.iter().rev().enumerate() {
            let directory = self.history_directory().join(id.as_str());
            let size = |name| fs::metadata(directory.join(name)).map_or(0, |metadata| metadata.len());
            bytes += size(DOCUMENT) + size(LOG);
            let is_old = oldest.as_ref().is_some_and(|oldest| id.as_str() < oldest.as_str());
            if index > 0 && (is_old || index >= bounds.builds || bytes > bounds.bytes) {
                self.remove_history(id)?;
            }
        }
        Ok(())
    }

    fn history_directory(&self) -> PathBuf {
        self.root().join("history")
    }
}
