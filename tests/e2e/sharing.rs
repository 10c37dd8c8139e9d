//! Files that snapshots share: no program and no image can tell.

use std::path::{Path, PathBuf};

use crate::lab::{Lab, run};

/// Trees that are copied twice in every way that there is, and programs that look at inodes.
const DOCKERFILE: &str = r"FROM busybox AS one
COPY tree /tree
FROM busybox AS two
COPY --from=one /tree /tree
COPY --from=one /tree/d /tree/d/f /again/
FROM scratch AS three
COPY --link --from=two /tree /tree
FROM two
COPY --from=one /tree /one
COPY --link --from=three /tree /three
COPY --from=two /tree/d/f /tree/same /two/
COPY --link tree /linked
COPY tree /tree
RUN set -e; \
    cp /tree/d/f /one/d/f; cp /one/d/f /three/d/f; cp /three/d/f /two/f; cp /two/f /linked/d/f; \
    cp /again/f /tree/d/f; cp -a /one /tree/moved
RUN set -e; \
    mv /tree/d/g /one/d/g; mv /one/d/g /three/d/g; mv /three/d/g /linked/d/g; \
    test ! -e /tree/d/g; test ! -e /one/d/g; test ! -e /three/d/g; test -e /linked/d/g
RUN tar -cf /all.tar /tree /one /two /three /linked /again && \
    tar -tvf /all.tar | grep -e ' link to ' -e ' -> ' | sed 's/.*:[0-9]* //' > /links; rm /all.tar
RUN set -e; \
    ln /tree/same /name; ln /name /name2; echo more >> /name2; cat /tree/same; \
    chmod 600 /one/same; chown 7:8 /three/same; cat /one/same /three/same /linked/same > /unchanged
RUN set -e; echo other > /linked/d/f; cat /tree/d/f /one/d/f /three/d/f /again/f > /kept
RUN ls -i /tree/same /name /name2 | awk '{print $1}' | sort -u | wc -l > /inodes
";

const FILES: &[(&str, &str)] = &[
    ("Dockerfile", DOCKERFILE),
    ("tree/d/f", "f"),
    ("tree/d/g", "g"),
    ("tree/same", "same\n"),
    ("tree/other", "same\n"),
    ("tree/empty", ""),
];

fn context(lab: &Lab) -> PathBuf {
    let context = lab.context("ctx", FILES);
    std::fs::hard_link(context.join("tree/d/f"), context.join("tree/name of f")).expect("a link can be made");
    std::os::unix::fs::symlink("d", context.join("tree/link")).expect("a link can be made");
    for name in ["tree/d/f", "tree/d/g", "tree/same", "tree/other", "tree/empty"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        testkit::set_times(&context.join(name), time);
    }
    context
}

/// All layers of an image: kind, name, mode, owner, the time of what came from the context, target, content.
fn layers(lab: &Lab, links: &str, context: &Path) -> Vec<Vec<String>> {
    let layout = lab.path(&format!("layout-{links}"));
    let output = format!("--output=type=oci,tar=false,compression=uncompressed,dest={}", layout.display());
    let mut command = lab.build_command(context, &[&output]);
    command.env("RBUILD_LINKS", links);
    let output = command.output().expect("rbuild can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |digest: &str| {
        let path = layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        std::fs::read(path).expect("a blob can be read")
    };
    let json = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("JSON") };
    let digest = |value: &serde_json::Value| value["digest"].as_str().expect("a digest").to_owned();
    let index = json(&std::fs::read(layout.join("index.json")).expect("the index can be read"));
    let manifest = json(&read(&digest(&index["manifests"][0])));
    let layers = manifest["layers"].as_array().expect("layers");
    layers.iter().skip(1).map(|layer| entries(&read(&digest(layer)))).collect()
}

fn entries(layer: &[u8]) -> Vec<String> {
    use std::io::Read;
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().expect("the layer can be read");
    let line = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("the layer can be read");
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("the files of this test are text");
        let header = entry.header();
        let time = header.mtime().expect("an entry has a time");
        format!(
            "{:?} {} {:o} {}:{} {} {:?} {content:?}",
            header.entry_type(),
            entry.path().expect("an entry has a name").display(),
            header.mode().expect("an entry has a mode"),
            header.uid().expect("an entry has an owner"),
            header.gid().expect("an entry has a group"),
            // The times of directories, and of what a RUN wrote, are those of the build.
            if time == 1_000_000_000 { "old" } else { "new" },
            entry.link_name().expect("a link has a target"),
        )
    };
    entries.map(line).collect()
}

