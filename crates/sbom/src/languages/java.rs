//! Java: what Maven puts into archives, `META-INF/maven/GROUP/NAME/pom.properties`.

use super::archive;
use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

/// A few lines each.
const PROPERTIES_BYTES: u64 = 64 << 10;

pub(super) fn read_archive(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let mut file = source.open()?;
    let is_wanted = |name: &str| name.starts_with("META-INF/maven/") && name.ends_with("/pom.properties");
    let found = archive::members(&mut file, is_wanted, PROPERTIES_BYTES)?;
    Ok(found.iter().filter_map(|bytes| package(&String::from_utf8_lossy(bytes))).collect())
}

pub(super) fn read_properties(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let bytes = source.bytes(PROPERTIES_BYTES)?;
    Ok(package(&String::from_utf8_lossy(&bytes)).into_iter().collect())
}

fn package(properties: &str) -> Option<Package> {
    let value = |name: &str| {
        let lines = properties.lines().filter_map(|line| line.split_once('='));
        lines
            .map(|(key, value)| (key.trim(), value.trim()))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let url = PackageUrl::new("maven", value("artifactId")?, value("version")?);
    Some(Package::new(url.within(Some(value("groupId")?))))
}

#[cfg(test)]
mod tests {
    use super::archive::tests::zip;
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    #[test]
    fn archives_are_read() {
        let properties =
            b"#Generated\nversion=2.14.1\ngroupId=org.apache.logging.log4j\nartifactId=log4j-core\n";
        let name = "META-INF/maven/org.apache.logging.log4j/log4j-core/pom.properties";
        let jar = zip(&[("META-INF/MANIFEST.MF", b"x"), (name, properties)]);
        let files = Memory::of(&[("app/lib/log4j-core.jar", jar.as_slice())]);
        assert_eq!(files.urls(), ["pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"]);
        // Wherever an archive is cut, it is malformed or has less in it.
        for length in 0..jar.len() {
            scan(&Memory::of(&[("a.jar", &jar[..length])])).unwrap();
        }
    }
}
