//! npm: lock files of all three versions, and `package.json` of what is installed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::PackageUrl;
use crate::package::{Package, Supplier};
use crate::scan::{Malformed, Source};

#[derive(Deserialize)]
struct Lock {
    /// Since version 2, by the directory.
    #[serde(default)]
    packages: BTreeMap<String, Locked>,
    /// Before, by the name.
    #[serde(default)]
    dependencies: BTreeMap<String, Nested>,
}

#[derive(Deserialize)]
struct Locked {
    /// Where it is not what the directory says.
    name: Option<String>,
    version: Option<String>,
    license: Option<Value>,
    /// Whether it is another directory of the project.
    #[serde(default)]
    link: bool,
}

#[derive(Deserialize)]
struct Nested {
    version: Option<String>,
    #[serde(default)]
    dependencies: BTreeMap<String, Nested>,
}

pub(super) fn read_lock(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let lock: Lock = serde_json::from_slice(source.text()?.as_bytes())?;
    let mut packages = Vec::new();
    for (directory, locked) in lock.packages.iter().filter(|(_, locked)| !locked.link) {
        // What is not beneath `node_modules` is the project itself.
        let Some((_, name)) = directory.rsplit_once("node_modules/") else { continue };
        let name = locked.name.as_deref().unwrap_or(name);
        let Some(version) = &locked.version else { continue };
        packages
            .push(Package { license: locked.license.as_ref().and_then(license), ..package(name, version) });
    }
    // A lock of version 2 says all twice.
    if lock.packages.is_empty() {
        let mut open = vec![&lock.dependencies];
        while let Some(dependencies) = open.pop() {
            for (name, nested) in dependencies {
                packages.extend(nested.version.iter().map(|version| package(name, version)));
                open.push(&nested.dependencies);
            }
        }
    }
    Ok(packages)
}

pub(super) fn package(name: &str, version: &str) -> Package {
    Package::new(PackageUrl::of_path("npm", name, version))
}

/// `license`, or what came before it: `licenses`, and objects with a `type`.
fn license(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => value.get("type").and_then(license),
        Value::Array(several) => {
            let several: Vec<String> = several.iter().filter_map(license).collect();
            (!several.is_empty()).then(|| several.join(" OR "))
        }
        _ => None,
    }
}

/// `node_modules/name/package.json`, `node_modules/@scope/name/package.json`.
pub(super) fn is_installed(path: &Path) -> bool {
    let mut up =
        path.ancestors().skip(1).map(|directory| directory.file_name().and_then(|name| name.to_str()));
    path.ends_with("package.json")
        && match (up.next().flatten(), up.next().flatten(), up.next().flatten()) {
            (Some(_), Some("node_modules"), _) => true,
            (Some(_), Some(scope), Some("node_modules")) => scope.starts_with('@'),
            _ => false,
        }
}

#[derive(Deserialize)]
struct Manifest {
    name: Option<String>,
    version: Option<String>,
    license: Option<Value>,
    licenses: Option<Value>,
    author: Option<Value>,
    homepage: Option<Value>,
}

pub(super) fn read_installed(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    // Some editors begin files with a mark of the encoding, which npm takes.
    let manifest: Manifest = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let (Some(name), Some(version)) = (manifest.name, manifest.version) else { return Ok(Vec::new()) };
    let author = manifest.author.and_then(|author| match author {
        Value::String(text) => Some(text),
        author => author.get("name").and_then(Value::as_str).map(str::to_owned),
    });
    Ok(vec![Package {
        license: manifest.license.or(manifest.licenses).as_ref().and_then(license),
        supplier: author.filter(|author| !author.is_empty()).map(Supplier::Person),
        homepage: manifest.homepage.as_ref().and_then(Value::as_str).map(str::to_owned),
        ..package(&name, &version)
    }])
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    #[test]
    fn locks_of_all_versions_are_read() {
        let third = r#"{"name": "app", "lockfileVersion": 3, "packages": {
            "": {"name": "app", "version": "1.0.0"},
            "lib": {"name": "lib", "version": "0.1.0"},
            "node_modules/lib": {"resolved": "lib", "link": true},
            "node_modules/@babel/core": {"version": "7.24.0", "license": "MIT"},
            "node_modules/a/node_modules/b": {"version": "2.0.0"},
            "node_modules/alias": {"name": "real", "version": "3.0.0"}}}"#;
        let files = Memory::of(&[("app/package-lock.json", third)]);
        assert_eq!(files.urls(), ["pkg:npm/b@2.0.0", "pkg:npm/real@3.0.0", "pkg:npm/%40babel/core@7.24.0"]);
        let first = r#"{"lockfileVersion": 1, "dependencies": {
            "a": {"version": "1.0.0", "dependencies": {"b": {"version": "2.0.0"}}}}}"#;
        let files = Memory::of(&[("app/npm-shrinkwrap.json", first)]);
        assert_eq!(files.urls(), ["pkg:npm/a@1.0.0", "pkg:npm/b@2.0.0"]);
    }

    #[test]
    fn installed_packages_are_told_with_their_licences() {
        let files = Memory::of(&[
            ("app/package.json", r#"{"name": "app", "version": "1.0.0"}"#),
            (
                "app/node_modules/a/package.json",
                r#"{"name": "a", "version": "1.0.0", "license": {"type": "ISC"}}"#,
            ),
            ("app/node_modules/a/test/package.json", r#"{"name": "no", "version": "1.0.0"}"#),
            (
                "app/node_modules/@s/b/package.json",
                r#"{"name": "@s/b", "version": "2.0.0", "licenses": [{"type": "MIT"}, {"type": "ISC"}]}"#,
            ),
        ]);
        assert_eq!(files.urls(), ["pkg:npm/a@1.0.0", "pkg:npm/%40s/b@2.0.0"]);
        let packages = scan(&files).unwrap().packages;
        assert_eq!(packages[0].license.as_deref(), Some("ISC"));
        assert_eq!(packages[1].license.as_deref(), Some("MIT OR ISC"));
    }
}
