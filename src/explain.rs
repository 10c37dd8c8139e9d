//! Why a step was executed instead of being taken from the cache: what its key was made of, beside that of the same step
//! when it was built last.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cache::{Change, FileChange, RecordKey, Store, StoreError};
use oci::CacheHash;
use serde::Serialize;

use crate::history::{InputKind, StepRecord};

/// No more files of a COPY are named.
const NAMED_FILES: usize = 10;
/// Longer values are cut.
const LONGEST_VALUE: usize = 60;

/// A reason why a step was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Reason {
    /// Nothing is known of an earlier build of the step.
    New,
    /// The instruction was another one.
    Instruction {
        /// What it was.
        before: String,
    },
    /// `--no-cache`, or a step that it builds on was executed for that.
    NoCache,
    /// The step was built before, just so, and its result is gone.
    Removed,
    /// The step failed when it was built last.
    Failed,
    /// A variable of the environment, an argument included.
    Variable {
        /// Its name.
        name: String,
        /// What it was; nothing if it is new.
        before: Option<String>,
        /// What it is; nothing if it is gone.
        after: Option<String>,
    },
    /// An option or a property of the step.
    Property {
        /// Which, in words.
        name: String,
        /// What it was.
        before: Option<String>,
        /// What it is.
        after: Option<String>,
    },
    /// The image that the step is built on.
    Base {
        /// Its name.
        image: String,
        /// The digest of its manifest in the earlier build, if that is known.
        before: Option<String>,
        /// And in this one.
        after: Option<String>,
    },
    /// A step that this one is built on was executed.
    Parent {
        /// Its name.
        step: String,
    },
    /// The content of what it copies or mounts.
    Content {
        /// Where it is from, in words.
        source: String,
        /// Files that differ in the result.
        files: Vec<ChangedFile>,
        /// Whether there are more.
        more: bool,
    },
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ChangedFile {
    /// Its path in the result.
    path: String,
    /// What became of it.
    change: String,
}

impl From<FileChange> for ChangedFile {
    fn from(change: FileChange) -> Self {
        let word = match change.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Content => "content",
            Change::Mode => "mode",
            Change::Owner => "owner",
            Change::Kind => "kind",
        };
        Self { path: change.path.to_string_lossy().into_owned(), change: word.to_owned() }
    }
}

/// What a key is made of: names and values.
type Parts = [(String, String)];

/// The same step, or the one in its place, in an earlier build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    /// Its name.
    pub(crate) name: String,
    pub(crate) key: Option<CacheHash>,
    pub(crate) has_failed: bool,
    /// The images of that build: what their names stood for.
    pub(crate) images: BTreeMap<String, String>,
}

/// Why `step` was executed, in a build with these `images`. `before` is the step in its place in an earlier build of the
/// same Dockerfile; without, a step with the same words will do, whoever built it. Blocks.
pub(crate) fn reasons(
    store: &Store,
    step: &StepRecord,
    images: &BTreeMap<String, String>,
    before: Option<&Before>,
) -> Result<Vec<Reason>, StoreError> {
    if step.no_cache {
        return Ok(vec![Reason::NoCache]);
    }
    let Some(own) = step.key else { return Ok(Vec::new()) };
    if let Some(before) = before
        && instruction(&before.name) != instruction(&step.name)
    {
        return Ok(vec![Reason::Instruction { before: instruction(&before.name).to_owned() }]);
    }
    let described = || -> Result<Option<CacheHash>, StoreError> {
        let keys = store.records_described(instruction(&step.name))?;
        Ok(keys.into_iter().map(|key| CacheHash(key.0)).find(|key| *key != own))
    };
    let earlier = match before {
        Some(Before { key: Some(key), .. }) => Some(*key),
        _ => described()?,
    };
    let Some(earlier) = earlier else { return Ok(vec![Reason::New]) };
    if earlier == own {
        let has_failed = before.is_some_and(|before| before.has_failed);
        return Ok(vec![if has_failed { Reason::Failed } else { Reason::Removed }]);
    }
    let Some(parts) = store.record_parts(&RecordKey(earlier.0))? else { return Ok(vec![Reason::Removed]) };
    let mut reasons = compare(step, &parts);
    for reason in &mut reasons {
        match reason {
            Reason::Content { files, more, .. } => {
                let results = (store.recorded(&RecordKey(earlier.0))?, store.recorded(&RecordKey(own.0))?);
                if let (Some(old), Some(new)) = results {
                    let (changes, has_more) = store.changes(&old, &new, NAMED_FILES)?;
                    *files = changes.into_iter().map(ChangedFile::from).collect();
                    *more = has_more;
                }
            }
            Reason::Base { image, before: was, after } => {
                *was = before.and_then(|before| before.images.get(image).cloned());
                *after = images.get(image).cloned();
            }
            _ => {}
        }
    }
    if reasons.is_empty() {
        reasons.push(Reason::Removed);
    }
    Ok(reasons)
}

/// A step's name without its place: `RUN make` of `[build 2/5] RUN make`.
pub(crate) fn instruction(name: &str) -> &str {
    match name.split_once("] ") {
        Some((place, instruction)) if place.starts_with('[') => instruction,
        _ => name,
    }
}

