//! What `RUN --mount=type=cache` directories held, on other machines.

use std::path::PathBuf;

use testkit::{FaultKind, ScriptedRegistry};

use crate::lab::{Lab, Tree};

/// Says what it finds in two caches, and adds to them.
const FILL: &str = "FROM busybox
RUN --mount=type=cache,target=/root/.cache --mount=type=cache,id=second,target=/b,uid=1000,mode=0700 \\
    cat /root/.cache/a /b/sub/b > /found; stat -c %u:%a /b /b/sub >> /found; \\
    echo one > /root/.cache/a; mkdir -p /b/sub && echo two > /b/sub/b && chown 1000:1001 /b/sub
";

struct Machines {
    registry: ScriptedRegistry,
    dockerfile: String,
}

impl Machines {
    fn new() -> Self {
        Self { registry: ScriptedRegistry::start(), dockerfile: FILL.to_owned() }
    }

    fn to(&self, rest: &str) -> String {
        format!("--cache-to=type=registry,ref={}/cache:c,{rest}", self.registry.address())
    }

    fn from(&self, rest: &str) -> String {
        format!("--cache-from=type=registry,ref={}/cache:c,{rest}", self.registry.address())
    }

    /// A fresh machine with a step of its own.
    fn lab(&self, step: &str) -> (Lab, PathBuf) {
        let lab = Lab::new();
        let dockerfile = self.dockerfile.replace("> /found;", &format!("> /found; : {step};"));
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        (lab, context)
    }

    fn found(&self, step: &str, arguments: &[&str]) -> String {
        let (lab, context) = self.lab(step);
        lab.build_tree(&context, arguments).text("found")
    }
}

#[test]
fn caches_are_restored_for_the_steps_that_mount_them() {
    let machines = Machines::new();
    assert_eq!(machines.found("a", &[&machines.to("mode=max,mounts=true")]), "1000:700\n");
    let restored = machines.found("b", &[&machines.from("mounts=true")]);
    assert_eq!(restored, "one\ntwo\n1000:700\n1000:755\n");
    assert_eq!(
        machines.found("c", &[&machines.from("mounts=false")]),
        "1000:700\n",
        "only where that is asked for"
    );
    let restored = machines.found("d", &[&machines.from("mounts=/root/.cache;other")]);
    assert_eq!(restored, "one\n1000:700\n", "only those that are asked for");

    // A step that is cached mounts nothing.
    let before = machines.registry.count("GET", "/blobs/");
    let (lab, context) = machines.lab("a");
    let ran = lab.build(&context, &[&machines.from("mounts=true")]).succeeded();
    assert_eq!(ran.executed(), Vec::<String>::new());
    assert_eq!(machines.registry.count("GET", "/blobs/") - before, 1);
}

#[test]
fn what_is_in_a_cache_stays_and_what_is_empty_is_filled() {
    let machines = Machines::new();
    machines.found("a", &[&machines.to("mode=max,mounts=second")]);
    let (lab, context) = machines.lab("b");
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nRUN --mount=type=cache,id=second,target=/b,uid=1000,mode=0700 true\n",
    )
    .expect("a file can be written");
    lab.build(&context, &[]).succeeded();
    let fill = FILL.replace("> /found;", "> /found; : c;");
    std::fs::write(context.join("Dockerfile"), &fill).expect("a file can be written");
    let tree = lab.build_tree(&context, &[&machines.from("mounts=true")]);
    assert_eq!(tree.text("found"), "two\n1000:700\n1000:755\n", "an empty one is filled");

    let change =
        "FROM busybox\nRUN --mount=type=cache,id=second,target=/b,uid=1000,mode=0700 echo own > /b/sub/b\n";
    std::fs::write(context.join("Dockerfile"), change).expect("a file can be written");
    lab.build(&context, &[]).succeeded();
    let fill = FILL.replace("> /found;", "> /found; : d;");
    std::fs::write(context.join("Dockerfile"), &fill).expect("a file can be written");
    let tree = lab.build_tree(&context, &[&machines.from("mounts=true")]);
    assert!(tree.text("found").contains("own\n"), "one with something in it stays: {}", tree.text("found"));
}

#[test]
fn caches_are_carried_on_and_are_in_no_image() {
    let machines = Machines::new();
    let (lab, context) = machines.lab("a");
    let to = machines.to("mode=max,mounts=true");
    lab.build(&context, &["-t", "x", &to]).succeeded();
    let first = machines.registry.manifest("cache", "c");
    let (other, context) = machines.lab("a");
    let from = machines.from("mounts=true");
    let archive = other.path("tree.tar");
    let output = format!("--output=type=tar,dest={}", archive.display());
    other.build(&context, &[&from, &to, &output]).succeeded();
    assert_eq!(machines.registry.manifest("cache", "c"), first, "all are there still");
    assert!(!Tree::read(&archive).has("root/.cache/a"));
}

#[test]
fn a_cache_that_cannot_be_had_begins_empty() {
    let machines = Machines::new();
    machines.found("a", &[&machines.to("mounts=second")]);
    let (_, manifest) = machines.registry.manifest("cache", "c").expect("the cache is there");
    let manifest: oci::Manifest = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let config = machines.registry.blob("cache", &manifest.config.digest).expect("the config is there");
    let config: oci::CacheConfig = serde_json::from_slice(&config).expect("the config can be read");
    let blob = &config.mounts[0].blob;
    machines.registry.fault("GET", &format!("/blobs/{blob}"), usize::MAX, FaultKind::Status(404, None));
    let (lab, context) = machines.lab("b");
    let ran = lab.build(&context, &[&machines.from("mounts=true")]).succeeded();
    assert!(ran.stderr.contains("WARNING: the cache `second` cannot be restored: "), "{}", ran.stderr);
    // What was half restored, or not at all, is a cache as any other.
    assert_eq!(machines.found("c", &[&machines.from("mounts=true")]), "1000:700\n");
}
