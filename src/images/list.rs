//! `rbuild images`.

use std::fmt::Write as _;

use cache::{ImageTag, Store};
use exporter::ImageSet;
use jiff::Timestamp;
use oci::{Digest, ImageReference};
use serde_json::json;

use super::flags::ListArguments;
use super::{columns, find, short, store_failure};
use crate::arguments::ListFormat;
use crate::progress::bytes;
use crate::report::Failure;

pub(super) fn list(store: &Store, arguments: &ListArguments) -> Result<String, Failure> {
    let images = store.images().map_err(|error| store_failure(&error))?;
    let mut rows = Vec::new();
    for image in &images {
        if is_wanted(&image.reference, arguments.name.as_deref())? {
            rows.push(Row::of(store, image));
        }
    }
    if arguments.quiet {
        return Ok(ids(&rows, arguments));
    }
    Ok(match arguments.format {
        ListFormat::Json => rows.iter().map(Row::json).collect(),
        ListFormat::Table => table(&rows, arguments),
    })
}

/// Whether a name is the one that was asked for: the whole, or its repository.
fn is_wanted(reference: &ImageReference, wanted: Option<&str>) -> Result<bool, Failure> {
    let Some(wanted) = wanted else { return Ok(true) };
    let familiar = reference.familiar();
    let (full, repository) = (reference.to_string(), without_tag(reference));
    for candidate in [familiar, full, repository, reference.name()] {
        let matches = pattern::match_path(wanted, candidate.as_bytes());
        let matches =
            matches.map_err(|error| Failure::usage(format!("invalid pattern `{wanted}`: {error}")))?;
        if matches {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A name as docker shows it, without tag and digest.
pub(super) fn without_tag(reference: &ImageReference) -> String {
    let familiar = reference.familiar();
    let end = familiar.find('@').unwrap_or(familiar.len());
    let name = &familiar[..end];
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    name.strip_suffix(&tag).unwrap_or(name).to_owned()
}

struct Row {
    name: String,
    tag: String,
    digest: Digest,
    id: Option<Digest>,
    platforms: Vec<String>,
    size_bytes: u64,
    created: Option<String>,
}

impl Row {
    /// An image whose manifest cannot be read is listed all the same, so that it can be removed.
    fn of(store: &Store, image: &ImageTag) -> Self {
        let images = ImageSet::load(store, &image.target).ok();
        let sizes = |images: &ImageSet| images.layers().iter().map(|layer| layer.size).sum();
        let platforms = images.iter().flat_map(ImageSet::images);
        Self {
            name: without_tag(&image.reference),
            tag: image.reference.tag().unwrap_or_default().to_owned(),
            digest: image.target.digest.clone(),
            id: images.as_ref().map(find::id_of_set),
            platforms: platforms.map(|image| image.platform.to_string()).collect(),
            size_bytes: images.as_ref().map_or(0, sizes),
            created: images.and_then(|images| images.created().map(str::to_owned)),
        }
    }

    fn json(&self) -> String {
        let row = json!({
            "name": self.name,
            "tag": self.tag,
            "digest": self.digest,
            "id": self.id,
            "platforms": self.platforms,
            "size_bytes": self.size_bytes,
            "created": self.created,
        });
        format!("{row}\n")
    }

    fn id(&self, arguments: &ListArguments) -> String {
        match &self.id {
            Some(id) if arguments.no_trunc => id.to_string(),
            Some(id) => short(id),
            None => "-".to_owned(),
        }
    }
}

/// The IDs, each once.
fn ids(rows: &[Row], arguments: &ListArguments) -> String {
    let mut ids: Vec<String> = Vec::new();
    for id in rows.iter().filter(|row| row.id.is_some()).map(|row| row.id(arguments)) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids.into_iter().fold(String::new(), |text, id| text + &id + "\n")
}

fn table(rows: &[Row], arguments: &ListArguments) -> String {
    let titles = ["NAME", "TAG", "DIGEST", "ID", "PLATFORM", "SIZE", "CREATED"];
    let mut cells = vec![titles.map(str::to_owned).to_vec()];
    for row in rows {
        let digest = if arguments.digests { row.digest.to_string() } else { short(&row.digest) };
        cells.push(vec![
            row.name.clone(),
            if row.tag.is_empty() { "-".to_owned() } else { row.tag.clone() },
            digest,
            row.id(arguments),
            row.platforms.join(","),
            bytes(row.size_bytes),
            time(row.created.as_deref()),
        ]);
    }
    columns(&cells)
}

/// A time for people; empty where it cannot be told.
pub(super) fn time(text: Option<&str>) -> String {
    let time = text.and_then(|text| text.parse::<Timestamp>().ok());
    let mut shown = String::new();
    if let Some(time) = time {
        let _ = write!(shown, "{}", time.strftime("%Y-%m-%d %H:%M"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let row = Row {
            name: "localhost:5000/app".into(),
            tag: "v1".into(),
            digest: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
            id: Some(format!("sha256:{}", "cd".repeat(32)).parse().unwrap()),
            platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
            size_bytes: 1500,
            created: Some("2024-05-06T07:08:09.5Z".into()),
        };
        let arguments = ListArguments {
            name: None,
            format: ListFormat::Table,
            quiet: false,
            digests: false,
            no_trunc: false,
            all: false,
        };
        let expected = "\
NAME                 TAG   DIGEST         ID             PLATFORM                  SIZE     CREATED
localhost:5000/app   v1    abababababab   cdcdcdcdcdcd   linux/amd64,linux/arm64   1.50kB   2024-05-06 07:08
";
        assert_eq!(table(&[row], &arguments), expected);
    }

    #[test]
    fn names_are_asked_for() {
        let reference: ImageReference = "app/web:v1".parse().unwrap();
        for wanted in
            ["app/web", "app/web:v1", "docker.io/app/web", "docker.io/app/web:v1", "app/*", "app/w*:v?"]
        {
            assert!(is_wanted(&reference, Some(wanted)).unwrap(), "{wanted}");
        }
        for wanted in ["app", "web", "app/web:v2", "*"] {
            assert!(!is_wanted(&reference, Some(wanted)).unwrap(), "{wanted}");
        }
    }
}
