//! Caches that are carried to other machines: what is executed there, and what is pulled.

use std::fmt::Write as _;
use std::path::Path;

use oci::{CacheConfig, Manifest};
use serde_json::Value;
use testkit::{RealRegistry, ScriptedRegistry};

use crate::lab::{Lab, Ran, json};

const NONE: Vec<String> = Vec::new();

/// Two stages, the first of which makes something else each time.
const STAGES: &str = "FROM busybox AS make
RUN echo made > /made; cat /proc/sys/kernel/random/uuid > /other
FROM busybox
RUN echo base > /base
COPY --from=make /made /made
RUN echo last > /last
";

fn twenty_steps() -> String {
    let mut text = "FROM busybox\n".to_owned();
    for number in 0..20 {
        let _ = writeln!(text, "RUN cat /proc/sys/kernel/random/uuid > /{number}");
    }
    text
}

/// Builds in a store of its own: as on a fresh machine.
fn build(dockerfile: &str, arguments: &[&str]) -> (Lab, Ran) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let ran = lab.build(&context, arguments);
    (lab, ran)
}

fn cache_to(rest: &str) -> String {
    format!("--cache-to={rest}")
}

fn cache_from(rest: &str) -> String {
    format!("--cache-from={rest}")
}

fn to_registry(registry: &ScriptedRegistry, rest: &str) -> String {
    cache_to(&format!("type=registry,ref={}/cache:c{rest}", registry.address()))
}

fn from_registry(registry: &ScriptedRegistry) -> String {
    cache_from(&format!("{}/cache:c", registry.address()))
}

/// The manifest and the config of the cache in a registry.
fn carried(registry: &ScriptedRegistry) -> (Manifest, CacheConfig) {
    let (_, manifest) = registry.manifest("cache", "c").expect("the cache is there");
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let config = registry.blob("cache", &manifest.config.digest).expect("the config is there");
    (manifest, serde_json::from_slice(&config).expect("the config can be read"))
}

fn blob_requests(registry: &ScriptedRegistry) -> usize {
    registry.count("GET", "/blobs/")
}

#[test]
fn a_fresh_machine_repeats_twenty_steps_without_executing_one() {
    let registry = RealRegistry::start();
    let name = format!("{}/team/cache:main", registry.address());
    let text = twenty_steps();
    let (_, first) = build(&text, &["-t", "x", &cache_to(&format!("type=registry,ref={name},mode=max"))]);
    let first = first.succeeded();
    assert_eq!(first.executed().len(), 20);
    let before = registry.blob_requests();

    let (_, again) = build(&text, &[&cache_from(&name)]);
    assert_eq!(again.succeeded().executed(), NONE);
    assert_eq!(registry.blob_requests() - before, 1, "only the config is pulled where nothing is made");

    let before = registry.blob_requests();
    let (lab, again) = build(&text, &["-t", "x", &cache_from(&name)]);
    let again = again.succeeded();
    assert_eq!(again.executed(), NONE);
    assert_eq!(again.stdout, first.stdout, "the image is the same");
    assert_eq!(
        registry.blob_requests() - before,
        21,
        "the config and the layers of the steps, not the base's"
    );

    // Nothing was pulled but blobs: without the registry the steps are executed.
    drop(registry);
    let without = lab.build(&lab.path("ctx"), &["-t", "x", &cache_from(&name)]).succeeded();
    assert_eq!(without.executed().len(), 20);
    assert!(without.stderr.contains("failed to configure registry cache importer: "), "{}", without.stderr);
}

