//! The same inputs give the same bytes, whatever the machine is like.

use std::path::Path;
use std::process::Command;

use crate::file_systems::Mounted;
use crate::image_forms::Layout;
use crate::lab::{Lab, Ran, TIMEOUT};
use crate::rootless::User;

const DOCKERFILE: &str = "ARG SOURCE_DATE_EPOCH=1000000000
FROM busybox AS a
RUN mkdir -p /out/deep && echo a > /out/deep/a && ln /out/deep/a /out/hard && chown -R 7:8 /out
FROM busybox AS b
COPY many /many
RUN head -c 3000000 /dev/zero | tr '\\0' b > /b && mkfifo /fifo && chmod 4711 /b
FROM busybox
WORKDIR /w/x
ADD archive.tar /unpacked/
COPY --link --chown=5:6 many/1 /linked
COPY --from=a /out /out
COPY --from=b /b /fifo /
RUN rm -r /etc/group /out/deep && ln -s /b /link && touch -d @5 /old
RUN <<end
echo heredoc > /here
end
";

const COMPRESSIONS: [&str; 4] = ["gzip", "zstd", "estargz", "uncompressed"];

/// Files of a context, save for its archive.
fn files() -> Vec<(String, String)> {
    let many = (0..40_usize).map(|number| (format!("many/{number}"), "line\n".repeat(number * 50)));
    let mut files: Vec<_> = many.collect();
    files.push(("Dockerfile".to_owned(), DOCKERFILE.to_owned()));
    files
}

fn write_archive(context: &Path) {
    let mut builder =
        tar::Builder::new(std::fs::File::create(context.join("archive.tar")).expect("a file can be made"));
    for (name, owner) in [("one", 0), ("two", 1000)] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_uid(owner);
        header.set_size(3);
        header.set_mtime(4_000_000_000);
        builder.append_data(&mut header, name, b"xyz".as_slice()).expect("an entry can be written");
    }
    builder.finish().expect("a tar can be written");
}

/// What a build is asked for: an image in each compression.
fn arguments(lab: &Lab, more: &[&str]) -> Vec<String> {
    let outputs = COMPRESSIONS.iter().map(|compression| {
        let directory = lab.path(compression);
        format!(
            "--output=type=oci,tar=false,dest={},compression={compression},force-compression=true,\
             rewrite-timestamp=true,annotation.a=b",
            directory.display()
        )
    });
    outputs.chain(more.iter().map(|&more| more.to_owned())).collect()
}

/// Runs a build with a umask and a number of threads, and gives the digests of the images.
fn digests(lab: &Lab, command: &Command, umask: &str, threads: &str) -> Vec<String> {
    let mut wrapped = Command::new("sh");
    wrapped.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.env("RAYON_NUM_THREADS", threads).stdin(std::process::Stdio::null());
    wrapped.current_dir(command.get_current_dir().expect("a lab is a directory"));
    Ran::from(testkit::run_with_timeout(wrapped, TIMEOUT)).succeeded();
    let digest = |compression: &&str| {
        let layout = Layout { directory: lab.path(compression) };
        layout.index()["manifests"][0]["digest"].as_str().expect("an image has a digest").to_owned()
    };
    COMPRESSIONS.iter().map(digest).collect()
}

fn context(lab: &Lab) -> std::path::PathBuf {
    let files = files();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let context = lab.context("ctx", &files);
    write_archive(&context);
    context
}

/// Builds as root, perhaps some stages before.
fn as_root(lab: &Lab, (umask, threads): (&str, &str), more: &[&str], before: &[&str]) -> Vec<String> {
    let context = context(lab);
    for stage in before {
        lab.build(&context, &[more, &["--target", stage]].concat()).succeeded();
    }
    let arguments = arguments(lab, more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    digests(lab, &lab.build_command(&context, &arguments), umask, threads)
}

#[test]
fn images_depend_on_what_they_are_made_of_alone() {
    let expected = as_root(&Lab::new(), ("022", "4"), &["--jobs=8"], &[]);
    let distinct: std::collections::BTreeSet<_> = expected.iter().collect();
    assert_eq!(distinct.len(), COMPRESSIONS.len(), "{expected:?}");

    let lab = Lab::new();
    let mounted = Mounted::new(&lab, &["-t", "tmpfs", "tmpfs"]);
    let root = format!("--root={}", mounted.0.join("store").display());
    assert_eq!(as_root(&lab, ("077", "1"), &[&root, "--jobs=1"], &["b"]), expected, "on a tmpfs");
    drop(mounted);

    let lab = Lab::with_snapshotter("copy");
    assert_eq!(as_root(&lab, ("0", "3"), &["--jobs=2"], &["a"]), expected, "with whole trees");

    let user = User::new("rbuild-same", 23441, Some(2_010_000_000));
    let files = files();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (lab, context) = user.lab(&files);
    write_archive(&context);
    let arguments = arguments(&lab, &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = digests(&lab, &user.command(&lab, &context, &arguments), "027", "2");
    assert_eq!(found, expected, "of an ordinary user");
}
