//! The Dockerfile, contexts and ignore files of a build.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cache::Store;
use cache::layer::{ARCHIVE_START_BYTES, begins_archive};
use cache::tree::{Follow, TreeError, TreeMode, TreeView};
use frontend::{NamedContext, SourceFile};
use pattern::PatternSet;
use worker::{ContextError, ContextSource, IgnoreRules};

use crate::arguments::{self, BuildArguments};
use crate::notices::NO_POLICIES;
use crate::remote::{self, FetchedContext, MainFile, RemoteContext};
use crate::report::{self, Failure, FailureKind};
use crate::settings::Environment;
use crate::settings::absolute;
use crate::values::{self, ContextText};

/// The name under which the worker knows the build context.
pub(crate) const MAIN_CONTEXT: &str = "context";

/// The name under which a Dockerfile that is elsewhere is fetched. No context that is named on a command line has an `=` in
/// its name.
const ELSEWHERE: &str = "=dockerfile";

/// The name of a Dockerfile that is not named.
const DOCKERFILE: &str = "Dockerfile";

/// The name of the ignore file of a context; as an ending, that of a Dockerfile's own.
const DOCKERIGNORE: &str = ".dockerignore";

/// The ending of a Dockerfile's source policy.
const POLICY: &str = ".rego";

/// More is no Dockerfile.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// What a build reads from this machine.
#[derive(Debug)]
pub(crate) struct Inputs {
    main: MainInput,
    /// The directories of `--build-context` with their ignore files, by name.
    directories: BTreeMap<String, ContextSource>,
    /// The contexts that are elsewhere, by the name under which the worker knows them.
    remotes: BTreeMap<String, RemoteContext>,
    /// The contexts of `--build-context`.
    pub(crate) named: BTreeMap<String, NamedContext>,
    /// Whether a source policy beside the Dockerfile is an error.
    heeds_policies: bool,
}

/// Where the build context and the Dockerfile come from.
#[derive(Debug)]
enum MainInput {
    /// From this machine's disk, or the Dockerfile from standard input; without one, it is elsewhere.
    Directory { context: ContextSource, definition: Option<Definition> },
    /// There is nothing but a Dockerfile, which was read from standard input.
    DefinitionAlone(Definition),
    /// What is elsewhere, among [`Inputs::remotes`]. `file` is in it, unless the Dockerfile was read from standard input.
    Remote { definition: Option<Definition>, file: Option<PathBuf>, ignore: IgnoreRules },
    /// An archive on standard input, of which `start` has been read. `file` is in it.
    Archive { start: Vec<u8>, file: Option<PathBuf>, ignore: IgnoreRules },
}

/// A Dockerfile.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) file: SourceFile,
    /// Where it lies; `None` if it is no file of this machine.
    pub(crate) path: Option<PathBuf>,
}

/// The inputs of a build, all of them at hand.
#[derive(Debug)]
pub(crate) struct ReadyInputs {
    pub(crate) definition: Definition,
    /// Directories with their ignore files, by the name under which the worker knows them.
    pub(crate) contexts: BTreeMap<String, ContextSource>,
}

