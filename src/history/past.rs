//! The earlier builds of a Dockerfile, and which of their steps are those of another build.

use cache::{BuildId, Store, StoreError};

use super::{Document, Outcome, StepRecord, Subject, VERSION};
use crate::explain::{Before, instruction};

/// The builds of one Dockerfile with one context, the last one first.
pub(crate) struct Past(Vec<Document>);

impl Past {
    /// Reads those of `subject`: all that came before `than`, if that is given. Blocks.
    pub(crate) fn read(store: &Store, subject: &Subject, than: Option<&BuildId>) -> Result<Self, StoreError> {
        let mut documents = Vec::new();
        for id in store.history()?.iter().rev() {
            if than.is_some_and(|than| id >= than) {
                continue;
            }
            // Another process may remove one meanwhile.
            let Some(bytes) = store.history_document(id)? else { continue };
            documents.extend(read(&bytes).filter(|document| document.subject.is_project_of(subject)));
        }
        Ok(Self(documents))
    }

    /// The step that the one at `index` of `names` was in an earlier build: one with the same words in the same stage, in
    /// the last build that got there; else the one in its place in the last build, if this one has it no more.
    pub(crate) fn before(&self, names: &[&str], index: usize) -> Option<Before> {
        let step = Place::of(names[index]);
        let same = |name: &&str| Place::of(name).is_same_step(&step);
        let occurrence = names[..index].iter().filter(|name| same(name)).count();
        for document in &self.0 {
            let mut found = document.steps.iter().filter(|step| same(&step.name.as_str()));
            if let Some(found) = found.nth(occurrence)
                && found.is_known()
            {
                return Some(before(document, found));
            }
        }
        let last = self.0.iter().find(|document| !document.steps.is_empty())?;
        let in_place = last.steps.iter().find(|other| {
            let other = Place::of(&other.name);
            other.stage == step.stage && other.number == step.number && other.number.is_some()
        })?;
        let is_gone = |other: &StepRecord| {
            let other = Place::of(&other.name);
            !names.iter().any(|name| Place::of(name).is_same_step(&other))
        };
        Some(before(last, in_place)).filter(|_| is_gone(in_place))
    }
}

fn before(document: &Document, step: &StepRecord) -> Before {
    Before {
        name: step.name.clone(),
        key: step.key,
        has_failed: step.outcome != Outcome::Executed && step.outcome != Outcome::Cached,
        images: document.bases.clone(),
    }
}

/// A document, if this program can read it.
pub(super) fn read(bytes: &[u8]) -> Option<Document> {
    let document: Document = serde_json::from_slice(bytes).ok()?;
    Some(document).filter(|document| document.version == VERSION)
}

impl Subject {
    fn is_project_of(&self, other: &Self) -> bool {
        (&self.dockerfile, &self.context) == (&other.dockerfile, &other.context)
    }
}

impl StepRecord {
    fn is_known(&self) -> bool {
        self.key.is_some()
    }
}

/// What the name of a step says: `[linux/arm64 build 2/5] RUN make`.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    /// The platform and the stage, as far as they are named.
    stage: &'a str,
    /// Which step of the stage.
    number: Option<&'a str>,
    instruction: &'a str,
}

impl<'a> Place<'a> {
    fn of(name: &'a str) -> Self {
        let own = instruction(name);
        let place = name.strip_suffix(own).and_then(|place| place.strip_prefix('[')?.strip_suffix("] "));
        let place = place.unwrap_or_default();
        let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
        match number.split_once('/') {
            Some((number, _)) => Self { stage, number: Some(number), instruction: own },
            None => Self { stage: place, number: None, instruction: own },
        }
    }

    fn is_same_step(&self, other: &Self) -> bool {
        (self.stage, self.instruction) == (other.stage, other.instruction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_names() {
        let cases = [
            ("[2/5] RUN make", ("", Some("2"), "RUN make")),
            ("[build 2/5] RUN [ \"a\" ]", ("build", Some("2"), "RUN [ \"a\" ]")),
            ("[linux/arm64 build 3/5] COPY . .", ("linux/arm64 build", Some("3"), "COPY . .")),
            ("[auth] x", ("auth", None, "x")),
            ("RUN x", ("", None, "RUN x")),
        ];
        for (name, (stage, number, instruction)) in cases {
            assert_eq!(Place::of(name), Place { stage, number, instruction }, "{name}");
        }
    }

    fn past(builds: &[&[&str]]) -> Past {
        let document = |names: &&[&str]| {
            let steps: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(number, name)| {
                    let digits = format!("{number:064x}");
                    serde_json::json!({"name": name, "outcome": "executed", "duration_ms": 1, "key": digits})
                })
                .collect();
            let text = serde_json::json!({
                "version": VERSION, "dockerfile": "/d", "context": "/c", "target": null, "platforms": [], "tags": [],
                "started": "", "duration_ms": 1, "status": "succeeded", "error": null, "image": null, "bases": {},
                "steps": steps,
            });
            read(text.to_string().as_bytes()).unwrap()
        };
        Past(builds.iter().map(document).collect())
    }

    #[test]
    fn a_step_is_found_by_its_words_else_by_its_place() {
        let past = past(&[&["[1/3] RUN a", "[2/3] RUN b", "[3/3] RUN a"], &["[x 1/1] RUN old"]]);
        let find = |names: &[&str], index| past.before(names, index).map(|before| before.name);
        let inserted = ["[1/4] RUN new", "[2/4] RUN a", "[3/4] RUN b", "[4/4] RUN a"];
        assert_eq!(find(&inserted, 0), None, "what is in its place is still there");
        assert_eq!(find(&inserted, 1).as_deref(), Some("[1/3] RUN a"));
        assert_eq!(find(&inserted, 3).as_deref(), Some("[3/3] RUN a"), "the second of two");
        let changed = ["[1/3] RUN a", "[2/3] RUN c", "[3/3] RUN a"];
        assert_eq!(find(&changed, 1).as_deref(), Some("[2/3] RUN b"));
        assert_eq!(find(&["[x 1/1] RUN old"], 0).as_deref(), Some("[x 1/1] RUN old"), "of an earlier build");
        assert_eq!(find(&["[y 1/1] RUN a"], 0), None, "another stage");
    }
}
