//! What has to agree between a record and an image.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::image::{Entry, Image, Layer, merge};

/// 2020-07-01T00:00:00Z: the one case that sets a later time has no time in its record.
const LAST_RECORDED_TIME: u64 = 1_593_561_600;

/// The differences between the recorded images and those that were built. `started` is when the build began, in
/// seconds since 1970: files that are not older have no time in the record.
pub(crate) fn images(expected: &Value, images: &[Image], bases: &[Image], started: u64) -> Vec<String> {
    let expected = expected.as_array().cloned().unwrap_or_default();
    if expected.len() != images.len() {
        return vec![format!("there are {} images, it should be {}", images.len(), expected.len())];
    }
    let pairs = expected.iter().zip(images);
    pairs.flat_map(|(expected, image)| compare_image(expected, image, bases, started)).collect()
}

fn compare_image(expected: &Value, image: &Image, bases: &[Image], started: u64) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, expected: &Value, actual: &Value| {
        if expected != actual {
            differences.push(format!("{what}:\n  expected {expected}\n  is       {actual}"));
        }
    };
    differ("platform", &expected["platform"], &image.platform);
    differ("config", &without_empty(&expected["config"]), &without_empty(&image.config["config"]));
    let text_or_empty = |value: &Value| json!(value.as_str().unwrap_or_default());
    differ("author", &text_or_empty(&expected["author"]), &text_or_empty(&image.config["author"]));
    differ("history", &history(&expected["history"]), &history(&image.config["history"]));
    differ("layers", &expected["layers"], &json!(image.layers.len()));

    let base = base_layers(image, bases);
    differ("new_layer_files", &expected["new_layer_files"], &new_layer_files(&image.layers[base..]));
    let below = merge(&image.layers[..base]);
    let tree = merge(&image.layers);
    let removed: Vec<&String> = below.keys().filter(|path| !tree.contains_key(*path)).collect();
    differ("removed", &expected["removed"], &json!(removed));
    differences.extend(compare_tree(&expected["fs"], &tree, &below, started));
    differences
}

/// How many of the image's layers are those of the base that it shares most with.
fn base_layers(image: &Image, bases: &[Image]) -> usize {
    let shares = |base: &&Image| {
        base.layers.len() <= image.layers.len()
            && base.layers.iter().zip(&image.layers).all(|(a, b)| a.diff_id == b.diff_id)
    };
    bases.iter().filter(shares).map(|base| base.layers.len()).max().unwrap_or(0)
}

fn new_layer_files(layers: &[Layer]) -> Value {
    let files = |layer: &Layer| -> Vec<String> {
        let names =
            layer.entries.iter().filter(|(_, entry)| entry.kind != "dir").map(|(path, _)| path.clone());
        names.collect::<BTreeSet<_>>().into_iter().collect()
    };
    json!(layers.iter().map(files).collect::<Vec<_>>())
}

fn without_empty(config: &Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    };
    let members = config.as_object().cloned().unwrap_or_default();
    let mut kept: Vec<_> =
        members.into_iter().filter(|(name, value)| name != "ArgsEscaped" && !is_empty(value)).collect();
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(kept.into_iter().map(|(name, value)| (name, sorted(value))).collect())
}

/// The same value with the members of its objects in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().collect();
            Value::Object(ordered.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        other => other,
    }
}

fn history(history: &Value) -> Value {
    let entry = |entry: &Value| {
        json!([
            entry["created_by"].as_str().unwrap_or_default(),
            entry["empty_layer"].as_bool().unwrap_or_default(),
            entry["author"].as_str().unwrap_or_default(),
        ])
    };
    json!(history.as_array().into_iter().flatten().map(entry).collect::<Vec<_>>())
}

