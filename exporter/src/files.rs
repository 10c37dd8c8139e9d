//! The files of the result, as a tar or in a directory.

use std::io::Write;
use std::path::Path;

use cache::layer::{export_tree, write_tree};
use cache::tree::TreeView;
use cache::{Snapshot, Store};

use crate::destination::OutputFile;
use crate::error::ExportError;
use crate::output::Destination;

/// Writes the files of `snapshot` (none: no files) as one tar. Blocks.
pub fn write_files(
    store: &Store,
    snapshot: Option<&Snapshot>,
    destination: &Destination,
) -> Result<(), ExportError> {
    let view = view_of(store, snapshot)?;
    let mut file = OutputFile::create(destination)?;
    let path = match destination {
        Destination::Path(path) => path.as_path(),
        Destination::Stdout => Path::new("-"),
    };
    write_tree(&view, &mut file)
        .and_then(|()| file.flush().map_err(cache::layer::LayerError::Write))
        .map_err(|source| ExportError::Files { path: path.to_owned(), source })?;
    file.finish()
}

/// Copies the files of `snapshot` (none: no files) into a directory, which is made if it is not there. Blocks.
pub fn copy_files(store: &Store, snapshot: Option<&Snapshot>, directory: &Path) -> Result<(), ExportError> {
    let view = view_of(store, snapshot)?;
    export_tree(&view, directory).map_err(|source| ExportError::Files { path: directory.to_owned(), source })
}

fn view_of(store: &Store, snapshot: Option<&Snapshot>) -> Result<TreeView, ExportError> {
    let directories = if let Some(snapshot) = snapshot {
        store.layer_dirs(snapshot)?
    } else {
        // The empty tree is an empty directory, which goes away with this run.
        let path = store.run_directory().join("scratch");
        std::fs::create_dir_all(&path).map_err(|source| ExportError::Write { path: path.clone(), source })?;
        vec![path]
    };
    TreeView::open(&directories, store.tree_mode()).map_err(ExportError::Tree)
}
