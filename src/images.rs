//! The commands that look after images.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use cache::{ImageTag, Store};
use exporter::{ImageSet, LayerFetcher};
use jiff::Timestamp;
use oci::ImageReference;
use serde_json::json;
use worker::ImageStore;

use crate::arguments::ListFormat;
use crate::progress::bytes;
use crate::registries::RegistryArguments;
use crate::report::{Failure, FailureKind};
use crate::resolver::Fetcher;
use crate::session::{Session, blocking};

pub(crate) fn store_failure(error: &cache::StoreError) -> Failure {
    Failure::from_error(FailureKind::Environment, error)
}

/// `rbuild images`.
pub(crate) async fn list(
    session: Session,
    root: PathBuf,
    format: ListFormat,
) -> Result<Option<String>, Failure> {
    let store = session.open_store(root).await?;
    blocking(move || {
        let images = store.images().map_err(|error| store_failure(&error))?;
        let rows: Vec<Row> = images.iter().map(|image| Row::of(&store, image)).collect();
        Ok(Some(match format {
            ListFormat::Json => rows.iter().map(Row::json).collect(),
            ListFormat::Table => table(&rows),
        }))
    })
    .await
}

struct Row {
    name: String,
    tag: String,
    digest: String,
    size_bytes: u64,
    created: Option<String>,
}

impl Row {
    /// An image whose manifest cannot be read is listed all the same, so that it can be removed.
    fn of(store: &Store, image: &ImageTag) -> Self {
        let images = ImageSet::load(store, &image.target).ok();
        let familiar = image.reference.familiar();
        let tag = image.reference.tag().unwrap_or_default().to_owned();
        let name = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar).to_owned();
        Self {
            name,
            tag,
            digest: image.target.digest.to_string(),
            size_bytes: images
                .as_ref()
                .map_or(0, |images| images.layers().iter().map(|layer| layer.size).sum()),
            created: images.and_then(|images| images.created().map(str::to_owned)),
        }
    }

    fn json(&self) -> String {
        let row = json!({
            "name": self.name,
            "tag": self.tag,
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "created": self.created,
        });
        format!("{row}\n")
    }
}

fn table(rows: &[Row]) -> String {
    let mut cells = vec![["NAME", "TAG", "DIGEST", "SIZE", "CREATED"].map(str::to_owned).to_vec()];
    for row in rows {
        let digest = row.digest.split_once(':').map_or(row.digest.as_str(), |(_, hex)| hex);
        let created = row.created.as_deref().and_then(|created| created.parse::<Timestamp>().ok());
        let created =
            created.map_or_else(String::new, |created| created.strftime("%Y-%m-%d %H:%M").to_string());
        cells.push(
            [
                row.name.clone(),
                row.tag.clone(),
                digest.chars().take(12).collect(),
                bytes(row.size_bytes),
                created,
            ]
            .to_vec(),
        );
    }
    columns(&cells)
}

/// Lines of cells, in aligned columns.
pub(crate) fn columns(cells: &[Vec<String>]) -> String {
    let mut widths = vec![0; cells.iter().map(Vec::len).max().unwrap_or(0)];
    for line in cells {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in cells {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(row, "{cell:<width$}   ");
        }
        let _ = writeln!(text, "{}", row.trim_end());
    }
    text
}

fn reference(text: &str) -> Result<ImageReference, Failure> {
    match text.parse::<ImageReference>() {
        Ok(reference) => Ok(reference.with_default_tag()),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(FailureKind::Build, format!("there is no image `{name}` in the store"))
        .with_hint("`rbuild images` lists those there are")
}

/// `rbuild push`.
pub(crate) async fn push(
    session: Session,
    root: PathBuf,
    (name, registries): (&str, &RegistryArguments),
) -> Result<Option<String>, Failure> {
    let reference = reference(name)?;
    let store = session.open_store(root).await?;
    let client = registry::Client::new(registries.client_options()?);
    let (opened, wanted, name) = (store.clone(), reference.clone(), name.to_owned());
    let images = blocking(move || {
        let Some(image) = opened.image(&wanted).map_err(|error| store_failure(&error))? else {
            return Err(unknown(&name));
        };
        ImageSet::load(&opened, &image.target)
            .map_err(|error| Failure::from_error(FailureKind::Environment, &error))
    })
    .await?;
    let fetcher: Arc<dyn LayerFetcher> = Arc::new(Fetcher(ImageStore::new(store.clone(), client.clone())));
    let means = exporter::PushMeans { store: &store, client: &client, fetcher: &fetcher, streams: None };
    exporter::push(means, &images, &[reference]).await.map_err(|error| {
        let hint = match &error {
            exporter::ExportError::Push { source, .. } => source.hint(),
            _ => None,
        };
        Failure::from_error(FailureKind::Build, &error).with_hints(hint)
    })?;
    Ok(Some(format!("{}\n", images.descriptor().digest)))
}

/// `rbuild rmi`. All names are looked up before the first is removed.
pub(crate) async fn remove(
    session: Session,
    root: PathBuf,
    names: Vec<String>,
) -> Result<Option<String>, Failure> {
    let references: Vec<ImageReference> =
        names.iter().map(|name| reference(name)).collect::<Result<_, _>>()?;
    let store = session.open_store(root).await?;
    blocking(move || {
        for (name, reference) in names.iter().zip(&references) {
            store.image(reference).map_err(|error| store_failure(&error))?.ok_or_else(|| unknown(name))?;
        }
        let mut text = String::new();
        for reference in &references {
            store.untag(reference).map_err(|error| store_failure(&error))?;
            let _ = writeln!(text, "Untagged: {}", reference.familiar());
        }
        Ok(Some(text))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let row = Row {
            name: "localhost:5000/app".into(),
            tag: "v1".into(),
            digest: format!("sha256:{}", "ab".repeat(32)),
            size_bytes: 1500,
            created: Some("2024-05-06T07:08:09.5Z".into()),
        };
        let expected = "\
NAME                 TAG   DIGEST         SIZE     CREATED
localhost:5000/app   v1    abababababab   1.50kB   2024-05-06 07:08
";
        assert_eq!(table(&[row]), expected);
    }
}
