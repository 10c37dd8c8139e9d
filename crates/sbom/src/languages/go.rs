//! Go: `go.mod`, `go.sum`, and what the linker writes into programs.

use crate::PackageUrl;
use crate::package::Package;
use crate::scan::{Malformed, Source};

/// What stands for the version of a module that was built where it was made.
const NO_VERSION: &str = "(devel)";

fn package(path: &str, version: &str) -> Package {
    let version = if version == NO_VERSION { "" } else { version };
    Package::new(PackageUrl::of_path("golang", path, version))
}

/// What `require` asks for, or what `replace` puts in its place.
pub(super) fn read_module(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    let (mut required, mut replaced) = (Vec::new(), Vec::new());
    let mut block = None;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let mut words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
        match (block, words.as_slice()) {
            (_, [directive, "("]) => block = Some(*directive),
            (_, [")"]) => block = None,
            (Some(directive), _) => words.insert(0, directive),
            (None, _) => {}
        }
        match words.as_slice() {
            ["require", path, version] => required.push((*path, *version)),
            ["replace", path, "=>", by @ ..] => {
                replaced.push(Replacement { path, version: None, by: module(by) });
            }
            ["replace", path, version, "=>", by @ ..] => {
                replaced.push(Replacement { path, version: Some(version), by: module(by) });
            }
            _ => {}
        }
    }
    let packages = required.into_iter().filter_map(|(path, version)| {
        match replaced.iter().find(|replacement| replacement.is_for(path, version)) {
            None => Some(package(path, version)),
            Some(replacement) => replacement.by.map(|(path, version)| package(path, version)),
        }
    });
    Ok(packages.collect())
}

/// A module and its version; what stands without one is a directory of the project.
fn module<'t>(words: &[&'t str]) -> Option<(&'t str, &'t str)> {
    match words {
        [path, version] => Some((path, version)),
        _ => None,
    }
}

struct Replacement<'t> {
    path: &'t str,
    /// All versions where there is none.
    version: Option<&'t str>,
    by: Option<(&'t str, &'t str)>,
}

impl Replacement<'_> {
    fn is_for(&self, path: &str, version: &str) -> bool {
        self.path == path && self.version.is_none_or(|own| own == version)
    }
}

/// Modules whose files have a sum; of others only `go.mod` was looked at.
pub(super) fn read_sums(source: &Source<'_>) -> Result<Vec<Package>, Malformed> {
    let text = source.text()?;
    let modules = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (path, version) = (words.next()?, words.next()?);
        (!version.ends_with("/go.mod")).then(|| package(path, version))
    });
    Ok(modules.collect())
}

/// The section in which the linker puts what a program was made of.
pub(super) const SECTION: &str = ".go.buildinfo";

/// What stands in that section: since Go 1.18 two texts, each after its length, the version of Go and the modules.
pub(super) fn read_build_information(section: &[u8]) -> Option<Vec<Package>> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    const HEAD_BYTES: usize = 32;
    const INLINE: u8 = 2;
    let head = section.get(..HEAD_BYTES).filter(|head| head.starts_with(MAGIC) && head[15] & INLINE != 0)?;
    let (version, rest) = text(&section[head.len()..])?;
    let (modules, _) = text(rest)?;
    let version = std::str::from_utf8(version).ok()?.split(' ').next()?;
    // 16 bytes on both sides mark the text for those who look for it.
    let modules = modules.get(16..modules.len().checked_sub(16)?).unwrap_or_default();
    let modules = std::str::from_utf8(modules).ok()?;
    let mut packages = Vec::new();
    packages.extend(version.strip_prefix("go").map(|version| package("stdlib", version)));
    for line in modules.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        match words.as_slice() {
            ["mod" | "dep", path, version, ..] => packages.push(package(path, version)),
            ["=>", path, version, ..] => {
                packages.pop();
                packages.push(package(path, version));
            }
            _ => {}
        }
    }
    Some(packages)
}

/// A text after its length, which is written in sevens of bits, the lowest first.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut read) = (0_usize, 0);
    loop {
        let byte = *bytes.get(read)?;
        length |= usize::from(byte & 0x7f).checked_shl(7 * u32::try_from(read).ok()?)?;
        read += 1;
        if byte & 0x80 == 0 {
            return Some((bytes.get(read..read.checked_add(length)?)?, &bytes[read + length..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::tests::Memory;

    #[test]
    fn modules_are_told_after_replacements() {
        let module = "module example.com/app\n\ngo 1.22\n\nrequire (\n\tgithub.com/a/b v1.0.0 // indirect\n\t\
            github.com/c/d v2.0.0+incompatible\n\texample.com/local v0.0.0\n)\nrequire golang.org/x/sys v0.1.0\n\n\
            replace github.com/a/b => github.com/fork/b v1.0.1\nreplace example.com/local v0.0.0 => ../local\n";
        assert_eq!(
            Memory::of(&[("go.mod", module)]).urls(),
            [
                "pkg:golang/github.com/c/d@v2.0.0%2Bincompatible",
                "pkg:golang/github.com/fork/b@v1.0.1",
                "pkg:golang/golang.org/x/sys@v0.1.0",
            ]
        );
        let sums = "github.com/a/b v1.0.0 h1:x=\ngithub.com/a/b v1.0.0/go.mod h1:y=\ngithub.com/z/z v9.0.0/go.mod h1:z=\n";
        assert_eq!(Memory::of(&[("go.sum", sums)]).urls(), ["pkg:golang/github.com/a/b@v1.0.0"]);
    }

    #[test]
    fn build_information_is_read() {
        let modules = format!(
            "{0}path\texample.com/app\nmod\texample.com/app\t(devel)\t\ndep\tgithub.com/a/b\tv1.0.0\th1:x=\n=>\tgithub.com/fork/b\tv1.0.1\th1:y=\n{0}",
            "0123456789abcdef"
        );
        let mut section = b"\xff Go buildinf:\x08\x02".to_vec();
        section.resize(32, 0);
        section.push(8);
        section.extend(b"go1.22.1");
        section.extend([
            u8::try_from(modules.len() & 0x7f).unwrap() | 0x80,
            u8::try_from(modules.len() >> 7).unwrap(),
        ]);
        section.extend(modules.as_bytes());
        let urls = |section: &[u8]| -> Option<Vec<String>> {
            Some(read_build_information(section)?.iter().map(|package| package.url.to_string()).collect())
        };
        assert_eq!(
            urls(&section).unwrap(),
            ["pkg:golang/stdlib@1.22.1", "pkg:golang/example.com/app", "pkg:golang/github.com/fork/b@v1.0.1"]
        );
        for length in 0..section.len() {
            assert_eq!(urls(&section[..length]), None, "{length}");
        }
    }
}
