//! What is known of a package.

use std::collections::BTreeSet;

use crate::PackageUrl;

/// A package that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What it is, where and in which version.
    pub url: PackageUrl,
    /// The licence as whoever made the package wrote it.
    pub license: Option<String>,
    /// Who made it.
    pub supplier: Option<Supplier>,
    /// Its page.
    pub homepage: Option<String>,
    /// The files that tell of it.
    pub found_in: BTreeSet<String>,
}

/// Who made a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supplier {
    /// Somebody, `name <address>`.
    Person(String),
    /// A company or a project.
    Organization(String),
}

impl Package {
    /// A package of which nothing else is known.
    pub(crate) fn new(url: PackageUrl) -> Self {
        Self { url, license: None, supplier: None, homepage: None, found_in: BTreeSet::new() }
    }

    /// Takes over what another file tells of the same package.
    pub(crate) fn merge(&mut self, other: Self) {
        self.license = self.license.take().or(other.license);
        self.supplier = self.supplier.take().or(other.supplier);
        self.homepage = self.homepage.take().or(other.homepage);
        self.found_in.extend(other.found_in);
    }
}

/// The distribution, as `/etc/os-release` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// `ID`: `debian`.
    pub id: String,
    /// `VERSION_ID`: `12`.
    pub version: Option<String>,
    /// `PRETTY_NAME`.
    pub name: Option<String>,
}

impl Distribution {
    /// What package URLs call it: `debian-12`.
    pub(crate) fn qualifier(&self) -> String {
        match &self.version {
            Some(version) => format!("{}-{version}", self.id),
            None => self.id.clone(),
        }
    }

    /// Reads `os-release`, which is written like a shell's variables; `None` where it has no `ID`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once('='));
            let value = lines.rfind(|(key, _)| *key == name)?.1;
            let value = value.trim().trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        };
        Some(Self { id: value("ID")?, version: value("VERSION_ID"), name: value("PRETTY_NAME") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n# ID=x\nID=debian\n";
        let debian = Distribution::parse(text).unwrap();
        assert_eq!(debian.qualifier(), "debian-12");
        assert_eq!(debian.name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(Distribution::parse("NAME=x\n"), None);
        assert_eq!(Distribution::parse("ID='arch'\nVERSION_ID=\n").unwrap().qualifier(), "arch");
    }
}
