//! `rbuild build`: from the command line to an image.

mod flags;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cache::{HistoryBounds, IdMode, Store};
use exporter::RootForm;
use frontend::{Before, Diagnostic, LowerOptions, LoweredPlatforms, SourceFile};
use oci::{Descriptor, Platform};
use registry::ClientOptions;
use sandbox::OwnerChanges;
use serde_json::{Map, Value, json};
use solver::{Op, SolveError, SolveOptions, Solved, VertexId};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use worker::{
    Debugger, DefaultNetwork, DeviceRegistry, LocalWorker, Output, Resources, Secret, SourcePolicy,
    SourceVersions, SshAgent, TimeLimit, WorkerError, WorkerOptions,
};

use crate::agents;
use crate::arguments::{BuildArguments, PlanFormat, ProgressMode, Switches};
use crate::attestations::Scans;
use crate::caches::{Caches, Carrying};
use crate::call::Call;
use crate::debug::{Shells, Wanted};
use crate::export::{self, BuiltImage, Outputs};
use crate::history::{Recording, Subject};
use crate::inputs::{self, Definition, Inputs, ReadyInputs};
use crate::interrupt::Interrupt;
use crate::lockfile;
use crate::notices::Notices;
use crate::preview;
use crate::progress::{self, Asked, Display, Progress};
use crate::remote;
use crate::report::{self, Failure, FailureKind, Failures};
use crate::resolver::{Remembering, Resolver, Times};
use crate::revision;
use crate::secrets;
use crate::session::{Session, blocking};
use crate::settings::Environment;
use crate::space;
use crate::traces::{Told, Traces};
use crate::warnings::{Detail, warnings_text};

use flags::Flags;

/// Everything that a build needs to know, read and checked. Making it starts no thread and opens no store.
pub(crate) struct Plan {
    /// For the first platform.
    pub(crate) options: LowerOptions,
    /// The platforms that are built for, each once.
    platforms: Vec<Platform>,
    pub(crate) inputs: Arc<Inputs>,
    secrets: Arc<BTreeMap<String, Secret>>,
    agents: BTreeMap<String, SshAgent>,
    network: DefaultNetwork,
    pub(crate) outputs: Outputs,
    caches: Caches,
    /// The Dockerfile as it was given.
    file: Option<PathBuf>,
    pub(crate) wanted: Wanted,
    pub(crate) shells: Option<Arc<Shells>>,
    pub(crate) progress: Arc<Progress>,
    asked: Asked,
    /// What flags and variables that have no effect are told with.
    notices: String,
    sources: SourcePolicy,
    /// How to speak to registries.
    registries: ClientOptions,
    /// The lock file that is to be written.
    lock: Option<PathBuf>,
    /// What is asked for instead of a build.
    pub(crate) call: Option<Call>,
    /// How to tell what would be done, instead of doing it.
    preview: Option<PlanFormat>,
    /// Where the spans of the build go, if they are wanted.
    traces: Option<Traces>,
    /// Whether to tell why steps are executed.
    explain: bool,
    /// How much is told of broken lint rules.
    detail: Detail,
    subject: Subject,
    /// What git knows of the context.
    pub(crate) vcs: BTreeMap<String, String>,
    history: HistoryBounds,
    /// How long all of it may take.
    pub(crate) timeout: Option<TimeLimit>,
    /// How long the process of a RUN may take.
    step_timeout: Option<TimeLimit>,
    parallelism: usize,
    resources: Resources,
    devices: Arc<DeviceRegistry>,
    /// Whether changes of owners in steps are to have no effect where there is one id.
    ignore_chown: bool,
}

