//! From the result of a build to what is said of it.

use exporter::{Attestation, ImageBuild};
use jiff::Timestamp;
use solver::Solved;
use worker::{Output, SourceVersions};

use super::packages::{Packages, Scanned};
use super::provenance::{Provenance, Run};
use super::scans::{DESTINATION, Scans};
use super::{Attestations, Said};
use crate::build::Work;
use crate::export::{self, BuiltImage};
use crate::report::{Failure, FailureKind};
use crate::session::blocking;

/// Where nothing tells when something was made.
const EPOCH: &str = "1970-01-01T00:00:00Z";

impl Work<'_> {
    /// What the provenance of all images tells; `None` where nobody wants to know.
    pub(crate) fn provenance_run(&self) -> Option<Run<'_>> {
        let Attestations { provenance, metadata, .. } = &self.plan.outputs.attestations;
        let is_in_metadata = metadata.is_some() && self.plan.outputs.tell_metadata();
        if provenance.is_none() && !is_in_metadata {
            return None;
        }
        let mut versions = self.worker.source_versions();
        let SourceVersions { images, files, repositories } = self.remote_versions.clone();
        versions.images.extend(images);
        versions.files.extend(files);
        versions.repositories.extend(repositories);
        let (id, started) = self.recording.identity();
        Some(Run {
            graph: &self.build.graph,
            file: &self.build.file,
            options: &self.plan.options,
            context: self.plan.inputs.main_remote(),
            versions,
            vcs: &self.plan.vcs,
            id,
            started,
            finished: Timestamp::now().to_string(),
        })
    }

    /// What is said of `built`, in its order.
    pub(crate) async fn say<'s>(
        &'s self,
        run: Option<&'s Run<'s>>,
        built: &[BuiltImage],
        solved: &Solved<Output>,
    ) -> Result<Option<Said<'s>>, Failure> {
        let wanted = &self.plan.outputs.attestations;
        let images = self.build.lowered.images.iter();
        let provenance = run.map_or_else(Vec::new, |run| {
            let of_image = |image: &'s frontend::LoweredImage| Provenance {
                run,
                platform: &image.platform,
                target: image.target,
                base_layers: image.base_layers,
            };
            images.map(of_image).collect()
        });
        let mut packages = Vec::new();
        if wanted.sbom.is_some() {
            let mut scanned = solved.outputs[built.len()..].iter().cloned();
            for (number, image) in built.iter().enumerate() {
                let found = match &self.build.scans {
                    Scans::Own(images) => {
                        let files = images[number].iter().zip(scanned.by_ref());
                        let files = files.map(|(scan, output)| Scanned { name: scan.name.clone(), output });
                        let key = solved.keys.get(number).copied().flatten();
                        self.find_packages(image, files.collect(), key).await?
                    }
                    Scans::Steps(_) => {
                        let output = scanned.next().expect("there is an output of each step");
                        self.read_documents(output).await?
                    }
                };
                packages.push(found);
            }
        }
        let is_nothing = provenance.is_empty() && packages.is_empty();
        Ok((!is_nothing).then_some(Said { wanted, packages, provenance }))
    }

    /// The documents of the own scanner.
    async fn find_packages(
        &self,
        image: &BuiltImage,
        files: Vec<Scanned>,
        key: Option<solver::CacheKey>,
    ) -> Result<Vec<Attestation>, Failure> {
        let (progress, worker) = (&self.plan.progress, self.worker);
        let step = progress.begin(format!("[{}] generating sbom", image.platform));
        let packages = Packages {
            store: self.store,
            worker,
            progress,
            cancel: self.interrupt.token(),
            created: self.created(image).await?.unwrap_or_else(|| EPOCH.to_owned()),
            identity: key.map(|key| key.to_string()).unwrap_or_default(),
        };
        match packages.find(&files, step).await {
            Ok(found) => {
                progress.done(step);
                Ok(found)
            }
            Err(failure) => {
                progress.failed(step, failure.cause());
                Err(failure)
            }
        }
    }

    /// The documents that a scanner has written.
    async fn read_documents(&self, output: Output) -> Result<Vec<Attestation>, Failure> {
        let snapshot = self.worker.snapshot_for_export(&output, self.interrupt.token()).await;
        let snapshot = snapshot
            .map_err(|error| Failure::from_error(FailureKind::Build, &error).with_hints(error.hint()))?;
        let store = self.store.clone();
        let read = blocking(move || exporter::read_statements(&store, snapshot.as_ref(), DESTINATION)).await;
        read.map_err(|error| export::failure(&error))
    }

    /// When the image was made, as its config tells.
    async fn created(&self, image: &BuiltImage) -> Result<Option<String>, Failure> {
        let (worker, store) = (self.worker.clone(), self.store.clone());
        let (config, output, epoch) = (image.config.clone(), image.output.clone(), self.build.lowered.epoch);
        let created = blocking(move || {
            let layers = worker.layers_of(&output)?.into_iter().map(export::origin).collect();
            let build = ImageBuild { config, layers, base_layers: 0, epoch, cache: None };
            Ok(exporter::creation_time(&store, &build))
        });
        created
            .await
            .map_err(|error: worker::WorkerError| Failure::from_error(FailureKind::Environment, &error))
    }
}
