//! What is in images: documents of the packages in their files.

use cache::{Snapshot, Store};
use exporter::{Attestation, Reach};
use sbom::{DocumentOptions, Inventory};
use serde_json::value::RawValue;
use worker::{LocalWorker, Output};

use crate::progress::{Progress, StepNumber};
use crate::report::{Failure, FailureKind};
use crate::session::blocking;

const SPDX: &str = "https://spdx.dev/Document";
const TOOL: &str = concat!("rbuild-", env!("CARGO_PKG_VERSION"));

/// Files that are scanned.
pub(crate) struct Scanned {
    /// What the document is about, which names its file.
    pub(crate) name: String,
    pub(crate) output: Output,
}

/// Scans files.
pub(crate) struct Packages<'a> {
    pub(crate) store: &'a Store,
    pub(crate) worker: &'a LocalWorker,
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a tokio_util::sync::CancellationToken,
    /// When the image was made, RFC 3339.
    pub(crate) created: String,
    /// A text that tells the image from others.
    pub(crate) identity: String,
}

impl Packages<'_> {
    /// The documents of the own scanner, one for each of `scanned`.
    pub(crate) async fn find(
        &self,
        scanned: &[Scanned],
        step: StepNumber,
    ) -> Result<Vec<Attestation>, Failure> {
        let mut documents = Vec::with_capacity(scanned.len());
        for files in scanned {
            let snapshot = self.snapshot(&files.output).await?;
            let store = self.store.clone();
            let inventory = blocking(move || exporter::scan_packages(&store, snapshot.as_ref())).await;
            let inventory = inventory.map_err(|error| crate::export::failure(&error))?;
            self.tell(&files.name, &inventory, step);
            documents.push(self.document(&files.name, &inventory)?);
        }
        Ok(documents)
    }

    async fn snapshot(&self, output: &Output) -> Result<Option<Snapshot>, Failure> {
        let snapshot = self.worker.snapshot_for_export(output, self.cancel).await;
        snapshot.map_err(|error| Failure::from_error(FailureKind::Build, &error).with_hints(error.hint()))
    }

    fn tell(&self, name: &str, inventory: &Inventory, step: StepNumber) {
        let count = inventory.packages.len();
        self.progress.line(step, &format!("{name}: {count} packages"));
        for warning in &inventory.warnings {
            let path = warning.path.display();
            self.progress.line(step, &format!("WARNING: {path} is not told of: {}", warning.problem));
        }
    }

    fn document(&self, name: &str, inventory: &Inventory) -> Result<Attestation, Failure> {
        let options = DocumentOptions { name, identity: &self.identity, created: &self.created, tool: TOOL };
        let document = sbom::document(inventory, &options)
            .and_then(|bytes| RawValue::from_string(String::from_utf8_lossy(&bytes).into_owned()));
        let predicate = document.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
        Ok(Attestation {
            predicate_type: SPDX.to_owned(),
            predicate,
            file_name: format!("{name}.spdx.json"),
            reach: Reach::Everywhere,
        })
    }
}
