//! Images of the store: what is told of them, their names, and their ways to other places.

use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Lab, bases, json, run};

const DOCKERFILE: &str = "FROM busybox
COPY file /file
ENV A=one
LABEL made=here
ENTRYPOINT [\"/bin/cat\"]
CMD [\"/file\"]
";

/// A lab with `app:v1`, whose digests are the same each time.
fn lab() -> Lab {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("file", "content\n")]);
    run("touch", &["-d", "@1000000000", &context.join("file").to_string_lossy()]);
    lab.build(&context, &["-t", "app:v1", "--build-arg=SOURCE_DATE_EPOCH=1000000000"]).succeeded();
    lab
}

fn told(lab: &Lab, arguments: &[&str]) -> Value {
    let text = lab.rbuild(arguments).succeeded().stdout;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} is no JSON ({error}): {text}"))
}

#[test]
fn images_are_told_of_and_have_names() {
    let lab = lab();
    lab.rbuild(&["tag", "app:v1", "registry.test/team/app"]).succeeded();
    let image = &told(&lab, &["inspect", "app:v1"])[0];
    let id = image["Id"].as_str().expect("an ID").to_owned();
    let digest = image["Descriptor"]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(image["RepoTags"], json!(["app:v1", "registry.test/team/app:latest"]));
    let digests = [format!("app@{digest}"), format!("registry.test/team/app@{digest}")];
    assert_eq!(image["RepoDigests"], json!(digests));
    assert_eq!(image["Created"], "2001-09-09T01:46:40Z");
    let config = &image["Config"];
    let parts = json!([config["Entrypoint"], config["Cmd"], config["Labels"], config["Env"][1]]);
    assert_eq!(parts, json!([["/bin/cat"], ["/file"], { "made": "here" }, "A=one"]));
    assert_eq!([&image["Os"], &image["Architecture"]], ["linux", "amd64"]);
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    let raw = told(&lab, &["inspect", "--raw", &digests[1]]);
    assert_eq!(raw["config"]["digest"], id.as_str());

    let short = &id["sha256:".len()..][..12];
    let short_digest = &digest["sha256:".len()..][..12];
    let history = lab.rbuild(&["history", "app:v1"]).succeeded().stdout;
    let lines: Vec<Vec<&str>> =
        history.lines().map(|line| line.split("   ").filter(|cell| !cell.is_empty()).collect()).collect();
    let rows: Vec<&str> = lines.iter().map(|cells| cells[2].trim()).collect();
    let made = [
        "CREATED BY",
        "CMD [\"/file\"]",
        "ENTRYPOINT [\"/bin/cat\"]",
        "LABEL made=here",
        "ENV A=one",
        "COPY file /file # buildkit",
    ];
    assert_eq!(rows[..6], made);
    assert!(lines[1][0] == short && lines[2][0] == "<missing>", "{history}");
    let first = lab.rbuild(&["history", "--format=json", short]).succeeded().stdout;
    let last: Value = serde_json::from_str(first.lines().next().expect("a line")).expect("JSON");
    assert_eq!([&last["id"], &last["created_by"]], [id.as_str(), "CMD [\"/file\"]"]);
    lab.rbuild(&["history", "ls"]).succeeded();

    let listed = lab.rbuild(&["images", "app"]).succeeded().stdout;
    let wanted = format!("app    v1    {short_digest}   {short}   linux/amd64   ");
    assert!(listed.lines().count() == 2 && listed.contains(&wanted), "{listed}");
    assert_eq!(lab.rbuild(&["images", "-q"]).succeeded().stdout, format!("{short}\n"));
    assert_eq!(lab.rbuild(&["images", "--format=json", "no*"]).succeeded().stdout, "");

    lab.rbuild(&["rmi", short]).failed(1, &["has several names: `app:v1`, `registry.test/team/app:latest`"]);
    lab.rbuild(&["rmi", "app:v1", "none"]).failed(1, &["there is no image `none`"]);
    let removed = lab.rbuild(&["rmi", "-f", short, "none"]).succeeded().stdout;
    assert_eq!(removed, "Untagged: app:v1\nUntagged: registry.test/team/app:latest\n");
    lab.rbuild(&["inspect", "app:v1"]).failed(1, &["there is no image `app:v1` in the store"]);
}

