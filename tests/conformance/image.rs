//! Reads an OCI archive into what the records tell of an image.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// An image as far as the records tell of it.
pub(crate) struct Image {
    pub(crate) config: Value,
    pub(crate) layers: Vec<Layer>,
    pub(crate) platform: Value,
}

/// The entries of a layer in the order of the archive.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) diff_id: String,
    pub(crate) entries: Vec<(String, Entry)>,
}

/// What an entry of a layer or a merged tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) link: String,
    pub(crate) dev: (u32, u32),
    pub(crate) xattrs: BTreeMap<String, String>,
    /// Entries with the same number are one file.
    pub(crate) inode: usize,
}

type Files = BTreeMap<String, Vec<u8>>;

/// An OCI layout, in an archive or a directory.
pub(crate) struct Archive;

impl Archive {
    /// The images of an OCI archive, in the order of its index.
    pub(crate) fn read(path: &Path) -> Result<Vec<Image>, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let mut files = Files::new();
        for entry in tar::Archive::new(file).entries().map_err(|error| error.to_string())? {
            let mut entry = entry.map_err(|error| error.to_string())?;
            let name = entry.path().map_err(|error| error.to_string())?.to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(|error| error.to_string())?;
            files.insert(name, content);
        }
        images(&|name| files.get(name).cloned())
    }

    /// The images of an OCI layout.
    pub(crate) fn read_directory(path: &Path) -> Result<Vec<Image>, String> {
        images(&|name| std::fs::read(path.join(name)).ok())
    }
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<Vec<u8>>;

fn images(lookup: Lookup<'_>) -> Result<Vec<Image>, String> {
    let index = lookup("index.json").ok_or("there is no index.json")?;
    let index: Value = serde_json::from_slice(&index).map_err(|error| error.to_string())?;
    manifests(lookup, &index)
}

fn manifests(lookup: Lookup<'_>, index: &Value) -> Result<Vec<Image>, String> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for descriptor in index["manifests"].as_array().into_iter().flatten() {
        let digest = descriptor["digest"].as_str().ok_or("a descriptor has no digest")?;
        if seen.contains(&digest) {
            continue;
        }
        seen.push(digest);
        let document: Value =
            serde_json::from_slice(&blob(lookup, digest)?).map_err(|error| error.to_string())?;
        if document["manifests"].is_array() {
            found.extend(manifests(lookup, &document)?);
        } else {
            found.push(image(lookup, &document)?);
        }
    }
    Ok(found)
}

/// A blob, whose digest must be right.
fn blob(lookup: Lookup<'_>, digest: &str) -> Result<Vec<u8>, String> {
    let digits = digest.strip_prefix("sha256:").ok_or("a digest is not sha256")?;
    let bytes =
        lookup(&format!("blobs/sha256/{digits}")).ok_or_else(|| format!("there is no blob {digest}"))?;
    if sha256(&bytes) != digits {
        return Err(format!("the blob {digest} has another digest"));
    }
    Ok(bytes)
}

fn image(lookup: Lookup<'_>, manifest: &Value) -> Result<Image, String> {
    let text =
        |value: &Value| value.as_str().map(str::to_owned).ok_or("a descriptor has no digest".to_owned());
    let config = blob(lookup, &text(&manifest["config"]["digest"])?)?;
    let config: Value = serde_json::from_slice(&config).map_err(|error| error.to_string())?;
    let mut layers = Vec::new();
    for descriptor in manifest["layers"].as_array().into_iter().flatten() {
        layers.push(layer(&blob(lookup, &text(&descriptor["digest"])?)?)?);
    }
    let diff_ids: Vec<&str> =
        config["rootfs"]["diff_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let actual: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    if diff_ids != actual {
        return Err(format!("the config's diff IDs {diff_ids:?} are not those of the layers {actual:?}"));
    }
    let mut platform = serde_json::Map::new();
    for key in ["architecture", "os", "variant"] {
        if let Some(value) = config[key].as_str().filter(|value| !value.is_empty()) {
            platform.insert(key.to_owned(), value.into());
        }
    }
    Ok(Image { platform: Value::Object(platform), config, layers })
}

