//! ADD of URLs.

use testkit::{ScriptedRegistry, WebFile};

use crate::lab::Lab;

fn file(content: &str, etag: &str) -> WebFile {
    WebFile {
        content: content.to_owned().into(),
        etag: Some(etag.to_owned()),
        last_modified: Some("Tue, 05 Mar 2024 10:00:00 GMT".to_owned()),
        ..WebFile::default()
    }
}

#[test]
fn a_second_build_makes_one_conditional_request() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/dir/data.txt", file("first", "\"1\""));
    let url = server.url("/dir/data.txt");
    let dockerfile =
        format!("FROM busybox\nADD {url} /data/\nADD --chmod=644 {url} /renamed\nRUN cat /renamed > /out\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &[]);
    assert_eq!((tree.text("data/data.txt"), tree.text("out")), ("first".to_owned(), "first".to_owned()));
    let mode = |name: &str| tree.0.iter().find(|(known, ..)| known == name).map(|(_, mode, ..)| *mode);
    assert_eq!((mode("data/data.txt"), mode("renamed")), (Some(0o600), Some(0o644)));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(lab.build(&context, &[]).succeeded().executed(), Vec::<String>::new());
    let requests = server.requests();
    let last = requests.last().map(|request| (request.method.as_str(), request.condition.as_deref()));
    assert_eq!((requests.len(), last), (2, Some(("HEAD", Some("\"1\"")))));
    server.put_file("/dir/data.txt", file("second", "\"2\""));
    assert_eq!(lab.build_tree(&context, &[]).text("out"), "second");
}

#[test]
fn a_checksum_needs_no_network_once_it_was_seen() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/f", file("x", "\"1\""));
    let sum = oci::Digest::sha256(b"x");
    let dockerfile = format!("FROM scratch\nADD --checksum={sum} {} /\n", server.url("/f"));
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    assert_eq!(lab.build_tree(&context, &[]).text("f"), "x");
    drop(server);
    lab.build(&context, &[]).succeeded();
}

#[test]
fn failures_name_the_url_and_the_line() {
    let (lab, server) = (Lab::new(), ScriptedRegistry::start());
    server.put_file("/f", file("x", "\"1\""));
    let (url, wrong) = (server.url("/f"), oci::Digest::sha256(b"y"));
    let dockerfile = format!("FROM scratch\nADD --checksum={wrong} {url} /\n");
    let context = lab.context("wrong", &[("Dockerfile", &dockerfile)]);
    let mismatch = format!("digest mismatch for {url}: {}", oci::Digest::sha256(b"x"));
    lab.build(&context, &[]).failed(1, &[&mismatch, "Dockerfile:2\n", ">>> ADD"]);
    let gone = server.url("/gone");
    let context = lab.context("gone", &[("Dockerfile", &format!("FROM scratch\n\nADD {gone} /\n"))]);
    let status = format!("cannot fetch `{gone}`: invalid response status 404");
    lab.build(&context, &[]).failed(1, &[&status, "Dockerfile:3\n"]);
}
