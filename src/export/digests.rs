//! Files that tell what was made.

use std::fmt::Write as _;
use std::path::PathBuf;

use exporter::ImageSet;
use oci::ImageReference;
use serde_json::{Map, Value, json};

use super::{Export, Exported};
use crate::arguments::BuildArguments;
use crate::images::id_of_set;
use crate::report::{Failure, FailureKind};
use crate::session::blocking;

/// Which files are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct DigestFiles {
    /// The ID (`--iidfile`).
    id: Option<PathBuf>,
    /// All that is known (`--metadata-file`).
    metadata: Option<PathBuf>,
    /// The digest (`--digest-file`).
    digest: Option<PathBuf>,
    /// The names without tags, each with the digest.
    names: Option<PathBuf>,
    /// The names with their tags, each with the digest.
    tags: Option<PathBuf>,
}

impl DigestFiles {
    /// Those that the command line asks for.
    pub(super) fn of(arguments: &BuildArguments) -> Self {
        Self {
            id: arguments.output.iidfile.clone(),
            metadata: arguments.output.metadata_file.clone(),
            digest: arguments.form.digest_file.clone(),
            names: arguments.form.image_name_with_digest_file.clone(),
            tags: arguments.form.image_name_tag_with_digest_file.clone(),
        }
    }

    /// Whether one of them tells all that is known.
    pub(super) fn tell_metadata(&self) -> bool {
        self.metadata.is_some()
    }

    /// Whether there are any.
    pub(super) fn are_wanted(&self) -> bool {
        let Self { id, metadata, digest, names, tags } = self;
        [id, metadata, digest, names, tags].iter().any(|file| file.is_some())
    }
}

impl Export<'_> {
    /// Writes the files that are wanted; `more` goes into that of `--metadata-file` as well.
    pub(crate) async fn write_digests(
        &self,
        exported: &Exported,
        mut more: Map<String, Value>,
    ) -> Result<(), Failure> {
        let files = self.outputs.files.clone();
        let mut written = Vec::new();
        let names = &exported.names;
        if let Some(images) = &exported.images {
            let digest = &images.descriptor().digest;
            written.push((files.id, id_of_set(images).to_string()));
            written.push((files.digest, digest.to_string()));
            let lines = |name: &dyn Fn(&ImageReference) -> String| {
                names.iter().fold(String::new(), |mut lines, reference| {
                    let _ = writeln!(lines, "{}@{digest}", name(reference));
                    lines
                })
            };
            written.push((files.names, lines(&|name| name.name())));
            written.push((files.tags, lines(&|name| name.without_digest().to_string())));
        }
        if let Some(path) = files.metadata {
            let images = exported.images.as_deref().map_or(&[][..], ImageSet::images);
            let layers: Vec<_> = images.iter().map(|image| image.layers.as_slice()).collect();
            more.extend(self.said.iter().flat_map(|said| said.metadata(&layers)));
            let metadata = metadata_of(exported.images.as_deref(), names, more);
            let text = serde_json::to_string_pretty(&metadata).expect("a JSON value can be written");
            written.push((Some(path), text));
        }
        for (path, text) in written {
            if let Some(path) = path {
                write_small_file(path, text).await?;
            }
        }
        Ok(())
    }
}

fn metadata_of(
    images: Option<&ImageSet>,
    names: &[ImageReference],
    mut metadata: Map<String, Value>,
) -> Map<String, Value> {
    let Some(images) = images else { return metadata };
    let descriptor = images.descriptor();
    metadata.insert("containerimage.descriptor".to_owned(), json!(descriptor));
    metadata.insert("containerimage.digest".to_owned(), json!(descriptor.digest));
    if let Some(image) = images.single() {
        let config = &image.config_descriptor.digest;
        metadata.insert("containerimage.config.digest".to_owned(), json!(config));
    }
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        metadata.insert("image.name".to_owned(), names.join(",").into());
    }
    metadata
}

async fn write_small_file(path: PathBuf, text: String) -> Result<(), Failure> {
    blocking(move || {
        std::fs::write(&path, text).map_err(|error| {
            Failure::new(FailureKind::Environment, format!("cannot write `{}`: {error}", path.display()))
        })
    })
    .await
}