/// Checks the command line and reads what the build is made of.
pub(crate) fn plan(arguments: &BuildArguments) -> Result<Plan, Failure> {
    let Given { call, outputs, wanted, caches, flags, secrets, agents, inputs, mut notices } =
        Given::read(arguments)?;
    if call.is_some() && wanted.is_something() {
        return Err(Failure::usage(
            "`--on-failure` and `--break` go with builds, not with `--call` and `--check`",
        ));
    }
    let device_settings = Environment::device_settings()?;
    let devices = DeviceRegistry::load(&device_settings.directories());
    let (sources, lock) = sources(arguments, &inputs, (&outputs, &caches))?;
    let Flags { platforms, resources, timeout, step_timeout, language } = flags;
    let options = language.options(arguments, &inputs, &platforms, device_settings.options(&devices))?;
    let labels = git_labels(&inputs, &mut notices).into_iter().chain(options.labels).collect();
    let options = LowerOptions {
        breakpoints: wanted.places(),
        finds_scans: outputs.attestations.sbom.is_some(),
        labels,
        ..options
    };
    outputs.check_form(export::root_form(&options), &platforms)?;
    let subject = subject(arguments, &inputs, &platforms);
    let asked = if call.is_some() || arguments.look.plan.is_some() { Asked::Answer } else { Asked::Build };
    let mode = if arguments.switches.quiet { ProgressMode::Quiet } else { arguments.output.progress };
    let traces =
        Traces::of(Environment::text, &mut notices).filter(|_| asked == Asked::Build && !sources.offline);
    let processors = std::thread::available_parallelism();
    let progress = Arc::new(Progress::new(Display::of(mode, asked)?, Environment::log_limits()?));
    if asked == Asked::Build {
        progress.begin_log();
    }
    // Nothing is shown of the way to an answer.
    let is_silent = asked == Asked::Answer && mode == ProgressMode::Quiet;
    Ok(Plan {
        asked,
        notices: if is_silent { String::new() } else { notices.text() },
        options,
        platforms,
        vcs: vcs(&inputs, &outputs),
        inputs: Arc::new(inputs),
        secrets: Arc::new(secrets),
        agents,
        network: Environment::default_network()?,
        outputs,
        caches,
        registries: ClientOptions { offline: sources.offline, ..arguments.registries.client_options()? },
        sources,
        lock,
        file: arguments.input.file.clone(),
        shells: wanted.has_shells().then(|| Arc::new(Shells::new(&wanted, Arc::clone(&progress)))),
        wanted,
        progress,
        call,
        preview: arguments.look.plan,
        traces,
        explain: arguments.switches.explain,
        detail: if arguments.switches.debug { Detail::Full } else { Detail::Line },
        subject,
        history: Environment::history_bounds()?,
        timeout,
        step_timeout,
        // Steps wait for networks, disks and clocks as much as they compute, and the peers set no bound at all.
        parallelism: arguments
            .steps
            .jobs
            .map_or_else(|| (4 * processors.map_or(1, usize::from)).max(16), usize::from),
        resources,
        devices: Arc::new(devices),
        ignore_chown: arguments.switches.ignore_chown,
    })
}

/// What the command line says, each thing checked for itself.
struct Given {
    call: Option<Call>,
    outputs: Outputs,
    wanted: Wanted,
    caches: Caches,
    flags: Flags,
    secrets: BTreeMap<String, Secret>,
    agents: BTreeMap<String, SshAgent>,
    inputs: Inputs,
    notices: Notices,
}

impl Given {
    /// Reads all of it, or tells all that is wrong with it, so far as one thing does not depend on another.
    fn read(arguments: &BuildArguments) -> Result<Self, Failure> {
        let mut failures = Failures::default();
        let call = failures.keep(call(arguments));
        let outputs = failures.keep(Outputs::of(arguments));
        let wanted = failures.keep(Wanted::of(arguments));
        let caches = outputs.as_ref().and_then(|outputs| failures.keep(Caches::of(arguments, outputs)));
        let flags = failures.keep(Flags::read(arguments));
        let secrets = failures.keep(secrets::read(&arguments.steps.secrets, Environment::bytes));
        let socket = Environment::path("SSH_AUTH_SOCK");
        let agents = failures.keep(agents::read(&arguments.steps.ssh, socket.as_deref()));
        let inputs = failures.keep(inputs::read(arguments));
        let notices = failures.keep(Notices::of(arguments, inputs.as_ref()));
        let given = || {
            Some(Self {
                call: call?,
                outputs: outputs?,
                wanted: wanted?,
                caches: caches?,
                flags: flags?,
                secrets: secrets?,
                agents: agents?,
                inputs: inputs?,
                notices: notices?,
            })
        };
        given().filter(|_| failures.are_none()).ok_or_else(|| failures.end())
    }
}

