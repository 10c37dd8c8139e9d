//! `--ssh`: the ssh agents that steps may use.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::report::Failure;
use crate::settings::absolute;

const DEFAULT_ID: &str = "default";

/// The sockets of all agents, by ID. Of `default` and any other that names no socket it is `own`, the one that
/// `SSH_AUTH_SOCK` says.
pub(crate) fn read(texts: &[String], own: Option<&Path>) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        let mistake = |what: String| Failure::usage(format!("invalid value `{text}` for `--ssh`: {what}"));
        let paths: Vec<&Path> = paths.split(',').filter(|path| !path.is_empty()).map(Path::new).collect();
        let path = match (paths.as_slice(), own) {
            ([], Some(own)) => own,
            ([], None) => {
                return Err(mistake("no agent is running here".to_owned())
                    .with_hint("SSH_AUTH_SOCK is not set; `eval $(ssh-agent)` starts an agent"));
            }
            ([path], _) => path,
            _ => return Err(mistake("it should name one socket".to_owned())),
        };
        let metadata = std::fs::metadata(path)
            .map_err(|error| mistake(format!("cannot look at `{}`: {error}", path.display())))?;
        if !metadata.file_type().is_socket() {
            return Err(mistake(format!("`{}` is not the socket of an agent", path.display())).with_hint(
                format!("keys are taken from agents only: `ssh-add {}`, then `--ssh {id}`", path.display()),
            ));
        }
        if agents.insert(id.to_owned(), absolute(path)?).is_some() {
            return Err(mistake(format!("there are two agents `{id}`")));
        }
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &[&str], own: Option<&Path>) -> Result<BTreeMap<String, PathBuf>, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        read(&texts, own).map_err(|failure| failure.render())
    }

    #[test]
    fn agents_are_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let [own, other, key] = ["own", "other", "key"].map(|name| directory.path().join(name));
        let _sockets = [&own, &other].map(|path| std::os::unix::net::UnixListener::bind(path).unwrap());
        std::fs::write(&key, "a key").unwrap();
        let found = read_all(&["default", &format!("a={}", other.display()), "b=", "=,"], Some(&own));
        assert!(found.unwrap_err().contains("there are two agents `default`"));
        let found = read_all(&["default", &format!("a={}", other.display()), "b="], Some(&own)).unwrap();
        let expected = [("a", &other), ("b", &own), ("default", &own)];
        assert_eq!(found, expected.map(|(id, path)| (id.to_owned(), path.clone())).into());
        let mistakes = [
            (format!("k={}", key.display()), "is not the socket of an agent"),
            (format!("k={}", key.display()), "hint: keys are taken from agents only: `ssh-add "),
            (format!("k={},{}", own.display(), other.display()), "it should name one socket"),
            (format!("k={}/none", key.display()), "cannot look at"),
        ];
        for (text, mistake) in mistakes {
            let told = read_all(&[&text], Some(&own)).unwrap_err();
            assert!(told.contains(mistake), "{told}");
        }
        assert!(read_all(&["default"], None).unwrap_err().contains("hint: SSH_AUTH_SOCK is not set"));
    }
}
