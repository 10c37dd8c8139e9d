//! `rbuild history IMAGE`: how an image was made, as far as it tells itself.

use cache::Store;
use exporter::Assembled;
use oci::{Digest, ImageConfig};
use serde_json::json;

use super::list::time;
use super::{columns, export_failure, find_one, platform, read, short};
use crate::arguments::ListFormat;
use crate::progress::bytes;
use crate::report::Failure;

/// How much of an instruction is shown, as with docker.
const SHOWN_CHARACTERS: usize = 45;

/// How a history is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryView {
    /// Only the image for this platform, of an index.
    pub(crate) platform: Option<String>,
    /// Whether all of each instruction is shown.
    pub(crate) no_trunc: bool,
    /// Whether only IDs are.
    pub(crate) quiet: bool,
}

/// A step that has made an image.
struct Row {
    /// The ID of the image, of the last step.
    id: Option<Digest>,
    /// The layer, where there is one.
    layer: Option<Digest>,
    created: Option<String>,
    created_by: String,
    size_bytes: u64,
    comment: String,
}

/// Tells of each step of an image, the last one first. Blocks.
pub(crate) fn show(
    store: &Store,
    name: &str,
    format: ListFormat,
    view: &HistoryView,
) -> Result<String, Failure> {
    let tag = find_one(store, name)?;
    let images = read(store, &tag, platform(view.platform.as_deref())?.as_ref())?;
    let found = match images.single() {
        Some(image) => image,
        None => match images.images() {
            [only] => only,
            several => {
                let platforms: Vec<String> = several.iter().map(|image| image.platform.to_string()).collect();
                let message = format!("`{name}` is for several platforms: {}", platforms.join(", "));
                return Err(Failure::usage(message).with_hint("`--platform` chooses one"));
            }
        },
    };
    let rows = rows(found)?;
    if view.quiet {
        let ids = rows.iter().map(|row| row.id(view) + "\n");
        return Ok(ids.collect());
    }
    Ok(match format {
        ListFormat::Json => rows.iter().map(Row::json).collect(),
        ListFormat::Table => table(&rows, view),
    })
}

fn rows(image: &Assembled) -> Result<Vec<Row>, Failure> {
    let config: ImageConfig = serde_json::from_slice(&image.config).map_err(|source| {
        let digest = image.config_descriptor.digest.clone();
        export_failure(&exporter::ExportError::Document { digest, source })
    })?;
    let mut layers = image.layers.iter();
    let mut rows = Vec::new();
    for entry in config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        rows.push(Row {
            id: None,
            layer: layer.map(|layer| layer.digest.clone()),
            created: entry.created,
            created_by: entry.created_by.unwrap_or_default(),
            size_bytes: layer.map_or(0, |layer| layer.size),
            comment: entry.comment.unwrap_or_default(),
        });
    }
    // What made them is not told: images of other tools.
    rows.extend(layers.map(|layer| Row {
        id: None,
        layer: Some(layer.digest.clone()),
        created: None,
        created_by: String::new(),
        size_bytes: layer.size,
        comment: String::new(),
    }));
    if let Some(last) = rows.last_mut() {
        last.id = Some(image.config_descriptor.digest.clone());
    }
    rows.reverse();
    Ok(rows)
}

impl Row {
    fn id(&self, view: &HistoryView) -> String {
        match &self.id {
            Some(id) if view.no_trunc => id.to_string(),
            Some(id) => short(id),
            None => "<missing>".to_owned(),
        }
    }

    fn json(&self) -> String {
        let row = json!({
            "id": self.id,
            "created": self.created,
            "created_by": self.created_by,
            "size_bytes": self.size_bytes,
            "layer": self.layer,
            "comment": self.comment,
        });
        format!("{row}\n")
    }
}

fn table(rows: &[Row], view: &HistoryView) -> String {
    let mut cells = vec![["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    for row in rows {
        let mut created_by: String =
            row.created_by.chars().map(|one| if one.is_whitespace() { ' ' } else { one }).collect();
        if !view.no_trunc && created_by.chars().count() > SHOWN_CHARACTERS {
            created_by = created_by.chars().take(SHOWN_CHARACTERS - 1).chain(['…']).collect();
        }
        cells.push(vec![
            row.id(view),
            time(row.created.as_deref()),
            created_by,
            bytes(row.size_bytes),
            row.comment.clone(),
        ]);
    }
    columns(&cells)
}
