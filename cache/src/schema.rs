//! The tables of the SQLite file, and their version.

use std::path::Path;

use rusqlite::Connection;

use crate::StoreError;

/// Counted up with every change of the tables or of what is in them.
pub(crate) const VERSION: i64 = 3;

/// `generation` says after which seal a row was written: those whose generation is still listed in `generations`
/// may not have reached the disk, and are dropped when the machine has been started again. The newest generation is
/// always listed. 0 is no generation: always on the disk.
///
/// `doomed` is 0, or the number of a prune that is about to delete the row. A doomed row is not there for anyone
/// who looks.
///
/// A snapshot's `kind` is the snapshotter: 0 overlay, 1 copy. A record's is that of [`crate::EntryKind`]. `used`, `tagged` and `seen` are seconds since 1970. Digests are
/// texts (`sha256:…`) except those that only the cache makes and reads, which are 32 bytes. `parts` is a JSON list
/// of pairs. `origins` is NULL for a snapshot whose files are all its own; see [`crate::Origins`]. `copies` names the
/// last snapshot that a copy made, whatever it copied. Every page that a transaction touches is written whole, so that what is written together should lie
/// together.
const TABLES: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE generations (id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL);
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY, parent INTEGER, depth INTEGER NOT NULL, kind INTEGER NOT NULL, chain TEXT,
    used INTEGER NOT NULL, generation INTEGER NOT NULL, doomed INTEGER NOT NULL, origins BLOB
);
CREATE UNIQUE INDEX snapshots_by_chain ON snapshots (chain, kind) WHERE chain IS NOT NULL;
CREATE TABLE records (
    key BLOB PRIMARY KEY, snapshot INTEGER NOT NULL, used INTEGER NOT NULL, generation INTEGER NOT NULL,
    kind INTEGER NOT NULL, description TEXT NOT NULL, parts TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE digests (
    snapshot INTEGER NOT NULL, selector BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (snapshot, selector)
) WITHOUT ROWID;
CREATE TABLE copies (copy BLOB PRIMARY KEY, snapshot INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE layers (snapshot INTEGER PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL);
CREATE TABLE merged (snapshot INTEGER PRIMARY KEY, directory TEXT NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, used INTEGER NOT NULL, generation INTEGER NOT NULL,
    doomed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE variants (
    diff_id TEXT NOT NULL, compression TEXT NOT NULL, blob TEXT NOT NULL, descriptor TEXT NOT NULL,
    PRIMARY KEY (diff_id, compression)
) WITHOUT ROWID;
CREATE TABLE images (manifest TEXT PRIMARY KEY, location TEXT NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE image_blobs (blob TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (blob, manifest)) WITHOUT ROWID;
CREATE TABLE tags (reference TEXT PRIMARY KEY, target TEXT NOT NULL, tagged INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pins (
    name TEXT NOT NULL, platform TEXT NOT NULL, digest TEXT NOT NULL, seen INTEGER NOT NULL,
    PRIMARY KEY (name, platform)
) WITHOUT ROWID;
";

/// Makes the tables in a new file that nobody else sees yet.
pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
    // The whole file is brought to the disk once, before it gets its name.
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))
}

/// Refuses the file of another version.
pub(crate) fn check_version(connection: &Connection, root: &Path, path: &Path) -> Result<(), StoreError> {
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| StoreError::database("read", path, error))?;
    match found {
        VERSION => Ok(()),
        newer if newer > VERSION => {
            Err(StoreError::NewerFormat { root: root.to_owned(), found, supported: VERSION })
        }
        other => Err(StoreError::InvalidMetadata {
            path: path.to_owned(),
            what: "format version",
            value: other.to_string(),
        }),
    }
}
