//! What is wrong is told in one clear message, and loses nothing.

use std::net::TcpListener;

use crate::lab::{Lab, run};

/// After a failure the store must serve a build as before.
fn store_is_intact(lab: &Lab) {
    let context = lab.context("intact", &[("Dockerfile", "FROM busybox\nRUN echo fine > /fine\n")]);
    assert_eq!(lab.build_tree(&context, &[]).text("fine"), "fine\n");
}

fn fails(files: &[(&str, &str)], arguments: &[&str], code: i32, texts: &[&str]) {
    let lab = Lab::new();
    let context = lab.context("ctx", files);
    std::fs::create_dir_all(&context).expect("a directory can be made");
    lab.build(&context, arguments).failed(code, texts);
    store_is_intact(&lab);
}

#[test]
fn there_is_no_dockerfile() {
    fails(
        &[("other", "")],
        &[],
        1,
        &["failed to read dockerfile", "Dockerfile", "no such file or directory"],
    );
}

#[test]
fn the_dockerfile_is_empty() {
    fails(&[("Dockerfile", "")], &[], 1, &["Dockerfile", "cannot be empty"]);
    fails(&[("Dockerfile", "# a comment\n")], &[], 1, &["file with no instructions"]);
}

#[test]
fn there_is_no_context() {
    let lab = Lab::new();
    lab.build(&lab.path("nowhere"), &[]).failed(2, &["nowhere", "not found"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let dockerfile = "FROM busybox\nRUUN true\nCOPY --form=x a b\nENV\n";
    fails(
        &[("Dockerfile", dockerfile)],
        &[],
        1,
        &[
            "Dockerfile:2",
            "unknown instruction: RUUN (did you mean RUN?)",
            ">>> RUUN true",
            "Dockerfile:3",
            "unknown flag: --form (did you mean from?)",
            "Dockerfile:4",
        ],
    );
}

#[test]
fn what_is_not_supported_is_told() {
    for kind in ["gha", "s3", "azblob"] {
        let told = format!("the cache type `{kind}` is not supported");
        fails(&[("Dockerfile", "FROM busybox\n")], &[&format!("--cache-to=type={kind}")], 2, &[&told]);
    }
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let lab = Lab::new();
    lab.rbuild(&["build", "--tagg", "x", "."]).failed(2, &["--tagg", "--tag"]);
}

#[test]
fn a_step_fails() {
    fails(
        &[("Dockerfile", "FROM busybox\nRUN echo before; exit 42\n")],
        &[],
        1,
        &[
            "Dockerfile:2",
            ">>> RUN echo before; exit 42",
            "process \"/bin/sh -c echo before; exit 42\" did not complete successfully: exit code: 42",
        ],
    );
    fails(
        &[("Dockerfile", "FROM busybox\nRUN sh -c 'kill -TERM $$'; exit $?\n")],
        &[],
        1,
        &["Dockerfile:2", "exit code: 143"],
    );
    fails(
        &[("Dockerfile", "FROM busybox\nCOPY missing /\n")],
        &[],
        1,
        &["Dockerfile:2", "\"/missing\": not found"],
    );
}

/// A registry that gives every request one answer.
fn answering(status: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            // The request matters to no one; the answer closes the connection.
            let _ = stream.read(&mut buffer);
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    address
}

#[test]
fn the_registry_answers_with_an_error() {
    for (status, text) in
        [("401 Unauthorized", "401"), ("404 Not Found", "not found"), ("500 Internal Server Error", "500")]
    {
        let address = answering(status);
        let dockerfile = format!("FROM busybox AS first\nFROM {address}/base:x\nRUN true\n");
        fails(&[("Dockerfile", &dockerfile)], &[], 1, &["Dockerfile:2", &format!("{address}/base:x"), text]);
    }
}

#[test]
fn the_registry_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    drop(listener);
    let dockerfile = format!("FROM {address}/base:x\n");
    fails(&[("Dockerfile", &dockerfile)], &[], 1, &["Dockerfile:1", &address, "refused"]);
}

#[test]
fn the_base_is_not_there() {
    let registry = testkit::RealRegistry::start();
    let dockerfile = format!("FROM {}/no/such:image\n", registry.address());
    fails(&[("Dockerfile", &dockerfile)], &[], 1, &["Dockerfile:1", "no/such:image", "not found"]);
}

#[test]
fn a_layer_has_another_digest_than_its_manifest_says() {
    let lab = Lab::new();
    let layout = lab.path("layout");
    run("cp", &["-a", &crate::lab::bases().to_string_lossy(), &layout.to_string_lossy()]);
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).expect("the layout has blobs");
    let largest = blobs
        .map(|blob| blob.expect("the layout can be read").path())
        .max_by_key(|path| path.metadata().expect("a blob can be looked at").len())
        .expect("the layout has a blob");
    let mut bytes = std::fs::read(&largest).expect("a blob can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("a blob can be written");
    let context = lab.context("ctx", &[("Dockerfile", "FROM damaged\nRUN true\n")]);
    let named = format!("--build-context=damaged=oci-layout://{}:busybox", layout.display());
    let digest = largest.file_name().expect("a blob has a name").to_string_lossy().into_owned();
    lab.build(&context, &[&named]).failed(1, &["Dockerfile:1", &digest]);
    store_is_intact(&lab);
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir(&path).expect("a directory can be made");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "small", &path.to_string_lossy()]);
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &[&self.0.to_string_lossy()]);
    }
}

#[test]
fn the_disk_is_full() {
    let lab = Lab::new();
    let disk = SmallDisk::mount(lab.root(), "12m");
    let dockerfile = "FROM busybox\nCOPY big /big\nRUN true\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile), ("big", &"x".repeat(32 << 20))]);
    lab.build(&context, &[]).failed(3, &["No space left on device", &lab.root().to_string_lossy()]);
    store_is_intact(&lab);
    drop(disk);
}

#[test]
fn the_store_may_not_be_written() {
    let lab = Lab::new();
    std::fs::write(lab.root(), "not a directory").expect("a file can be written");
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\n")]);
    lab.build(&context, &[]).failed(3, &[&lab.root().to_string_lossy()]);
}