/// The labels that `BUILDX_GIT_LABELS` asks for.
fn git_labels(inputs: &Inputs, notices: &mut Notices) -> BTreeMap<String, String> {
    let is_wanted = Environment::text("BUILDX_GIT_LABELS").is_some_and(|value| revision::are_wanted(&value));
    let sources = git_sources(inputs).filter(|_| is_wanted);
    sources.map_or_else(BTreeMap::new, |sources| revision::labels(&sources, notices))
}

/// What git knows of the context, where that is told; nothing if `BUILDX_GIT_INFO` says so.
fn vcs(inputs: &Inputs, outputs: &Outputs) -> BTreeMap<String, String> {
    let is_wanted = Environment::text("BUILDX_GIT_INFO").and_then(|value| frontend::go_bool(&value));
    let is_told = outputs.attestations.provenance.is_some() || outputs.tell_metadata();
    let sources = git_sources(inputs).filter(|_| is_told && is_wanted != Some(false));
    sources.as_ref().map_or_else(BTreeMap::new, revision::facts)
}

/// Where git is asked about a build; only a context of this machine is in a working tree.
fn git_sources(inputs: &Inputs) -> Option<revision::Sources<'_>> {
    let dirty = Environment::text("BUILDX_GIT_CHECK_DIRTY");
    Some(revision::Sources {
        context: inputs.directory()?,
        dockerfile: inputs.definition().and_then(|definition| definition.path.as_deref()),
        marks_changes: dirty.and_then(|value| frontend::go_bool(&value)) == Some(true),
    })
}

/// What the history calls the build.
fn subject(arguments: &BuildArguments, inputs: &Inputs, platforms: &[Platform]) -> Subject {
    let context = match &arguments.context {
        url if url.contains("://") => registry::redacted(url),
        other => match std::fs::canonicalize(other) {
            Ok(path) => path.display().to_string(),
            Err(_) => other.clone(),
        },
    };
    let path = inputs.definition().and_then(|definition| definition.path.as_deref());
    let dockerfile = match (path, &arguments.input.file) {
        (Some(path), _) => {
            std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
        }
        (None, Some(file)) => registry::redacted(&file.to_string_lossy()),
        (None, None) => context.clone(),
    };
    Subject {
        dockerfile,
        context,
        target: arguments.input.target.clone(),
        platforms: platforms.iter().map(ToString::to_string).collect(),
        tags: arguments.image.tags.clone(),
    }
}

/// Which versions of remote sources are taken, and the lock file that is to be written.
fn sources(
    arguments: &BuildArguments,
    inputs: &Inputs,
    (outputs, caches): (&Outputs, &Caches),
) -> Result<(SourcePolicy, Option<PathBuf>), Failure> {
    let Switches { offline, lock, .. } = arguments.switches;
    if offline && outputs.needs_registry() {
        return Err(Failure::usage("`--offline` and a push to a registry exclude each other"));
    }
    if offline && caches.need_registry() {
        return Err(Failure::usage("`--offline` and caches in registries exclude each other")
            .with_hint("`type=local` is a directory"));
    }
    let path = inputs.definition().and_then(|definition| definition.path.as_deref()).map(lockfile::path_of);
    if lock && path.is_none() {
        return Err(Failure::usage("`--lock` needs a Dockerfile that is a file of this machine"));
    }
    let locked = match &path {
        Some(path) if !lock => lockfile::read(path)?,
        _ => None,
    };
    let policy = SourcePolicy { pull: arguments.sources.pull.unwrap_or_default(), offline, locked };
    Ok((policy, path.filter(|_| lock)))
}

/// `--call`, `--check` and `--fix`.
fn call(arguments: &BuildArguments) -> Result<Option<Call>, Failure> {
    let method = match (arguments.call(), arguments.switches.check) {
        (Some(call), false) => call,
        (Some(call), true) if call.split(',').next().is_some_and(|name| matches!(name, "check" | "lint")) => {
            call
        }
        (Some(_), true) => return Err(Failure::usage("`--check` and `--call` ask for different things")),
        (None, true) => "check",
        (None, false) => "build",
    };
    let call = Call::read(method, arguments.switches.fix).map_err(Failure::usage)?;
    if call.is_some() && arguments.look.plan.is_some() {
        return Err(Failure::usage("`--plan` and `--call` ask for different things"));
    }
    Ok(call)
}

