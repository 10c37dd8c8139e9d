//! Package URLs (the purl specification): `type/namespace/name@version?qualifiers`.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What needs no escape: the specification names these marks.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Versions and values may hold a colon as it is.
const VALUE: &AsciiSet = &PLAIN.remove(b':');

/// A package URL. Two packages with equal URLs are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageUrl {
    /// What manages the package: `deb`, `npm`.
    pub kind: &'static str,
    /// What comes before the name, its parts divided by slashes: a distribution, a scope, a group.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The version.
    pub version: Option<String>,
    /// What else tells it from others.
    pub qualifiers: BTreeMap<&'static str, String>,
}

impl PackageUrl {
    /// A package without a namespace and qualifiers.
    pub fn new(kind: &'static str, name: &str, version: &str) -> Self {
        Self {
            kind,
            namespace: None,
            name: name.to_owned(),
            version: Some(version.to_owned()).filter(|version| !version.is_empty()),
            qualifiers: BTreeMap::new(),
        }
    }

    /// The same, with what comes before the last slash of `path` as the namespace.
    pub fn of_path(kind: &'static str, path: &str, version: &str) -> Self {
        match path.rsplit_once('/') {
            Some((namespace, name)) => Self::new(kind, name, version).within(Some(namespace)),
            None => Self::new(kind, path, version),
        }
    }

    /// With a namespace.
    #[must_use]
    pub fn within(mut self, namespace: Option<&str>) -> Self {
        self.namespace = namespace.map(str::to_owned);
        self
    }

    /// With a qualifier, where it has a value.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        if let Some(value) = value.map(Into::into).filter(|value| !value.is_empty()) {
            self.qualifiers.insert(name, value);
        }
        self
    }

    /// The name with what belongs to it in the words of its package manager: `@scope/name`, `github.com/a/b`.
    pub fn full_name(&self) -> String {
        let divider = if self.kind == "maven" { ':' } else { '/' };
        match (&self.namespace, self.kind) {
            (None, _) | (Some(_), "deb" | "apk" | "rpm") => self.name.clone(),
            (Some(namespace), _) => format!("{namespace}{divider}{}", self.name),
        }
    }
}

impl fmt::Display for PackageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}/", self.kind)?;
        for part in self.namespace.iter().flat_map(|namespace| namespace.split('/')) {
            write!(f, "{}/", utf8_percent_encode(part, PLAIN))?;
        }
        write!(f, "{}", utf8_percent_encode(&self.name, PLAIN))?;
        if let Some(version) = &self.version {
            write!(f, "@{}", utf8_percent_encode(version, VALUE))?;
        }
        for (number, (name, value)) in self.qualifiers.iter().enumerate() {
            let mark = if number == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", utf8_percent_encode(value, VALUE))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_escaped_as_the_specification_says() {
        let deb = PackageUrl::new("deb", "libstdc++6", "1:12.2.0-14+deb12u1").within(Some("debian"));
        let deb =
            deb.with("arch", Some("amd64")).with("distro", Some("debian-12")).with("upstream", Some(""));
        assert_eq!(
            deb.to_string(),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
        );
        let npm = PackageUrl::of_path("npm", "@babel/core", "7.0.0");
        assert_eq!(npm.to_string(), "pkg:npm/%40babel/core@7.0.0");
        assert_eq!(npm.full_name(), "@babel/core");
        let image = PackageUrl::of_path("docker", "localhost:5000/app", "v1");
        let image = image.with("platform", Some("linux/amd64"));
        assert_eq!(image.to_string(), "pkg:docker/localhost%3A5000/app@v1?platform=linux%2Famd64");
    }
}
