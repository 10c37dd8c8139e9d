//! The files of a snapshot, as the scanner for packages reads them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cache::tree::{FileKind, TreeView};
use cache::{Snapshot, Store};
use sbom::{FileEntry, Files, Inventory, ReadSeek};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::attestation::{Attestation, Reach};
use crate::error::ExportError;
use crate::files::view_of;

struct ScannedTree(TreeView);

/// Finds the packages in the files of a snapshot; the empty tree for `None`. Nothing is unpacked or copied. Blocks.
pub fn scan_packages(store: &Store, snapshot: Option<&Snapshot>) -> Result<Inventory, ExportError> {
    sbom::scan(&ScannedTree(view_of(store, snapshot)?)).map_err(ExportError::Scan)
}

/// Paths of a tree begin at its root.
fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

/// The most that a document of a scanner has, as with BuildKit.
const DOCUMENT_BYTES: u64 = 40 << 20;

/// The statements that a scanner has written: each file in `directory` is one, in the order of their names; only its
/// predicate is taken over. Blocks.
pub fn read_statements(
    store: &Store,
    snapshot: Option<&Snapshot>,
    directory: &str,
) -> Result<Vec<Attestation>, ExportError> {
    let view = view_of(store, snapshot)?;
    let directory = Path::new(directory);
    let mut statements = Vec::new();
    for (name, entry) in view.read_dir(directory).map_err(ExportError::Tree)? {
        let path = directory.join(&name);
        if entry.kind != FileKind::File {
            return Err(ExportError::Statement { path, problem: "it is no file".to_owned() });
        }
        let mut bytes = Vec::new();
        let file = view.open_file(&path).map_err(ExportError::Tree)?;
        let read = file.take(DOCUMENT_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| ExportError::Read { path: path.clone(), source })?;
        if bytes.len() as u64 > DOCUMENT_BYTES {
            let problem = format!("it has more than {DOCUMENT_BYTES} bytes");
            return Err(ExportError::Statement { path, problem });
        }
        let written: WrittenStatement = serde_json::from_slice(&bytes)
            .map_err(|error| ExportError::Statement { path, problem: error.to_string() })?;
        statements.push(Attestation {
            predicate_type: written.predicate_type,
            predicate: written.predicate,
            file_name: name.to_string_lossy().into_owned(),
            reach: Reach::Everywhere,
        });
    }
    Ok(statements)
}

/// What is read of an in-toto statement.
#[derive(Deserialize)]
struct WrittenStatement {
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Box<RawValue>,
}

impl Files for ScannedTree {
    fn entries(&self, directory: &Path) -> io::Result<Vec<FileEntry>> {
        let entries = self.0.read_dir(&rooted(directory)).map_err(io::Error::other)?;
        let entry = |(name, entry): (_, cache::tree::Entry)| FileEntry {
            name,
            kind: match entry.kind {
                FileKind::Directory => sbom::FileKind::Directory,
                FileKind::File => {
                    sbom::FileKind::File { size_bytes: entry.size, executable: entry.mode & 0o111 != 0 }
                }
                _ => sbom::FileKind::Other,
            },
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadSeek>> {
        let file = self.0.open_file(&rooted(path)).map_err(io::Error::other)?;
        Ok(Box::new(file))
    }
}
