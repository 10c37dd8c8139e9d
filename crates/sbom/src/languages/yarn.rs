//! `yarn.lock`: the format of Yarn 1, which is its own, and that of later versions, which is YAML.

use yaml_rust2::YamlLoader;

use super::javascript::package;
use crate::package::Package;
use crate::scan::{Malformed, Source};

pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    if text.contains("\n__metadata:") { read_yaml(&text) } else { Ok(read_first(&text)) }
}

/// A line at the margin names what asks for a package (`"@a/b@^1.0.0", b@1:`), and a `version` follows.
fn read_first(text: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    let mut name = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.ends_with(':') && !line.starts_with(' ') {
            name = line.trim_end_matches(':').split(", ").next().and_then(name_of);
        } else if let (Some(name), Some(version)) = (name, line.strip_prefix("  version ")) {
            packages.push(package(name, version.trim_matches('"')));
        }
    }
    packages
}

fn read_yaml(text: &str) -> Result<Vec<Package>, Malformed> {
    let documents = YamlLoader::load_from_str(text)?;
    let mut packages = Vec::new();
    for (_, entry) in documents.first().and_then(|document| document.as_hash()).into_iter().flatten() {
        // `name@npm:1.0.0`; those of the project are `name@workspace:directory`.
        let Some((name, rest)) = entry["resolution"].as_str().and_then(parts_of) else { continue };
        if !rest.starts_with("npm:") {
            continue;
        }
        packages.extend(entry["version"].as_str().map(|version| package(name, version)));
    }
    Ok(packages)
}

/// What stands before and after the first `@` that is not the first character.
fn parts_of(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_matches('"');
    let (at, _) = text.char_indices().skip(1).find(|(_, c)| *c == '@')?;
    Some((&text[..at], &text[at + 1..]))
}

fn name_of(text: &str) -> Option<&str> {
    parts_of(text).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::Memory;

    #[test]
    fn both_formats_are_read() {
        let first = "# yarn lockfile v1\n\n\n\"@babel/core@^7.0.0\", \"@babel/core@^7.1.0\":\n  version \"7.24.0\"\n  \
            resolved \"https://x\"\n  dependencies:\n    b \"^1.0.0\"\n\nb@^1.0.0:\n  version \"1.2.3\"\n";
        let expected = ["pkg:npm/b@1.2.3", "pkg:npm/%40babel/core@7.24.0"];
        assert_eq!(Memory::of(&[("yarn.lock", first)]).urls(), expected);
        let later = "# This file is generated\n\n__metadata:\n  version: 8\n\n\"@babel/core@npm:^7.0.0\":\n  \
            version: 7.24.0\n  resolution: \"@babel/core@npm:7.24.0\"\n  languageName: node\n\n\"app@workspace:.\":\n  \
            version: 0.0.0-use.local\n  resolution: \"app@workspace:.\"\n\n\"b@npm:^1.0.0\":\n  version: 1.2.3\n  \
            resolution: \"b@npm:1.2.3\"\n";
        assert_eq!(Memory::of(&[("yarn.lock", later)]).urls(), expected);
    }
}
