//! Carried caches that are not what they should be, or not there.

use std::collections::BTreeMap;

use oci::{CacheConfig, Descriptor, Manifest, MediaType};
use serde_json::json;
use testkit::{FaultKind, ScriptedRegistry};

use crate::lab::{Lab, Ran};

/// Its first step takes some bytes, so that its layer can be told from others.
const CHAIN: &str = "FROM busybox
RUN cat /proc/sys/kernel/random/uuid > /one
RUN echo two > /two
";

fn build(dockerfile: &str, arguments: &[&str]) -> (Lab, Ran) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let ran = lab.build(&context, arguments);
    (lab, ran)
}

/// A registry with the cache of [`CHAIN`], and the flag that reads it.
fn registry_with_cache() -> (ScriptedRegistry, String) {
    let registry = ScriptedRegistry::start();
    let name = format!("{}/cache:c", registry.address());
    build(CHAIN, &[&format!("--cache-to=type=registry,ref={name},mode=max")]).1.succeeded();
    (registry, format!("--cache-from={name}"))
}

fn manifest_of(registry: &ScriptedRegistry) -> Manifest {
    let (_, manifest) = registry.manifest("cache", "c").expect("the cache is there");
    serde_json::from_slice(&manifest).expect("a manifest is JSON")
}

fn config_of(registry: &ScriptedRegistry) -> CacheConfig {
    let config = registry.blob("cache", &manifest_of(registry).config.digest).expect("the config is there");
    serde_json::from_slice(&config).expect("the config can be read")
}

/// Puts another config into the place of the cache's.
fn replace_config(registry: &ScriptedRegistry, config: &serde_json::Value) {
    let mut manifest = manifest_of(registry);
    let bytes = serde_json::to_vec(config).expect("JSON can be written");
    manifest.config = registry.put_blob("cache", CacheConfig::MEDIA_TYPE, bytes);
    let bytes = serde_json::to_vec(&manifest).expect("JSON can be written");
    registry.put_manifest("cache", Some("c"), MediaType::OCI_MANIFEST, bytes);
}

/// The blob of the layer that the n-th step made.
fn step_blob(registry: &ScriptedRegistry, step: usize) -> Descriptor {
    let blob = config_of(registry).layers[step].blob.clone();
    let layers = manifest_of(registry).layers;
    layers.into_iter().find(|layer| layer.digest == blob).expect("the blob is a layer")
}

/// How many steps were executed in the end, whatever was first thought to be cached. The pull of a result is a `DONE` too.
fn executed(ran: &Ran) -> usize {
    let is_step = |rest: &str| {
        rest.starts_with('[') && rest.contains('/') && rest.contains("] ") && !rest.contains("] FROM ")
    };
    let mut states = BTreeMap::new();
    for (number, rest) in ran.stderr.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' ')) {
        let is_named = states.get(number) == Some(&"named");
        let state = match rest {
            "CACHED" => "cached",
            _ if rest.contains(" pull ") => "pulled",
            _ if rest.starts_with("DONE") && is_named => "executed",
            _ if is_step(rest) => "named",
            _ => continue,
        };
        states.insert(number, state);
    }
    states.values().filter(|state| **state == "executed").count()
}

/// What a build with a broken cache does: it says so, and executes what it lacks.
fn builds_without(ran: Ran, wanted: usize) {
    let ran = ran.succeeded();
    assert!(ran.stderr.contains("WARNING: a cache is not whole"), "{}", ran.stderr);
    assert_eq!(executed(&ran), wanted, "{}", ran.stderr);
}

#[test]
fn steps_whose_layers_have_gone_are_executed() {
    let changed = format!("{CHAIN}RUN cat /two > /three\n");
    for (step, executed) in [(1, 2), (2, 1)] {
        let (registry, from) = registry_with_cache();
        let blob = step_blob(&registry, step).digest;
        registry.fault("GET", &format!("/blobs/{blob}"), usize::MAX, FaultKind::Status(404, None));
        // An export wants the blobs, a further step the files.
        builds_without(build(CHAIN, &["-t", "x", &from]).1, executed);
        builds_without(build(&changed, &[&from]).1, executed + 1);
    }
}

