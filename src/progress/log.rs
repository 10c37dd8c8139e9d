//! The log of a build, which the history keeps.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

/// How much of what is shown goes into the log of a build.
const MOST_LOGGED_BYTES: u64 = 16 << 20;

/// Where what is shown in the plain form is kept, whether or not anybody looks.
#[derive(Default)]
pub(super) enum Log {
    /// There is no place yet.
    Early(String),
    /// A file.
    File { path: PathBuf, file: BufWriter<File>, bytes: u64 },
    #[default]
    Nowhere,
}

impl Log {
    pub(super) fn is_somewhere(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    /// Goes on in a new file. A log that cannot be written is no reason to fail.
    pub(super) fn move_to(&mut self, path: PathBuf) {
        let log = match File::create_new(&path) {
            Ok(file) => Self::File { path, file: BufWriter::new(file), bytes: 0 },
            Err(_) => Self::Nowhere,
        };
        if let Self::Early(early) = std::mem::replace(self, log) {
            self.add(&early);
        }
    }

    pub(super) fn add(&mut self, text: &str) {
        match self {
            Self::Nowhere => {}
            Self::Early(early) => early.push_str(text),
            Self::File { bytes, .. } if *bytes > MOST_LOGGED_BYTES => {}
            Self::File { file, bytes, .. } => {
                *bytes += text.len() as u64;
                let is_full = *bytes > MOST_LOGGED_BYTES;
                let text = if is_full { "[the rest is not kept]\n" } else { text };
                if file.write_all(text.as_bytes()).is_err() {
                    *self = Self::Nowhere;
                }
            }
        }
    }

    /// The complete log, if there is one.
    pub(super) fn end(&mut self) -> Option<PathBuf> {
        match std::mem::take(self) {
            Self::File { path, mut file, .. } => file.flush().is_ok().then_some(path),
            Self::Early(_) | Self::Nowhere => None,
        }
    }
}
