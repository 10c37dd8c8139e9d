//! The files of a snapshot, as the scanner for packages reads them.

use std::io;
use std::path::{Path, PathBuf};

use cache::tree::{FileKind, TreeView};
use cache::{Snapshot, Store};
use sbom::{FileEntry, Files, Inventory, ReadSeek};

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