/// What a build works with.
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// The client of registries that the worker uses.
    pub(crate) client: registry::Client,
    pub(crate) worker: LocalWorker,
    pub(crate) definition: Definition,
    /// What the contexts that are elsewhere were found to be.
    remote_versions: SourceVersions,
    /// Where the build context is.
    pub(crate) main_directory: PathBuf,
}

impl Plan {
    /// Begins what cannot be begun in the session.
    pub(crate) fn prepare(&self) {
        self.outputs.begin_program();
    }

    /// Tells what flags and variables have no effect. Once the session has begun: what is shown is written by a thread.
    pub(crate) fn tell_notices(&self) {
        match self.asked {
            Asked::Build => self.progress.note(&self.notices),
            Asked::Answer => self.progress.tell(&self.notices),
        }
    }

    /// Opens the store, reads what is left to read of the inputs, and makes a worker that knows them.
    pub(crate) async fn open(
        &self,
        session: &Session,
        root: PathBuf,
        interrupt: &Interrupt,
    ) -> Result<Opened, Failure> {
        let store = session.open_store(root).await?;
        interrupt.uses(&store);
        let client = registry::Client::new(self.registries.clone());
        // What is asked for instead of a build looks nothing up.
        let imports = match self.call {
            None => self.caches.begin_imports(&store, &client, &self.progress),
            Some(_) => Arc::default(),
        };
        let step = match self.inputs.definition() {
            Some(_) if self.inputs.remotes().is_empty() => None,
            _ => Some(self.progress.begin("[internal] load remote build context")),
        };
        let options = WorkerOptions {
            secrets: Arc::clone(&self.secrets),
            agents: self.agents.clone(),
            git: Environment::git_options(),
            sources: self.sources.clone(),
            network: self.network.clone(),
            resources: self.resources.clone(),
            devices: Arc::clone(&self.devices),
            step_timeout: self.step_timeout.clone(),
            owner_changes: self.owner_changes(session),
            debugger: self.shells.clone().map(|shells| shells as Arc<dyn Debugger>),
            emulators: Environment::emulator_directories(),
            ..WorkerOptions::new(store.clone(), client.clone())
        };
        let ready = self.ready(&options, session.salt(self.ignore_chown)).await;
        match (step, &ready) {
            (Some(step), Ok(_)) => self.progress.done(step),
            (Some(step), Err(failure)) => self.progress.failed(step, failure.cause()),
            (None, _) => {}
        }
        let (ReadyInputs { definition, contexts }, remote_versions) = ready?;
        let main_directory =
            contexts.get(inputs::MAIN_CONTEXT).map(|main| main.directory.clone()).unwrap_or_default();
        let worker = LocalWorker::new(WorkerOptions { contexts, imports, ..options });
        Ok(Opened { store, client, worker, definition, remote_versions, main_directory })
    }

    /// What becomes of changes of owners in steps. That a flag has no effect is told.
    fn owner_changes(&self, session: &Session) -> OwnerChanges {
        match (self.ignore_chown, session.ids()) {
            (true, IdMode::Single) => OwnerChanges::Ignored,
            (true, IdMode::Root | IdMode::Mapped { .. }) => {
                self.progress.note("`--ignore-chown` has no effect: this build has more than one id\n");
                OwnerChanges::Made
            }
            (false, _) => OwnerChanges::Made,
        }
    }

    /// What answers the frontend's questions about images.
    pub(crate) fn resolver(&self, opened: &Opened, session: &Session) -> Resolver {
        Resolver {
            handle: Handle::current(),
            images: opened.worker.images().clone(),
            times: Times {
                inputs: Arc::clone(&self.inputs),
                main_directory: opened.main_directory.clone(),
                worker: opened.worker.clone(),
                salt: session.salt(self.ignore_chown),
            },
            progress: Arc::clone(&self.progress),
            tells_platform: self.options.is_one_of_several,
            hints: Vec::new(),
        }
    }

