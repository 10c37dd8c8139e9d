//! Ruby: `Gemfile.lock`, and the specifications of installed gems.

use std::path::Path;

use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

fn package(name: &str, version: &str) -> Package {
    Package::new(PackageUrl::new("gem", name, version))
}

/// Under `specs:`, lines with four spaces are packages, those with more what they ask for.
pub(super) fn read_lock(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    let mut packages = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if !line.starts_with(' ') {
            section = line.trim();
            continue;
        }
        // `PATH` is the project itself.
        let entry = line.strip_prefix("    ").filter(|_| matches!(section, "GEM" | "GIT"));
        let entry = entry.filter(|entry| !entry.starts_with(' '));
        if let Some((name, version)) = entry.and_then(|entry| entry.split_once(" (")) {
            packages.push(package(name, version.trim_end_matches(')')));
        }
    }
    Ok(packages)
}

/// `specifications/name-version.gemspec`.
pub(super) fn is_installed(path: &Path) -> bool {
    let directory =
        path.parent().filter(|_| path.extension().is_some_and(|extension| extension == "gemspec"));
    directory.is_some_and(|d| d.ends_with("specifications") || d.ends_with("specifications/default"))
}

/// The file is a program; its name says the same, and the licences stand in a line of a form that never changes.
pub(super) fn read_installed(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let stem = source.file_name().trim_end_matches(".gemspec");
    let is_version = |(at, _): &(usize, &str)| stem[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    let Some((at, _)) = stem.match_indices('-').find(is_version) else {
        return Err(Malformed::Form("its name has no version"));
    };
    let text = String::from_utf8_lossy(&source.bytes(1 << 20)?).into_owned();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("s.licenses = ["));
    let licenses: Vec<&str> = line.map_or_else(Vec::new, |line| line.split('"').skip(1).step_by(2).collect());
    let license = (!licenses.is_empty()).then(|| licenses.join(" OR "));
    Ok(vec![Package { license, ..package(&stem[..at], &stem[at + 1..]) }])
}

#[cfg(test)]
mod tests {
    use crate::scan::scan;
    use crate::scan::tests::Memory;

    #[test]
    fn locks_and_specifications_are_read() {
        let lock = "PATH\n  remote: .\n  specs:\n    own (0.1.0)\n\nGEM\n  remote: https://rubygems.org/\n  specs:\n    \
            rack (2.2.8)\n    rails (7.0.4)\n      rack (~> 2.0)\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n  rails\n";
        assert_eq!(
            Memory::of(&[("Gemfile.lock", lock)]).urls(),
            ["pkg:gem/rack@2.2.8", "pkg:gem/rails@7.0.4"]
        );
        let text = "Gem::Specification.new do |s|\n  s.name = \"net-http\".freeze\n  \
            s.licenses = [\"Ruby\".freeze, \"BSD-2-Clause\".freeze]\nend\n";
        let path = "usr/lib/ruby/gems/3.2.0/specifications/default/net-http-0.3.2.gemspec";
        let files = Memory::of(&[(path, text)]);
        assert_eq!(files.urls(), ["pkg:gem/net-http@0.3.2"]);
        assert_eq!(scan(&files).unwrap().packages[0].license.as_deref(), Some("Ruby OR BSD-2-Clause"));
    }
}
