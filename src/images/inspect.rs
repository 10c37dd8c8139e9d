//! `rbuild inspect`: what `docker image inspect` tells.

use cache::{ImageTag, Store};
use exporter::Assembled;
use jiff::Timestamp;
use oci::ImageReference;
use serde_json::{Value, json};

use super::flags::InspectArguments;
use super::list::without_tag;
use super::{export_failure, find_one, platform, read, store_failure};
use crate::report::{Failure, FailureKind};

pub(super) fn run(store: &Store, arguments: &InspectArguments) -> Result<String, Failure> {
    let platform = platform(arguments.platform.as_deref())?;
    let mut documents = Vec::new();
    let mut raw = String::new();
    for name in &arguments.images {
        let tag = find_one(store, name)?;
        let images = read(store, &tag, platform.as_ref())?;
        if arguments.raw {
            let bytes =
                store.blobs().read(&images.descriptor().digest).map_err(|error| store_failure(&error))?;
            raw += &String::from_utf8_lossy(&bytes);
            continue;
        }
        let names = Names::of(store, &tag)?;
        for image in images.images().iter().filter(|image| image.platform.os != "unknown") {
            documents.push(document(image, &names)?);
        }
    }
    if arguments.raw {
        return Ok(raw);
    }
    let text = serde_json::to_string_pretty(&documents).expect("a JSON value can be written");
    Ok(text + "\n")
}

/// What an image is called.
struct Names {
    tags: Vec<String>,
    digests: Vec<String>,
    tagged_at: i64,
}

impl Names {
    fn of(store: &Store, image: &ImageTag) -> Result<Self, Failure> {
        let all = store.images().map_err(|error| store_failure(&error))?;
        let same = all.iter().filter(|tag| tag.target.digest == image.target.digest);
        let references: Vec<&ImageReference> = same.map(|tag| &tag.reference).collect();
        let tagged = references.iter().filter(|reference| reference.tag().is_some());
        let tags = tagged.map(|reference| reference.familiar()).collect();
        let mut digests: Vec<String> = references
            .iter()
            .map(|reference| format!("{}@{}", without_tag(reference), image.target.digest))
            .collect();
        digests.dedup();
        Ok(Self { tags, digests, tagged_at: image.tagged_at })
    }
}

/// Members that an image does not have are left out, as docker does, save for those that scripts rely on.
fn document(image: &Assembled, names: &Names) -> Result<Value, Failure> {
    let config: Value = serde_json::from_slice(&image.config).map_err(|source| {
        let digest = image.config_descriptor.digest.clone();
        export_failure(&exporter::ExportError::Document { digest, source })
    })?;
    let member = |name: &str| config.get(name).cloned();
    let tagged_at = Timestamp::from_second(names.tagged_at).map_err(|error| {
        Failure::new(FailureKind::Environment, format!("the store has no good time: {error}"))
    })?;
    let size: u64 = image.layers.iter().map(|layer| layer.size).sum();
    let mut document = json!({
        "Id": image.config_descriptor.digest,
        "RepoTags": names.tags,
        "RepoDigests": names.digests,
        "Comment": comment(&config),
        "Created": member("created"),
        "Author": member("author").unwrap_or_else(|| "".into()),
        "Config": member("config").unwrap_or_else(|| json!({})),
        "Architecture": member("architecture"),
        "Os": member("os"),
        "Size": size,
        "RootFS": {
            "Type": "layers",
            "Layers": config.pointer("/rootfs/diff_ids").cloned().unwrap_or_else(|| json!([])),
        },
        "Metadata": { "LastTagTime": tagged_at.to_string() },
        "Descriptor": image.descriptor,
    });
    for (name, source) in [("Variant", "variant"), ("OsVersion", "os.version")] {
        if let Some(value) = member(source) {
            document[name] = value;
        }
    }
    Ok(document)
}

/// That of the last step, as docker has it.
fn comment(config: &Value) -> Value {
    let last = config.get("history").and_then(Value::as_array).and_then(|history| history.last());
    last.and_then(|entry| entry.get("comment")).cloned().unwrap_or_else(|| "".into())
}