    /// Fetches what is elsewhere, tells what that was found to be, and reads what is left to read.
    async fn ready(
        &self,
        options: &WorkerOptions,
        salt: Vec<u8>,
    ) -> Result<(ReadyInputs, SourceVersions), Failure> {
        let worker = LocalWorker::new(options.clone());
        let fetched = remote::fetch(self.inputs.remotes(), &worker, salt).await?;
        let (inputs, store) = (Arc::clone(&self.inputs), options.store.clone());
        let ready = blocking(move || inputs.make_ready(&store, &fetched)).await?;
        Ok((ready, worker.source_versions()))
    }
}

/// Builds. The result is what goes to standard output.
pub(crate) async fn run(
    plan: Plan,
    session: Session,
    root: PathBuf,
    interrupt: &Interrupt,
) -> Result<Option<String>, Failure> {
    let result = Box::pin(run_recorded(&plan, session, root, interrupt)).await;
    if let Some(traces) = &plan.traces {
        send_spans(traces, &plan, result.as_ref().err()).await;
    }
    result
}

/// Sends the spans of a build. That they cannot be sent is no failure of the build, and is told.
async fn send_spans(traces: &Traces, plan: &Plan, failure: Option<&Failure>) {
    let told = Told { subject: &plan.subject, steps: plan.progress.timed(), failure };
    let sent = match Environment::client_options() {
        Ok(options) => traces.send(&told, &registry::Client::new(options)).await,
        // It is told where it matters.
        Err(_) => return,
    };
    if let Err(error) = sent {
        let hint = traces.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
        plan.progress
            .note(&format!("WARNING: the spans of the build are lost: {}{hint}\n", report::chain(&error)));
    }
}

async fn run_recorded(
    plan: &Plan,
    session: Session,
    root: PathBuf,
    interrupt: &Interrupt,
) -> Result<Option<String>, Failure> {
    let opened = interrupt.unless(plan.open(&session, root, interrupt)).await?;
    let recording = Arc::new(Recording::begin(plan.subject.clone()));
    if plan.preview.is_some() {
        return Box::pin(make(plan, &session, opened, (interrupt, &recording))).await;
    }
    let store = opened.store.clone();
    plan.progress.log_to(store.fresh_path());
    if plan.explain {
        let (store, recording) = (store.clone(), Arc::clone(&recording));
        let read = blocking(move || recording.explain(&store)).await;
        read.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
    }
    let result = Box::pin(make(plan, &session, opened, (interrupt, &recording))).await;
    recording.end(&store, &plan.progress, (result.as_ref().err(), interrupt), plan.history).await;
    result
}

/// Builds with what was opened, or tells what that would be.
async fn make(
    plan: &Plan,
    session: &Session,
    opened: Opened,
    (interrupt, recording): (&Interrupt, &Arc<Recording>),
) -> Result<Option<String>, Failure> {
    let resolver = plan.resolver(&opened, session);
    let Opened { store, client, worker, definition, remote_versions, main_directory: _ } = opened;
    let (file, path) = (definition.file, definition.path);
    plan.wanted.check_file(&file.name, plan.file.as_deref(), path.as_deref())?;
    show_definition(plan, &file);
    let build = Arc::new(interrupt.unless(lower(plan, file, resolver)).await?);
    if let Some(shells) = &plan.shells {
        shells.attach(&build);
    }
    let salt = session.salt(plan.ignore_chown);
    if let Some(format) = plan.preview {
        let targets = build.targets();
        let preview =
            preview::Preview { graph: &build.graph, subject: &plan.subject, store: &store, worker: &worker };
        let told = async {
            let fates = solver::plan(&build.graph, &targets, &worker, &salt, interrupt.token()).await;
            let fates = fates.map_err(|error| solve_failure(plan, session, &build, &error, interrupt))?;
            preview.text(&fates, format).await
        };
        return interrupt.unless(Box::pin(told)).await.map(Some);
    }
    let work = Work {
        plan,
        build: &build,
        store: &store,
        client: &client,
        worker: &worker,
        remote_versions: &remote_versions,
        interrupt,
        recording,
    };
    plan.progress.attach(Arc::clone(&build.graph), &build.targets());
    recording.attach(Arc::clone(&build.graph));
    let outcome = Box::pin(work.run(session, salt)).await;
    // Whoever interrupts a build does not want to wait for the disk.
    if outcome.is_err() && !interrupt.token().is_cancelled() {
        tidy(&store).await;
    }
    let contexts = worker.clone();
    // What was learned of the contexts holds whether or not the build succeeded.
    let remembered = blocking(move || contexts.finish()).await;
    let result = outcome.map_err(|failure| {
        failure.with_environment_hint(|| format!("the store is in `{}`", store.root().display()))
    })?;
    remembered.map_err(|error| Failure::from_error(FailureKind::Environment, &error))?;
    if let Some(path) = plan.lock.clone() {
        let found = worker.source_versions();
        blocking(move || lockfile::write(&path, found)).await?;
    }
    space::collect_in_background(&store);
    Ok(result)
}

