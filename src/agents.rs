//! `--ssh`: the ssh agents that steps may use, and the keys that stand for one.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use worker::{SshAgent, SshKey, SshKeyError};

use crate::report::Failure;
use crate::settings::absolute;

const DEFAULT_ID: &str = "default";
/// No file with a key comes near this; it is BuildKit's limit.
const MAX_KEY_BYTES: u64 = 100_000;

/// All agents, by ID: `ID[=SOCKET|KEY[,KEY]]`, perhaps with `raw=true` for a socket. Of `default` and any other that names
/// nothing it is `own`, the socket that `SSH_AUTH_SOCK` says.
pub(crate) fn read(texts: &[String], own: Option<&Path>) -> Result<BTreeMap<String, SshAgent>, Failure> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, fields) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { DEFAULT_ID } else { id };
        let mistake = |what: String| Failure::usage(format!("invalid value `{text}` for `--ssh`: {what}"));
        let Fields { paths, is_raw } = Fields::read(fields).map_err(mistake)?;
        let agent = match (paths.as_slice(), own) {
            (paths, _) if is_raw && paths.len() != 1 => {
                return Err(mistake("raw mode must supply exactly one socket path".to_owned()));
            }
            ([], None) => {
                return Err(mistake(
                    "invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set".to_owned(),
                )
                .with_hint(format!(
                    "`eval $(ssh-agent)` starts an agent; `--ssh {id}=FILE` takes a key without one"
                )));
            }
            ([], Some(own)) => agent(&[own], is_raw, (id, &mistake))?,
            (paths, _) => agent(paths, is_raw, (id, &mistake))?,
        };
        if agents.insert(id.to_owned(), agent).is_some() {
            return Err(mistake(format!("invalid duplicate ID {id}")));
        }
    }
    Ok(agents)
}

/// What stands after the ID.
struct Fields<'t> {
    paths: Vec<&'t Path>,
    is_raw: bool,
}

impl<'t> Fields<'t> {
    fn read(text: &'t str) -> Result<Self, String> {
        let mut fields = Self { paths: Vec::new(), is_raw: false };
        for field in text.split(',').filter(|field| !field.is_empty()) {
            match field.strip_prefix("raw=") {
                Some(value) => {
                    let read = frontend::go_bool(value);
                    fields.is_raw = read
                        .ok_or_else(|| format!("invalid value `{value}` for `raw`: it should be `true`"))?;
                }
                None => fields.paths.push(Path::new(field)),
            }
        }
        Ok(fields)
    }
}

/// The agent that paths lead to: one socket, or the files of keys.
fn agent(
    paths: &[&Path],
    is_raw: bool,
    (id, mistake): (&str, &dyn Fn(String) -> Failure),
) -> Result<SshAgent, Failure> {
    let (mut sockets, mut keys) = (Vec::new(), Vec::new());
    for path in paths {
        let metadata = std::fs::metadata(path)
            .map_err(|error| mistake(format!("cannot look at `{}`: {error}", path.display())))?;
        if metadata.file_type().is_socket() {
            sockets.push(absolute(path)?);
        } else if is_raw {
            return Err(mistake("raw mode only supported with socket paths".to_owned()));
        } else {
            keys.push(key(path).map_err(|error| {
                let failure =
                    mistake(format!("cannot use the key `{}`: {}", path.display(), error.message()));
                match error {
                    KeyError::Key(SshKeyError::Encrypted) => failure.with_hint(format!(
                        "an agent asks for the passphrase: `ssh-add {}`, then `--ssh {id}`",
                        path.display()
                    )),
                    _ => failure,
                }
            })?);
        }
    }
    match (<[PathBuf; 1]>::try_from(sockets), keys.is_empty()) {
        (Ok([socket]), true) if is_raw => Ok(SshAgent::RawSocket(socket)),
        (Ok([socket]), true) => Ok(SshAgent::Socket(socket)),
        (Err(sockets), false) if sockets.is_empty() => Ok(SshAgent::Keys(keys.into())),
        (_, false) => Err(mistake("invalid combination of keys and sockets".to_owned())),
        (Err(_), true) => Err(mistake("only single socket allowed".to_owned())),
    }
}

/// Why a file is no key that can be used.
enum KeyError {
    File(std::io::Error),
    Key(SshKeyError),
}

impl KeyError {
    fn message(&self) -> String {
        match self {
            Self::File(error) => error.to_string(),
            Self::Key(error) => crate::report::chain(error),
        }
    }
}

fn key(path: &Path) -> Result<SshKey, KeyError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(KeyError::File)?;
    match file.take(MAX_KEY_BYTES).read_to_string(&mut text) {
        // No text, no key.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(KeyError::Key(SshKeyError::Unknown));
        }
        read => read.map_err(KeyError::File)?,
    };
    SshKey::parse(&text).map_err(KeyError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(texts: &[&str], own: Option<&Path>) -> Result<String, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        read(&texts, own).map(|agents| format!("{agents:?}")).map_err(|failure| failure.render())
    }

    #[test]
    fn agents_are_sockets_or_keys() {
        let directory = tempfile::tempdir().unwrap();
        let [own, other, key, none] =
            ["own", "other", "key", "none"].map(|name| directory.path().join(name).display().to_string());
        let _sockets = [&own, &other].map(|path| std::os::unix::net::UnixListener::bind(path).unwrap());
        std::fs::copy("testdata/ssh/ed25519", &key).unwrap();
        std::fs::write(&none, "no key").unwrap();
        let mine = Some(Path::new(&own));
        let all =
            ["default", &format!("a={other}"), "b=", &format!("c={key},{key}"), &format!("d={other},raw=1")];
        let expected = format!(
            "{{\"a\": Socket({other:?}), \"b\": Socket({own:?}), \"c\": Keys([****, ****]), \"d\": RawSocket({other:?}), \
             \"default\": Socket({own:?})}}"
        );
        assert_eq!(read_all(&all, mine), Ok(expected));
        let mistakes = [
            (vec!["default".to_owned(), "=,".to_owned()], "invalid duplicate ID default"),
            (vec![format!("k={none}")], "it is no private key"),
            (vec!["k=testdata/ssh/ed25519-passphrase".to_owned()], "it is protected by a passphrase\nhint: "),
            (vec![format!("k={own},{other}")], "only single socket allowed"),
            (vec![format!("k={own},{key}")], "invalid combination of keys and sockets"),
            (vec![format!("k={key},raw=true")], "raw mode only supported with socket paths"),
            (vec!["k=raw=true".to_owned()], "raw mode must supply exactly one socket path"),
            (vec![format!("k={own},raw=tru")], "invalid value `tru` for `raw`"),
            (vec![format!("k={key}/none")], "cannot look at"),
        ];
        for (texts, mistake) in mistakes {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let told = read_all(&texts, mine).unwrap_err();
            assert!(told.contains(mistake), "{told}");
        }
        let told = read_all(&["default"], None).unwrap_err();
        assert!(told.contains("invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set"), "{told}");
    }
}
