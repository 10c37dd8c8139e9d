//! `rbuild doctor --store`: whether what the store holds is what it should be.

use std::path::Path;

use cache::{Defect, Outcome, Part, Verified};

use super::{Finding, Status, written};
use crate::Answer;
use crate::arguments::ListFormat;
use crate::report::{Failure, FailureKind};
use crate::session::Session;

/// Reads all of the store in `root`, and repairs what can be repaired without losing more than cache.
pub(crate) fn run(session: &Session, root: &Path, format: ListFormat) -> Result<Answer, Failure> {
    let findings = if root.join("meta.db").exists() {
        let store = session.open_store_now(root.to_owned())?;
        let verified = store.verify().map_err(|error| session.store_failure(&error))?;
        findings(&verified)
    } else {
        vec![Finding::ok("store", format!("`{}` is made by the first build", root.display()))]
    };
    let is_right = findings.iter().all(|finding| finding.status == Status::Ok);
    let code = if is_right { 0 } else { FailureKind::Build.exit_code() };
    Ok(Answer { code, ..Answer::text(written(&findings, format, || conclusion(&findings))) })
}

fn findings(verified: &Verified) -> Vec<Finding> {
    let Verified { blobs, snapshots, compared_snapshots, records, images, cache_mounts, leftovers, defects } =
        verified;
    let parts = [
        (Part::Metadata, format!("{} can be read", counted(*records, "cache record"))),
        (Part::Blobs, format!("{} compared with digests", counted(*blobs, "blob"))),
        (
            Part::Snapshots,
            format!(
                "{} there, the content of {compared_snapshots} compared with digests",
                counted(*snapshots, "snapshot")
            ),
        ),
        (Part::Images, format!("{}: nothing is missing", counted(*images, "image"))),
        (Part::CacheMounts, format!("{} there", counted(*cache_mounts, "cache mount"))),
        (Part::Contexts, "what is known of build contexts can be read".to_owned()),
    ];
    let mut findings = Vec::new();
    for (part, detail) in parts {
        let wrong: Vec<Finding> = defects.iter().filter(|defect| defect.part == part).map(finding).collect();
        if wrong.is_empty() {
            findings.push(Finding::ok(name(part), detail));
        }
        findings.extend(wrong);
    }
    let detail = match leftovers {
        0 => "nothing is left of killed builds".to_owned(),
        number => format!("{} of killed builds removed", counted(*number, "leftover")),
    };
    findings.push(Finding::ok("leftovers", detail));
    findings
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Metadata => "metadata",
        Part::Blobs => "blobs",
        Part::Snapshots => "snapshots",
        Part::Images => "images",
        Part::CacheMounts => "cache mounts",
        Part::Contexts => "contexts",
    }
}

fn finding(defect: &Defect) -> Finding {
    let (status, remedy) = match defect.outcome {
        Outcome::Repaired => (Status::Repaired, None),
        Outcome::InUse => {
            (Status::Damaged, Some("a running build uses it: do this again when that has ended"))
        }
        Outcome::Left => (Status::Damaged, Some("build the image again, or remove it with `rbuild rmi`")),
    };
    let finding = Finding::new(name(defect.part), status, format!("{}: {}", defect.name, defect.detail));
    Finding { remedy: remedy.map(str::to_owned), ..finding }
}

fn conclusion(findings: &[Finding]) -> String {
    let count = |status| findings.iter().filter(|finding| finding.status == status).count() as u64;
    match (count(Status::Repaired), count(Status::Damaged)) {
        (0, 0) => "The store is as it should be.".to_owned(),
        (repaired, 0) => format!("{} repaired: the next build makes it anew.", counted(repaired, "thing")),
        (repaired, damaged) => {
            format!("{} repaired, {damaged} still damaged.", counted(repaired, "thing"))
        }
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_wrong_is_told_in_its_place() {
        let defect = |part, outcome| Defect {
            part,
            name: "thing `x`".to_owned(),
            detail: "it is gone".to_owned(),
            outcome,
        };
        let mut verified = Verified { blobs: 1, snapshots: 3, leftovers: 2, ..Verified::default() };
        let all = findings(&verified);
        assert!(all.iter().all(|finding| finding.status == Status::Ok));
        assert_eq!(all[1].detail, "1 blob compared with digests");
        assert_eq!(all[6].detail, "2 leftovers of killed builds removed");
        assert_eq!(conclusion(&all), "The store is as it should be.");
        verified.defects.push(defect(Part::Snapshots, Outcome::Repaired));
        let all = findings(&verified);
        assert_eq!((all[2].check, all[2].detail.as_str()), ("snapshots", "thing `x`: it is gone"));
        assert_eq!(conclusion(&all), "1 thing repaired: the next build makes it anew.");
        verified.defects.push(defect(Part::Images, Outcome::Left));
        let all = findings(&verified);
        assert_eq!((all.len(), all[3].status), (7, Status::Damaged));
        assert!(all[3].remedy.as_deref().is_some_and(|remedy| remedy.contains("rbuild rmi")));
        assert_eq!(conclusion(&all), "1 thing repaired, 1 still damaged.");
    }
}