#[test]
fn what_a_changed_step_lies_on_is_pulled_and_kept() {
    for snapshotter in ["overlay", "copy"] {
        let registry = ScriptedRegistry::start();
        build(STAGES, &[&to_registry(&registry, ",mode=max")]).1.succeeded();
        let lab = Lab::with_snapshotter(snapshotter);
        let changed = STAGES.replace("echo last", "cat /base /made");
        let context = lab.context("ctx", &[("Dockerfile", &changed)]);
        let before = blob_requests(&registry);
        let output = format!("--output=type=tar,dest={}", lab.path("tree.tar").display());
        let built = lab.build(&context, &[&output, &from_registry(&registry)]).succeeded();
        assert_eq!(built.executed(), ["RUN cat /base /made > /last"], "{}", built.stderr);
        let tree = crate::lab::Tree::read(&lab.path("tree.tar"));
        assert_eq!(tree.text("last"), "base\nmade\n");
        let (_, config) = carried(&registry);
        assert_eq!(config.layers.len(), 5);
        assert_eq!(
            blob_requests(&registry) - before,
            4,
            "the config, the base and two steps; not the other stage"
        );

        // What has been pulled has records here.
        std::fs::write(context.join("Dockerfile"), STAGES.replace("echo last", "true"))
            .expect("it can be written");
        let without = lab.build(&context, &[]).succeeded().executed();
        let rest = ["RUN echo made > /made; cat /proc/sys/kernel/random/uuid > /other", "RUN true > /last"];
        assert_eq!(without, rest, "the other stage was not pulled");
    }
}

#[test]
fn min_carries_the_layers_of_the_image_and_hits_all_the_same() {
    let registry = ScriptedRegistry::start();
    let first = build(STAGES, &["-t", "x", &to_registry(&registry, "")]).1.succeeded();
    let (manifest, config) = carried(&registry);
    assert_eq!((manifest.layers.len(), config.layers.len()), (4, 4), "the base and three steps");
    let without_layers = config.records.iter().filter(|record| record.layer.is_none()).count();
    assert_eq!(without_layers, 1, "of the other stage its content is known");
    let again = build(STAGES, &["-t", "x", &from_registry(&registry)]).1.succeeded();
    assert_eq!((again.executed(), again.stdout), (NONE, first.stdout));

    let changed = STAGES.replace("echo made", "printf made");
    let again = build(&changed, &[&from_registry(&registry)]).1.succeeded();
    assert_eq!(again.executed().len(), 3, "{}", again.stderr);
    let same_content = STAGES.replace("echo made", "printf 'made\\n'");
    let again = build(&same_content, &[&from_registry(&registry)]).1.succeeded();
    assert_eq!(again.executed().len(), 1, "a stage with the same content: {}", again.stderr);
}

#[test]
fn what_is_copied_from_an_image_is_known_without_it() {
    let registry = ScriptedRegistry::start();
    registry.load_oci_layout(crate::lab::bases(), "library");
    let image = format!("{}/library/busybox:latest", registry.address());
    let text = format!("FROM scratch\nCOPY --from={image} /bin/busybox /\n");
    let base = |registry: &ScriptedRegistry| registry.count("GET", "/library/busybox/blobs/");
    build(&text, &[&to_registry(&registry, "")]).1.succeeded();
    let before = base(&registry);
    let ran = build(&text, &["-t", "x", &from_registry(&registry)]).1.succeeded();
    assert_eq!(ran.executed(), NONE);
    assert_eq!(base(&registry) - before, 1, "its config, and no layer");
}

#[test]
fn a_cache_is_carried_on_by_a_build_that_found_everything() {
    let registry = ScriptedRegistry::start();
    build(STAGES, &[&to_registry(&registry, ",mode=max")]).1.succeeded();
    let first = registry.manifest("cache", "c");
    let before = (blob_requests(&registry), registry.count("POST", "/uploads/"));
    let arguments = [from_registry(&registry), to_registry(&registry, ",mode=max")];
    let ran = build(STAGES, &arguments.each_ref().map(String::as_str)).1.succeeded();
    assert_eq!(ran.executed(), NONE);
    assert_eq!(registry.manifest("cache", "c"), first, "nothing is lost or added");
    assert_eq!(blob_requests(&registry), before.0 + 1, "layers are neither pulled");
    assert_eq!(registry.count("POST", "/uploads/"), before.1, "nor pushed");

    let other = ScriptedRegistry::start();
    let arguments = [from_registry(&registry), to_registry(&other, ",mode=max")];
    build(STAGES, &arguments.each_ref().map(String::as_str)).1.succeeded();
    assert_eq!(other.manifest("cache", "c"), first, "another registry gets all of it");
    let ran = build(STAGES, &["-t", "x", &from_registry(&other)]).1.succeeded();
    assert_eq!(ran.executed(), NONE);
}

