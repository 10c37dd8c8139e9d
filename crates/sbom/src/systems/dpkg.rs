//! dpkg's status: paragraphs of `Field: value` (deb-control(5)), one for each package.

use std::collections::BTreeMap;
use std::path::Path;

use crate::package::{Package, Supplier};
use crate::scan::{Malformed, Source};
use crate::{Distribution, PackageUrl};

/// `status` itself, and `status.d/<package>` of images without a package manager.
pub(super) fn is_status(path: &Path) -> bool {
    let is_own = path.ends_with("var/lib/dpkg/status");
    let is_part = path.parent().is_some_and(|directory| directory.ends_with("var/lib/dpkg/status.d"));
    // `<package>.md5sums` lists its files.
    is_own || (is_part && path.extension().is_none_or(|extension| extension != "md5sums"))
}

pub(super) fn read(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    Ok(paragraphs(&text).iter().filter_map(|fields| package(fields, source.distribution)).collect())
}

type Paragraph<'t> = BTreeMap<&'t str, &'t str>;

/// Each paragraph with the first lines of its fields; what they go on with is prose.
fn paragraphs(text: &str) -> Vec<Paragraph<'_>> {
    let mut paragraphs = vec![Paragraph::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            paragraphs.push(Paragraph::new());
        } else if !line.starts_with([' ', '\t'])
            && let Some((field, value)) = line.split_once(':')
            && let Some(last) = paragraphs.last_mut()
        {
            last.insert(field, value.trim());
        }
    }
    paragraphs
}

fn package(fields: &Paragraph<'_>, distribution: Option<&Distribution>) -> Option<Package> {
    // `want flag status`: what was removed and left its configuration behind is not there. Parts have no such field.
    if fields.get("Status").is_some_and(|status| status.split(' ').nth(2) != Some("installed")) {
        return None;
    }
    let (name, version) = (*fields.get("Package")?, *fields.get("Version")?);
    // `name (version)`, where they differ from the package's.
    let upstream = fields.get("Source").map(|source| {
        let (name, of) = source.split_once(' ').unwrap_or((source, ""));
        let of = of.trim_matches(['(', ')']);
        if of.is_empty() { name.to_owned() } else { format!("{name}@{of}") }
    });
    let url = PackageUrl::new("deb", name, version)
        .within(Some(distribution.map_or("debian", |distribution| &distribution.id)))
        .with("arch", fields.get("Architecture").copied())
        .with("distro", distribution.map(Distribution::qualifier))
        .with("upstream", upstream);
    Some(Package {
        supplier: fields.get("Maintainer").map(|maintainer| Supplier::Person((*maintainer).to_owned())),
        homepage: fields.get("Homepage").map(|page| (*page).to_owned()),
        ..Package::new(url)
    })
}

#[cfg(test)]
mod tests {
    use crate::scan::tests::Memory;

    const STATUS: &str = "\
Package: libc6
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 13000
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u10
Depends: libgcc-s1
Description: GNU C Library: Shared libraries
 Contains the standard libraries that are used by nearly all programs on
 the system. Package: no field
 .
 and more.
Homepage: https://www.gnu.org/software/libc/libc.html

Package: vim
Status: deinstall ok config-files
Architecture: amd64
Version: 2:9.0

Package: bash
Status: install ok installed
Architecture: amd64
Source: bash (5.2.15-2)
Version: 5.2.15-2+b8
";

    #[test]
    fn installed_packages_are_told() {
        let release = "ID=debian\nVERSION_ID=\"12\"\n";
        let files = Memory::of(&[("var/lib/dpkg/status", STATUS), ("usr/lib/os-release", release)]);
        assert_eq!(
            files.urls(),
            [
                "pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2",
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12&upstream=glibc",
            ]
        );
    }

    #[test]
    fn images_without_a_package_manager_have_a_file_for_each_package() {
        let tzdata = "Package: tzdata\nVersion: 2024a-0\nArchitecture: all\nMaintainer: x <x@y>\n";
        let files = Memory::of(&[
            ("var/lib/dpkg/status.d/tzdata", tzdata),
            ("var/lib/dpkg/status.d/tzdata.md5sums", "0123  usr/share/x\n"),
        ]);
        assert_eq!(files.urls(), ["pkg:deb/debian/tzdata@2024a-0?arch=all"]);
    }
}
