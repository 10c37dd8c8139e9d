//! `rbuild doctor`: what this machine can do, and what would improve it.
//!
//! It tries things out instead of guessing from versions, and leaves nothing behind: a store that is not there is not
//! made. `--store` looks at the content of the store instead.

mod ids;
mod machine;
mod programs;
mod store;
mod verify;

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::Answer;
use crate::arguments::{Ids, ListFormat};
use crate::report::{Failure, FailureKind};
use crate::session::Session;

/// How well something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// As well as it can.
    Ok,
    /// Builds work, but something of it does not, or slowly.
    Limited,
    /// Not at all.
    Missing,
    /// It was damaged, and is thrown away.
    Repaired,
    /// It is damaged still.
    Damaged,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Repaired => "repaired",
            Self::Damaged => "damaged",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// What (`ids`): a word or two that never change.
    check: &'static str,
    status: Status,
    /// What was found, and what that means for builds.
    detail: String,
    /// What would improve it: a command or a setting.
    remedy: Option<String>,
    /// Whether no build works because of it.
    fatal: bool,
}

impl Finding {
    fn new(check: &'static str, status: Status, detail: impl Into<String>) -> Self {
        Self { check, status, detail: detail.into(), remedy: None, fatal: false }
    }

    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, detail)
    }

    fn limited(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Limited, detail)
    }

    fn missing(check: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Missing, detail)
    }

    /// Something that a command of rbuild failed at: no build works then.
    fn of_failure(check: &'static str, failure: &Failure) -> Self {
        let hints = failure.hints();
        let remedy = (!hints.is_empty()).then(|| hints.join("; "));
        Self { remedy, fatal: true, ..Self::missing(check, failure.cause()) }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn fatal(self) -> Self {
        Self { fatal: true, ..self }
    }
}

pub(crate) use verify::run as verify;

/// Looks at everything. `root` is the directory of the store.
pub(crate) fn run(root: &Path, ids: Ids, format: ListFormat) -> Answer {
    let mut findings = vec![machine::kernel()];
    // Who one is can be told in the outer namespace only.
    let user = ids::User::current();
    match Session::begin(root, ids) {
        Ok(session) => {
            findings.push(ids::finding(&session, &user, root));
            findings.extend(machine::sandbox(session.ids()));
            findings.extend(store::findings(root, &session));
        }
        Err(failure) => findings.push(Finding::of_failure("ids", &failure)),
    }
    findings.push(machine::container());
    findings.push(machine::cgroups(&user));
    findings.push(programs::network());
    findings.push(programs::platforms());
    findings.push(programs::git());
    findings.push(programs::agent());
    findings.extend(programs::configuration());
    let works = !findings.iter().any(|finding| finding.fatal);
    let text = written(&findings, format, || conclusion(&findings, works));
    let code = if works { 0 } else { FailureKind::Environment.exit_code() };
    Answer { code, ..Answer::text(text) }
}

impl Finding {
    fn json(&self) -> String {
        let Self { check, status, detail, remedy, fatal } = self;
        let row = json!({
            "check": check,
            "status": status.name(),
            "detail": detail,
            "remedy": remedy,
            "fatal": fatal,
        });
        format!("{row}\n")
    }
}

/// The findings in a format; a table ends with what follows from them.
fn written(findings: &[Finding], format: ListFormat, conclusion: impl FnOnce() -> String) -> String {
    match format {
        ListFormat::Json => findings.iter().map(Finding::json).collect(),
        ListFormat::Table => format!("{}\n{}\n", table(findings), conclusion()),
    }
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, status, detail, remedy, .. } in findings {
        let _ = writeln!(text, "{:<8}  {check:<width$}  {detail}", status.name());
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<8}  {:<width$}  → {remedy}", "", "");
        }
    }
    text
}

fn conclusion(findings: &[Finding], works: bool) -> String {
    let remedies = findings.iter().filter(|finding| finding.status != Status::Ok).count();
    match (works, remedies) {
        (false, _) => "Builds do not work here.".to_owned(),
        (true, 0) => "Builds work here.".to_owned(),
        (true, 1) => "Builds work here; one thing is limited or missing.".to_owned(),
        (true, number) => format!("Builds work here; {number} things are limited or missing."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_as_a_table_and_as_json() {
        let findings = [
            Finding::ok("kernel", "Linux 6.1"),
            Finding::limited("ids", "one").with_remedy("get more"),
            Finding::missing("git", "not \"found\"").fatal(),
        ];
        let expected = "ok        kernel  Linux 6.1\n\
                        limited   ids     one\n                  → get more\n\
                        missing   git     not \"found\"\n\nBuilds do not work here.\n";
        let told = written(&findings, ListFormat::Table, || conclusion(&findings, false));
        assert_eq!(told, expected);
        assert_eq!(conclusion(&findings, true), "Builds work here; 2 things are limited or missing.");
        assert_eq!(conclusion(&findings[..1], true), "Builds work here.");
        let expected = "{\"check\":\"git\",\"status\":\"missing\",\"detail\":\"not \\\"found\\\"\",\"remedy\":null,\
                        \"fatal\":true}\n";
        assert_eq!(findings[2].json(), expected);
    }
}
