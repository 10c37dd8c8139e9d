//! `Dockerfile.lock`: what the sources of a Dockerfile are, so that they are the same tomorrow and elsewhere.
//!
//! ```toml
//! version = 1
//!
//! [[image]]
//! name = "docker.io/library/busybox:latest"
//! digest = "sha256:…"
//!
//! [[file]]
//! url = "https://example.com/x.tar.gz"
//! digest = "sha256:…"
//!
//! [[repository]]
//! url = "https://example.com/x.git"
//! ref = "v1"                # none: the default branch
//! commit = "…"
//! tag = "…"                 # the tag object, where there is one
//! name = "refs/tags/v1"
//! ```

use std::io;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::{Deserialize, Serialize};
use worker::{GitVersion, SourceVersions};

use crate::inputs::replace_file;
use crate::report::{Failure, FailureKind};

const VERSION: u32 = 1;
const HEAD: &str = "\
# What the sources of the Dockerfile are. Builds take these; `rbuild --lock` brings them up to date.
";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockFile {
    version: u32,
    #[serde(default, rename = "image", skip_serializing_if = "Vec::is_empty")]
    images: Vec<LockedImage>,
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    files: Vec<LockedFile>,
    #[serde(default, rename = "repository", skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<LockedRepository>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedImage {
    name: String,
    digest: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedFile {
    url: String,
    digest: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedRepository {
    url: String,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    commit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// Where the lock file of a Dockerfile is.
pub(crate) fn path_of(dockerfile: &Path) -> PathBuf {
    let mut path = dockerfile.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Reads a lock file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<SourceVersions>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("cannot read `{}`: {error}", path.display()))),
    };
    parse(&text).map(Some).map_err(|problem| {
        Failure::usage(format!("`{}` is not right: {}", path.display(), problem.trim_end()))
            .with_hint("`--lock` writes it anew")
    })
}

fn parse(text: &str) -> Result<SourceVersions, String> {
    let file: LockFile = toml::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("its version is {}, and this program knows {VERSION}", file.version));
    }
    let is_hash = |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    for repository in &file.repositories {
        if let Some(wrong) = std::iter::once(&repository.commit).chain(&repository.tag).find(|t| !is_hash(t))
        {
            return Err(format!("`{wrong}` is no hash of a commit or a tag"));
        }
    }
    let repository = |locked: LockedRepository| {
        let LockedRepository { url, reference, commit, tag, name } = locked;
        ((url, reference), GitVersion { commit, tag, name })
    };
    Ok(SourceVersions {
        images: file.images.into_iter().map(|image| (image.name, image.digest)).collect(),
        files: file.files.into_iter().map(|file| (file.url, file.digest)).collect(),
        repositories: file.repositories.into_iter().map(repository).collect(),
    })
}

fn render(versions: &SourceVersions) -> String {
    let repository = |((url, reference), version): (&(String, Option<String>), &GitVersion)| {
        let GitVersion { commit, tag, name } = version.clone();
        LockedRepository { url: url.clone(), reference: reference.clone(), commit, tag, name }
    };
    let image =
        |(name, digest): (&String, &Digest)| LockedImage { name: name.clone(), digest: digest.clone() };
    let file = |(url, digest): (&String, &Digest)| LockedFile { url: url.clone(), digest: digest.clone() };
    let file = LockFile {
        version: VERSION,
        images: versions.images.iter().map(image).collect(),
        files: versions.files.iter().map(file).collect(),
        repositories: versions.repositories.iter().map(repository).collect(),
    };
    let text = toml::to_string(&file).expect("texts and lists can always be written");
    format!("{HEAD}{text}")
}

/// Writes what a build has found to a lock file. What the file says of sources that this build did not reach stays:
/// they may be those of another target.
pub(crate) fn write(path: &Path, found: SourceVersions) -> Result<(), Failure> {
    // A file that cannot be read is written anew.
    let mut versions =
        std::fs::read_to_string(path).ok().and_then(|text| parse(&text).ok()).unwrap_or_default();
    versions.images.extend(found.images);
    versions.files.extend(found.files);
    versions.repositories.extend(found.repositories);
    // What is put in the place of a file has its owner and its rights.
    let made = std::fs::File::options().create(true).append(true).open(path);
    made.map_err(|error| {
        Failure::new(FailureKind::Environment, format!("cannot write `{}`: {error}", path.display()))
    })?;
    replace_file(path, &render(&versions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> SourceVersions {
        let version = |tag: Option<&str>| GitVersion {
            commit: "a".repeat(40),
            tag: tag.map(|digit| digit.repeat(40)),
            name: Some("refs/tags/v1".to_owned()),
        };
        let url = || "https://example.com/x.git".to_owned();
        SourceVersions {
            images: [("docker.io/library/busybox:latest".to_owned(), Digest::sha256(b"i"))].into(),
            files: [("https://example.com/\"x\"".to_owned(), Digest::sha256(b"f"))].into(),
            repositories: [
                ((url(), None), version(None)),
                ((url(), Some("v1".to_owned())), version(Some("b"))),
            ]
            .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(parse(&render(&versions())).unwrap(), versions());
        assert_eq!(parse(&render(&SourceVersions::default())).unwrap(), SourceVersions::default());
        assert!(render(&versions()).starts_with("# What"));
    }

    #[test]
    fn what_a_build_did_not_reach_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_of(&directory.path().join("Dockerfile"));
        assert_eq!(read(&path).unwrap(), None);
        write(&path, versions()).unwrap();
        let name = || "docker.io/library/alpine:3".to_owned();
        let found = SourceVersions {
            images: [(name(), Digest::sha256(b"other"))].into(),
            ..SourceVersions::default()
        };
        write(&path, found).unwrap();
        let mut expected = versions();
        expected.images.insert(name(), Digest::sha256(b"other"));
        assert_eq!(read(&path).unwrap(), Some(expected));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn mistakes_are_told_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Dockerfile.lock");
        for (text, problem) in [
            ("version = 2\n", "its version is 2"),
            ("version = 1\nimages = 3\n", "unknown field `images`"),
            ("version = 1\n[[image]]\nname = \"a\"\ndigest = \"x\"\n", "digest"),
            ("version = 1\n[[repository]]\nurl = \"u\"\ncommit = \"--x\"\n", "`--x` is no hash"),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = read(&path).unwrap_err().render();
            assert!(told.contains("Dockerfile.lock` is not right") && told.contains(problem), "{told}");
        }
    }
}
