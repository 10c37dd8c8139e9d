//! .NET: `NAME.deps.json` beside a program.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

#[derive(Deserialize)]
struct Dependencies {
    /// By `name/version`.
    #[serde(default)]
    libraries: BTreeMap<String, Library>,
}

#[derive(Deserialize)]
struct Library {
    #[serde(rename = "type", default)]
    kind: String,
}

pub(super) fn is_dependencies(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(".deps.json"))
}

pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    let dependencies: Dependencies = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    let packages = dependencies.libraries.iter().filter(|(_, library)| library.kind == "package");
    let named = packages.filter_map(|(key, _)| key.rsplit_once('/'));
    Ok(named.map(|(name, version)| Package::new(PackageUrl::new("nuget", name, version))).collect())
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::Memory;

    #[test]
    fn packages_and_not_projects_are_told() {
        let text = r#"{"libraries": {"app/1.0.0": {"type": "project"},
            "Newtonsoft.Json/13.0.3": {"type": "package", "serviceable": true}}}"#;
        assert_eq!(Memory::of(&[("app/app.deps.json", text)]).urls(), ["pkg:nuget/Newtonsoft.Json@13.0.3"]);
    }
}
