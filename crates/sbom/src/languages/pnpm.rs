//! `pnpm-lock.yaml`, whose `packages` are named by keys that became shorter with each version.

use yaml_rust2::YamlLoader;

use super::javascript::package;
use crate::package::Package;
use crate::scan::{Malformed, Source};

pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let documents = YamlLoader::load_from_str(&source.text()?)?;
    let Some(document) = documents.first() else { return Ok(Vec::new()) };
    let keys = document["packages"].as_hash().into_iter().flatten();
    Ok(keys.filter_map(|(key, _)| name_and_version(key.as_str()?)).map(|(n, v)| package(n, v)).collect())
}

/// `@a/b@1.0.0(peer@2.0.0)`, `/@a/b@1.0.0`, or `/@a/b/1.0.0_peer@2.0.0`. What comes from elsewhere has no version.
fn name_and_version(key: &str) -> Option<(&str, &str)> {
    let key = key.strip_prefix('/').unwrap_or(key);
    let key = key.split_once('(').map_or(key, |(key, _)| key);
    let name_end = if key.starts_with('@') { key.find('/')? + 1 } else { 0 };
    let at = name_end + key[name_end..].find(['@', '/'])?;
    let version = &key[at + 1..];
    let version = version.split_once('_').map_or(version, |(version, _)| version);
    version.starts_with(|c: char| c.is_ascii_digit()).then_some((&key[..at], version))
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::Memory;

    #[test]
    fn what_is_nested_too_deeply_is_refused() {
        let lock = format!("packages: {}", "[".repeat(200_000));
        let warnings = crate::scan::scan(&Memory::of(&[("pnpm-lock.yaml", lock)])).unwrap().warnings;
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn keys_of_all_versions_are_read() {
        for keys in [
            ["'@babel/core@7.24.0(react@18.2.0)'", "b@1.2.3"],
            ["/@babel/core@7.24.0(react@18.2.0)", "/b@1.2.3"],
            ["/@babel/core/7.24.0_react@18.2.0", "/b/1.2.3"],
        ] {
            let lock = format!(
                "lockfileVersion: 6\n\npackages:\n\n  {}:\n    resolution: {{integrity: x}}\n\n  {}:\n    \
                 resolution: {{integrity: y}}\n  file:lib:\n    resolution: {{directory: lib}}\n",
                keys[0], keys[1]
            );
            let urls = Memory::of(&[("pnpm-lock.yaml", lock)]).urls();
            assert_eq!(urls, ["pkg:npm/b@1.2.3", "pkg:npm/%40babel/core@7.24.0"]);
        }
    }
}
