//! The metadata: SQLite's own structure, and rows that can be read and lead somewhere.

use oci::{Descriptor, Digest, ImageReference};
use rusqlite::Transaction;

use super::{Outcome, Part, Verified};
use crate::database::Failed;
use crate::prune::delete_dependents;
use crate::{Store, StoreError};

/// A column of texts that have a form.
struct Column {
    table: &'static str,
    name: &'static str,
    /// What of it is told.
    shown: &'static str,
    /// Rows without a text of this form are left out, as SQL.
    condition: &'static str,
    is_right: fn(&str) -> bool,
}

const COLUMNS: [Column; 9] = [
    Column::new("tags", "reference", "reference", |text| text.parse::<ImageReference>().is_ok()),
    Column::new("tags", "target", "reference", is_descriptor),
    Column::new("blobs", "digest", "digest", is_digest),
    Column::new("layers", "diff_id", "diff_id", is_digest),
    Column::new("variants", "descriptor", "diff_id", is_descriptor),
    Column::new("variants", "diff_id", "diff_id", is_digest),
    Column::new("images", "manifest", "manifest", is_digest),
    Column { condition: "platform <> ''", ..Column::new("pins", "digest", "name", is_digest) },
    Column::new("records", "parts", "description", |text| {
        serde_json::from_str::<Vec<(String, String)>>(text).is_ok()
    }),
];

impl Column {
    const fn new(
        table: &'static str,
        name: &'static str,
        shown: &'static str,
        is_right: fn(&str) -> bool,
    ) -> Self {
        Self { table, name, shown, condition: "1", is_right }
    }
}

fn is_digest(text: &str) -> bool {
    text.parse::<Digest>().is_ok()
}

fn is_descriptor(text: &str) -> bool {
    serde_json::from_str::<Descriptor>(text).is_ok()
}

impl Store {
    /// Whether SQLite finds its file whole.
    pub(super) fn verify_database(&self) -> Result<(), StoreError> {
        let path = self.shared.database.path();
        let said: String = self
            .shared
            .database
            .read(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if said == "ok" {
            return Ok(());
        }
        Err(StoreError::DamagedMetadata { path: path.to_owned(), reason: said })
    }

    pub(super) fn verify_rows(&self, found: &mut Verified) -> Result<(), StoreError> {
        let (malformed, dangling, records) = self.shared.database.write(|transaction| {
            let mut malformed = Vec::new();
            for column in &COLUMNS {
                malformed.extend(delete_malformed(transaction, column)?);
            }
            let dangling = delete_dependents(transaction)?;
            let count =
                transaction.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0))?;
            Ok((malformed, dangling, count.cast_unsigned()))
        })?;
        for (name, detail) in malformed {
            found.defect(Part::Metadata, name, detail, Outcome::Repaired);
        }
        if dangling > 0 {
            let detail = "their snapshots are not in the store";
            found.defect(Part::Metadata, format!("{dangling} cache records"), detail, Outcome::Repaired);
        }
        found.records = records;
        Ok(())
    }
}

/// Deletes the rows that this program does not write. Returns what they are and what is wrong with them.
fn delete_malformed(transaction: &Transaction<'_>, column: &Column) -> Result<Vec<(String, String)>, Failed> {
    let Column { table, name, shown, condition, is_right } = column;
    let mut query = transaction.prepare(&format!(
        "SELECT DISTINCT CAST({name} AS TEXT), CAST({shown} AS TEXT) FROM {table} WHERE {condition}"
    ))?;
    let texts: Vec<(String, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut malformed = Vec::new();
    for (text, shown) in texts.into_iter().filter(|(text, _)| !is_right(text)) {
        transaction.execute(&format!("DELETE FROM {table} WHERE {name} = ?1"), [&text])?;
        malformed.push((format!("row `{shown}` of `{table}`"), format!("invalid {name}: `{text}`")));
    }
    Ok(malformed)
}
