//! What builds say of their results, as others read it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Lab, bases, json as json_of, run};

/// A layout that a build wrote.
struct Layout(PathBuf);

impl Layout {
    fn blob(&self, digest: &Value) -> Value {
        let hex = digest.as_str().expect("a digest is a text").trim_start_matches("sha256:").to_owned();
        json_of("cat", &[&self.0.join("blobs/sha256").join(hex).to_string_lossy()])
    }

    /// The index that the layout's only entry names.
    fn index(&self) -> Value {
        let layout = json_of("cat", &[&self.0.join("index.json").to_string_lossy()]);
        self.blob(&layout["manifests"][0]["digest"])
    }

    /// All statements that stand beside the images of an index, by their predicates' types.
    fn statements(&self, index: &Value) -> Vec<(String, Value)> {
        let is_said =
            |entry: &&Value| entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest";
        let manifests = index["manifests"].as_array().expect("an index has manifests").iter().filter(is_said);
        let mut found = Vec::new();
        for entry in manifests {
            let manifest = self.blob(&entry["digest"]);
            for layer in manifest["layers"].as_array().expect("a manifest has layers") {
                let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().expect("it has a type");
                let statement = self.blob(&layer["digest"]);
                assert_eq!(statement["predicateType"], kind);
                assert_eq!(
                    statement["subject"][0]["digest"]["sha256"],
                    without_algorithm(&entry["annotations"]["vnd.docker.reference.digest"])
                );
                found.push((kind.to_owned(), statement));
            }
        }
        found
    }
}

fn without_algorithm(digest: &Value) -> String {
    digest.as_str().expect("a digest is a text").trim_start_matches("sha256:").to_owned()
}

/// The locators of the packages of an SPDX statement.
fn packages(statement: &Value) -> Vec<&str> {
    let packages = statement["predicate"]["packages"].as_array().expect("a document has packages");
    packages.iter().filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str()).collect()
}

fn layout_output(path: &Path) -> String {
    format!("--output=type=oci,tar=false,dest={},name=app:v1", path.display())
}

const DOCKERFILE: &str = "FROM busybox AS base
ARG VERSION=1
RUN --network=none --mount=type=secret,id=token,required cat /run/secrets/token > /dev/null; \\
    mkdir -p /lib/apk/db && printf 'P:musl\\nV:1.2.4-r2\\nA:x86_64\\nL:MIT\\n' > /lib/apk/db/installed
FROM base
LABEL a=b
COPY Cargo.lock /app/
";
const CARGO_LOCK: &str = "[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\n";
const SECRET: &str = "what-nobody-is-told";

fn lab_with_context() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("Cargo.lock", CARGO_LOCK)]);
    std::fs::write(lab.path("token"), SECRET).expect("a file can be written");
    (lab, context)
}

#[test]
fn what_is_said_of_an_image_stands_beside_it_and_changes_nothing_of_it() {
    let (lab, context) = lab_with_context();
    let secret = format!("--secret=id=token,src={}", lab.path("token").display());
    let common = [secret.as_str(), "--build-arg=VERSION=2", "--build-arg=SOURCE_DATE_EPOCH=1700000000"];
    let build = |name: &str, more: &[&str]| {
        let output = layout_output(&lab.path(name));
        lab.build(&context, &[&common[..], &[&output], more].concat()).succeeded()
    };
    let plain = build("plain", &[]);
    let metadata = lab.path("metadata.json");
    let file = format!("--metadata-file={}", metadata.display());
    build("said", &["--sbom", "--provenance=mode=max,builder-id=https://example.com/1", &file]);
    let layout = Layout(lab.path("said"));
    let index = layout.index();
    assert_eq!(index["manifests"][0]["digest"], plain.stdout.trim(), "the image is the same");
    assert_eq!(index["manifests"][1]["platform"], json!({"architecture": "unknown", "os": "unknown"}));

    let statements = layout.statements(&index);
    let kinds: Vec<&str> = statements.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
    let [(_, sbom), (_, provenance)] = statements.as_slice() else { unreachable!("there are two") };
    assert_eq!(packages(sbom), ["pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64", "pkg:cargo/serde@1.0.1"]);
    assert_eq!(sbom["predicate"]["creationInfo"]["created"], "2023-11-14T22:13:20Z");

    let definition = &provenance["predicate"]["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:VERSION"], "2");
    assert_eq!(request["secrets"], json!([{"id": "token"}]));
    assert_eq!(definition["resolvedDependencies"][0]["uri"], "pkg:oci/busybox?platform=linux%2Famd64");
    let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"].as_array();
    assert_eq!(steps.map(Vec::len), Some(5));
    let details = &provenance["predicate"]["runDetails"];
    assert_eq!(details["builder"]["id"], "https://example.com/1");
    let layers = &details["metadata"]["buildkit_metadata"]["layers"];
    let manifest = layout.blob(&index["manifests"][0]["digest"]);
    assert_eq!(layers["step0:0"][0][0]["digest"], manifest["layers"][0]["digest"]);
    assert_eq!(layers["step3:0"][0].as_array().map(Vec::len), Some(3));

    let metadata = json_of("cat", &[&metadata.to_string_lossy()]);
    let told = &metadata["buildx.build.provenance"];
    assert_eq!(told["runDetails"]["metadata"]["invocationId"], details["metadata"]["invocationId"]);
    assert_eq!(
        told["buildDefinition"]["externalParameters"]["request"]["args"]["build-arg:VERSION"],
        Value::Null
    );
    let found = std::process::Command::new("grep").args(["-r", SECRET]).arg(lab.path("said")).output();
    assert!(found.expect("grep runs").stdout.is_empty(), "the secret is told");

    // What the packages are does not depend on when one looks.
    build("again", &["--sbom", "--no-cache"]);
    let again = Layout(lab.path("again"));
    let again = again.statements(&again.index());
    assert_eq!(again[0].1["predicate"], sbom["predicate"]);
}

