//! ADD of what is elsewhere.

use cache::SnapshotterKind;
use cache::tree::TreeView;
use oci::Digest;
use solver::{CopyOp, CopySource, HttpOp, Op, Unpack};
use testkit::{FaultKind, ScriptedRegistry, WebFile};
use worker::Output;

use crate::bench::{Bench, Built, Draft, chain};
use crate::cases::Test;

pub(crate) const ALL: &[(&str, Test)] = &[
    ("a_file_of_a_server_is_added", a_file_of_a_server_is_added),
    ("a_file_that_has_not_changed_is_not_fetched_again", a_file_that_has_not_changed_is_not_fetched_again),
    ("equal_content_is_added_once", equal_content_is_added_once),
    ("a_checksum_spares_the_request", a_checksum_spares_the_request),
    ("another_checksum_is_an_error", another_checksum_is_an_error),
    ("an_archive_is_unpacked_if_that_is_asked_for", an_archive_is_unpacked_if_that_is_asked_for),
    ("secrets_are_credentials", secrets_are_credentials),
];

const TIME: &str = "Tue, 05 Mar 2024 10:00:00 GMT";
const SECONDS: i64 = 1_709_632_800;

fn file(content: &[u8], etag: Option<&str>, last_modified: Option<&str>) -> WebFile {
    WebFile {
        content: content.to_vec().into(),
        etag: etag.map(str::to_owned),
        last_modified: last_modified.map(str::to_owned),
        ..WebFile::default()
    }
}

fn http(url: &str) -> HttpOp {
    HttpOp { url: url.to_owned(), name: "name".to_owned(), checksum: None }
}

/// `ADD url /dst/` on nothing.
fn add(bench: &Bench, op: HttpOp, unpack: Unpack) -> Built {
    let mut draft = Draft::default();
    let base = draft.add(Op::Scratch, Vec::new());
    let sources = vec![CopySource::Remote { input: 1, path: op.name.clone() }];
    let remote = draft.add(Op::Http(op), Vec::new());
    let copy = CopyOp {
        sources,
        destination: "/dst/".to_owned(),
        chown: None,
        chmod: None,
        unpack,
        parents: false,
        exclude: Vec::new(),
    };
    let added = draft.add(Op::Copy(copy), vec![chain(base), chain(remote)]);
    bench.solve(draft.graph(), added)
}

/// What was added, and how many steps were executed.
fn added(bench: &Bench, op: HttpOp) -> (Vec<String>, usize) {
    let solved = add(bench, op, Unpack::Archives).result.unwrap();
    (bench.listing(&solved.outputs[0], &["/dst"]), solved.executed)
}

