//! The commands on what is kept: images, rmi, du, prune.

use serde_json::Value;

use crate::lab::Lab;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// How much could be freed, and the number of snapshots, records and blobs.
fn du(lab: &Lab) -> (u64, [u64; 3]) {
    let output = lab.rbuild(&["du", "--format", "json"]).succeeded().stdout;
    let value: Value = serde_json::from_str(&output).expect("du prints JSON");
    let number = |name: &str| value[name].as_u64().expect("du tells numbers");
    (number("reclaimable_bytes"), ["snapshots", "records", "blobs"].map(number))
}

/// What the store's files take, each inode counted once.
fn blocks(path: &std::path::Path) -> u64 {
    let output = crate::lab::run("du", &["-s", "--block-size=1", &path.to_string_lossy()]);
    output.split_whitespace().next().and_then(|size| size.parse().ok()).expect("du prints a size")
}

#[test]
fn images_are_listed_and_removed() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let built = lab.build(&context, &["-t", "app:v1", "-t", "example.com/app"]).succeeded();
    let listed = lines(&lab.rbuild(&["images", "--format", "json"]).succeeded().stdout);
    let text = |value: &Value| value.as_str().expect("names and tags are texts").to_owned();
    let mut names: Vec<_> = listed.iter().map(|image| (text(&image["name"]), text(&image["tag"]))).collect();
    names.sort_unstable();
    let expected = [("app", "v1"), ("example.com/app", "latest")];
    assert_eq!(names, expected.map(|(name, tag)| (name.to_owned(), tag.to_owned())));
    assert!(listed.iter().all(|image| image["digest"] == built.stdout.trim()));
    lab.rbuild(&["rmi", "app:v1"]).succeeded();
    lab.rbuild(&["rmi", "app:v1"]).failed(1, &["app:v1"]);
    let listed = lines(&lab.rbuild(&["images", "--format", "json"]).succeeded().stdout);
    assert_eq!(listed.len(), 1);
    let table = lab.rbuild(&["images"]).succeeded().stdout;
    assert!(table.contains("example.com/app"), "{table}");
}

#[test]
fn an_empty_store_has_nothing() {
    let lab = Lab::new();
    assert_eq!(lab.rbuild(&["images", "--format", "json"]).succeeded().stdout, "");
    assert_eq!(du(&lab), (0, [0; 3]));
    lab.rbuild(&["prune", "--all", "--force"]).succeeded();
}

#[test]
fn prune_frees_what_no_image_needs() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let dockerfile = "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1024 count=4096 2>/dev/null\n";
        let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
        lab.build(&context, &["-t", "kept"]).succeeded();
        let before = blocks(&lab.root());
        let (reclaimable, _) = du(&lab);
        assert!(reclaimable > 4 << 20, "du tells {reclaimable}");
        lab.rbuild(&["prune", "--all", "--force"]).succeeded();
        let listed = lab.rbuild(&["images", "--format", "json"]).succeeded().stdout;
        assert_eq!(lines(&listed).len(), 1, "a tagged image stays");
        lab.rbuild(&["rmi", "kept"]).succeeded();
        lab.rbuild(&["prune", "--all", "--force"]).succeeded();
        assert_eq!(du(&lab), (0, [0; 3]));
        let after = blocks(&lab.root());
        assert!(before - after > 4 << 20, "{before} bytes became {after}");
        lab.build(&context, &["-t", "again"]).succeeded();
    }
}

#[test]
fn a_kept_image_survives_prune_and_can_be_pushed() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let name = format!("{}/kept:v1", registry.address());
    lab.build(&context, &["-t", &name]).succeeded();
    lab.rbuild(&["prune", "--all", "--force"]).succeeded();
    lab.rbuild(&["push", &name]).succeeded();
}

#[test]
fn what_takes_space_is_listed_and_chosen_by_filters() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c,id=tools touch /c/x\nRUN echo x > /x\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &["-t", "app"]).succeeded();
    let table = lab.rbuild(&["du"]).succeeded().stdout;
    for text in ["RECLAIMABLE", "cache mount /tools", "RUN echo x > /x", "layer of an image", "Total:"] {
        assert!(table.contains(text), "{text} in {table}");
    }
    let mounts = lab.rbuild(&["du", "--filter", "type=exec.cachemount", "--verbose"]).succeeded().stdout;
    assert!(mounts.contains("Mutable:        true") && !mounts.contains("RUN echo"), "{mounts}");
    let entries = |arguments: &[&str]| {
        let output = lab.rbuild(&[&["du", "--format", "json"], arguments].concat()).succeeded().stdout;
        let value: Value = serde_json::from_str(&output).expect("du prints JSON");
        value["entries"].as_array().expect("du lists entries").len()
    };
    let steps = ["--filter", "description~=RUN", "--filter", "type=regular"];
    assert_eq!(entries(&steps), 2);
    assert!(entries(&["--filter", "shared"]) >= 3, "the image's blobs");
    lab.rbuild(&[&["prune", "--filter", "until=24h"], &steps[..]].concat()).succeeded();
    assert_eq!(entries(&steps), 2, "they were used just now");
    lab.rbuild(&[&["prune", "--force"], &steps[..]].concat()).succeeded();
    assert_eq!((entries(&steps), entries(&["--filter", "type=exec.cachemount"])), (0, 1));
    lab.rbuild(&["du", "--filter", "age=3"]).failed(2, &["there is no field `age`"]);
    lab.rbuild(&["prune", "--filter", "until=soon"]).failed(2, &["`soon`"]);
}

#[test]
fn the_configuration_keeps_the_store_in_bounds() {
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1024 count=4096 2>/dev/null\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    lab.build(&context, &[]).succeeded();
    lab.configure("[[worker.oci.gcpolicy]]\nmaxUsedSpace = \"1MB\"\n");
    let (reclaimable, _) = du(&lab);
    assert!(reclaimable > 4 << 20, "du tells {reclaimable}");
    lab.rbuild(&["gc"]).succeeded();
    let (reclaimable, _) = du(&lab);
    assert!(reclaimable < 1 << 20, "du tells {reclaimable}");
}
