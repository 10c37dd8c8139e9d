//! `--squash` and `--omit-history`: fewer layers, the same files.

use crate::image_forms::Layout;
use crate::lab::{Lab, run};

const DOCKERFILE: &str = "FROM busybox
RUN mkdir -p /d/sub && echo one > /d/one && echo gone > /d/gone && ln /d/one /d/hard && echo x > /d/sub/x
RUN rm -r /d/gone /d/sub /etc/group && echo two > /d/two && mkdir /d/sub
RUN chown 5:6 /d/two && chmod 4755 /d/two && echo y > /d/sub/y && mkfifo /d/fifo
COPY --link f /f
ENV A=b
RUN rm /f && ln -s two /d/link
";

/// The files of an image, a line for each.
fn files_of(lab: &Lab, layout: &Layout, name: &str) -> String {
    let (named, bundle) = (lab.path(&format!("{name}-named")), lab.path(&format!("{name}-bundle")));
    let (from, to) = (format!("oci:{}", layout.directory.display()), format!("{}:v1", named.display()));
    run("skopeo", &["copy", &from, &format!("oci:{to}")]);
    run("umoci", &["unpack", "--image", &to, &bundle.to_string_lossy()]);
    let root = bundle.join("rootfs").display().to_string();
    let mut lines: Vec<String> = run("find", &[&root, "-printf", "%P %y %m %U %G %n %l %T@ %s\n"])
        .lines()
        // The size and the time of a directory are the file system's own affair.
        .map(|line| match line.split_once(" d ") {
            Some((name, rest)) => {
                format!("{name} d {}", rest.split(' ').take(3).collect::<Vec<_>>().join(" "))
            }
            None => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn layers_become_one_and_files_stay_the_same() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "content")]);
    let plain = Layout::build(&lab, &context, "plain", "", &[]);
    let expected = files_of(&lab, &plain, "plain");
    assert!(expected.contains("d/hard f 644 0 0 2 "), "{expected}");
    let cases = [
        ("true", "false", 2),
        ("new", "new", 2),
        ("all", "all", 1),
        ("lines", "2-3,4-5", 4),
        ("off", "0", 6),
    ];
    for (name, value, layers) in cases {
        let flag = if name == "true" { "--squash".to_owned() } else { format!("--squash={value}") };
        let layout = Layout::build(&lab, &context, name, "", &[&flag]);
        let manifest = layout.manifest();
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(layers), "{name}");
        let config = layout.document(&manifest["config"]);
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers), "{name}");
        let history = config["history"].as_array().expect("a config has a history");
        let with_layer = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(with_layer, layers, "{name}: {history:?}");
        let plain = plain.document(&plain.manifest()["config"]);
        assert_eq!(Some(history.len()), plain["history"].as_array().map(Vec::len), "{name}");
        assert_eq!(files_of(&lab, &layout, name), expected, "{name}");
        if name == "new" {
            let again = Layout::build(&lab, &context, "again", "", &[&flag]);
            assert_eq!(again.manifest(), manifest, "it is found again");
        }
    }
    let one = Layout::build(
        &lab,
        &context,
        "one",
        ",rewrite-timestamp=true",
        &["--squash=all", "--omit-history", "--source-date-epoch=1000"],
    );
    let manifest = one.manifest();
    let layers = manifest["layers"].as_array().expect("a manifest has layers");
    let times = one.times(&layers[0]);
    assert!(times.iter().all(|(time, _)| *time <= 1000), "{times:?}");
    let config = one.document(&manifest["config"]);
    assert_eq!(
        (&config["history"], &config["created"]),
        (&serde_json::Value::Null, &"1970-01-01T00:16:40Z".into())
    );
    run("skopeo", &["inspect", &format!("oci:{}", one.directory.display())]);

    lab.build(&context, &["--squash=some", "-t", "x"])
        .failed(2, &["`some` is none of `new`, `all`, and lines"]);
    let inline = ["--squash", "--cache-to=type=inline", "-t", "x"];
    lab.build(&context, &inline).failed(2, &["`--squash` and `--cache-to type=inline` exclude each other"]);
}

/// The layers of a cache that lies elsewhere are fetched before they become one, to the same image.
#[test]
fn layers_of_a_carried_cache_become_one_as_well() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("f", "content")]);
    let cache = lab.path("cache");
    let (to, from) =
        (format!("type=local,dest={}", cache.display()), format!("type=local,src={}", cache.display()));
    let epoch = "--source-date-epoch=1000";
    let attributes = ",rewrite-timestamp=true";
    let arguments = ["--squash", epoch, "--cache-to", to.as_str()];
    let first = Layout::build(&lab, &context, "first", attributes, &arguments);
    let separate = Layout::build(&lab, &context, "separate", attributes, &[epoch]);
    let other = Lab::new();
    let arguments = ["--squash", epoch, "--cache-from", from.as_str()];
    let second = Layout::build(&other, &context, "second", attributes, &arguments);
    assert_eq!(second.manifest(), first.manifest());
    let third = Lab::new();
    let arguments = [epoch, "--cache-from", from.as_str()];
    let carried = Layout::build(&third, &context, "carried", attributes, &arguments);
    assert_eq!(carried.manifest(), separate.manifest());
}
