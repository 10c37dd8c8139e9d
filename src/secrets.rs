//! `--secret`: what steps may be shown of what is secret.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use frontend::csv;
use worker::Secret;

use crate::report::Failure;

/// The same bound as docker's, who sends secrets over a wire.
const MAX_SECRET_BYTES: usize = 500 << 10;

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Variable(String),
}

/// Reads all secrets, the last of an ID wins. `environment` gives variables.
pub(crate) fn read(
    texts: &[String],
    environment: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let (id, place) = parse(text).map_err(Failure::usage)?;
        let place = place.unwrap_or_else(|| match environment(&id) {
            Some(_) => Place::Variable(id.clone()),
            None => Place::File(PathBuf::from(&id)),
        });
        let bytes = match place {
            // As with docker, one that is not set is an empty secret: it was named.
            Place::Variable(name) => environment(&name).unwrap_or_default(),
            Place::File(path) => read_file(&id, &path)?,
        };
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(Failure::usage(format!("secret {id} too big. max size 500KB")));
        }
        secrets.insert(id, Secret::new(bytes));
    }
    Ok(secrets)
}

fn read_file(id: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_SECRET_BYTES as u64 + 1;
    // Not by its size: what a shell gives for `<(…)` has none.
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(Failure::usage(format!("cannot read the secret `{id}` from `{}`: {error}", path.display())))
        }
    }
}

/// `id=ID[,src=FILE|source=FILE][,env=NAME][,type=file|env]`: the ID, and where it is said to be. A variable goes before
/// a file.
fn parse(text: &str) -> Result<(String, Option<Place>), String> {
    let mistake = |what: &str| format!("invalid value `{text}` for `--secret`: {what}");
    let fields = csv::fields(text).map_err(|what| mistake(&what))?;
    let (mut id, mut path, mut variable, mut kind) =
        (String::new(), String::new(), String::new(), String::new());
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(mistake(&format!("invalid field '{field}' must be a key=value pair")));
        };
        match key.to_lowercase().as_str() {
            "id" => value.clone_into(&mut id),
            "src" | "source" => value.clone_into(&mut path),
            "env" => value.clone_into(&mut variable),
            "type" if matches!(value, "file" | "env") => value.clone_into(&mut kind),
            "type" => return Err(mistake(&format!("unsupported secret type `{value}`"))),
            other => return Err(mistake(&format!("unexpected key '{other}' in '{field}'"))),
        }
    }
    if id.is_empty() {
        return Err(mistake("it should have an `id`"));
    }
    if kind == "env" && variable.is_empty() {
        variable = std::mem::take(&mut path);
    }
    let place = match (path.is_empty(), variable.is_empty()) {
        (_, false) => Some(Place::Variable(variable)),
        (false, true) => Some(Place::File(PathBuf::from(path))),
        (true, true) => None,
    };
    Ok((id, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_secrets_are() {
        let file = |path: &str| Some(Place::File(path.into()));
        let variable = |name: &str| Some(Place::Variable(name.to_owned()));
        let rows = [
            ("id=a", None),
            ("id=a,src=f", file("f")),
            ("ID=a,Source=b/f", file("b/f")),
            ("id=a,env=E", variable("E")),
            ("id=a,type=file,src=f", file("f")),
            ("id=a,type=env,src=E", variable("E")),
            ("type=env,env=E,id=a,src=f", variable("E")),
            ("id=a,type=env", None),
            ("id=a,\"src=x,y\"", file("x,y")),
        ];
        for (text, place) in rows {
            assert_eq!(parse(text), Ok(("a".to_owned(), place)), "{text}");
        }
        let mistakes = [
            ("", "EOF"),
            ("a", "invalid field 'a' must be a key=value pair"),
            ("src=f", "should have an `id`"),
            ("id=a,type=x", "unsupported secret type `x`"),
            ("id=a,file=f", "unexpected key 'file' in 'file=f'"),
            ("id=a,\"x", "quote"),
        ];
        for (text, mistake) in mistakes {
            let told = parse(text).unwrap_err();
            assert!(told.contains(mistake), "{text}: {told}");
        }
    }

    fn read_one(text: &str) -> Result<Vec<u8>, String> {
        let environment = |name: &str| (name == "SET").then(|| b"value".to_vec());
        let secrets = read(&[text.to_owned()], environment).map_err(|failure| failure.render())?;
        Ok(secrets.into_values().next().unwrap().bytes().to_vec())
    }

    #[test]
    fn secrets_are_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file").to_string_lossy().into_owned();
        std::fs::write(&path, b"content\xff").unwrap();
        assert_eq!(read_one("id=SET"), Ok(b"value".to_vec()));
        assert_eq!(read_one(&format!("id={path}")), Ok(b"content\xff".to_vec()));
        assert_eq!(read_one(&format!("id=SET,src={path}")), Ok(b"content\xff".to_vec()));
        assert_eq!(read_one("id=x,env=UNSET"), Ok(Vec::new()));
        assert!(read_one("id=UNSET").unwrap_err().contains("cannot read the secret `UNSET` from `UNSET`"));
        std::fs::write(&path, vec![b'x'; MAX_SECRET_BYTES]).unwrap();
        assert_eq!(read_one(&format!("id=a,src={path}")).map(|bytes| bytes.len()), Ok(MAX_SECRET_BYTES));
        std::fs::write(&path, vec![b'x'; MAX_SECRET_BYTES + 1]).unwrap();
        let told = read_one(&format!("id=a,src={path}")).unwrap_err();
        assert!(told.contains("secret a too big. max size 500KB"), "{told}");
    }

    #[test]
    fn the_last_of_an_id_wins() {
        let texts = ["id=a,env=ONE", "id=b,env=ONE", "id=a,env=TWO"].map(str::to_owned);
        let secrets = read(&texts, |name| Some(name.as_bytes().to_vec())).unwrap();
        assert_eq!((secrets["a"].bytes(), secrets["b"].bytes()), (&b"TWO"[..], &b"ONE"[..]));
        assert_eq!(format!("{secrets:?}"), "{\"a\": ****, \"b\": ****}");
    }
}
