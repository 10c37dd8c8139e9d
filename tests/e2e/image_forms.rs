//! The forms that outputs take: attributes of `--output`, and flags that stand for them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;

use crate::lab::{Lab, json, run};

const DOCKERFILE: &str = "FROM busybox
RUN mkdir /d && echo one > /d/one && ln /d/one /d/hard && rm /etc/group && touch -d @100 /d/old
COPY f /f
";

fn lab_with_context() -> (Lab, std::path::PathBuf) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "content")]);
    (lab, context)
}

/// An OCI layout in a directory, of which one image is asked for.
pub(crate) struct Layout {
    pub(crate) directory: std::path::PathBuf,
}

impl Layout {
    /// Builds one.
    pub(crate) fn build(lab: &Lab, context: &Path, name: &str, attributes: &str, arguments: &[&str]) -> Self {
        let directory = lab.path(name);
        let output = format!("--output=type=oci,tar=false,dest={}{attributes}", directory.display());
        let mut all = vec![output.as_str()];
        all.extend(arguments);
        lab.build(context, &all).succeeded();
        Self { directory }
    }

    pub(crate) fn index(&self) -> Value {
        json("cat", &[&self.directory.join("index.json").to_string_lossy()])
    }

    pub(crate) fn blob(&self, descriptor: &Value) -> std::path::PathBuf {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        self.directory.join("blobs").join(digest.replace(':', "/"))
    }

    pub(crate) fn document(&self, descriptor: &Value) -> Value {
        json("cat", &[&self.blob(descriptor).to_string_lossy()])
    }

    pub(crate) fn manifest(&self) -> Value {
        self.document(&self.index()["manifests"][0])
    }

    /// The entries of a layer: times and names.
    pub(crate) fn times(&self, layer: &Value) -> Vec<(i64, String)> {
        let file = std::fs::File::open(self.blob(layer)).expect("a layer is there");
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
        let entries = archive.entries().expect("a layer is a tar");
        let entries = entries.map(|entry| {
            let entry = entry.expect("the tar is whole");
            let time = entry.header().mtime().expect("a header has a time");
            (time.cast_signed(), entry.path().expect("a header has a name").display().to_string())
        });
        entries.collect()
    }
}

#[test]
fn times_are_rewritten_in_new_layers_alone_and_remembered() {
    let (lab, context) = lab_with_context();
    let attributes = ",rewrite-timestamp=true";
    let arguments = ["--source-date-epoch=1000000000"];
    let first = Layout::build(&lab, &context, "first", attributes, &arguments);
    let manifest = first.manifest();
    let layers = manifest["layers"].as_array().expect("a manifest has layers");
    assert_eq!(layers[0]["annotations"], Value::Null, "the base image's layer stays as it is");
    for layer in &layers[1..] {
        assert_eq!(layer["annotations"]["buildkit/rewritten-timestamp"], "1000000000");
    }
    let names = |times: Vec<(i64, String)>| {
        times.into_iter().map(|(time, name)| format!("{time} {name}")).collect::<Vec<_>>()
    };
    assert_eq!(
        names(first.times(&layers[1])),
        [
            "1000000000 d/",
            "1000000000 d/hard",
            "100 d/old",
            "1000000000 d/one",
            "1000000000 etc/",
            "0 etc/.wh.group",
        ]
    );
    // It is the image that the flag of buildah makes, and that an output of its own epoch makes.
    let flag = Layout::build(&lab, &context, "flag", "", &["--timestamp=1000000000"]);
    assert_eq!(flag.manifest(), manifest);
    let attributes = format!("{attributes},source-date-epoch=1000000000");
    let own = Layout::build(&lab, &context, "own", &attributes, &["--build-arg=SOURCE_DATE_EPOCH=5"]);
    assert_eq!(own.manifest()["layers"], manifest["layers"]);

    run("skopeo", &["inspect", &format!("oci:{}", first.directory.display())]);
    let bundle = lab.path("bundle");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci:{}", first.directory.display()),
            &format!("oci:{}:v1", lab.path("named").display()),
        ],
    );
    run(
        "umoci",
        &["unpack", "--image", &format!("{}:v1", lab.path("named").display()), &bundle.to_string_lossy()],
    );
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/d/hard")).expect("it is there"), "one\n");

    let timeless = lab.build(&context, &["-o", "type=image,name=x,rewrite-timestamp=true"]).succeeded();
    let warning = "rewrite-timestamp is specified, but no source-date-epoch was found";
    assert!(timeless.stderr.contains(warning), "{}", timeless.stderr);
}