#[test]
fn archives_bring_images_to_other_stores() {
    let lab = lab();
    lab.rbuild(&["tag", "app:v1", "second"]).succeeded();
    let image = told(&lab, &["inspect", "app:v1"])[0].clone();
    lab.rbuild(&["save", "-o", "docker.tar", "app:v1", "second"]).succeeded();
    lab.rbuild(&["save", "-o", "oci.tar", "--format=oci", "app:v1"]).succeeded();
    let piped = Lab::new();
    let archive = lab.path("docker.tar");
    let mut load = piped.command();
    load.arg("load").stdin(std::fs::File::open(&archive).expect("it was written"));
    let loaded = crate::lab::Ran::from(testkit::run_with_timeout(load, std::time::Duration::from_secs(60)));
    assert_eq!(loaded.succeeded().stdout, "Loaded image: app:v1\nLoaded image: second:latest\n");
    assert_eq!(told(&piped, &["inspect", "app:v1"])[0]["Descriptor"], image["Descriptor"]);

    // As docker wrote them for years: layers that are not compressed, beside directories with links to them.
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let legacy = text(&lab.path("legacy.tar"));
    let from = format!("oci-archive:{}", lab.path("oci.tar").display());
    run("skopeo", &["copy", "-q", &from, &format!("docker-archive:{legacy}:old/app:v1")]);
    let nameless = text(&lab.path("nameless.tar"));
    run("skopeo", &["copy", "-q", &from, &format!("docker-archive:{nameless}")]);
    run("zstd", &["-q", &legacy]);
    let layout = text(&lab.path("layout"));
    run("mkdir", &[&layout]);
    run("tar", &["-C", &layout, "-xf", &text(&lab.path("oci.tar"))]);
    for (archive, name) in [
        (legacy.clone(), "old/app:v1"),
        (format!("{legacy}.zst"), "old/app:v1"),
        (text(&lab.path("oci.tar")), "app:v1"),
        (layout, "app:v1"),
    ] {
        let lab = Lab::new();
        let loaded = lab.rbuild(&["load", "-i", &archive]).succeeded();
        assert_eq!(loaded.stdout, format!("Loaded image: {name}\n"), "{archive}");
        let there = told(&lab, &["inspect", name])[0].clone();
        assert_eq!([&there["Id"], &there["RootFS"]], [&image["Id"], &image["RootFS"]], "{archive}");
        assert_eq!(lab.rbuild(&["run", name]).succeeded().stdout, "content\n", "{archive}");
        let damage = lab.rbuild(&["doctor", "--store"]).succeeded();
        assert!(!damage.stdout.contains("damaged"), "{}", damage.stdout);
    }
    let lab = Lab::new();
    lab.rbuild(&["load", "-i", &nameless]).failed(1, &["the image in the archive has no name"]);
    lab.rbuild(&["load", "-i", &nameless, "-t", "named"]).succeeded();
    assert_eq!(lab.rbuild(&["run", "named"]).succeeded().stdout, "content\n");
    lab.rbuild(&["load", "-i", "config.toml"]).failed(1, &["cannot load `config.toml`"]);
}

#[test]
fn images_go_to_registries_and_come_from_there() {
    let registry = testkit::RealRegistry::start();
    registry.load_oci_layout(bases(), "library");
    let lab = lab();
    let [first, second] = ["one", "two"].map(|tag| format!("{}/team/app:{tag}", registry.address()));
    lab.rbuild(&["tag", "app:v1", &first]).succeeded();
    lab.rbuild(&["tag", "app:v1", &second]).succeeded();
    let pushed = lab.rbuild(&["push", "--all-tags", &format!("{}/team/app", registry.address())]).succeeded();
    let found = json("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{second}")]);
    assert_eq!(found["Digest"], pushed.stdout.trim());
    lab.rbuild(&["push", &format!("{}/none", registry.address())]).failed(1, &["there is no image"]);

    let other = Lab::new();
    let pulled = other.rbuild(&["pull", &first]).succeeded();
    assert_eq!(pulled.stdout, pushed.stdout);
    assert!(pulled.stderr.contains(&format!("pulling {first}")), "{}", pulled.stderr);
    // All of it is here.
    drop(registry);
    assert_eq!(other.rbuild(&["run", &first]).succeeded().stdout, "content\n");
    other.rbuild(&["save", "-o", "app.tar", &first]).succeeded();
    other.rbuild(&["pull", "-q", &second]).failed(1, &[&second, "cannot be reached"]);
    other.rbuild(&["run", &second]).failed(125, &[&second, "cannot be reached"]);
}

#[test]
fn images_of_the_store_are_bases_where_no_registry_has_them() {
    let registry = testkit::RealRegistry::start();
    let lab = lab();
    let name = format!("{}/base", registry.address());
    lab.rbuild(&["tag", "app:v1", &name]).succeeded();
    let dockerfile = format!("FROM {name}\nRUN cat /file > /seen && echo $A >> /seen\n");
    let context = lab.context("above", &[("Dockerfile", &dockerfile)]);
    let told = format!("`{name}` is the image of that name in the store, as its registry did not give it");
    let ran = lab.build(&context, &["-t", "above"]).succeeded();
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    let run = ["run", "--entrypoint", "cat", "above", "/seen"];
    assert_eq!(lab.rbuild(&run).succeeded().stdout, "content\none\n");
    for flag in ["--pull=missing", "--pull=never", "--offline"] {
        let ran = lab.build(&context, &[flag]).succeeded();
        assert!(!ran.stderr.contains(&told) && ran.executed().is_empty(), "{}", ran.stderr);
    }
    // What the registry has goes before.
    registry.load_oci_layout(bases(), "library");
    let there = format!("{}/library/busybox", registry.address());
    lab.rbuild(&["tag", "app:v1", &there]).succeeded();
    let context = lab.context("there", &[("Dockerfile", &format!("FROM {there}\nRUN test ! -e /file\n"))]);
    lab.build(&context, &["--no-cache"]).succeeded();
    lab.rbuild(&["tag", "app:v1", &there]).succeeded();
    drop(registry);
    let ran = lab.build(&context, &["--no-cache"]).failed(1, &["test ! -e /file"]);
    assert!(ran.stderr.contains(&told.replace(&name, &there)), "{}", ran.stderr);
}
