//! The Dockerfile, contexts and ignore files of a build.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use frontend::{NamedContext, SourceFile};
use pattern::PatternSet;
use worker::ContextSource;

use crate::arguments::BuildArguments;
use crate::report::{Failure, FailureKind};
use crate::settings::absolute;
use crate::values::{self, ContextText};

/// The name under which the worker knows the build context.
const MAIN_CONTEXT: &str = "context";

/// More is no Dockerfile.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// What a build reads from this machine.
pub(crate) struct Inputs {
    /// The Dockerfile.
    pub(crate) dockerfile: SourceFile,
    /// Where it lies; `None` for standard input.
    pub(crate) dockerfile_path: Option<PathBuf>,
    /// Directories with their ignore files, by the name under which the worker knows them.
    pub(crate) contexts: BTreeMap<String, ContextSource>,
    /// The contexts of `--build-context`.
    pub(crate) named: BTreeMap<String, NamedContext>,
}

/// Finds and reads everything.
pub(crate) fn read(arguments: &BuildArguments) -> Result<Inputs, Failure> {
    let context = match values::context(&arguments.context).map_err(Failure::usage)? {
        ContextText::Directory(path) => directory(&path)?,
        ContextText::Image(_) | ContextText::OciLayout { .. } => {
            return Err(Failure::usage(format!(
                "`{}` cannot be the build context: it should be a directory",
                arguments.context
            )));
        }
    };
    let (dockerfile, path) = dockerfile(arguments.file.as_deref(), &context)?;
    let ignore = main_ignore(&context, path.as_deref())?;
    let mut contexts =
        BTreeMap::from([(MAIN_CONTEXT.to_owned(), ContextSource { directory: context, ignore })]);
    let mut named = BTreeMap::new();
    for text in &arguments.build_contexts {
        let (name, source) = values::build_context(text).map_err(Failure::usage)?;
        let meaning = match source {
            ContextText::Directory(path) => {
                let directory = directory(&path)?;
                let ignore = ignore_file(&directory.join(".dockerignore"))?.unwrap_or_default();
                contexts.insert(name.clone(), ContextSource { directory, ignore });
                NamedContext::Local
            }
            ContextText::Image(reference) => NamedContext::Image(reference),
            ContextText::OciLayout { path, tag_or_digest } => {
                NamedContext::OciLayout { path: absolute(&path)?, tag_or_digest }
            }
        };
        named.insert(name, meaning);
    }
    Ok(Inputs { dockerfile, dockerfile_path: path, contexts, named })
}

impl Inputs {
    /// The ignore file of the build context.
    pub(crate) fn ignore(&self) -> &PatternSet {
        &self.contexts[MAIN_CONTEXT].ignore
    }
}

/// Puts another text in the place of a file: all of it or nothing, with the owner and the rights as before. A link goes
/// on leading to it.
pub(crate) fn replace_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let message = format!("cannot write `{}`: {error}", path.display());
        Failure::new(FailureKind::Environment, message)
    };
    let path = std::fs::canonicalize(path).map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    write_like(&temporary, text, &path).and_then(|()| std::fs::rename(&temporary, &path)).map_err(|error| {
        // It may not even be there.
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

/// Writes a new file with the owner and the rights of another, down to the disk.
fn write_like(path: &Path, text: &str, other: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let metadata = std::fs::metadata(other)?;
    let mut file = std::fs::File::create_new(path)?;
    fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
    file.set_permissions(metadata.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn directory(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| {
        let shown = path.display();
        Failure::usage(if error.kind() == io::ErrorKind::NotFound {
            format!("unable to prepare context: path `{shown}` not found")
        } else {
            format!("unable to prepare context: cannot read `{shown}`: {error}")
        })
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(Failure::usage(format!(
            "unable to prepare context: `{}` is not a directory",
            path.display()
        )));
    }
    // One directory has one stat cache, by whatever way it was named.
    std::fs::canonicalize(path).map_err(failed)
}

/// The Dockerfile and where it lies; `None` for standard input.
pub(crate) fn dockerfile(
    file: Option<&Path>,
    context: &Path,
) -> Result<(SourceFile, Option<PathBuf>), Failure> {
    match file {
        Some(path) if path == Path::new("-") => {
            let text = read_text(io::stdin().lock(), Path::new("standard input"))?;
            Ok((SourceFile { name: "Dockerfile".to_owned(), text }, None))
        }
        Some(path) => {
            let text = open_text(path)?.ok_or_else(|| not_found(path))?;
            Ok((SourceFile { name: shown_name(path), text }, Some(path.to_owned())))
        }
        None => {
            for name in ["Dockerfile", "dockerfile"] {
                let path = context.join(name);
                if let Some(text) = open_text(&path)? {
                    return Ok((SourceFile { name: name.to_owned(), text }, Some(path)));
                }
            }
            Err(not_found(&context.join("Dockerfile")))
        }
    }
}

fn not_found(path: &Path) -> Failure {
    Failure::solve(&format!(
        "failed to read dockerfile: open {}: no such file or directory",
        path.file_name().unwrap_or(path.as_os_str()).display()
    ))
    .with_hint(format!("there is no `{}`; name the file with `-f`", path.display()))
}

fn shown_name(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::new("Dockerfile")).to_string_lossy().into_owned()
}

fn open_text(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::File::open(path) {
        Ok(file) => read_text(file, path).map(Some),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read_text(reader: impl Read, path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_DOCKERFILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_DOCKERFILE_BYTES {
        return Err(Failure::solve(&format!(
            "`{}` is larger than {MAX_DOCKERFILE_BYTES} bytes",
            path.display()
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::solve(&format!("`{}` is not UTF-8 text", path.display())))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::solve(&format!("cannot read `{}`: {error}", path.display()))
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` in the context.
fn main_ignore(context: &Path, dockerfile: Option<&Path>) -> Result<PatternSet, Failure> {
    if let Some(dockerfile) = dockerfile {
        let mut name = dockerfile.as_os_str().to_owned();
        name.push(".dockerignore");
        if let Some(set) = ignore_file(Path::new(&name))? {
            return Ok(set);
        }
    }
    Ok(ignore_file(&context.join(".dockerignore"))?.unwrap_or_default())
}

fn ignore_file(path: &Path) -> Result<Option<PatternSet>, Failure> {
    let Some(text) = open_text(path)? else { return Ok(None) };
    match PatternSet::parse(&text) {
        Ok(set) => Ok(Some(set)),
        Err(error) => Err(Failure::solve(&format!("{}: {}", shown_name(path), crate::report::chain(&error)))),
    }
}