#[test]
fn images_are_pushed_kept_and_copied_with_what_is_said_of_them() {
    let registry = testkit::RealRegistry::start();
    registry.load_oci_layout(bases(), "library");
    let lab = Lab::new();
    let dockerfile = format!("FROM {}/library/busybox\nCOPY --link Dockerfile /\n", registry.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let name = format!("{}/app:v1", registry.address());
    let built = lab.build(&context, &["-t", &name, "--push", "--provenance", "--sbom"]).succeeded();
    let raw = |name: &str| {
        json_of("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
    };
    let index = raw(&name);
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    run(
        "skopeo",
        &[
            "copy",
            "--all",
            "--src-tls-verify=false",
            &format!("docker://{name}"),
            &format!("oci:{}:v1", lab.path("copy").display()),
        ],
    );
    let copy = Layout(lab.path("copy"));
    assert_eq!(copy.index(), index);
    let statements = copy.statements(&index);
    let materials = &statements[1].1["predicate"]["buildDefinition"]["resolvedDependencies"];
    let base = format!(
        "pkg:docker/{}/library/busybox@latest?platform=linux%2Famd64",
        registry.address().replace(':', "%3A")
    );
    assert_eq!((&materials[0]["uri"], materials[0]["digest"]["sha256"].is_string()), (&base.into(), true));

    // What was kept is pushed as it was, and listed as one image.
    let listed = lab.rbuild(&["images"]).succeeded();
    assert_eq!(listed.stdout.lines().count(), 2, "{}", listed.stdout);
    lab.rbuild(&["push", &name]).succeeded();
    assert_eq!(raw(&name), index);
    let on_it = lab.context("on-it", &[("Dockerfile", &format!("FROM {name}\nLABEL a=b\n"))]);
    lab.build(&on_it, &["-t", "child"]).succeeded();
    assert!(built.stdout.starts_with("sha256:"));
}

#[test]
fn each_platform_has_its_own_and_files_have_theirs_beside_them() {
    let (lab, context) = lab_with_context();
    let dockerfile = "FROM busybox-platforms\nCOPY Cargo.lock /app/\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a file can be written");
    let base =
        format!("--build-context=busybox-platforms=oci-layout://{}:busybox-platforms", bases().display());
    let platforms = "--platform=linux/amd64,linux/arm64";
    let output = layout_output(&lab.path("several"));
    lab.build(&context, &[&base, platforms, &output, "--sbom", "--provenance=mode=min,version=v0.2"])
        .succeeded();
    let layout = Layout(lab.path("several"));
    let index = layout.index();
    let entries = index["manifests"].as_array().expect("an index has manifests");
    let platforms_of: Vec<&Value> = entries.iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(platforms_of, ["amd64", "arm64", "unknown", "unknown"]);
    let statements = layout.statements(&index);
    assert_eq!(statements.len(), 4);
    assert_eq!(statements[1].0, "https://slsa.dev/provenance/v0.2");
    assert_eq!(statements[3].1["predicate"]["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert_eq!(statements[3].1["predicate"]["buildConfig"], Value::Null);

    let files = lab.path("files");
    let output = format!("--output=type=local,dest={},attestation-prefix=app-", files.display());
    lab.build(
        &context,
        &[&base, "--platform=linux/amd64", &output, "--sbom", "--provenance=filename=p.json"],
    )
    .succeeded();
    let sbom = json_of("cat", &[&files.join("app-sbom.spdx.json").to_string_lossy()]);
    assert_eq!(packages(&sbom), ["pkg:cargo/serde@1.0.1"]);
    let subjects = sbom["subject"].as_array().expect("a statement has subjects");
    assert!(subjects.iter().any(|subject| subject["name"] == "app/Cargo.lock"));
    assert!(files.join("app-p.json").exists());
}

#[test]
fn mistakes_are_told_before_anything_is_built() {
    let (lab, context) = lab_with_context();
    let cases = [
        ("--attest=type=provenence", "did you mean provenance?"),
        ("--provenance=mode=most", "invalid value `most` for `mode`"),
        ("--sbom=generater=x", "unknown key `generater`"),
    ];
    for (flag, text) in cases {
        lab.build(&context, &[flag, "-t", "x"]).failed(2, &[text]);
    }
    let docker = format!("--output=type=docker,dest={}", lab.path("x.tar").display());
    let told = "docker exporter does not currently support exporting manifest lists";
    lab.build(&context, &["--sbom", &docker]).failed(2, &[told]);
}

/// A scanner: says of each tree that it is shown which files are in its root.
const SCANNER: &str = r#"FROM busybox
COPY --chmod=755 <<"EOT" /scan
#!/bin/sh
set -e
! touch $BUILDKIT_SCAN_SOURCE/x 2> /dev/null
for tree in $BUILDKIT_SCAN_SOURCE ${BUILDKIT_SCAN_SOURCE_EXTRAS:+$BUILDKIT_SCAN_SOURCE_EXTRAS*}; do
    name=$(basename $tree)
    printf '{"_type":"x","predicateType":"https://spdx.dev/Document","predicate":{"name":"%s","files":"%s","word":"%s"}}' \
        $name "$(ls $tree | tr '\n' ' ')" "$BUILDKIT_SCAN_WORD" > $BUILDKIT_SCAN_DESTINATION/$name.spdx.json
done
EOT
ENTRYPOINT ["/bin/sh"]
CMD ["/scan"]
"#;

const STAGES: &str = "FROM scratch AS other
COPY a /
FROM scratch AS left-out
COPY c /
FROM scratch
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
COPY --from=other / /copied/
COPY --from=left-out / /copied/
COPY Cargo.lock /
";

#[test]
fn stages_and_contexts_are_scanned_on_request_also_by_others() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let scanner = lab.context("scanner", &[("Dockerfile", SCANNER)]);
    let name = format!("{}/scanner", registry.address());
    lab.build(&scanner, &["--push", "-t", &name]).succeeded();
    let files = [
        ("Dockerfile", STAGES),
        ("a", "1"),
        ("c", "3"),
        ("Cargo.lock", CARGO_LOCK),
        (".dockerignore", "Dockerfile"),
    ];
    let context = lab.context("stages", &files);
    let stage = "--build-arg=BUILDKIT_SBOM_SCAN_STAGE=other";

    let generator = format!("--sbom=generator={name},WORD=so it is");
    lab.build(&context, &[&layout_output(&lab.path("scanned")), stage, &generator]).succeeded();
    let layout = Layout(lab.path("scanned"));
    let told: Vec<Value> =
        layout.statements(&layout.index()).into_iter().map(|(_, said)| said["predicate"].clone()).collect();
    let expected =
        [("sbom-context", "Cargo.lock a c "), ("sbom-other", "a "), ("sbom", "Cargo.lock copied ")];
    let expected = expected.map(|(name, files)| json!({"name": name, "files": files, "word": "so it is"}));
    assert_eq!(told, expected);
    let again = lab.build(&context, &[&layout_output(&lab.path("again")), stage, &generator]).succeeded();
    assert!(again.executed().is_empty(), "{:?}", again.executed());

    // The own scanner looks at the same.
    lab.build(&context, &[&layout_output(&lab.path("own")), stage, "--sbom"]).succeeded();
    let layout = Layout(lab.path("own"));
    let told = layout.statements(&layout.index());
    let names: Vec<&Value> = told.iter().map(|(_, said)| &said["predicate"]["name"]).collect();
    assert_eq!(names, ["sbom", "sbom-context", "sbom-other"]);
    assert_eq!(packages(&told[1].1), ["pkg:cargo/serde@1.0.1"]);
    assert!(packages(&told[2].1).is_empty());
}