/// A build that was lowered.
pub(crate) struct Build {
    pub(crate) file: SourceFile,
    pub(crate) options: LowerOptions,
    pub(crate) images: Mutex<Remembering>,
    pub(crate) graph: Arc<solver::Graph>,
    /// What else came of lowering; its graph is `graph`.
    pub(crate) lowered: LoweredPlatforms,
    /// What is scanned for packages.
    pub(crate) scans: Scans,
}

impl Build {
    /// What is built: one target for each platform, and what is only scanned.
    fn targets(&self) -> Vec<VertexId> {
        let images = self.lowered.images.iter().map(|image| image.target);
        images.chain(self.scans.targets()).collect()
    }

    /// The stage before the instruction that `vertex` was made for; `None` for a base image. Blocks.
    pub(crate) fn before(&self, vertex: VertexId) -> Result<Option<Before>, Vec<Diagnostic>> {
        let Some((platform, place)) = self.lowered.place_of(vertex) else { return Ok(None) };
        let options = LowerOptions { platform: platform.clone(), ..self.options.clone() };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let dockerfile = frontend::parse(&self.file);
        frontend::lower_before(&dockerfile, &options, &mut *images, place).map(Some)
    }

    /// What a step is called, and where it is.
    pub(crate) fn heading(&self, vertex: VertexId) -> String {
        let meta = &self.graph.vertex(vertex).meta;
        let excerpt =
            meta.lines.map_or_else(String::new, |lines| report::excerpt(&self.file, lines.first, lines.last));
        format!("\n------\n > {}\n{excerpt}", meta.name)
    }
}

/// What goes on in a build, and what with.
pub(crate) struct Work<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) build: &'a Arc<Build>,
    pub(crate) store: &'a Store,
    client: &'a registry::Client,
    pub(crate) worker: &'a LocalWorker,
    pub(crate) remote_versions: &'a SourceVersions,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) recording: &'a Arc<Recording>,
}

/// Whether a solve is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Yes,
    No,
}

impl<'a> Work<'a> {
    /// Solves and exports; once more where something of a carried cache turns out to be lost on the way. What was
    /// executed meanwhile is in the store, and each time less is expected of the caches, so that this ends.
    async fn run(&self, session: &Session, salt: Vec<u8>) -> Result<Option<String>, Failure> {
        let Self { plan, build, interrupt, .. } = self;
        let targets = build.targets();
        let mut warnings = build.lowered.warnings.as_slice();
        loop {
            let graph = (&build.graph, targets.as_slice());
            let solved = self.solve(graph, Shown::Yes, salt.clone(), interrupt.token()).await;
            let may_be_unstable = matches!(solved, Err(SolveError::Unstable { .. }));
            if solved.is_err() && !interrupt.token().is_cancelled() && self.recovers(may_be_unstable).await {
                continue;
            }
            if let Some(shells) = &plan.shells {
                shells.end();
            }
            let exported = match solved {
                Ok(solved) => {
                    self.tell_files(&solved).await;
                    self.tell_warnings(std::mem::take(&mut warnings));
                    if let Some(shells) = &plan.shells {
                        plan.progress.note(&shells.missed_text());
                    }
                    self.export_all(&targets[..build.lowered.images.len()], &solved).await
                }
                Err(error) => {
                    let hints = self.after_failure(&error, salt, interrupt).await;
                    self.tell_warnings(warnings);
                    return Err(solve_failure(plan, session, build, &error, interrupt).with_hints(hints));
                }
            };
            if exported.is_ok() || interrupt.token().is_cancelled() || !self.recovers(false).await {
                return exported;
            }
        }
    }