/// Finds and reads everything but an archive.
pub(crate) fn read(arguments: &BuildArguments) -> Result<Inputs, Failure> {
    let file = arguments.input.file.as_deref();
    let mut remotes = BTreeMap::new();
    let elsewhere = file.and_then(Path::to_str).filter(|file| remote::is_http(file));
    if let Some(url) = elsewhere {
        remotes.insert(ELSEWHERE.to_owned(), RemoteContext::Http(url.to_owned()));
    }
    let main = match values::context(&arguments.context).map_err(Failure::usage)? {
        ContextText::Directory(path) => {
            let hint = || arguments::command_hint(&arguments.context);
            let context = directory(&path).map_err(|failure| failure.with_hints(hint()))?;
            let definition = match elsewhere {
                Some(_) => None,
                None => Some(dockerfile(file, &context)?),
            };
            let path = definition.as_ref().and_then(|definition| definition.path.as_deref());
            let ignore = main_ignore(arguments, &context, path)?;
            MainInput::Directory { context: ContextSource { directory: context, ignore }, definition }
        }
        ContextText::StandardInput => standard_input(arguments)?,
        ContextText::Remote(remote) => {
            let remote = remote.keeping_git_dir(keeps_git_dir(arguments));
            remotes.insert(MAIN_CONTEXT.to_owned(), remote.with_commit_times(has_epoch(arguments)));
            remote_input(arguments)?
        }
        ContextText::Image(_) | ContextText::OciLayout { .. } => {
            return Err(Failure::usage(format!(
                "`{}` cannot be the build context: it should be a directory, a git repository or a URL",
                arguments.context
            )));
        }
    };
    let mut inputs = Inputs {
        main,
        directories: BTreeMap::new(),
        remotes,
        named: BTreeMap::new(),
        heeds_policies: heeds_policies(arguments),
    };
    for text in &arguments.input.build_contexts {
        inputs.add_named(text, arguments)?;
    }
    Ok(inputs)
}

/// Whether the repository of the build context is to keep `.git`.
fn keeps_git_dir(arguments: &BuildArguments) -> bool {
    let value = arguments
        .input
        .build_args
        .iter()
        .find_map(|text| text.strip_prefix("BUILDKIT_CONTEXT_KEEP_GIT_DIR="));
    value.and_then(frontend::go_bool).unwrap_or(false)
}

/// Whether a time of the build is given, and not just by the Dockerfile: repositories then have the times of their commits,
/// as with BuildKit.
fn has_epoch(arguments: &BuildArguments) -> bool {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let given = arguments.input.build_args.iter().rev().find_map(|text| match text.split_once('=') {
        Some((NAME, value)) => Some(!value.is_empty()),
        _ => None,
    });
    let of_flags = arguments.image.source_date_epoch.as_ref().or(arguments.form.timestamp.as_ref());
    let of_environment = || Environment::text(NAME).is_some_and(|text| !text.is_empty());
    given.unwrap_or_else(|| of_flags.is_some() || of_environment())
}

/// What is known of a context that is elsewhere. As with docker, an ignore file in it means nothing; what is asked for on
/// the command line counts.
fn remote_input(arguments: &BuildArguments) -> Result<MainInput, Failure> {
    let file = arguments.input.file.clone();
    let definition = match file.as_deref() {
        Some(path) if path == Path::new("-") => {
            let text = read_text(io::stdin().lock(), Path::new("standard input"))?;
            Some(Definition::without_path(text))
        }
        _ => None,
    };
    let ignore = chosen_ignore(arguments)?.unwrap_or_default();
    Ok(MainInput::Remote { definition, file, ignore })
}

