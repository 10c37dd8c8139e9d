//! What is known of a stage while its instructions are lowered.

use std::collections::BTreeMap;

use oci::{History, ImageConfig, Platform};
use solver::VertexId;

use crate::Span;
use crate::options::ResolvedImage;

use super::environment::Environment;

/// The search path of images that bring none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The comment of history entries that stand for instructions.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The comment of history entries that stand for layers without an instruction.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// Where a stage stands.
#[derive(Debug, Clone)]
pub(super) enum Root {
    /// A vertex's output.
    Vertex(VertexId),
    /// A local named context that no step has been built on yet.
    Context(String),
}

impl Root {
    /// The vertex, if there is one.
    pub(super) fn vertex(&self) -> Option<VertexId> {
        match self {
            Self::Vertex(vertex) => Some(*vertex),
            Self::Context(_) => None,
        }
    }
}

/// A stage after some of its instructions.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) root: Root,
    pub(super) platform: Platform,
    /// The config, save its environment.
    pub(super) config: ImageConfig,
    /// The environment of the config.
    pub(super) environment: Environment,
    /// The environment of RUN: that of the config, and arguments.
    pub(super) run_environment: Environment,
    pub(super) arguments: ArgumentNames,
    /// Those that say what is scanned, with their values.
    pub(super) scan_arguments: BTreeMap<String, String>,
    /// What this stage has set itself.
    pub(super) own: OwnInstructions,
    /// Whether a WORKDIR of the file has been in effect.
    pub(super) has_own_directory: bool,
    /// The name of a context whose layer has no history entry yet.
    context_layer: Option<String>,
    /// How many layers, from below, are the base image's.
    pub(super) base_layers: usize,
}

/// The instructions of a stage of which only the last counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnInstructions {
    pub(super) command: Option<Span>,
    pub(super) entrypoint: Option<Span>,
    pub(super) healthcheck: Option<Span>,
}

/// The arguments that were declared, in order, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct ArgumentNames {
    /// Names, with empty values for those that history shows without.
    declared: Environment,
}

impl ArgumentNames {
    /// Adds a declaration; the value counts where no variable of the name is set.
    pub(super) fn declare(&mut self, name: &str, value: Option<&str>) {
        self.declared.set(name, value.unwrap_or_default());
    }

    /// Whether there is a declaration of that name.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        use crate::expand::Variables;
        self.declared.value(name).is_some()
    }

    /// `NAME=value` of each, as RUN sees it.
    pub(super) fn values<'s>(&'s self, run: &'s Environment) -> impl Iterator<Item = (&'s str, &'s str)> {
        use crate::expand::Variables;
        self.declared.iter().map(|(name, value)| (name, run.value(name).unwrap_or(value)))
    }
}

impl State {
    /// An empty root file system.
    pub(super) fn scratch(root: Root, platform: &Platform) -> Self {
        let mut config = ImageConfig::default();
        "/".clone_into(&mut config.config.working_dir);
        Self::new(root, config, platform, platform)
    }

    /// An image.
    pub(super) fn image(root: Root, image: &ResolvedImage, platform: &Platform) -> Self {
        let mut config = image.config.clone();
        let mut own = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        own.os_version.clone_from(&config.os_version);
        // An image for another platform is taken for what was asked for. What is not asked for, it may tell itself.
        let label = if own.matches(platform) && platform.variant.is_none() {
            Platform { variant: config.variant.clone(), ..platform.clone() }
        } else {
            platform.clone()
        };
        config.created = None;
        let base_layers = std::mem::take(&mut config.rootfs).diff_ids.len();
        let mut state = Self { base_layers, ..Self::new(root, config, platform, &label) };
        state.config.os_version = own.os_version;
        state
    }

    fn new(root: Root, mut config: ImageConfig, platform: &Platform, label: &Platform) -> Self {
        let mut environment = Environment::from_list(&std::mem::take(&mut config.config.env));
        if platform.os != "windows" {
            environment.set_default("PATH", DEFAULT_PATH);
        }
        label.os.clone_into(&mut config.os);
        label.architecture.clone_into(&mut config.architecture);
        config.variant.clone_from(&label.variant);
        Self {
            root,
            platform: platform.clone(),
            config,
            run_environment: environment.clone(),
            environment,
            arguments: ArgumentNames::default(),
            scan_arguments: BTreeMap::new(),
            own: OwnInstructions::default(),
            has_own_directory: false,
            context_layer: None,
            base_layers: 0,
        }
    }

    /// The state of a stage that starts from this one.
    pub(super) fn child(&self) -> Self {
        let mut child = self.clone();
        child.config.config.on_build.clear();
        child.own = OwnInstructions::default();
        child
    }

    /// The size of what a clone copies.
    pub(super) fn size_bytes(&self) -> usize {
        let history: usize = self
            .config
            .history
            .iter()
            .map(|entry| entry.created_by.as_ref().map_or(0, String::len) + 64)
            .sum();
        history + self.environment.size_bytes() + self.run_environment.size_bytes()
    }

    /// Adds a history entry.
    pub(super) fn commit(&mut self, created_by: String, layer: Layer) {
        self.config.history.push(History {
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: layer == Layer::Empty,
            ..History::default()
        });
    }

    /// Remembers that there is a layer that no instruction made.
    pub(super) fn add_context_layer(&mut self, name: &str) {
        self.context_layer = Some(name.to_owned());
    }

    /// The working directory, absolute and clean.
    pub(super) fn directory(&self) -> String {
        super::paths::clean(&super::paths::join("/", &self.config.config.working_dir))
    }

    /// The whole config.
    pub(super) fn into_config(mut self) -> ImageConfig {
        self.config.config.env = self.environment.to_list();
        if let Some(name) = self.context_layer {
            self.config.history.push(History {
                created_by: Some(format!("context {name}")),
                comment: Some(EXPORTER_COMMENT.to_owned()),
                ..History::default()
            });
        }
        self.config
    }
}

/// Whether a history entry has a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// It has.
    Made,
    /// It has none.
    Empty,
}
