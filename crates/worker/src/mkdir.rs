//! WORKDIR.

use std::path::Path;

use cache::tree::{Attributes, Timestamp};
use cache::{Snapshot, Store};
use solver::MkdirOp;

use crate::local::write_snapshot;
use crate::{WorkerError, copy, user};

const MODE: u32 = 0o755;

/// Makes the directory of a WORKDIR with those above it. What is there already stays as it is; the result is a
/// snapshot of its own in any case, since every WORKDIR is a layer.
pub(crate) fn mkdir(store: &Store, parent: Option<&Snapshot>, op: &MkdirOp) -> Result<Snapshot, WorkerError> {
    write_snapshot(store, parent, |writer, _| {
        let (uid, gid) = match &op.owner {
            Some(spec) => user::owner(parent.map(|_| writer.view()), spec)?,
            None => (0, 0),
        };
        let attributes = Attributes { mode: MODE, uid, gid, mtime: None, xattrs: Vec::new() };
        let made = copy::make_directories(writer, Path::new(&op.path), &attributes)?;
        // Where something was made, that is a change.
        if let Some(above) = made.first_made.as_deref().and_then(Path::parent)
            && let Some(entry) = writer.view().entry(above)?
        {
            let changed = Attributes { mtime: Some(copy::now()), ..Attributes::of(&entry, Vec::new()) };
            writer.set_attributes(above, &changed)?;
        }
        // Only the directory that is named gets the time, not those made on the way to it, as with the peers.
        if let (Some(seconds), Some(_)) = (op.mtime, &made.first_made) {
            let mtime = Some(Timestamp { seconds, nanoseconds: 0 });
            writer.set_attributes(&made.path, &Attributes { mtime, ..attributes })?;
        }
        Ok(writer.finish()?)
    })
}
