//! Blobs: each has the bytes that its name says.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oci::Digest;
use rayon::prelude::*;

use super::{Outcome, Part, Verified};
use crate::blob::hash;
use crate::{Store, StoreError};

/// A file of which something is wrong.
struct Damaged {
    digest: Digest,
    detail: String,
    /// The file that was looked at, by device and inode; none was there.
    file: Option<(u64, u64)>,
}

impl Store {
    pub(super) fn verify_blobs(&self, found: &mut Verified) -> Result<(), StoreError> {
        let rows: Vec<(String, i64)> = self.shared.database.read(|connection| {
            connection
                .prepare("SELECT digest, size FROM blobs WHERE doomed = 0")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        found.blobs = rows.len() as u64;
        let look = |(text, size): &(String, i64)| {
            let digest: Digest = text.parse().ok()?;
            let path = self.blobs().path(&digest).ok()?;
            let (detail, file) = look_at(&path, &digest, size.cast_unsigned())?;
            Some(Damaged { digest, detail, file })
        };
        let damaged: Vec<Damaged> = rows.par_iter().filter_map(look).collect();
        for Damaged { digest, detail, file } in damaged {
            if self.drop_blob(&digest, file)? {
                found.defect(Part::Blobs, format!("blob `{digest}`"), detail, Outcome::Repaired);
            }
        }
        Ok(())
    }

    /// Drops a blob if its file still is the one that was looked at. Blobs are written and pruned in transactions, so
    /// that within one both the row and the file are what they are.
    fn drop_blob(&self, digest: &Digest, file: Option<(u64, u64)>) -> Result<bool, StoreError> {
        let path = self.blobs().path(digest)?;
        let (is_dropped, away) = self.shared.database.write(|transaction| {
            if inode(&path) != file {
                return Ok((false, None));
            }
            let rows = transaction.execute("DELETE FROM blobs WHERE digest = ?1", [digest.as_str()])?;
            Ok((rows > 0, self.move_away(&path)?))
        })?;
        if let Some(away) = away {
            self.shared.disk.remove_tree(&away)?;
        }
        Ok(is_dropped)
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What is wrong with the file of a blob, and which file that is.
fn look_at(path: &Path, digest: &Digest, size_bytes: u64) -> Option<(String, Option<(u64, u64)>)> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some(("its file is missing".to_owned(), None));
        }
        Err(error) => return Some((format!("its file cannot be read: {error}"), None)),
    };
    let file = Some((metadata.dev(), metadata.ino()));
    if !metadata.is_file() {
        return Some(("it is no file".to_owned(), file));
    }
    if metadata.len() != size_bytes {
        return Some((format!("it has {} bytes instead of {size_bytes}", metadata.len()), file));
    }
    match File::open(path).and_then(|mut file| hash(&mut file)) {
        Ok(right) if right == *digest => None,
        Ok(wrong) => Some((format!("its content has the digest `{wrong}`"), file)),
        Err(error) => Some((format!("its file cannot be read: {error}"), file)),
    }
}