#[test]
fn outputs_of_one_build_have_their_own_forms() {
    let (lab, context) = lab_with_context();
    let (gzip, zstd) = (lab.path("gzip"), lab.path("zstd"));
    let to_zstd = format!(
        "--output=type=oci,tar=false,dest={},compression=zstd,force-compression=true",
        zstd.display()
    );
    Layout::build(&lab, &context, "gzip", ",oci-mediatypes=false,annotation.a=b", &[&to_zstd]);
    let (gzip, zstd) = (Layout { directory: gzip }, Layout { directory: zstd });
    let types = |layout: &Layout| {
        let manifest = layout.manifest();
        let layers = manifest["layers"].as_array().expect("a manifest has layers").clone();
        layers.into_iter().map(|layer| layer["mediaType"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let three = |kind: &str| vec![Some(kind.to_owned()); 3];
    assert_eq!(types(&gzip), three("application/vnd.docker.image.rootfs.diff.tar.gzip"));
    assert_eq!(types(&zstd), three("application/vnd.oci.image.layer.v1.tar+zstd"));
    let config = |layout: &Layout| layout.document(&layout.manifest()["config"]);
    assert_eq!(config(&gzip), config(&zstd), "the same layers, however they are compressed");
    assert_eq!(gzip.manifest()["annotations"]["a"], "b");
    assert_eq!(zstd.manifest()["annotations"], Value::Null);
}

#[test]
fn annotations_have_their_levels() {
    let (lab, context) = lab_with_context();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY f /f\n").expect("a file can be written");
    let arguments = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=org.Example=all",
        "--annotation=manifest[linux/arm64],manifest-descriptor[linux/arm64]:org.Example=arm",
        "--annotation=index,index-descriptor:kind=set",
    ];
    let layout = Layout::build(&lab, &context, "layout", ",oci-mediatypes=false", &arguments);
    let root = &layout.index()["manifests"][0];
    assert_eq!(
        (&root["mediaType"], &root["annotations"]["kind"]),
        (&"application/vnd.oci.image.index.v1+json".into(), &"set".into())
    );
    let index = layout.document(root);
    assert_eq!(index["annotations"], serde_json::json!({ "kind": "set" }));
    let annotations = |number: usize| layout.document(&index["manifests"][number])["annotations"].clone();
    assert_eq!(annotations(0), serde_json::json!({ "org.Example": "all" }));
    assert_eq!(annotations(1), serde_json::json!({ "org.Example": "arm" }));
    assert_eq!(index["manifests"][1]["annotations"], serde_json::json!({ "org.Example": "arm" }));
    assert_eq!(index["manifests"][0]["annotations"], Value::Null);

    let failing = |arguments: &[&str], message: &str| {
        let mut all = vec!["-t", "x"];
        all.extend(arguments);
        lab.build(&context, &all).failed(2, &[message]);
    };
    failing(&["--annotation=index:a=b"], "index annotations not supported for single platform export");
    failing(
        &["--platform=linux/amd64,linux/arm64", "--annotation=manifest[linux/s390x]:a=b"],
        "invalid annotation: no platform linux/s390x found in source",
    );
    failing(&["--annotation=a"], "invalid annotation \"a\", expected key=value");
}

#[test]
fn images_are_named_and_pushed_by_digest() {
    let registry = testkit::RealRegistry::start();
    let (lab, context) = lab_with_context();
    let name = format!("{}/app", registry.address());
    let output = "type=image,push=true,push-by-digest=true,name-canonical=true,registry.insecure=true";
    let files = ["digest", "name", "tag"].map(|name| lab.path(name));
    let built = lab
        .build(
            &context,
            &[
                "-t",
                &name,
                "-o",
                output,
                &format!("--digest-file={}", files[0].display()),
                &format!("--image-name-with-digest-file={}", files[1].display()),
                &format!("--image-name-tag-with-digest-file={}", files[2].display()),
            ],
        )
        .succeeded();
    let digest = built.stdout.trim();
    let texts = files.map(|file| std::fs::read_to_string(file).expect("the file is there"));
    let expected = [digest.to_owned(), format!("{name}@{digest}\n"), format!("{name}:latest@{digest}\n")];
    assert_eq!(texts, expected);
    let found =
        json("skopeo", &["inspect", "--no-tags", "--tls-verify=false", &format!("docker://{name}@{digest}")]);
    assert_eq!(found["Digest"], digest);
    let refused = format!("can't push tagged ref {name}:v1 by digest");
    lab.build(&context, &["-t", &format!("{name}:v1"), "-o", output]).failed(2, &[&refused]);

    lab.build(&context, &["-o", "type=image,dangling-name-prefix=none"]).succeeded();
    lab.build(
        &context,
        &[
            "-o",
            "type=image,name=app,dangling-name-prefix=other,danging-name-empty-only=true,name-canonical=true",
        ],
    )
    .succeeded();
    let images = lab.rbuild(&["images", "--format=json"]).succeeded().stdout;
    let mut names: Vec<String> = images
        .lines()
        .map(|line| {
            let image: Value = serde_json::from_str(line).expect("each line is an object");
            let text = |member: &str| image[member].as_str().expect("an image has all of them").to_owned();
            format!("{} {} {}", text("name"), text("tag"), text("digest"))
        })
        .collect();
    names.sort();
    // What has no tag is known by its digest alone.
    let mut expected = vec![format!("app latest {digest}")];
    expected.extend([name.as_str(), "app", "none"].map(|name| format!("{name}  {digest}")));
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_directory_is_replaced_where_that_is_allowed() {
    let (lab, context) = lab_with_context();
    let (below, target) = (lab.path("out"), tempfile::tempdir().expect("a directory can be made"));
    let fill = |directory: &Path| {
        std::fs::create_dir_all(directory.join("d/one")).expect("a directory can be made");
        std::fs::create_dir_all(directory.join("stale/deep")).expect("a directory can be made");
        std::fs::write(directory.join("bin"), "").expect("a file can be written");
        std::os::unix::fs::symlink("/etc", directory.join("link")).expect("a link can be made");
    };
    fill(&below);
    fill(target.path());
    let outside = format!("type=local,dest={},mode=delete", target.path().display());
    lab.build(&context, &["-o", &outside]).failed(2, &["mode=delete", "--allow buildx.local.delete"]);
    assert!(target.path().join("stale/deep").exists());
    lab.build(&context, &["-o", &outside, "--allow=buildx.local.delete"]).succeeded();
    let epoch = "type=local,dest=out,mode=delete,source-date-epoch=7";
    lab.build(&context, &["-o", epoch]).succeeded();
    for directory in [below.as_path(), target.path()] {
        assert_eq!(std::fs::read_to_string(directory.join("d/one")).expect("it is there"), "one\n");
        assert!(directory.join("bin/busybox").exists() && !directory.join("stale").exists());
        assert!(directory.join("link").symlink_metadata().is_err());
    }
    for name in ["d", "d/one", "bin/busybox", "etc"] {
        assert_eq!(below.join(name).symlink_metadata().expect("it is there").mtime(), 7, "{name}");
    }
}