#[test]
fn an_image_carries_its_own_layers() {
    let registry = RealRegistry::start();
    let name = format!("{}/app:v1", registry.address());
    let first = build(STAGES, &["--push", "-t", &name, "--cache-to=type=inline"]).1.succeeded();
    let config =
        json("skopeo", &["inspect", "--config", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(config["rbuild.cache"]["version"], 1);
    let layers = config["rootfs"]["diff_ids"].as_array().map(Vec::len);
    assert_eq!(layers, Some(4));
    let again = build(STAGES, &["--push", "-t", &name, "--cache-to=type=inline", &cache_from(&name)]);
    let again = again.1.succeeded();
    assert_eq!((again.executed(), again.stdout), (NONE, first.stdout));

    // What is built on it does not carry it on.
    let child = format!("{}/child:v1", registry.address());
    build(&format!("FROM {name}\nLABEL a=b\n"), &["--push", "-t", &child]).1.succeeded();
    let config =
        json("skopeo", &["inspect", "--config", "--raw", "--tls-verify=false", &format!("docker://{child}")]);
    assert_eq!(config["rbuild.cache"], Value::Null);
    let ran = build(STAGES, &[&cache_from(&child)]).1.succeeded();
    assert!(ran.stderr.contains("it is an image that carries no cache"), "{}", ran.stderr);

    build(STAGES, &["--cache-to=type=inline"]).1.failed(2, &["no output is one", "-t"]);
}

fn blobs_in(layout: &Path) -> usize {
    std::fs::read_dir(layout.join("blobs/sha256")).expect("the layout has blobs").count()
}

#[test]
fn a_directory_holds_caches_under_tags() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let layout = place.path().join("cache");
    let (to, from) =
        (format!("type=local,dest={}", layout.display()), format!("type=local,src={}", layout.display()));
    let first = build(STAGES, &["-t", "x", &cache_to(&format!("{to},mode=max"))]).1.succeeded();
    let again = build(STAGES, &["-t", "x", &cache_from(&from)]).1.succeeded();
    assert_eq!((again.executed(), &again.stdout), (NONE, &first.stdout));

    let other = STAGES.replace("last", "other");
    build(&other, &[&cache_to(&format!("{to},tag=other"))]).1.succeeded();
    let ran = build(&other, &[&cache_from(&format!("{from},tag=other"))]).1.succeeded();
    assert_eq!(ran.executed(), NONE);
    let index = json("cat", &[&layout.join("index.json").to_string_lossy()]);
    let digest = index["manifests"][0]["digest"].as_str().expect("an entry has a digest");
    let ran = build(STAGES, &["-t", "x", &cache_from(&format!("{from},digest={digest}"))]).1.succeeded();
    assert_eq!(ran.executed(), NONE);

    let before = blobs_in(&layout);
    build("FROM busybox\nRUN true\n", &[&cache_to(&to)]).1.succeeded();
    assert!(blobs_in(&layout) > before, "what was there stays");
    build("FROM busybox\nRUN true\n", &[&cache_to(&format!("{to},reset=true"))]).1.succeeded();
    assert!(blobs_in(&layout) < before, "what no tag names any more is gone");
    let ran = build(&other, &[&cache_from(&format!("{from},tag=other"))]).1.succeeded();
    assert_eq!(ran.executed(), NONE, "what another tag names is there");
}

#[test]
fn several_caches_are_asked_in_their_order() {
    let registry = ScriptedRegistry::start();
    let name = |tag: &str| format!("{}/cache:{tag}", registry.address());
    let make = "FROM busybox AS make\nRUN cat /proc/sys/kernel/random/uuid > /made\n";
    let whole = format!("{make}FROM busybox\nRUN echo own > /own\nCOPY --from=make /made /\n");
    let own = "FROM busybox\nRUN echo own > /own\n";
    build(make, &[&cache_to(&name("make"))]).1.succeeded();
    build(own, &[&cache_to(&name("own"))]).1.succeeded();
    let caches = format!("{},{},{}", name("missing"), name("make"), name("own"));
    let ran = build(&whole, &["-t", "x", &cache_from(&caches)]).1.succeeded();
    assert_eq!(ran.executed(), ["COPY --from=make /made /"], "{}", ran.stderr);
    let missing = format!("failed to configure registry cache importer: {}: not found", name("missing"));
    assert!(ran.stderr.contains(&missing), "{}", ran.stderr);
    for tag in ["missing", "make", "own"] {
        let line = format!("importing cache manifest from {}\n", name(tag));
        assert!(ran.stderr.contains(&line), "{line} {}", ran.stderr);
    }
}

#[test]
fn of_two_results_of_one_key_the_first_counts() {
    let registry = ScriptedRegistry::start();
    let name = |tag: &str| format!("{}/cache:{tag}", registry.address());
    let images = ["one", "two"]
        .map(|tag| build(&twenty_steps(), &["-t", "x", &cache_to(&name(tag))]).1.succeeded().stdout);
    assert_ne!(images[0], images[1]);
    for (order, image) in [(["one", "two"], &images[0]), (["two", "one"], &images[1])] {
        let flags = order.map(|tag| cache_from(&name(tag)));
        let ran = build(&twenty_steps(), &["-t", "x", &flags[0], &flags[1]]).1.succeeded();
        assert_eq!((ran.executed(), &ran.stdout), (NONE, image));
    }
}

#[test]
fn the_images_of_an_index_carry_caches_too() {
    let registry = ScriptedRegistry::start();
    let name = format!("{}/app:one", registry.address());
    let first = build(STAGES, &["--push", "-t", &name, "--cache-to=type=inline"]).1.succeeded();
    let (media_type, manifest) = registry.manifest("app", "one").expect("the image is there");
    let mut image = oci::Descriptor::of(&media_type, &manifest);
    image.platform = Some(oci::Platform::new("linux", "amd64", None));
    let mut attestation = oci::Descriptor::of(&media_type, b"not there");
    attestation.annotations.insert("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [attestation, image]});
    registry.put_manifest("app", Some("all"), oci::MediaType::OCI_INDEX, index.to_string());
    let from = cache_from(&format!("{}/app:all", registry.address()));
    let again = build(STAGES, &["-t", "x", "--cache-to=type=inline", &from]).1.succeeded();
    assert_eq!((again.executed(), again.stdout), (NONE, first.stdout));
}

#[test]
fn builds_at_once_pull_each_layer_once() {
    let registry = ScriptedRegistry::start();
    build(STAGES, &[&to_registry(&registry, ",mode=max")]).1.succeeded();
    let changed = STAGES.replace("echo last", "cat /base /made");
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", &changed)]);
    let from = from_registry(&registry);
    let before = blob_requests(&registry);
    let mut builds = Vec::new();
    for number in 0..4 {
        let mut command = lab.build_command(&context, &["-t", &format!("x{number}"), &from]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        builds.push(command.spawn().expect("rbuild can be started"));
    }
    let ran = builds.into_iter().map(|build| build.wait_with_output().expect("a child can be waited for"));
    let images: Vec<String> = ran.map(|output| Ran::from(output).succeeded().stdout).collect();
    assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
    // Each may read the config for itself.
    assert!(blob_requests(&registry) - before <= 4 + 3, "{}", blob_requests(&registry) - before);
}

#[test]
fn a_file_of_a_server_that_has_not_changed_is_not_fetched() {
    let registry = ScriptedRegistry::start();
    let file = |etag: &str| testkit::WebFile {
        content: "content".into(),
        etag: Some(etag.to_owned()),
        ..testkit::WebFile::default()
    };
    registry.put_file("/f", file("\"1\""));
    let text = format!("FROM busybox\nADD {} /added/\nRUN echo last > /last\n", registry.url("/f"));
    build(&text, &[&to_registry(&registry, "")]).1.succeeded();
    let fetched = || registry.count("GET", "/f");
    assert_eq!(fetched(), 1);
    // Once more from a cache that was carried on.
    for _ in 0..2 {
        let arguments = [from_registry(&registry), to_registry(&registry, "")];
        let ran = build(&text, &arguments.each_ref().map(String::as_str)).1.succeeded();
        assert_eq!((ran.executed(), fetched()), (NONE, 1), "{}", ran.stderr);
    }
    // A server that has another file under the same tag: the cache is not believed any more.
    let changed = text.replace("/added/", "/once-more/");
    registry.put_file("/f", testkit::WebFile { content: "changed".into(), ..file("\"1\"") });
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", &changed)]);
    assert_eq!(lab.build_tree(&context, &[&from_registry(&registry)]).text("once-more/f"), "changed");
    registry.put_file("/f", file("\"1\""));
    let before = fetched();
    let changed = text.replace("/added/", "/elsewhere/");
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", &changed)]);
    assert_eq!(lab.build_tree(&context, &[&from_registry(&registry)]).text("elsewhere/f"), "content");
    assert_eq!(fetched() - before, 1, "it is needed for a step that is new");
    registry.put_file("/f", file("\"2\""));
    let ran = build(&text, &[&from_registry(&registry)]).1.succeeded();
    assert_eq!((ran.executed(), fetched() - before), (NONE, 2), "the same content under another tag");
}

#[test]
fn the_same_inputs_give_the_same_cache() {
    let dockerfile = "FROM busybox AS make
COPY file /file
RUN touch -d @5 /d && touch -d @6 /
FROM busybox
WORKDIR /a
COPY --from=make /file /file
ENV A=b
RUN rm /etc/group && touch -d @7 /etc
";
    let registry = ScriptedRegistry::start();
    let cache = || {
        let lab = Lab::new();
        let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("file", "x")]);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
        testkit::set_times(&context.join("file"), time);
        let to = to_registry(&registry, ",mode=max");
        let mut command = lab.build_command(&context, &[&to]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120))).succeeded();
        registry.manifest("cache", "c")
    };
    assert_eq!(cache(), cache());
}

