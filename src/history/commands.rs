//! `rbuild history` and `rbuild explain`.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use cache::{BuildId, RecordKey, Store};
use jiff::Timestamp;
use serde_json::json;

use super::past::{self, Past};
use super::{Document, Outcome, Status, StepRecord};
use crate::arguments::{ExplainArguments, HistoryAction, HistoryArguments, ListFormat};
use crate::explain::{self, Reason};
use crate::images::{self, columns, store_failure};
use crate::progress::bytes;
use crate::report::Failure;
use crate::session::{Session, blocking};

/// `rbuild history`.
pub(crate) async fn run(
    session: Session,
    root: PathBuf,
    arguments: HistoryArguments,
) -> Result<Option<String>, Failure> {
    let store = session.open_store(root).await?;
    let format = arguments.format;
    if let Some(image) = arguments.image {
        let HistoryArguments { platform, no_trunc, quiet, .. } = arguments;
        let view = images::HistoryView { platform, no_trunc, quiet };
        return blocking(move || images::history(&store, &image, format, &view)).await.map(Some);
    }
    blocking(move || match arguments.action.unwrap_or(HistoryAction::Ls) {
        HistoryAction::Ls => list(&store, format),
        HistoryAction::Show { build } => show(&store, build.as_deref(), format),
        HistoryAction::Logs { build } => logs(&store, build.as_deref(), format),
        HistoryAction::Rm { builds, all } => remove(&store, &builds, all),
    })
    .await
}

/// `rbuild explain`.
pub(crate) async fn explain(
    session: Session,
    root: PathBuf,
    arguments: ExplainArguments,
) -> Result<Option<String>, Failure> {
    let store = session.open_store(root).await?;
    blocking(move || {
        let (id, document) = find(&store, arguments.build.as_deref())?;
        let past = Past::read(&store, &document.subject, Some(&id)).map_err(|error| store_failure(&error))?;
        let names: Vec<&str> = document.steps.iter().map(|step| step.name.as_str()).collect();
        let mut text = String::new();
        for (index, step) in document.steps.iter().enumerate() {
            let mut reasons = Vec::new();
            if step.outcome != Outcome::Cached {
                let before = past.before(&names, index);
                reasons = explain::reasons(&store, step, &document.bases, before.as_ref())
                    .map_err(|error| store_failure(&error))?;
            }
            match arguments.format {
                ListFormat::Json => text += &line_of(&explained_json(step, &reasons)),
                ListFormat::Table => text += &explained(step, &reasons),
            }
        }
        Ok(Some(text))
    })
    .await
}

fn explained(step: &StepRecord, reasons: &[Reason]) -> String {
    let mut text = format!("{:<8} {}\n", step.outcome.as_str().to_uppercase(), step.name);
    for reason in reasons {
        for line in reason.text().lines() {
            let _ = writeln!(text, "{:9}{line}", "");
        }
    }
    text
}

fn explained_json(step: &StepRecord, reasons: &[Reason]) -> serde_json::Value {
    json!({ "name": step.name, "outcome": step.outcome, "reasons": reasons })
}