    fn tell_warnings(&self, warnings: &[Diagnostic]) {
        let file = &self.build.file;
        self.plan.progress.findings(file, warnings, &warnings_text(file, warnings, self.plan.detail));
    }

    /// Tells the history what was found, and people which files were the reason of what was executed.
    async fn tell_files(&self, solved: &Solved<Output>) {
        self.recording.solved(&solved.vertex_keys);
        if self.plan.explain {
            let (recording, store) = (Arc::clone(self.recording), self.store.clone());
            let text = blocking(move || recording.changed_files(&store)).await;
            self.plan.progress.note(&text);
        }
    }

    /// Whether building again may succeed, because a cache that lies elsewhere is why it failed.
    async fn recovers(&self, may_be_unstable: bool) -> bool {
        let imports = self.worker.imports();
        let losses = imports.take_losses();
        for loss in &losses {
            self.plan.progress.note(&format!(
                "\nWARNING: a cache is not whole, building without that part of it: {loss}\n"
            ));
        }
        !losses.is_empty() || (may_be_unstable && imports.forget_hints().await)
    }

    /// Writes the outputs and the caches of a build of all `targets`.
    async fn export_all(
        &self,
        targets: &[VertexId],
        solved: &Solved<Output>,
    ) -> Result<Option<String>, Failure> {
        let Self { plan, build, store, client, worker, interrupt, .. } = self;
        let carrying = Carrying {
            caches: &plan.caches,
            progress: &plan.progress,
            store,
            client,
            worker,
            graph: &build.graph,
            targets,
            solved,
            epoch: build.lowered.epoch,
            cancel: interrupt.token(),
        };
        let exporting = async {
            let mut built = Vec::with_capacity(targets.len());
            for (number, image) in build.lowered.images.iter().enumerate() {
                built.push(BuiltImage {
                    platform: image.platform.clone(),
                    config: image.config.clone(),
                    output: solved.outputs[number].clone(),
                    base_layers: image.base_layers,
                    lines: export::lines_of(&build.graph, image.target),
                    cache: carrying.inline(number).await?,
                });
            }
            let run = self.provenance_run();
            let said = self.say(run.as_ref(), &built, solved).await?;
            let export = self.export(&plan.outputs, build.lowered.epoch, export::root_form(&plan.options));
            let export = export::Export { said, ..export };
            let exported = export.run(built).await?;
            if let Some(images) = &exported.images {
                let layers = images.layers().iter().map(|layer| layer.size).sum();
                self.recording.exported(images.descriptor(), layers);
            }
            let cache = carrying.export().await?;
            export.write_digests(&exported, self.metadata(cache.as_ref())).await?;
            Ok(exported.text)
        };
        interrupt.unless(exporting).await
    }

    /// What `--metadata-file` tells of the build, apart from its image.
    fn metadata(&self, cache: Option<&Descriptor>) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("buildx.build.ref".to_owned(), self.recording.reference().into());
        let wants_warnings = Environment::text("BUILDX_METADATA_WARNINGS");
        if wants_warnings.is_some_and(|text| frontend::go_bool(&text) == Some(true)) {
            let warnings = progress::warnings(&self.build.file, &self.build.lowered.warnings);
            metadata.insert("buildx.build.warnings".to_owned(), warnings);
        }
        if let Some(cache) = cache {
            metadata.insert("cache.manifest".to_owned(), json!(cache));
        }
        metadata
    }

    /// Solves for some targets.
    pub(crate) async fn solve(
        &self,
        (graph, targets): (&Arc<solver::Graph>, &[VertexId]),
        shown: Shown,
        salt: Vec<u8>,
        cancel: &CancellationToken,
    ) -> Result<Solved<Output>, SolveError<WorkerError>> {
        let progress = Some(Arc::clone(&self.plan.progress)).filter(|_| shown == Shown::Yes);
        let (recording, store) = (Arc::clone(self.recording), self.store.clone());
        let options = SolveOptions {
            parallelism: self.plan.parallelism,
            salt,
            cancel: cancel.clone(),
            events: Arc::new(move |event| {
                if let Some(progress) = &progress {
                    recording.event(&event, &store, progress);
                    progress.event(event);
                }
            }),
        };
        let worker = Arc::new(self.worker.clone());
        solver::solve(Arc::clone(graph), targets, worker, options).await
    }

    /// What writes `outputs`.
    pub(crate) fn export(
        &self,
        outputs: &'a Outputs,
        epoch: Option<i64>,
        form: RootForm,
    ) -> export::Export<'a> {
        export::Export {
            outputs,
            progress: &self.plan.progress,
            store: self.store,
            client: self.client,
            worker: self.worker,
            epoch,
            form,
            said: None,
            cancel: self.interrupt.token(),
        }
    }
}

