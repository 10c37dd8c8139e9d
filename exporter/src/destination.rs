//! Files that are complete or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::ExportError;
use crate::output::Destination;

/// A file that is being written. It takes its name in [`OutputFile::finish`]; dropped before, it leaves nothing.
/// Where the name is a pipe or a device, that is written to as it is.
pub(crate) struct OutputFile {
    writer: BufWriter<Target>,
    /// `None` for standard output and streams.
    path: Option<PathBuf>,
    /// The name that the file has until it is finished, where it has one.
    temporary: Option<PathBuf>,
}

/// What is written to.
enum Target {
    File(File),
    Stdout(io::Stdout),
}

const BUFFER_BYTES: usize = 1 << 17;

impl OutputFile {
    /// Begins a file.
    pub(crate) fn create(destination: &Destination) -> Result<Self, ExportError> {
        let (writer, path, temporary) = match destination {
            Destination::Engine(_) => unreachable!("an engine is handed its archive as a stream"),
            Destination::Stdout => (Target::Stdout(io::stdout()), None, None),
            Destination::Path(path) => {
                let (file, temporary) =
                    open(path).map_err(|source| ExportError::Write { path: path.clone(), source })?;
                (Target::File(file), Some(path.clone()), temporary)
            }
        };
        Ok(Self { writer: BufWriter::with_capacity(BUFFER_BYTES, writer), path, temporary })
    }

    /// Writes to a pipe or a socket.
    pub(crate) fn stream(stream: File) -> Self {
        let writer = BufWriter::with_capacity(BUFFER_BYTES, Target::File(stream));
        Self { writer, path: None, temporary: None }
    }

    /// Copies the next `bytes` of `from`, or what there is of them, and tells how many those were. The kernel does it
    /// alone where it can.
    pub(crate) fn copy(&mut self, from: &File, bytes: u64) -> io::Result<u64> {
        self.writer.flush()?;
        let mut from = from.take(bytes);
        match self.writer.get_mut() {
            Target::File(file) => io::copy(&mut from, file),
            Target::Stdout(stdout) => io::copy(&mut from, &mut stdout.lock()),
        }
    }

    /// Writes what is buffered and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), ExportError> {
        self.writer.flush().map_err(|source| self.error(source))?;
        if let (Some(temporary), Some(path)) = (&self.temporary, &self.path) {
            fs::rename(temporary, path).map_err(|source| self.error(source))?;
            self.temporary = None;
        }
        Ok(())
    }

    /// The error of a failed write, with the name of the file.
    pub(crate) fn error(&self, source: io::Error) -> ExportError {
        match &self.path {
            Some(path) => ExportError::Write { path: path.clone(), source },
            None if matches!(self.writer.get_ref(), Target::File(_)) => ExportError::Stream(source),
            None => ExportError::Stdout(source),
        }
    }
}

impl Write for OutputFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.writer.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Write for Target {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(data),
            Self::Stdout(stdout) => stdout.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The file may be gone already; there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn open(path: &Path) -> io::Result<(File, Option<PathBuf>)> {
    if let Ok(metadata) = fs::metadata(path)
        && !metadata.is_file()
    {
        return Ok((OpenOptions::new().write(true).open(path)?, None));
    }
    let temporary = temporary_name(path)?;
    Ok((OpenOptions::new().write(true).create_new(true).open(&temporary)?, Some(temporary)))
}

/// A hidden name beside `path` that no other process uses at this time.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.subsec_nanos());
    hidden.push(format!(".{}-{nanoseconds}", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Writes a whole file of a few bytes.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut file = OutputFile::create(&Destination::Path(path.to_owned()))?;
    file.write_all(bytes).map_err(|source| file.error(source))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let mut file = OutputFile::create(&Destination::Path(path.clone())).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names().is_empty());

        write_file(&path, b"old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(), ["a"]);
        write_file(Path::new("/dev/null"), b"gone").unwrap();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = write_file(Path::new("/nowhere/at/all"), b"").unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/nowhere/at/all`");
    }
}
