//! Python: what is pinned, and the metadata of what is installed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::PackageUrl;
use crate::package::{Package, Supplier};
use crate::scan::{Malformed, Source};

/// Names are equal without regard to case and to which of `-`, `_` and `.` they have.
pub(super) fn package(name: &str, version: &str) -> Package {
    let mut normal = String::with_capacity(name.len());
    for c in name.trim().chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    Package::new(PackageUrl::new("pypi", &normal, version.trim()))
}

/// Only a line that pins a version (`name[extra]==1.0 ; marker --hash=…`) says which package there is.
pub(super) fn read_requirements(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    let pinned = text.lines().filter_map(|line| {
        let line = line.split(" #").next().unwrap_or_default().trim();
        let (name, version) = line.split_once("==").filter(|_| !line.starts_with(['#', '-']))?;
        let name = name.split('[').next().unwrap_or_default();
        let version = version.trim_start_matches('=').trim_start();
        let version = version.split([' ', ';', ',', '\\']).next().unwrap_or_default();
        let is_name = !name.is_empty() && !name.trim().contains(char::is_whitespace);
        (is_name && !version.is_empty() && !version.contains('*')).then(|| package(name, version))
    });
    Ok(pinned.collect())
}

#[derive(Deserialize)]
struct Pipfile {
    #[serde(default)]
    default: BTreeMap<String, Pinned>,
    #[serde(default)]
    develop: BTreeMap<String, Pinned>,
}

#[derive(Deserialize)]
struct Pinned {
    version: Option<String>,
}

pub(super) fn read_pipfile(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let lock: Pipfile = serde_json::from_slice(source.text()?.as_bytes())?;
    let all = lock.default.iter().chain(&lock.develop);
    let pinned =
        all.filter_map(|(name, pinned)| Some((name, pinned.version.as_deref()?.strip_prefix("==")?)));
    Ok(pinned.map(|(name, version)| package(name, version)).collect())
}

/// `NAME.dist-info/METADATA`, `NAME.egg-info/PKG-INFO`, or a file `NAME.egg-info`.
pub(super) fn is_installed(path: &Path) -> bool {
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|extension| extension == end);
    let parent = path.parent().unwrap_or(Path::new(""));
    (path.ends_with("METADATA") && ends(parent, "dist-info"))
        || (path.ends_with("PKG-INFO") && ends(parent, "egg-info"))
        || ends(path, "egg-info")
}

pub(super) fn read_installed(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = String::from_utf8_lossy(&source.bytes(16 << 20)?).into_owned();
    // The head of a mail; a description may follow after an empty line.
    let head = text.lines().take_while(|line| !line.trim().is_empty());
    let fields: Vec<(&str, &str)> = head.filter_map(|line| line.split_once(": ")).collect();
    let field = |name: &str| {
        let value = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name))?.1.trim();
        (!value.is_empty() && value != "UNKNOWN").then(|| value.to_owned())
    };
    let (Some(name), Some(version)) = (field("Name"), field("Version")) else {
        return Err(Malformed::Form("it has no `Name` and `Version`"));
    };
    Ok(vec![Package {
        license: field("License-Expression").or_else(|| field("License")),
        supplier: field("Author").or_else(|| field("Author-email")).map(Supplier::Person),
        homepage: field("Home-page"),
        ..package(&name, &version)
    }])
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    #[test]
    fn what_is_pinned_is_told() {
        let requirements = "# all\nDjango==4.2.1 ; python_version > '3'\nrequests[socks] == 2.31.0 \\\n    \
            --hash=sha256:00\nflask>=2\nzope.interface==6.*\n-r other==1.txt\nruamel.yaml===0.18.6  # why\n";
        assert_eq!(
            Memory::of(&[("app/requirements.txt", requirements)]).urls(),
            ["pkg:pypi/django@4.2.1", "pkg:pypi/requests@2.31.0", "pkg:pypi/ruamel-yaml@0.18.6"]
        );
        let pipfile = r#"{"default": {"Jinja2": {"version": "==3.1.2"}, "here": {"path": "."}},
            "develop": {"pytest": {"version": "==8.0.0"}}}"#;
        assert_eq!(
            Memory::of(&[("Pipfile.lock", pipfile)]).urls(),
            ["pkg:pypi/jinja2@3.1.2", "pkg:pypi/pytest@8.0.0"]
        );
        let poetry = "[[package]]\nname = \"Ruamel.Yaml\"\nversion = \"0.18.6\"\n\n[metadata]\nlock-version = \"2.0\"\n";
        assert_eq!(Memory::of(&[("poetry.lock", poetry)]).urls(), ["pkg:pypi/ruamel-yaml@0.18.6"]);
    }

    #[test]
    fn what_is_installed_is_told_with_its_licence() {
        let metadata = "Metadata-Version: 2.1\nName: Typing_Extensions\nVersion: 4.9.0\nLicense: PSF-2.0\nAuthor: A\n\n\
            Name: not this\n";
        let egg = "Metadata-Version: 1.0\nName: six\nVersion: 1.16.0\nLicense: UNKNOWN\n";
        let files = Memory::of(&[
            ("usr/lib/python3/site-packages/typing_extensions-4.9.0.dist-info/METADATA", metadata),
            ("usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO", egg),
        ]);
        assert_eq!(files.urls(), ["pkg:pypi/six@1.16.0", "pkg:pypi/typing-extensions@4.9.0"]);
        assert_eq!(scan(&files).unwrap().packages[1].license.as_deref(), Some("PSF-2.0"));
    }
}
