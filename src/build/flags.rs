//! The values of flags, checked together so that all mistakes in them are told at once.

use std::collections::BTreeMap;

use frontend::{DeviceOptions, LowerOptions, NoCache};
use oci::Platform;
use solver::{ExtraHost, NetworkMode, Ulimit};
use worker::{Resources, TimeLimit};

use crate::arguments::BuildArguments;
use crate::entitlements::Entitlements;
use crate::inputs::Inputs;
use crate::network;
use crate::report::{Failure, Failures};
use crate::settings::Environment;
use crate::values;

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The build argument that asks for an index and for steps with their platforms, however many there are.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// The values of flags that need nothing else to be understood.
pub(super) struct Flags {
    /// The platforms that are built for, each once.
    pub(super) platforms: Vec<Platform>,
    pub(super) resources: Resources,
    pub(super) timeout: Option<TimeLimit>,
    pub(super) step_timeout: Option<TimeLimit>,
    pub(super) language: Language,
}

/// What the frontend is told.
pub(super) struct Language {
    entitlements: Entitlements,
    build_args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    network: NetworkMode,
    extra_hosts: Vec<ExtraHost>,
    ulimits: Vec<Ulimit>,
    shm_size_bytes: Option<u64>,
    is_index_wanted: bool,
}

impl Flags {
    /// Reads them, or tells all that is wrong with them.
    pub(super) fn read(arguments: &BuildArguments) -> Result<Self, Failure> {
        let mut failures = Failures::default();
        let (steps, image) = (&arguments.steps, &arguments.image);
        let mut time_limit = |flag: &str, text: &Option<String>| {
            let limit = text.as_deref().map(|text| values::time_limit(flag, text)).transpose();
            failures.value(limit)
        };
        let timeout = time_limit("--timeout", &steps.timeout);
        let step_timeout = time_limit("--step-timeout", &steps.step_timeout);
        let limits = failures.value(arguments.resources.limits());
        let reserve_bytes = failures.value(arguments.resources.reserve_bytes(sandbox::total_memory_bytes()));
        let flags = Self {
            platforms: failures.value(values::platforms(image.platform.as_deref())),
            resources: Resources { limits, reserve_bytes },
            timeout,
            step_timeout,
            language: Language::read(arguments, &mut failures),
        };
        if failures.are_none() { Ok(flags) } else { Err(failures.end()) }
    }
}

impl Language {
    fn read(arguments: &BuildArguments, failures: &mut Failures) -> Self {
        let steps = &arguments.steps;
        let mut entitlements = failures.value(Entitlements::read(&steps.allow));
        // As with docker, what the command line asks for it allows.
        if steps.network == "host" {
            entitlements.allow.insert("network.host".to_owned());
        }
        let build_args = build_args(arguments, failures);
        // An index for a single platform can be asked for.
        let is_index_wanted = build_args.get(MULTI_PLATFORM).is_some_and(|text| {
            let read = frontend::go_bool(text)
                .ok_or_else(|| format!("invalid value `{text}` for the build argument `{MULTI_PLATFORM}`"));
            failures.value(read)
        });
        let hosts = steps.add_hosts.iter().map(|text| values::extra_host(text, network::host_address));
        let extra_hosts = hosts.filter_map(|host| failures.keep(host.map_err(Failure::usage))).collect();
        let limits = steps.ulimits.iter().map(|text| values::ulimit(text));
        let ulimits = limits.filter_map(|limit| failures.keep(limit.map_err(Failure::usage))).collect();
        let shm_size = steps.shm_size.as_deref().map(|text| values::size_bytes("--shm-size", text));
        Self {
            entitlements,
            build_args,
            labels: failures.value(values::labels(&arguments.image.labels)),
            network: failures.value(values::network(&steps.network)),
            extra_hosts,
            ulimits,
            shm_size_bytes: failures.value(shm_size.transpose()),
            is_index_wanted,
        }
    }

    /// All that the frontend is told, for the first of `platforms`.
    pub(super) fn options(
        self,
        arguments: &BuildArguments,
        inputs: &Inputs,
        platforms: &[Platform],
        devices: DeviceOptions,
    ) -> Result<LowerOptions, Failure> {
        let no_cache = match (arguments.switches.no_cache, arguments.cache.no_cache_filter.as_slice()) {
            (true, _) => NoCache::All,
            (false, []) => NoCache::None,
            (false, stages) => NoCache::Stages(stages.to_vec()),
        };
        Ok(LowerOptions {
            target: arguments.input.target.clone(),
            hostname: self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned(),
            build_args: self.build_args,
            labels: self.labels,
            first_base: arguments.input.from.clone(),
            unset_env: arguments.image.unset_env.iter().cloned().collect(),
            unset_labels: arguments.image.unset_labels.iter().cloned().collect(),
            named_contexts: inputs.named.clone(),
            no_cache,
            network: self.network,
            devices: self.entitlements.allow_devices(devices),
            allow: self.entitlements.allow,
            extra_hosts: self.extra_hosts,
            ulimits: self.ulimits,
            shm_size_bytes: self.shm_size_bytes,
            cgroup_parent: arguments.steps.cgroup_parent.clone(),
            ignore: inputs.ignore().filter(|patterns| !patterns.is_empty()).cloned(),
            proxy_args: Environment::proxy_args()?,
            build_platform: Platform::host(),
            is_one_of_several: platforms.len() > 1 || self.is_index_wanted,
            ..LowerOptions::new(platforms.first().cloned().unwrap_or_else(Platform::host))
        })
    }
}

/// `--build-arg`, what files of them say, and what is an argument unless it was given.
fn build_args(arguments: &BuildArguments, failures: &mut Failures) -> BTreeMap<String, String> {
    let mut build_args = BTreeMap::new();
    for path in &arguments.input.build_arg_files {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read `{}` of `--build-arg-file`: {error}", path.display()));
        for line in values::build_arg_lines(path, &failures.value(text)) {
            build_args.extend(failures.keep(line.map_err(Failure::usage)));
        }
    }
    let given = values::build_args(&arguments.input.build_args, Environment::text, &mut build_args);
    failures.value(given);
    // As docker's client does: the variable is an argument unless one was given.
    let of_flags = arguments.image.source_date_epoch.as_ref().or(arguments.form.timestamp.as_ref());
    let epoch = of_flags.cloned().or_else(|| Environment::text(EPOCH));
    if let Some(epoch) = epoch.filter(|epoch| !epoch.is_empty()) {
        build_args.entry(EPOCH.to_owned()).or_insert(epoch);
    }
    build_args
}
