//! What a build leaves: archives that other tools read, directories, tags.

use std::os::unix::fs::MetadataExt;

use crate::lab::{Lab, Tree, json, run};

const DOCKERFILE: &str = "FROM busybox
RUN mkdir /d && echo one > /d/one && ln -s one /d/link && ln /d/one /d/hard && rm /etc/group
ENV A=b
CMD [\"sh\"]
";

fn lab_with_context() -> (Lab, std::path::PathBuf) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE)]);
    (lab, context)
}

#[test]
fn the_files_of_a_base_image_are_written() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nENV A=b\n")]);
    let tree = lab.build_tree(&context, &[]);
    assert!(
        tree.has("etc/passwd"),
        "nothing was built on it, so that nothing has pulled it: {:?}",
        tree.names()
    );
}

#[test]
fn an_oci_archive_is_read_by_others() {
    let (lab, context) = lab_with_context();
    let archive = lab.path("image.tar");
    let output = format!("--output=type=oci,dest={},name=app:v1", archive.display());
    let built = lab.build(&context, &[&output]).succeeded();
    let image = json("skopeo", &["inspect", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(image["Digest"], built.stdout.trim());
    assert!(image["Env"].as_array().expect("an image has an environment").contains(&"A=b".into()));

    let layout = lab.path("layout");
    std::fs::create_dir(&layout).expect("a directory can be made");
    run("tar", &["-xf", &archive.to_string_lossy(), "-C", &layout.to_string_lossy()]);
    let bundle = lab.path("bundle");
    let index = json("cat", &[&layout.join("index.json").to_string_lossy()]);
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str();
    let image = format!("{}:{}", layout.display(), name.expect("the index names the image"));
    run("umoci", &["unpack", "--image", &image, &bundle.to_string_lossy()]);
    let root = bundle.join("rootfs");
    assert_eq!(std::fs::read_to_string(root.join("d/link")).expect("the link can be read"), "one\n");
    assert!(!root.join("etc/group").exists());
    let inode = |name: &str| std::fs::metadata(root.join(name)).expect("a file is there").ino();
    assert_eq!(inode("d/one"), inode("d/hard"));
}

#[test]
fn an_oci_archive_goes_to_standard_output() {
    let (lab, context) = lab_with_context();
    let output = testkit::run_with_timeout(
        lab.build_command(&context, &["--output=type=oci,dest=-"]),
        std::time::Duration::from_secs(60),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = lab.path("from-stdout.tar");
    std::fs::write(&path, output.stdout).expect("a file can be written");
    json("skopeo", &["inspect", &format!("oci-archive:{}", path.display())]);
}

#[test]
fn a_docker_archive_is_read_by_others() {
    let (lab, context) = lab_with_context();
    let archive = lab.path("image.tar");
    lab.build(&context, &["-t", "app:v1", &format!("--output=type=docker,dest={}", archive.display())])
        .succeeded();
    let image = json("skopeo", &["inspect", &format!("docker-archive:{}:app:v1", archive.display())]);
    assert_eq!(image["Layers"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_tar_has_the_files() {
    let (lab, context) = lab_with_context();
    let tree = lab.build_tree(&context, &[]);
    assert_eq!(tree.text("d/one"), "one\n");
    assert!(tree.has("bin/busybox") && !tree.has("etc/group"), "{:?}", tree.names());
}

#[test]
fn a_directory_gets_the_files() {
    let (lab, context) = lab_with_context();
    let target = lab.path("out");
    lab.build(&context, &[&format!("--output={}", target.display())]).succeeded();
    assert_eq!(std::fs::read_to_string(target.join("d/link")).expect("the link can be read"), "one\n");
    assert!(target.join("bin/busybox").exists() && !target.join("etc/group").exists());
}

#[test]
fn the_files_of_an_image_that_no_step_needed_are_written() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\n")]);
    let out = lab.path("out");
    lab.build(&context, &["-o", &out.to_string_lossy()]).succeeded();
    assert!(out.join("bin/busybox").exists());
}

#[test]
fn several_outputs_come_of_one_build() {
    let (lab, context) = lab_with_context();
    let (tar, local) = (lab.path("x.tar"), lab.path("local"));
    lab.build(
        &context,
        &[
            &format!("--output=type=tar,dest={}", tar.display()),
            &format!("--output=type=local,dest={}", local.display()),
        ],
    )
    .succeeded();
    assert_eq!(Tree::read(&tar).text("d/one"), "one\n");
    assert!(local.join("d/one").exists());
}

#[test]
fn the_digest_goes_to_files_that_are_asked_for() {
    let (lab, context) = lab_with_context();
    let (iid, metadata) = (lab.path("iid"), lab.path("metadata.json"));
    let built = lab
        .build(
            &context,
            &[
                "-t",
                "app:v1",
                &format!("--iidfile={}", iid.display()),
                &format!("--metadata-file={}", metadata.display()),
            ],
        )
        .succeeded();
    let metadata = json("cat", &[&metadata.to_string_lossy()]);
    assert_eq!(metadata["containerimage.digest"], built.stdout.trim());
    let config = metadata["containerimage.config.digest"].as_str().expect("the config has a digest");
    assert_eq!(std::fs::read_to_string(&iid).expect("the file is there"), config);
}

#[test]
fn a_bad_output_is_a_usage_error() {
    let (lab, context) = lab_with_context();
    lab.build(&context, &["--output=type=ocii,dest=x"]).failed(2, &["ocii"]);
    lab.build(&context, &["--output=type=oci,destt=x"]).failed(2, &["destt"]);
}

#[test]
fn the_same_build_gives_the_same_image_in_another_store() {
    let text = "FROM busybox\nCOPY --chmod=644 f /f\nLABEL a=b\nWORKDIR /w\n";
    let with_default = format!("ARG SOURCE_DATE_EPOCH=1000000000\n{text}");
    let build = |dockerfile: &str, argument: &str| {
        let lab = Lab::new();
        let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "content")]);
        testkit::set_times(&context.join("f"), std::time::UNIX_EPOCH);
        lab.build(&context, &["-t", "x", argument]).succeeded().stdout
    };
    let expected = build(text, "--build-arg=SOURCE_DATE_EPOCH=1000000000");
    assert_eq!(build(text, "--build-arg=SOURCE_DATE_EPOCH=1000000000"), expected);
    // The default of a global ARG counts like the argument, unless there is an argument.
    assert_eq!(build(&with_default, "--progress=plain"), expected);
    assert_ne!(build(&with_default, "--build-arg=SOURCE_DATE_EPOCH="), expected);
}