#[test]
fn layers_with_other_bytes_never_enter_the_store() {
    let (registry, from) = registry_with_cache();
    let blob = step_blob(&registry, 1).digest;
    registry.fault("GET", &format!("/blobs/{blob}"), usize::MAX, FaultKind::WrongBytes);
    let (lab, ran) = build(&format!("{CHAIN}RUN cat /one\n"), &["-t", "x", &from]);
    builds_without(ran, 3);
    assert!(!lab.root().join("blobs/sha256").join(blob.hex()).exists());
}

#[test]
fn layers_that_are_not_what_the_cache_says_are_not_used() {
    let (registry, from) = registry_with_cache();
    // Both digests are right; they belong to different layers.
    let mut config = config_of(&registry);
    config.layers[1].blob = config.layers[2].blob.clone();
    replace_config(&registry, &serde_json::to_value(&config).expect("JSON can be written"));
    let (lab, ran) = build(&format!("{CHAIN}RUN cat /one\n"), &["-t", "x", &from]);
    builds_without(ran, 3);
    let tree = lab.build_tree(&lab.path("ctx"), &[]);
    assert_eq!(tree.text("one").trim().len(), 36);
}

#[test]
fn a_registry_that_goes_away_is_done_without() {
    let (registry, from) = registry_with_cache();
    registry.fault("GET", "/blobs/sha256:", 1, FaultKind::Stall { after_bytes: usize::MAX });
    registry.fault("GET", "/blobs/sha256:", usize::MAX, FaultKind::Status(403, None));
    builds_without(build(CHAIN, &["-t", "x", &from]).1, 2);
}

#[test]
fn what_is_no_cache_is_told_and_not_used() {
    let (registry, from) = registry_with_cache();
    let refused = |problem: &str| {
        let ran = build(CHAIN, &["-t", "x", &from]).1.succeeded();
        assert!(
            ran.stderr.contains("ERROR: failed to configure registry cache importer: "),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains(problem), "{problem}: {}", ran.stderr);
        assert_eq!(ran.executed().len(), 2);
    };
    let good = serde_json::to_value(config_of(&registry)).expect("JSON can be written");
    let with = |member: &str, value: serde_json::Value| {
        let mut config = good.clone();
        config[member] = value;
        replace_config(&registry, &config);
    };
    with("version", json!(2));
    refused("its format is version 2, and this program reads version 1");
    with("layers", json!("x"));
    refused("the cache config of");
    with("layers", json!([]));
    refused("has no such layer");
    let mut layers = good["layers"].clone();
    layers[0]["parent"] = json!(0);
    with("layers", layers);
    refused("its layer 0 does not come after its parent");
    let mut layers = good["layers"].clone();
    layers[0]["blob"] = json!(format!("sha256:{}", "1".repeat(64)));
    with("layers", layers);
    refused("is not among its layers");
    registry.fault("GET", "/manifests/c", usize::MAX, FaultKind::Status(404, None));
    refused("/cache:c: not found");
}

#[test]
fn a_stage_that_is_made_anew_may_come_out_differently() {
    let stages = "FROM busybox AS make
RUN cat /proc/sys/kernel/random/uuid > /made
FROM busybox
RUN echo base > /base
COPY --from=make /made /
";
    let registry = ScriptedRegistry::start();
    let name = format!("{}/cache:c", registry.address());
    // Of the first stage only its content is carried, and the second has changed: so the first is executed.
    build(stages, &[&format!("--cache-to={name}")]).1.succeeded();
    let changed = stages.replace("echo base", "echo other");
    let ran = build(&changed, &["-t", "x", &format!("--cache-from={name}")]).1.succeeded();
    // The graph was solved once more, and what was executed the first time was found then.
    assert_eq!(executed(&ran), 1, "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("CACHED").count(), 2, "{}", ran.stderr);
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored() {
    let registry = ScriptedRegistry::start();
    registry.fault("PUT", "/manifests/", usize::MAX, FaultKind::Status(403, None));
    let to = format!("--cache-to=type=registry,ref={}/cache:c", registry.address());
    let (_, ran) = build(CHAIN, &["-t", "x", &to]);
    ran.failed(1, &["exporting cache to registry", "failed to push", "/cache:c"]);
    let (_, ran) = build(CHAIN, &["-t", "x", &format!("{to},ignore-error=true")]);
    let ran = ran.succeeded();
    assert!(ran.stderr.contains("ERROR: failed to push"), "{}", ran.stderr);
    assert!(!ran.stdout.is_empty());
}