/// The names that regular files below the store's snapshots have beyond the first, each inode counted once.
fn further_names(lab: &Lab) -> usize {
    let snapshots = lab.root().join("snapshots");
    let listed =
        run("find", &[&snapshots.to_string_lossy(), "-type", "f", "-links", "+1", "-printf", "%i\n"]);
    let names = listed.lines().count();
    let inodes: std::collections::BTreeSet<_> = listed.lines().collect();
    names - inodes.len()
}

#[test]
fn an_image_is_the_same_whether_or_not_its_snapshots_share_files() {
    let (shared, copied) = (Lab::new(), Lab::new());
    let (context, other) = (context(&shared), context(&copied));
    let with_links = layers(&shared, "on", &context);
    let without = layers(&copied, "off", &other);
    assert_eq!(with_links.len(), without.len());
    for (with_links, without) in with_links.iter().zip(&without) {
        assert_eq!(with_links, without);
    }
    let all = with_links.concat();
    for expected in [
        r#"Regular inodes 644 0:0 new None "1\n""#,
        r#"Regular kept 644 0:0 new None "ffff""#,
        r#"Regular unchanged 644 0:0 new None "same\nsame\nsame\n""#,
    ] {
        assert!(all.iter().any(|line| line == expected), "{expected} is not in {all:#?}");
    }
    // The base image, too, has names of one inode.
    let (links, few) = (further_names(&shared), further_names(&copied));
    assert!(links >= few + 5, "{links} names more than inodes with links, {few} without");
}

#[test]
fn a_file_that_changed_is_read_and_the_others_are_shared() {
    let lab = Lab::new();
    let context = context(&lab);
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY tree /tree\n")
        .expect("a file can be written");
    let build = || {
        let tree = lab.build_tree(&context, &[]);
        (tree.text("tree/d/f"), tree.text("tree/d/g"), tree.text("tree/same"))
    };
    let texts = |f: &str, g: &str, same: &str| (f.to_owned(), g.to_owned(), same.to_owned());
    assert_eq!(build(), texts("f", "g", "same\n"));
    let before = further_names(&lab);
    std::fs::write(context.join("tree/same"), "new\n").expect("a file can be written");
    assert_eq!(build(), texts("f", "g", "new\n"));
    assert!(further_names(&lab) >= before + 3, "{} after {before}", further_names(&lab));
    // Neither a change of the mode nor of the content alone shows in what was linked.
    run("chmod", &["600", &context.join("tree/d/g").to_string_lossy()]);
    std::fs::write(context.join("tree/d/f"), "g").expect("a file can be written");
    assert_eq!(build(), texts("g", "g", "new\n"));
    let mode =
        |tree: &crate::lab::Tree, name: &str| tree.0.iter().find(|file| file.0 == name).map(|file| file.1);
    let tree = lab.build_tree(&context, &["--no-cache"]);
    assert_eq!((mode(&tree, "tree/d/g"), mode(&tree, "tree/same")), (Some(0o600), Some(0o644)));
}

#[test]
fn what_is_shared_is_counted_once_and_freed_with_the_last() {
    let lab = Lab::new();
    let big = "x".repeat(4 << 20);
    let dockerfile = "FROM scratch AS one\nCOPY tree /tree\nFROM scratch\nCOPY --from=one /tree /tree\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("tree/big", &big)]);
    lab.build(&context, &["--output=type=cacheonly"]).succeeded();
    let du = || {
        let output = lab.rbuild(&["du", "--format", "json"]).succeeded().stdout;
        let value: serde_json::Value = serde_json::from_str(&output).expect("du prints JSON");
        value["total_bytes"].as_u64().expect("du tells numbers")
    };
    let size = du();
    assert!((4 << 20..6 << 20).contains(&size), "du tells {size}");
    lab.rbuild(&["prune", "--all", "--force"]).succeeded();
    let left = du();
    assert!(left < 1 << 20, "du tells {left} after {size}");
}
