//! Pulling from and pushing to a real registry.

use serde_json::Value;

use crate::lab::{Lab, bases, json, run};

fn registry_with_bases() -> testkit::RealRegistry {
    let registry = testkit::RealRegistry::start();
    registry.load_oci_layout(bases(), "library");
    registry
}

fn inspect(reference: &str) -> Value {
    json("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{reference}")])
}

#[test]
fn an_image_is_built_on_a_pulled_base_and_pushed() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let address = registry.address();
    let dockerfile = format!("FROM {address}/library/busybox\nRUN echo new > /new\nLABEL made=here\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let name = format!("{address}/made/app:v1");
    let built = lab.build(&context, &["--push", "-t", &name]).succeeded();
    let image = inspect(&name);
    assert_eq!(image["Labels"]["made"], "here");
    assert_eq!(image["Digest"], built.stdout.trim());
    assert_eq!(image["Layers"].as_array().map(Vec::len), Some(2));
    let again = lab.build(&context, &["--push", "-t", &name]).succeeded();
    assert_eq!(again.stdout, built.stdout);
}

#[test]
fn a_mirror_serves_for_the_hub() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    lab.configure(&format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.address()));
    let context = lab.context("ctx", &[("Dockerfile", "FROM rich-base\nRUN echo $BASE_ENV > /value\n")]);
    assert_eq!(lab.build_tree(&context, &[]).text("value"), "base\n");
}

#[test]
fn base_layers_that_were_never_pulled_are_pushed_and_saved() {
    let registry = registry_with_bases();
    let other = testkit::RealRegistry::start();
    let lab = Lab::new();
    let dockerfile = format!("FROM {}/library/busybox\nLABEL only=config\n", registry.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let here = format!("{}/other/place:v1", registry.address());
    lab.build(&context, &["--push", "-t", &here]).succeeded();
    assert_eq!(inspect(&here)["Labels"]["only"], "config");
    let there = format!("{}/app:v1", other.address());
    lab.build(&context, &["--push", "-t", &there]).succeeded();
    assert_eq!(inspect(&there)["Layers"], inspect(&here)["Layers"]);
    let archive = lab.path("image.tar");
    lab.build(&context, &[&format!("--output=type=oci,dest={}", archive.display())]).succeeded();
    let image = json("skopeo", &["inspect", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(image["Layers"], inspect(&here)["Layers"]);
}

#[test]
fn a_second_build_pulls_nothing() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let dockerfile = format!("FROM {}/library/busybox\nRUN echo x > /x\n", registry.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    lab.build(&context, &["-t", "x"]).succeeded();
    let before = registry.blob_requests();
    lab.build(&context, &["-t", "x"]).succeeded();
    assert_eq!(registry.blob_requests(), before, "blobs were asked for again");
}

#[test]
fn a_kept_image_is_pushed_later() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let name = format!("{}/later:v1", registry.address());
    let built = lab.build(&context, &["-t", &name]).succeeded();
    lab.rbuild(&["push", &name]).succeeded();
    assert_eq!(inspect(&name)["Digest"], built.stdout.trim());
    lab.rbuild(&["push", "never/built:x"]).failed(1, &["never/built:x"]);
}

#[test]
fn references_by_digest_are_pulled() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let name = format!("{}/library/busybox", registry.address());
    let digest = inspect(&name)["Digest"].as_str().expect("an image has a digest").to_owned();
    let context = lab.context("ctx", &[("Dockerfile", &format!("FROM {name}:latest@{digest}\nRUN true\n"))]);
    lab.build(&context, &["-t", "x"]).succeeded();
}

/// The binary resolves names without the host's C library: it runs in an empty root with a resolv.conf alone.
#[test]
fn names_are_resolved_in_an_empty_root() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let root = lab.path("empty");
    std::fs::create_dir_all(root.join("etc")).expect("a directory can be made");
    std::fs::create_dir_all(root.join("ctx")).expect("a directory can be made");
    std::fs::create_dir_all(root.join("dev")).expect("a directory can be made");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), root.join("rbuild")).expect("the binary can be copied");
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 registry.test\n").expect("a file can be written");
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("a file can be written");
    let (_, port) = registry.address().rsplit_once(':').expect("an address has a port");
    let name = format!("registry.test:{port}");
    std::fs::write(root.join("config.toml"), format!("[registry.\"{name}\"]\nhttp = true\n"))
        .expect("a file can be written");
    let dockerfile = format!("FROM {name}/library/busybox\nLABEL a=b\n");
    std::fs::write(root.join("ctx/Dockerfile"), dockerfile).expect("a file can be written");
    run(
        "env",
        &[
            "RBUILD_CONFIG=/config.toml",
            "chroot",
            &root.to_string_lossy(),
            "/rbuild",
            "build",
            "--root=/store",
            "--output=type=oci,dest=/image.tar",
            "/ctx",
        ],
    );
    assert!(root.join("image.tar").exists());
}