/// What `rbuild -` reads: an archive with the context, or a Dockerfile.
fn standard_input(arguments: &BuildArguments) -> Result<MainInput, Failure> {
    let file = arguments.input.file.as_deref();
    if file == Some(Path::new("-")) {
        return Err(Failure::usage(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    let name = Path::new("standard input");
    let mut start = Vec::new();
    let mut input = io::stdin().lock();
    let read = input.by_ref().take(ARCHIVE_START_BYTES as u64).read_to_end(&mut start);
    read.map_err(|error| unreadable(name, &error))?;
    if begins_archive(&start) {
        // As with docker, an ignore file in an archive means nothing: whoever made it has left out what is to be left
        // out. What is asked for on the command line counts.
        let ignore = chosen_ignore(arguments)?.unwrap_or_else(|| default_ignore(arguments));
        return Ok(MainInput::Archive { start, file: file.map(Path::to_owned), ignore });
    }
    if file.is_some() {
        return Err(Failure::usage(
            "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
        ));
    }
    let text = read_text(start.chain(input), name)?;
    Ok(MainInput::DefinitionAlone(Definition::without_path(text)))
}

impl Definition {
    /// One that is no file of this machine.
    fn without_path(text: String) -> Self {
        Self { file: SourceFile { name: "Dockerfile".to_owned(), text }, path: None }
    }
}

impl Inputs {
    /// Adds `--build-context NAME=SOURCE`.
    fn add_named(&mut self, text: &str, arguments: &BuildArguments) -> Result<(), Failure> {
        let (name, source) = values::build_context(text).map_err(Failure::usage)?;
        let meaning = match source {
            ContextText::Directory(path) => {
                let directory = directory(&path)?;
                let ignore = ignore_file(&directory.join(DOCKERIGNORE))?;
                let ignore = ignore.unwrap_or_else(|| default_ignore(arguments));
                self.directories.insert(name.clone(), ContextSource { directory, ignore });
                NamedContext::Local
            }
            ContextText::StandardInput => {
                return Err(Failure::usage(format!("standard input cannot be a named context: `{text}`")));
            }
            ContextText::Remote(remote) => {
                self.remotes.insert(name.clone(), remote.with_commit_times(has_epoch(arguments)));
                NamedContext::Local
            }
            ContextText::Image(reference) => NamedContext::Image(reference),
            ContextText::OciLayout { path, tag_or_digest } => {
                NamedContext::OciLayout { path: absolute(&path)?, tag_or_digest }
            }
        };
        self.named.insert(name, meaning);
        Ok(())
    }

    /// The patterns of the build context's ignore file, if it has one.
    pub(crate) fn ignore(&self) -> Option<&PatternSet> {
        match &self.main {
            MainInput::Directory { context: ContextSource { ignore, .. }, .. }
            | MainInput::Remote { ignore, .. }
            | MainInput::Archive { ignore, .. } => match ignore {
                IgnoreRules::Patterns(patterns) => Some(patterns),
                IgnoreRules::Git => None,
            },
            MainInput::DefinitionAlone(_) => None,
        }
    }

    /// The build context, if it is a directory of this machine.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.main {
            MainInput::Directory { context, .. } => Some(&context.directory),
            _ => None,
        }
    }

    /// Whether the build context is an archive from standard input.
    pub(crate) fn is_archive(&self) -> bool {
        matches!(self.main, MainInput::Archive { .. })
    }

    /// The contexts that are to be fetched before anything else, by name.
    pub(crate) fn remotes(&self) -> &BTreeMap<String, RemoteContext> {
        &self.remotes
    }

    /// The build context, if it is elsewhere.
    pub(crate) fn main_remote(&self) -> Option<&RemoteContext> {
        self.remotes.get(MAIN_CONTEXT)
    }

    /// The Dockerfile, unless it is elsewhere or in an archive that has not been unpacked.
    pub(crate) fn definition(&self) -> Option<&Definition> {
        match &self.main {
            MainInput::DefinitionAlone(definition) => Some(definition),
            MainInput::Directory { definition, .. } | MainInput::Remote { definition, .. } => {
                definition.as_ref()
            }
            MainInput::Archive { .. } => None,
        }
    }

    /// Makes the contexts that are no directories of the user's, in the directory of this run in `store`. Reads an
    /// archive to its end, and blocks for as long; to be called once. `fetched` are those of [`Inputs::remotes`].
    pub(crate) fn make_ready(
        &self,
        store: &Store,
        fetched: &BTreeMap<String, FetchedContext>,
    ) -> Result<ReadyInputs, Failure> {
        let elsewhere =
            fetched.get(ELSEWHERE).map(|fetched| fetched_dockerfile(fetched, store)).transpose()?;
        let (context, definition) = match &self.main {
            MainInput::Directory { context, definition } => {
                let definition = definition.clone().or(elsewhere);
                (context.clone(), definition.expect("a Dockerfile that is not here has been fetched"))
            }
            MainInput::DefinitionAlone(definition) => {
                let context = ContextSource::empty(store).map_err(|error| context_failure(&error))?;
                (context, definition.clone())
            }
            MainInput::Remote { definition, file, ignore } => {
                let fetched = fetched.get(MAIN_CONTEXT).expect("all of them have been fetched");
                let (context, own) = fetched_main(fetched, file.as_deref(), store)?;
                let definition = match definition.clone().or(elsewhere).or(own) {
                    Some(definition) => definition,
                    None => self.unpacked_dockerfile(file.as_deref(), &context.directory)?,
                };
                (ContextSource { ignore: ignore.clone(), ..context }, definition)
            }
            MainInput::Archive { start, file, ignore } => {
                let archive = start.chain(io::stdin());
                let context =
                    ContextSource::unpack(archive, store).map_err(|error| context_failure(&error))?;
                let definition = match elsewhere {
                    Some(definition) => definition,
                    None => self.unpacked_dockerfile(file.as_deref(), &context.directory)?,
                };
                (ContextSource { ignore: ignore.clone(), ..context }, definition)
            }
        };
        let mut contexts = self.directories.clone();
        let named = fetched.iter().filter(|(name, _)| *name != ELSEWHERE);
        contexts.extend(named.map(|(name, fetched)| (name.clone(), fetched.source())));
        contexts.insert(MAIN_CONTEXT.to_owned(), context);
        Ok(ReadyInputs { definition, contexts })
    }

    /// The Dockerfile of an archive that was unpacked in `directory`. `file` and the links on its way stay in there.
    fn unpacked_dockerfile(&self, file: Option<&Path>, directory: &Path) -> Result<Definition, Failure> {
        let wanted = Path::new("/").join(file.unwrap_or(Path::new(DOCKERFILE)));
        let failed = |error: TreeError| Failure::solve(&report::chain(&error));
        let directory = directory.to_owned();
        let view = TreeView::open(std::slice::from_ref(&directory), TreeMode::PLAIN).map_err(failed)?;
        for path in spellings(&wanted) {
            let resolved = view.resolve(&path, Follow::All).map_err(failed)?;
            if view.entry(&resolved).map_err(failed)?.is_some() {
                let policy = with_ending(&resolved, POLICY);
                if self.heeds_policies && view.entry(&policy).map_err(failed)?.is_some() {
                    return Err(Failure::usage(policy_text(&policy)));
                }
                let text = read_text(view.open_file(&resolved).map_err(failed)?, &path)?;
                let file = SourceFile { name: shown_name(&path), text };
                return Ok(Definition { file, path: None });
            }
        }
        Err(not_found(wanted.strip_prefix("/").unwrap_or(&wanted)))
    }
}

/// A Dockerfile that was elsewhere.
fn fetched_dockerfile(fetched: &FetchedContext, store: &Store) -> Result<Definition, Failure> {
    let FetchedContext::File(directory, name) = fetched else { unreachable!("a URL is a file") };
    match remote::main_file(directory, name, store)? {
        MainFile::Definition(text) => {
            read_text(text, Path::new("the Dockerfile")).map(Definition::without_path)
        }
        MainFile::Archive(_) => Err(Failure::usage("the URL of `--file` is an archive, not a Dockerfile")),
    }
}

/// The build context that was elsewhere, and the Dockerfile where it is nothing but that.
fn fetched_main(
    fetched: &FetchedContext,
    file: Option<&Path>,
    store: &Store,
) -> Result<(ContextSource, Option<Definition>), Failure> {
    let FetchedContext::File(directory, name) = fetched else { return Ok((fetched.source(), None)) };
    match remote::main_file(directory, name, store)? {
        MainFile::Archive(context) => Ok((context, None)),
        MainFile::Definition(_) if file.is_some() => Err(Failure::usage(
            "ambiguous Dockerfile source: both the build context and the flag are Dockerfiles",
        )),
        MainFile::Definition(text) => {
            let text = read_text(text, Path::new("the build context"))?;
            let context = ContextSource::empty(store).map_err(|error| context_failure(&error))?;
            Ok((context, Some(Definition::without_path(text))))
        }
    }
}

fn context_failure(error: &ContextError) -> Failure {
    Failure::solve(&report::chain(error)).of_kind(report::kind_of(error))
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

/// The Dockerfile: `file`, or else that of `context`.
pub(crate) fn dockerfile(file: Option<&Path>, context: &Path) -> Result<Definition, Failure> {
    if file == Some(Path::new("-")) {
        let text = read_text(io::stdin().lock(), Path::new("standard input"))?;
        return Ok(Definition::without_path(text));
    }
    let wanted = file.map_or_else(|| context.join(DOCKERFILE), Path::to_owned);
    for path in spellings(&wanted) {
        if let Some(text) = open_text(&path)? {
            let file = SourceFile { name: shown_name(&path), text };
            return Ok(Definition { file, path: Some(path) });
        }
    }
    Err(not_found(&wanted))
}

/// The file beside `path` whose name is longer by `ending`.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Whether a source policy beside the Dockerfile is an error: `docker buildx build` would heed it. What does not build
/// needs none.
pub(crate) fn heeds_policies(arguments: &BuildArguments) -> bool {
    let builds = arguments.call().is_none_or(|call| call == "build") && !arguments.switches.check;
    builds && !arguments.accepted.are_policies_disabled()
}

/// The source policy beside the Dockerfile `path`, if there is one.
pub(crate) fn policy_beside(path: &Path) -> Option<PathBuf> {
    Some(with_ending(path, POLICY)).filter(|policy| policy.exists())
}

/// That a source policy is not heeded.
pub(crate) fn policy_text(policy: &Path) -> String {
    let name = policy.file_name().unwrap_or(policy.as_os_str()).display();
    format!("`{name}` beside the Dockerfile: {NO_POLICIES}; `--policy disabled` builds without it")
}

/// A file and what is taken for it: `Dockerfile` may be written in small letters.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let mut spellings = vec![path.to_owned()];
    if path.file_name() == Some(OsStr::new(DOCKERFILE)) {
        spellings.push(path.with_file_name("dockerfile"));
    }
    spellings
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

/// What is left out of the build context: what `--ignore-file` says, else `<Dockerfile>.dockerignore` beside the
/// Dockerfile, else `.dockerignore` in the context.
fn main_ignore(
    arguments: &BuildArguments,
    context: &Path,
    dockerfile: Option<&Path>,
) -> Result<IgnoreRules, Failure> {
    if let Some(rules) = chosen_ignore(arguments)? {
        return Ok(rules);
    }
    let own = dockerfile.map(|dockerfile| ignore_file(&with_ending(dockerfile, DOCKERIGNORE))).transpose()?;
    if let Some(rules) = own.flatten() {
        return Ok(rules);
    }
    Ok(ignore_file(&context.join(DOCKERIGNORE))?.unwrap_or_else(|| default_ignore(arguments)))
}

/// `--ignore-file`, which has to be there.
fn chosen_ignore(arguments: &BuildArguments) -> Result<Option<IgnoreRules>, Failure> {
    let Some(path) = &arguments.input.ignore_file else { return Ok(None) };
    let missing = || Failure::usage(format!("there is no ignore file `{}`", path.display()));
    ignore_file(path)?.ok_or_else(missing).map(Some)
}

/// What is left out of a context without an ignore file.
fn default_ignore(arguments: &BuildArguments) -> IgnoreRules {
    if arguments.switches.use_gitignore { IgnoreRules::Git } else { IgnoreRules::default() }
}

fn ignore_file(path: &Path) -> Result<Option<IgnoreRules>, Failure> {
    let Some(text) = open_text(path)? else { return Ok(None) };
    PatternSet::parse(&text).map(|patterns| Some(IgnoreRules::Patterns(patterns))).map_err(|error| {
        let file = SourceFile { name: shown_name(path), text };
        let line = error.line().and_then(|line| u32::try_from(line).ok()).unwrap_or_default();
        Failure::solve(&format!("failed parsing {}: {error}", file.name))
            .with_details(&report::excerpt(&file, line, line))
    })
}
