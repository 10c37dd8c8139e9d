//! Lock files that are a list of packages with names and versions.

use serde::Deserialize;
use serde_json::Value;

use super::python;
use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

#[derive(Deserialize)]
struct TomlLock {
    #[serde(default)]
    package: Vec<TomlPackage>,
}

#[derive(Deserialize)]
struct TomlPackage {
    name: String,
    version: Option<String>,
}

fn toml_packages(source: &Source<'_>) -> Result<impl Iterator<Item = (String, String)>, Malformed> {
    let lock: TomlLock = toml::from_str(&source.text()?)?;
    Ok(lock.package.into_iter().filter_map(|package| Some((package.name, package.version?))))
}

/// `Cargo.lock`.
pub(super) fn read_cargo(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let packages = toml_packages(source)?;
    Ok(packages.map(|(name, version)| Package::new(PackageUrl::new("cargo", &name, &version))).collect())
}

/// `poetry.lock` and its like.
pub(super) fn read_python(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    Ok(toml_packages(source)?.map(|(name, version)| python::package(&name, &version)).collect())
}

/// `composer.lock`, and `installed.json`, which was a list before it was an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Composer {
    List(Vec<ComposerPackage>),
    Object {
        #[serde(default)]
        packages: Vec<ComposerPackage>,
        #[serde(default, rename = "packages-dev")]
        development: Vec<ComposerPackage>,
    },
}

#[derive(Deserialize)]
struct ComposerPackage {
    name: String,
    version: Option<String>,
    #[serde(default)]
    license: Value,
    homepage: Option<String>,
}

pub(super) fn read_composer(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let packages = match serde_json::from_slice(source.text()?.as_bytes())? {
        Composer::List(packages) => packages,
        Composer::Object { mut packages, development } => {
            packages.extend(development);
            packages
        }
    };
    let package = |package: ComposerPackage| {
        let url = PackageUrl::of_path("composer", &package.name, &package.version?);
        let licenses: Vec<&str> = match &package.license {
            Value::String(license) => vec![license],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let license = (!licenses.is_empty()).then(|| licenses.join(" OR "));
        Some(Package { license, homepage: package.homepage, ..Package::new(url) })
    };
    Ok(packages.into_iter().filter_map(package).collect())
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    #[test]
    fn composers_locks_are_read_with_licences() {
        let lock = r#"{"packages": [{"name": "monolog/monolog", "version": "2.9.1", "license": ["MIT"]}],
            "packages-dev": [{"name": "phpunit/phpunit", "version": "10.0.0", "license": ["BSD-3-Clause", "MIT"]}]}"#;
        let files = Memory::of(&[("composer.lock", lock)]);
        let expected = ["pkg:composer/monolog/monolog@2.9.1", "pkg:composer/phpunit/phpunit@10.0.0"];
        assert_eq!(files.urls(), expected);
        assert_eq!(scan(&files).unwrap().packages[1].license.as_deref(), Some("BSD-3-Clause OR MIT"));
        let old = r#"[{"name": "monolog/monolog", "version": "2.9.1"}]"#;
        assert_eq!(Memory::of(&[("vendor/composer/installed.json", old)]).urls(), expected[..1]);
    }
}
