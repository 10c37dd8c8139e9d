//! apk's database: paragraphs of `letter:value`, one for each package.

use std::collections::BTreeMap;

use crate::package::{Package, Supplier};
use crate::scan::{Malformed, Source};
use crate::{Distribution, PackageUrl};

pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    Ok(text.split("\n\n").filter_map(|paragraph| package(paragraph, source.distribution)).collect())
}

fn package(paragraph: &str, distribution: Option<&Distribution>) -> Option<Package> {
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    for (letter, value) in paragraph.lines().filter_map(|line| line.split_once(':')) {
        // Of the letters that tell of files there are many; the package's own come first.
        fields.entry(letter).or_insert(value.trim());
    }
    let (name, version) = (*fields.get("P")?, *fields.get("V")?);
    let url = PackageUrl::new("apk", name, version)
        .within(Some(distribution.map_or("alpine", |distribution| &distribution.id)))
        .with("arch", fields.get("A").copied())
        .with("distro", distribution.map(Distribution::qualifier))
        .with("upstream", fields.get("o").copied().filter(|origin| *origin != name));
    Some(Package {
        license: fields.get("L").map(|license| (*license).to_owned()),
        supplier: fields.get("m").map(|maintainer| Supplier::Person((*maintainer).to_owned())),
        homepage: fields.get("U").map(|page| (*page).to_owned()),
        ..Package::new(url)
    })
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    const INSTALLED: &str = "\
C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:alpine-baselayout-data
V:3.4.3-r2
A:x86_64
S:11664
I:77824
T:Alpine base dir structure and init scripts
U:https://git.alpinelinux.org/cgit/aports/tree/main/alpine-baselayout
L:GPL-2.0-only
o:alpine-baselayout
m:Natanael Copa <ncopa@alpinelinux.org>
t:1714981135
F:etc
R:fstab
Z:Q11Q7hNe8QpDS531guqCdrXBzoA/o=

P:busybox
V:1.36.1-r15
A:x86_64
L:GPL-2.0-only
o:busybox
";

    #[test]
    fn packages_are_told() {
        let release = "ID=alpine\nVERSION_ID=3.19.1\n";
        for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
            let files = Memory::of(&[(path, INSTALLED), ("etc/os-release", release)]);
            assert_eq!(
                files.urls(),
                [
                    "pkg:apk/alpine/alpine-baselayout-data@3.4.3-r2?arch=x86_64&distro=alpine-3.19.1&upstream=alpine-baselayout",
                    "pkg:apk/alpine/busybox@1.36.1-r15?arch=x86_64&distro=alpine-3.19.1",
                ]
            );
            assert_eq!(scan(&files).unwrap().packages[0].license.as_deref(), Some("GPL-2.0-only"));
        }
    }
}