fn compare(step: &StepRecord, before: &Parts) -> Vec<Reason> {
    let (old, new) = (grouped(before), grouped(&step.parts));
    let mut reasons = Vec::new();
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        if old == new {
            continue;
        }
        let text = |values: Option<&Vec<String>>| values.map(|values| values.join(", "));
        reasons.push(reason(step, name, text(old), text(new)));
    }
    // The same words for several parts of one thing say nothing more.
    reasons.dedup();
    // What changed in the step itself comes first, what it is built on last.
    reasons.sort_by_key(|reason| match reason {
        Reason::Parent { .. } => 2,
        Reason::Base { .. } => 1,
        _ => 0,
    });
    reasons
}

fn grouped(parts: &Parts) -> BTreeMap<String, Vec<String>> {
    let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in parts {
        grouped.entry(name.clone()).or_default().push(value.clone());
    }
    grouped
}

fn reason(step: &StepRecord, name: &str, before: Option<String>, after: Option<String>) -> Reason {
    if let Some(variable) = name.strip_prefix("run.env.") {
        return Reason::Variable { name: variable.to_owned(), before, after };
    }
    let input = name.strip_prefix("input.").and_then(|rest| rest.split_once('.'));
    if let Some((index, part)) = input
        && let Some(input) = index.parse().ok().and_then(|index: usize| step.inputs.get(index))
    {
        let name = input.name.clone();
        return match (input.kind, part) {
            (InputKind::Image, "chain") => Reason::Base { image: name, before: None, after: None },
            (_, "chain") => Reason::Parent { step: name },
            (InputKind::Context, _) if name == "context" => {
                Reason::Content { source: "the build context".to_owned(), files: Vec::new(), more: false }
            }
            (InputKind::Context, _) => {
                Reason::Content { source: format!("the context `{name}`"), files: Vec::new(), more: false }
            }
            _ => Reason::Content { source: format!("`{name}`"), files: Vec::new(), more: false },
        };
    }
    let known = PROPERTIES.iter().find(|(prefix, _)| name.starts_with(prefix));
    let words = known.map_or_else(|| name.to_owned(), |(_, words)| (*words).to_owned());
    Reason::Property { name: words, before, after }
}

/// The parts of keys that people have other words for. The first that fits counts.
const PROPERTIES: &[(&str, &str)] = &[
    ("salt", "the ids that the build has"),
    ("git.commit", "the commit"),
    ("http.digest", "the file of the server"),
    ("run.args", "the command"),
    ("run.cwd", "WORKDIR"),
    ("run.user", "USER"),
    ("run.hostname", "the host name"),
    ("run.network", "--network"),
    ("run.security", "--security"),
    ("run.mount.inline", "the here-document"),
    ("run.mount", "--mount"),
    ("run.secret_env", "--mount=type=secret,env=…"),
    ("run.extra_host", "--add-host"),
    ("run.ulimit", "--ulimit"),
    ("run.shm_size", "--shm-size"),
    ("run.cgroup_parent", "--cgroup-parent"),
    ("run.platform", "the platform"),
    ("run.device", "--device"),
    ("copy.source.inline", "the here-document"),
    ("copy.source.content", "the here-document"),
    ("copy.source", "the source"),
    ("copy.destination", "the destination"),
    ("copy.chown", "--chown"),
    ("copy.chmod", "--chmod"),
    ("copy.unpack", "--unpack"),
    ("copy.parents", "--parents"),
    ("copy.exclude", "--exclude"),
    ("mkdir.path", "the directory"),
    ("mkdir.owner", "the owner"),
    ("mkdir.mtime", "SOURCE_DATE_EPOCH"),
];

impl Reason {
    /// The reason in words, without the step.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::New => "it was not built before".to_owned(),
            Self::Instruction { before } => format!("the instruction was `{}`", cut(before)),
            Self::NoCache => "the cache was not to be used".to_owned(),
            Self::Removed => "its earlier result is no longer in the store".to_owned(),
            Self::Failed => "it failed when it was built last".to_owned(),
            Self::Variable { name, before, after } => {
                format!("the variable `{name}` {}", went(before.as_ref(), after.as_ref()))
            }
            Self::Property { name, before, after } => {
                format!("{name} {}", went(before.as_ref(), after.as_ref()))
            }
            Self::Base { image, before: Some(before), after: Some(after) } if before != after => {
                format!("the image `{image}` was {before} and is {after}")
            }
            Self::Base { image, .. } => format!("the image `{image}` is another one"),
            Self::Parent { step } => format!("it is built on `{step}`, which has another key"),
            Self::Content { source, files, more } => {
                let mut text = format!("what it takes from {source} has changed");
                for file in files {
                    let _ = write!(text, "\n  {:<8} {}", file.change, file.path);
                }
                if *more {
                    text.push_str("\n  …");
                }
                text
            }
        }
    }
}

fn went(before: Option<&String>, after: Option<&String>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("was `{}` and is `{}`", cut(before), cut(after)),
        (None, Some(after)) => format!("is new: `{}`", cut(after)),
        (Some(before), None) => format!("is gone: it was `{}`", cut(before)),
        (None, None) => "has changed".to_owned(),
    }
}

fn cut(text: &str) -> String {
    let line = text.replace('\n', "\\n");
    if line.chars().count() <= LONGEST_VALUE {
        return line;
    }
    let start: String = line.chars().take(LONGEST_VALUE).collect();
    format!("{start}…")
}