/// Seals what a failed build has made and removes what dead runs have left, which other builds do beside their export.
async fn tidy(store: &Store) {
    let store = store.clone();
    // Why the build failed is what people are to be told, not that this failed, too.
    let _ = blocking(move || store.finish()).await;
}

fn show_definition(plan: &Plan, file: &SourceFile) {
    let step = plan.progress.begin(format!("[internal] load build definition from {}", file.name));
    let size = crate::progress::bytes(file.text.len() as u64);
    plan.progress.line(step, &format!("transferring dockerfile: {size} done"));
    plan.progress.done(step);
}

async fn lower(plan: &Plan, file: SourceFile, resolver: Resolver) -> Result<Build, Failure> {
    let mut images = Remembering::new(resolver);
    let (options, platforms, detail) = (plan.options.clone(), plan.platforms.clone(), plan.detail);
    let sbom = plan.outputs.attestations.sbom.clone();
    blocking(move || {
        let dockerfile = frontend::parse(&file);
        match frontend::lower_platforms(&dockerfile, &options, &platforms, &mut images) {
            Ok(mut lowered) => {
                let mut graph = std::mem::take(&mut lowered.graph);
                let scans = Scans::of(sbom.as_ref(), &lowered.images, &mut graph, &mut images)?;
                let (images, graph) = (Mutex::new(images), Arc::new(graph));
                Ok(Build { file, options, images, graph, lowered, scans })
            }
            Err(diagnostics) => {
                let warnings: Vec<Diagnostic> =
                    diagnostics.iter().filter(|d| !d.is_error()).cloned().collect();
                let failure = Failure::diagnostics(&file, &diagnostics).with_hints(images.resolver.hints);
                Err(failure.after(&warnings_text(&file, &warnings, detail)))
            }
        }
    })
    .await
}

fn solve_failure(
    plan: &Plan,
    session: &Session,
    build: &Build,
    error: &SolveError<WorkerError>,
    interrupt: &Interrupt,
) -> Failure {
    let (file, graph) = (&build.file, &build.graph);
    let (vertex, failure) = match error {
        // A step may see it before the solve does.
        SolveError::Cancelled | SolveError::Vertex { error: WorkerError::Cancelled, .. } => {
            return interrupt.failure();
        }
        SolveError::Unstable { vertex } => {
            (*vertex, Failure::solve(&error.to_string()).with_hint("build again"))
        }
        SolveError::Vertex { vertex, error } => (
            image_to_blame(graph, *vertex, error).unwrap_or(*vertex),
            Failure::solve(&report::chain(error))
                .of_kind(report::kind_of(error))
                .with_hints(error.hint())
                .with_hints(session.hints(error, &plan.progress.tail(*vertex), plan.ignore_chown)),
        ),
    };
    let meta = &graph.vertex(vertex).meta;
    let mut details = plan.progress.unseen_tail(vertex);
    if let Some(lines) = meta.lines {
        details += &report::excerpt(file, lines.first, lines.last);
    }
    failure.with_details(&details)
}

/// The FROM whose image could not be had, where that is why `vertex` failed: images are pulled for the steps that need
/// them.
fn image_to_blame(graph: &solver::Graph, vertex: VertexId, error: &WorkerError) -> Option<VertexId> {
    let WorkerError::Image(error) = error else { return None };
    let text = report::chain(error);
    let (mut open, mut seen) = (vec![vertex], BTreeSet::from([vertex]));
    while let Some(vertex) = open.pop() {
        if let Op::Image(image) = &graph.vertex(vertex).op
            && text.contains(&image.source.name)
        {
            return Some(vertex);
        }
        open.extend(
            graph.vertex(vertex).inputs.iter().map(|input| input.vertex).filter(|input| seen.insert(*input)),
        );
    }
    None
}
