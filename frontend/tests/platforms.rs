//! One file for several platforms.

mod stub;

use frontend::{LowerOptions, LoweredPlatforms, SourceFile, lower_platforms, parse};
use oci::Platform;
use stub::{Stub, build, options};

fn lowered(text: &str, options: &LowerOptions, platforms: &[&str]) -> LoweredPlatforms {
    let file = parse(&SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() });
    let platforms: Vec<Platform> =
        platforms.iter().map(|platform| platform.parse().expect("a platform")).collect();
    lower_platforms(&file, options, &platforms, &mut Stub::default()).expect("the file is right")
}

fn several() -> LowerOptions {
    LowerOptions { is_one_of_several: true, ..options() }
}

/// The names of all steps that have one.
fn names(lowered: &LoweredPlatforms) -> Vec<&str> {
    let names = lowered.graph.vertices().iter().map(|vertex| vertex.meta.name.as_str());
    names.filter(|name| !name.is_empty() && !name.contains("FROM ")).collect()
}

const FILE: &str = "FROM --platform=$BUILDPLATFORM busybox AS tool
RUN tool
FROM tool AS made
ARG TARGETARCH TARGETVARIANT
RUN make $TARGETARCH
FROM scratch
COPY --from=tool /t /t
COPY --from=made /m /m
";

#[test]
fn what_is_the_same_for_several_platforms_is_there_once() {
    let found = lowered(FILE, &several(), &["linux/arm64", "linux/amd64", "linux/arm/v7"]);
    assert_eq!(
        names(&found),
        [
            "[linux/amd64 tool 2/2] RUN tool",
            "[linux/amd64->arm64 made 1/1] RUN make arm64",
            "[linux/arm64 stage-2 1/2] COPY --from=tool /t /t",
            "[linux/arm64 stage-2 2/2] COPY --from=made /m /m",
            "[linux/amd64 made 1/1] RUN make amd64",
            "[linux/amd64 stage-2 2/2] COPY --from=made /m /m",
            "[linux/amd64->arm/v7 made 1/1] RUN make arm",
            "[linux/arm/v7 stage-2 2/2] COPY --from=made /m /m",
        ]
    );
    let images = found.images.iter().map(|image| {
        let config = &image.config;
        (image.platform.to_string(), config.architecture.clone(), config.variant.clone())
    });
    assert_eq!(
        images.collect::<Vec<_>>(),
        [
            ("linux/arm64".to_owned(), "arm64".to_owned(), None),
            ("linux/amd64".to_owned(), "amd64".to_owned(), None),
            ("linux/arm/v7".to_owned(), "arm".to_owned(), Some("v7".to_owned())),
        ]
    );
}

#[test]
fn a_single_platform_is_lowered_as_ever() {
    let one = lowered(FILE, &options(), &["linux/amd64"]);
    let alone = build(FILE, &options()).expect("the file is right");
    let names: Vec<&str> = alone.graph.vertices().iter().map(|vertex| vertex.meta.name.as_str()).collect();
    let same: Vec<&str> = one.graph.vertices().iter().map(|vertex| vertex.meta.name.as_str()).collect();
    assert_eq!(same, names);
    assert_eq!((one.images[0].target, &one.images[0].config), (alone.target, &alone.config));
}

#[test]
fn the_system_is_told_where_it_differs() {
    let file = "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETPLATFORM\nRUN make\n";
    let found = lowered(file, &several(), &["windows/amd64", "linux/amd64"]);
    assert_eq!(
        names(&found),
        ["[linux/amd64->windows/amd64 2/2] RUN make", "[linux/amd64 2/2] RUN make"],
        "FROM builds for nothing"
    );
}

#[test]
fn what_is_odd_for_several_platforms_is_told_once() {
    let file = "FROM --platform=$BUILDPLATFORM busybox as x\nFROM busybox\n";
    let found = lowered(file, &several(), &["linux/amd64", "linux/arm64", "linux/s390x"]);
    let codes: Vec<_> = found.warnings.iter().map(|warning| warning.code).collect();
    // The base is there for amd64 alone, which is told with each platform's name.
    assert_eq!(codes, ["FromAsCasing", "InvalidBaseImagePlatform", "InvalidBaseImagePlatform"]);
}

#[test]
fn stages_and_contexts_are_scanned_where_arguments_ask_for_it() {
    let scans = |head: &str, tail: &str, arguments: &[(&str, &str)], finds_scans: bool| -> Vec<String> {
        let text = format!(
            "{head}FROM scratch AS a\nCOPY a /\nFROM scratch\nCOPY b /\n{tail}COPY --from=a / /\n\
             FROM scratch AS last\nARG BUILDKIT_SBOM_SCAN_CONTEXT\nCOPY --from=1 / /\n"
        );
        let build_args =
            arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let amd: Platform = "linux/amd64".parse().unwrap();
        let options = LowerOptions { build_args, finds_scans, ..LowerOptions::new(amd) };
        let lowered = lowered(&text, &options, &["linux/amd64"]);
        lowered.images[0].scans.iter().map(|scan| scan.name.clone()).collect()
    };
    let stage = "BUILDKIT_SBOM_SCAN_STAGE";
    assert_eq!(scans("", "", &[], true), [""; 0]);
    assert_eq!(scans("", "", &[(stage, "true")], true), ["1", "a"]);
    assert_eq!(scans("", "", &[(stage, "true")], false), [""; 0]);
    assert_eq!(scans("", "", &[(stage, "a,x")], true), ["a"]);
    assert_eq!(scans("", "ARG BUILDKIT_SBOM_SCAN_STAGE=1\n", &[], true), ["1"]);
    assert_eq!(
        scans("ARG BUILDKIT_SBOM_SCAN_STAGE=true\n", "ARG BUILDKIT_SBOM_SCAN_STAGE=false\n", &[], true),
        ["a"]
    );
    assert_eq!(scans("ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n", "", &[], true), ["context"]);
}