fn line_of(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

fn list(store: &Store, format: ListFormat) -> Result<Option<String>, Failure> {
    let mut builds = Vec::new();
    for id in store.history().map_err(|error| store_failure(&error))?.into_iter().rev() {
        // One that another version has written is listed by that one.
        builds.extend(load(store, &id)?.map(|document| (id, document)));
    }
    if format == ListFormat::Json {
        return Ok(Some(builds.iter().map(|(id, document)| line_of(&summary_json(id, document))).collect()));
    }
    let head = ["BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION", "CACHED"].map(str::to_owned).to_vec();
    let row = |(id, document): &(BuildId, Document)| {
        vec![
            id.to_string(),
            document.name(),
            document.status.as_str().to_owned(),
            started(document),
            seconds(document.duration_ms),
            format!("{}/{}", document.cached(), document.steps.len()),
        ]
    };
    let lines: Vec<_> = std::iter::once(head).chain(builds.iter().map(row)).collect();
    Ok(Some(columns(&lines)))
}

fn show(store: &Store, build: Option<&str>, format: ListFormat) -> Result<Option<String>, Failure> {
    let (id, document) = find(store, build)?;
    let mut sizes = Vec::with_capacity(document.steps.len());
    for step in &document.steps {
        sizes.push(size_of(store, step).map_err(|error| store_failure(&error))?);
    }
    if format == ListFormat::Json {
        return Ok(Some(format!("{:#}\n", document_json(&id, &document, &sizes))));
    }
    let mut facts = vec![
        ("Build ID:", id.to_string()),
        ("Name:", document.name()),
        ("Dockerfile:", document.subject.dockerfile.clone()),
        ("Context:", document.subject.context.clone()),
        ("Platforms:", document.subject.platforms.join(", ")),
        ("Created at:", started(&document)),
        ("Duration:", seconds(document.duration_ms)),
        ("Status:", document.status.as_str().to_owned()),
    ];
    facts.extend(document.error.clone().map(|error| ("Error:", error)));
    let image = document.image.as_ref();
    facts.extend(image.map(|image| ("Image:", format!("{} ({})", image.digest, bytes(image.size_bytes)))));
    let facts: Vec<Vec<String>> =
        facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut steps = vec![["STEP", "OUTCOME", "DURATION", "SIZE"].map(str::to_owned).to_vec()];
    for (step, size) in document.steps.iter().zip(sizes) {
        steps.push(vec![
            step.name.clone(),
            step.outcome.as_str().to_owned(),
            seconds(step.duration_ms),
            size.map_or_else(String::new, bytes),
        ]);
    }
    Ok(Some(format!("{}\n{}", columns(&facts), columns(&steps))))
}

fn logs(store: &Store, build: Option<&str>, format: ListFormat) -> Result<Option<String>, Failure> {
    let (id, _) = find(store, build)?;
    let log = store.history_log(&id).map_err(|error| store_failure(&error))?;
    let mut text = Vec::new();
    if let Some(mut log) = log {
        let read = log.read_to_end(&mut text);
        read.map_err(|error| Failure::usage(format!("cannot read the log of the build {id}: {error}")))?;
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Some(match format {
        ListFormat::Table => text,
        ListFormat::Json => text.lines().map(|line| line_of(&json!({ "line": line }))).collect(),
    }))
}

fn remove(store: &Store, builds: &[String], all: bool) -> Result<Option<String>, Failure> {
    let ids = match (builds, all) {
        (_, true) => store.history().map_err(|error| store_failure(&error))?,
        ([], false) => return Err(Failure::usage("name the builds to remove, or all with `--all`")),
        (builds, false) => {
            let mut ids = Vec::new();
            for build in builds {
                ids.push(find_id(store, Some(build))?);
            }
            ids
        }
    };
    for id in ids {
        // Whoever else removes it does what is asked for.
        store.remove_history(&id).map_err(|error| store_failure(&error))?;
    }
    Ok(None)
}

fn load(store: &Store, id: &BuildId) -> Result<Option<Document>, Failure> {
    let bytes = store.history_document(id).map_err(|error| store_failure(&error))?;
    Ok(bytes.and_then(|bytes| past::read(&bytes)))
}

fn find(store: &Store, build: Option<&str>) -> Result<(BuildId, Document), Failure> {
    let id = find_id(store, build)?;
    let document = load(store, &id)?;
    let document = document.ok_or_else(|| {
        Failure::usage(format!("what was kept of the build {id} was written by another version of rbuild"))
    })?;
    Ok((id, document))
}

/// The build that is meant: by its name or the beginning of that, as `^N` for the N-th before the last one, or the last one.
fn find_id(store: &Store, build: Option<&str>) -> Result<BuildId, Failure> {
    let ids = store.history().map_err(|error| store_failure(&error))?;
    let text = build.unwrap_or("^0");
    let unknown = || {
        let none = if ids.is_empty() { ": no build was kept" } else { "" };
        Failure::usage(format!("there is no build `{text}` in the history{none}"))
    };
    if let Some(number) = text.strip_prefix('^') {
        let number: usize = number.parse().map_err(|_| unknown())?;
        return ids.iter().rev().nth(number).cloned().ok_or_else(unknown);
    }
    let mut found = ids.iter().filter(|id| !text.is_empty() && id.as_str().starts_with(text));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.clone()),
        (Some(_), Some(_)) => {
            Err(Failure::usage(format!("`{text}` is the beginning of several builds' names")))
        }
        (None, _) => Err(unknown()),
    }
}

fn size_of(store: &Store, step: &StepRecord) -> Result<Option<u64>, cache::StoreError> {
    let Some(key) = step.key else { return Ok(None) };
    let Some(snapshot) = store.recorded(&RecordKey(key.0))? else { return Ok(None) };
    store.own_size_bytes(&snapshot).map(Some)
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl Document {
    fn name(&self) -> String {
        self.subject.tags.first().cloned().unwrap_or_else(|| match &self.subject.target {
            Some(target) => format!("{} ({target})", self.subject.context),
            None => self.subject.context.clone(),
        })
    }

    fn cached(&self) -> usize {
        self.steps.iter().filter(|step| step.outcome == Outcome::Cached).count()
    }
}

fn started(document: &Document) -> String {
    let time: Result<Timestamp, _> = document.started.parse();
    time.map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{}s", milliseconds / 1000, milliseconds % 1000 / 100)
}

fn summary_json(id: &BuildId, document: &Document) -> serde_json::Value {
    json!({
        "id": id.as_str(),
        "name": document.name(),
        "status": document.status,
        "started": document.started,
        "duration_ms": document.duration_ms,
        "dockerfile": document.subject.dockerfile,
        "context": document.subject.context,
        "tags": document.subject.tags,
        "total_steps": document.steps.len(),
        "cached_steps": document.cached(),
        "image": document.image,
    })
}

fn document_json(id: &BuildId, document: &Document, sizes: &[Option<u64>]) -> serde_json::Value {
    let steps = document.steps.iter().zip(sizes).map(|(step, size)| {
        json!({
            "name": step.name,
            "outcome": step.outcome,
            "duration_ms": step.duration_ms,
            "size_bytes": size,
            "key": step.key,
        })
    });
    let mut value = summary_json(id, document);
    value["target"] = json!(document.subject.target);
    value["platforms"] = json!(document.subject.platforms);
    value["error"] = json!(document.error);
    value["bases"] = json!(document.bases);
    value["steps"] = steps.collect();
    value
}