#[test]
fn layers_are_compressed_as_asked() {
    let registry = ScriptedRegistry::start();
    let types = || {
        let (manifest, _) = carried(&registry);
        let mut types: Vec<String> = manifest.layers.iter().map(|layer| layer.media_type.clone()).collect();
        types.sort();
        types.dedup();
        types
    };
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    build(STAGES, &[&to_registry(&registry, ",compression=zstd,compression-level=5")]).1.succeeded();
    assert_eq!(types(), [gzip, zstd], "the base comes as it was");
    build(STAGES, &[&to_registry(&registry, ",compression=zstd,force-compression=true")]).1.succeeded();
    assert_eq!(types(), [zstd]);
    let changed = STAGES.replace("echo last", "cat /base /made");
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", &changed)]);
    let tree = lab.build_tree(&context, &[&from_registry(&registry)]);
    assert_eq!(tree.text("last"), "base\nmade\n");
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    build(STAGES, &[&to_registry(&registry, ",oci-mediatypes=false")]).1.succeeded();
    assert_eq!(types(), [docker]);
    let ran = build(STAGES, &["-t", "x", &from_registry(&registry)]).1.succeeded();
    assert_eq!(ran.executed(), NONE);
}

#[test]
fn what_cannot_be_carried_is_an_error_that_names_it() {
    let cases = [
        ("--cache-to=type=gha", "the cache type `gha` is not supported"),
        ("--cache-from=type=s3,bucket=x", "the cache type `s3` is not supported"),
        ("--cache-from=type=azblob,name=x", "the cache type `azblob` is not supported"),
        ("--cache-to=type=registry", "needs `ref`"),
    ];
    for (flag, text) in cases {
        build("FROM busybox\n", &[flag]).1.failed(2, &[text]);
    }
}