fn layer(blob: &[u8]) -> Result<Layer, String> {
    let mut bytes = Vec::new();
    if blob.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    } else {
        bytes.extend_from_slice(blob);
    }
    let diff_id = format!("sha256:{}", sha256(&bytes));
    let mut entries = Vec::new();
    for (number, entry) in
        tar::Archive::new(&bytes[..]).entries().map_err(|error| error.to_string())?.enumerate()
    {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        entries.push((absolute(&path), read_entry(&mut entry, number)?));
    }
    Ok(Layer { diff_id, entries })
}

fn absolute(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    format!("/{path}")
}

fn read_entry(entry: &mut tar::Entry<'_, &[u8]>, number: usize) -> Result<Entry, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut xattrs = BTreeMap::new();
    if let Some(extensions) = entry.pax_extensions().map_err(text)? {
        for extension in extensions {
            let extension = extension.map_err(text)?;
            let key = extension.key().map_err(|error| error.to_string())?;
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), hexadecimal(extension.value_bytes()));
            }
        }
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(text)?;
    let header = entry.header();
    let kind = match header.entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => "file",
        tar::EntryType::Link => "hard link",
        tar::EntryType::Directory => "dir",
        tar::EntryType::Symlink => "symlink",
        tar::EntryType::Char => "char",
        tar::EntryType::Block => "block",
        tar::EntryType::Fifo => "fifo",
        other => return Err(format!("an entry has the type {other:?}")),
    };
    let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
    let is_device = matches!(kind, "char" | "block");
    let device = |number: Option<u32>| if is_device { number.unwrap_or_default() } else { 0 };
    Ok(Entry {
        kind,
        mode: header.mode().map_err(text)? & 0o7777,
        uid: header.uid().map_err(text)?,
        gid: header.gid().map_err(text)?,
        mtime: header.mtime().map_err(text)?,
        size: if kind == "file" { content.len() as u64 } else { 0 },
        sha256: if kind == "file" { sha256(&content) } else { String::new() },
        link: link.unwrap_or_default(),
        dev: (device(header.device_major().map_err(text)?), device(header.device_minor().map_err(text)?)),
        xattrs,
        inode: number,
    })
}

fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string can be written to");
        text
    })
}

/// The tree that layers make, applied in order.
pub(crate) fn merge(layers: &[Layer]) -> BTreeMap<String, Entry> {
    let mut tree: BTreeMap<String, Entry> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        apply_whiteouts(&mut tree, layer);
        for (path, entry) in layer.entries.iter().filter(|(path, _)| whiteout_target(path).is_none()) {
            let mut entry = entry.clone();
            if entry.kind == "hard link" {
                entry = tree.get(&absolute(&entry.link)).cloned().unwrap_or(entry);
            } else {
                entry.inode += (number + 1) << 32;
            }
            let replaces_directory =
                tree.get(path).is_some_and(|old| old.kind == "dir") && entry.kind != "dir";
            if replaces_directory {
                remove_below(&mut tree, path);
            }
            tree.insert(path.clone(), entry);
        }
    }
    tree.remove("/");
    tree
}

fn apply_whiteouts(tree: &mut BTreeMap<String, Entry>, layer: &Layer) {
    for (path, _) in &layer.entries {
        match whiteout_target(path) {
            Some(Whiteout::Name(target)) => {
                remove_below(tree, &target);
                tree.remove(&target);
            }
            Some(Whiteout::Opaque(directory)) => remove_below(tree, &directory),
            None => {}
        }
    }
}

enum Whiteout {
    Name(String),
    Opaque(String),
}

fn whiteout_target(path: &str) -> Option<Whiteout> {
    let (directory, name) = path.rsplit_once('/')?;
    match name.strip_prefix(".wh.")? {
        ".wh..opq" => Some(Whiteout::Opaque(directory.to_owned())),
        name => Some(Whiteout::Name(format!("{directory}/{name}"))),
    }
}

fn remove_below(tree: &mut BTreeMap<String, Entry>, directory: &str) {
    let prefix = format!("{directory}/");
    tree.retain(|path, _| !path.starts_with(&prefix));
}