/// Why a build failed.
pub(crate) fn told(built: Built) -> String {
    let error = built.result.unwrap_err();
    let mut cause = std::error::Error::source(&error);
    let mut texts = Vec::new();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

fn a_file_of_a_server_is_added(kind: SnapshotterKind) {
    let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    server.put_file("/dated", file(b"x", None, Some(TIME)));
    server.put_file("/plain", file(b"x", None, None));
    for (path, seconds) in [("/dated", SECONDS), ("/plain", 0)] {
        // Equal content would be the same file to the cache, whose time no key knows.
        let op = HttpOp { name: path[1..].to_owned(), ..http(&server.url(path)) };
        let solved = add(&bench, op, Unpack::Archives).result.unwrap();
        let landed = format!("/dst{path}");
        assert_eq!(bench.listing(&solved.outputs[0], &[&landed]), [format!("{landed} 600 0:0 \"x\"")]);
        let Output::Snapshot(snapshot) = &solved.outputs[0] else { panic!("it is a snapshot") };
        let dirs = bench.store.layer_dirs(snapshot).unwrap();
        let view = TreeView::open(&dirs, bench.store.tree_mode()).unwrap();
        let entry = view.entry(std::path::Path::new(&landed)).unwrap().unwrap();
        assert_eq!(entry.mtime.seconds, seconds, "{path}");
    }
    let failed = told(add(&bench, http(&server.url("/gone")), Unpack::Archives));
    let url = server.url("/gone");
    assert!(failed.starts_with(&format!("cannot fetch `{url}`: invalid response status 404")), "{failed}");
}

fn a_file_that_has_not_changed_is_not_fetched_again(kind: SnapshotterKind) {
    for (etag, time, method) in [(Some("\"1\""), Some(TIME), "HEAD"), (None, Some(TIME), "GET")] {
        let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
        server.put_file("/f", file(b"first", etag, time));
        assert_eq!(added(&bench, http(&server.url("/f"))).1, 2);
        let first = server.requests().len();
        assert_eq!(added(&bench, http(&server.url("/f"))).1, 0);
        let again = server.requests().split_off(first);
        assert_eq!(again.len(), 1, "{again:?}");
        assert_eq!((again[0].method.as_str(), again[0].condition.as_deref()), (method, etag.or(time)));
        server.put_file("/f", file(b"second", Some("\"2\""), None));
        assert!(added(&bench, http(&server.url("/f"))).0[1].ends_with("\"second\""));
        // What came last is what is asked about.
        let before = server.count("GET", "/f");
        assert_eq!(added(&bench, http(&server.url("/f"))).1, 0);
        assert_eq!(server.count("GET", "/f"), before);
    }
}

fn equal_content_is_added_once(kind: SnapshotterKind) {
    let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    server.put_file("/a", file(b"same", None, None));
    server.put_file("/b", file(b"same", Some("\"b\""), None));
    assert_eq!(added(&bench, http(&server.url("/a"))).1, 2);
    assert_eq!(added(&bench, http(&server.url("/b"))).1, 0);
    // Without a validator it has to be fetched to be known; nothing is made of it.
    assert_eq!(added(&bench, http(&server.url("/a"))).1, 0);
    assert_eq!(server.count("GET", "/a"), 2);
}

fn a_checksum_spares_the_request(kind: SnapshotterKind) {
    let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    server.put_file("/f", file(b"x", Some("\"1\""), None));
    let pinned = HttpOp { checksum: Some(Digest::sha256(b"x")), ..http(&server.url("/f")) };
    assert_eq!(added(&bench, pinned.clone()).1, 2);
    let first = server.requests().len();
    assert_eq!(added(&bench, pinned.clone()).1, 0);
    // The same file for another destination is in the store.
    assert_eq!(add(&bench, pinned.clone(), Unpack::Everything).result.unwrap().executed, 1);
    assert_eq!(server.requests().len(), first);
    // What was once found behind a URL serves for the checksum, too.
    let other = Bench::new(kind);
    assert_eq!(added(&other, http(&server.url("/f"))).1, 2);
    assert_eq!(added(&other, pinned).1, 0);
}

fn another_checksum_is_an_error(kind: SnapshotterKind) {
    let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    server.put_file("/f", file(b"x", None, None));
    let (expected, actual) = (Digest::sha256(b"y"), Digest::sha256(b"x"));
    let pinned = HttpOp { checksum: Some(expected.clone()), ..http(&server.url("/f")) };
    let failed = told(add(&bench, pinned, Unpack::Archives));
    let url = server.url("/f");
    assert_eq!(failed, format!("digest mismatch for {url}: {actual} (expected: {expected})"));
}

fn an_archive_is_unpacked_if_that_is_asked_for(kind: SnapshotterKind) {
    let (bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o644);
    archive.append_data(&mut header, "inside", &b"x"[..]).unwrap();
    server.put_file("/a.tar", file(&archive.into_inner().unwrap(), None, None));
    let op = || http(&server.url("/a.tar"));
    for (unpack, expected) in [
        (Unpack::Never, "/dst/name 600"),
        (Unpack::Archives, "/dst/name 600"),
        (Unpack::Everything, "/dst/inside 644"),
    ] {
        let solved = add(&bench, op(), unpack).result.unwrap();
        let lines = bench.listing(&solved.outputs[0], &["/dst"]);
        assert!(lines.len() == 2 && lines[1].starts_with(expected), "{unpack:?} {lines:?}");
    }
}

fn secrets_are_credentials(kind: SnapshotterKind) {
    let (mut bench, server) = (Bench::new(kind), ScriptedRegistry::start());
    let with = |content: &[u8], wanted: &str| WebFile {
        authorization: Some(wanted.to_owned()),
        ..file(content, None, None)
    };
    server.put_file("/by-token", with(b"1", "Bearer t"));
    server.put_file("/by-header", with(b"2", "Digest h"));
    let failed = add(&bench, http(&server.url("/by-token")), Unpack::Never);
    let Err(solver::SolveError::Vertex { error: worker::WorkerError::Remote(error), .. }) = failed.result
    else {
        panic!("the server wants credentials")
    };
    assert!(error.hint().unwrap().contains("`HTTP_AUTH_TOKEN_127.0.0.1`"), "{:?}", error.hint());
    for (secret, value, path) in [
        ("HTTP_AUTH_TOKEN_127.0.0.1", "t\n", "/by-token"),
        ("HTTP_AUTH_HEADER_127.0.0.1", "Digest h", "/by-header"),
    ] {
        bench.secrets = [(secret.to_owned(), value.as_bytes().to_vec())].into();
        // A server that is tired for a moment is asked again with the same credentials.
        server.fault("GET", path, 1, FaultKind::Status(503, None));
        assert_eq!(added(&bench, http(&server.url(path))).1, 2, "{secret}");
    }
}