fn compare_tree(
    expected: &Value,
    tree: &BTreeMap<String, Entry>,
    below: &BTreeMap<String, Entry>,
    started: u64,
) -> Vec<String> {
    let expected: BTreeMap<String, Map<String, Value>> = expected
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| {
            let path = entry["path"].as_str().expect("an entry has a path").to_owned();
            (path, entry.as_object().expect("an entry is an object").clone())
        })
        .collect();
    let (groups, groups_below) = (link_groups(tree), link_groups(below));
    let mut actual = BTreeMap::new();
    for (path, entry) in tree {
        let described = describe(path, entry, &groups, started);
        let base = below.get(path).map(|entry| describe(path, entry, &groups_below, started));
        let is_changed = base.is_none_or(|base| base != described);
        if is_changed || expected.contains_key(path) {
            actual.insert(path.clone(), described);
        }
    }
    let paths: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
    let mut differences = Vec::new();
    for path in paths {
        let wanted = expected.get(path).map(|entry| sorted(Value::Object(entry.clone())));
        let found = actual.get(path).map(|entry| sorted(Value::Object(entry.clone())));
        if wanted != found && !is_time_of_directory(wanted.as_ref(), found.as_ref(), below.contains_key(path))
        {
            let show = |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
            differences.push(format!("fs {path}:\n  expected {}\n  is       {}", show(wanted), show(found)));
        }
    }
    differences
}

/// A directory of the base that was written to is in the record only if more than its time changed.
fn is_time_of_directory(expected: Option<&Value>, actual: Option<&Value>, in_base: bool) -> bool {
    expected.is_none() && in_base && actual.is_some_and(|entry| entry["type"] == "dir")
}

fn link_groups(tree: &BTreeMap<String, Entry>) -> BTreeMap<usize, Vec<String>> {
    let mut groups: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(_, entry)| entry.kind != "dir") {
        groups.entry(entry.inode).or_default().push(path.clone());
    }
    groups
}

/// An entry in the words of the records.
fn describe(
    path: &str,
    entry: &Entry,
    groups: &BTreeMap<usize, Vec<String>>,
    started: u64,
) -> Map<String, Value> {
    let mut described = Map::new();
    let mut set = |name: &str, value: Value| {
        described.insert(name.to_owned(), value);
    };
    set("path", json!(path));
    set("type", json!(entry.kind));
    set("mode", json!(format!("{:04o}", entry.mode)));
    set("uid", json!(entry.uid));
    set("gid", json!(entry.gid));
    if entry.kind == "file" {
        set("size", json!(entry.size));
        set("sha256", json!(entry.sha256));
    }
    if entry.kind == "symlink" {
        set("link", json!(entry.link));
    }
    if matches!(entry.kind, "char" | "block") {
        set("dev", json!([entry.dev.0, entry.dev.1]));
    }
    if !entry.xattrs.is_empty() {
        set("xattrs", json!(entry.xattrs));
    }
    if let Some(group) = groups.get(&entry.inode).filter(|group| group.len() > 1) {
        set("linked", json!(group));
    }
    // The records leave out times after the middle of 2020 as those of their own build.
    if entry.mtime < started.min(LAST_RECORDED_TIME) {
        set("mtime", json!(entry.mtime));
    }
    described
}

/// The differences between the recorded answer of a `--call` and the one that was printed.
pub(crate) fn call(kind: &str, expected: &Value, stdout: &[u8]) -> Vec<String> {
    let actual: Value = match serde_json::from_slice(stdout) {
        Ok(actual) => actual,
        Err(error) => return vec![format!("the answer is no JSON: {error}")],
    };
    let relevant =
        |value: &Value| if kind == "check" { warnings(value) } else { sorted(without_sources(value)) };
    let (expected, actual) = (relevant(expected), relevant(&actual));
    if expected == actual {
        Vec::new()
    } else {
        vec![format!("{kind}:\n  expected {expected}\n  is       {actual}")]
    }
}

/// The text of the file is in no record.
fn without_sources(answer: &Value) -> Value {
    let members = answer.as_object().cloned().unwrap_or_default();
    members.into_iter().filter(|(name, _)| name != "sources").collect::<Map<_, _>>().into()
}

/// Each warning's rule and lines.
fn warnings(answer: &Value) -> Value {
    let warning = |warning: &Value| {
        let ranges = warning["location"]["ranges"].as_array().cloned().unwrap_or_default();
        let lines: Vec<Value> =
            ranges.iter().map(|range| json!([range["start"]["line"], range["end"]["line"]])).collect();
        json!([warning["ruleName"], lines]).to_string()
    };
    let mut list: Vec<String> = answer["warnings"].as_array().into_iter().flatten().map(warning).collect();
    list.sort();
    json!([list, answer["buildError"].is_object()])
}
