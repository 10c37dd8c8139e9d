//! Files of HTTP servers: conditions, broken bodies, redirects, limits.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::sync::Mutex;
use std::time::Duration;

use oci::Digest;
use registry::{Client, ClientOptions, FetchError, FetchRequest, Fetched, RetryPolicy, Validators};
use testkit::{FaultKind, ScriptedRegistry, WebFile};

fn client() -> Client {
    let retry = RetryPolicy {
        attempts: 3,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_secs(2),
    };
    Client::new(ClientOptions { retry, idle_timeout: Duration::from_millis(300), ..ClientOptions::default() })
}

fn request(url: &str) -> FetchRequest {
    FetchRequest {
        url: url.to_owned(),
        authorization: None,
        known: Validators::default(),
        limit_bytes: 1 << 30,
    }
}

/// 3 MB that nobody would take for other 3 MB; more than what waits in the buffers of a connection that breaks.
fn content() -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn file(etag: Option<&str>, last_modified: Option<&str>) -> WebFile {
    WebFile {
        content: content().into(),
        etag: etag.map(str::to_owned),
        last_modified: last_modified.map(str::to_owned),
        ..WebFile::default()
    }
}

/// What a fetch came to, and what it wrote.
async fn fetch(request: &FetchRequest) -> (Result<Fetched, FetchError>, Vec<u8>) {
    let mut target = tempfile::NamedTempFile::new().unwrap();
    let mut file = tokio::fs::File::from_std(target.as_file().try_clone().unwrap());
    let fetched = client().fetch(request, &mut file, &|_, _| {}).await;
    let mut bytes = Vec::new();
    std::io::Seek::rewind(target.as_file_mut()).unwrap();
    std::io::Read::read_to_end(target.as_file_mut(), &mut bytes).unwrap();
    (fetched, bytes)
}

fn methods(server: &ScriptedRegistry) -> Vec<String> {
    server.requests().into_iter().map(|request| request.method).collect()
}

const TIME: &str = "Tue, 05 Mar 2024 10:00:00 GMT";

#[tokio::test]
async fn a_file_is_fetched_with_its_digest_and_validators() {
    let server = ScriptedRegistry::start();
    server.put_file("/dir/a", file(Some("\"1\""), Some(TIME)));
    let told = Mutex::new(Vec::new());
    let target = tempfile::NamedTempFile::new().unwrap();
    let mut target = tokio::fs::File::from_std(target.as_file().try_clone().unwrap());
    let on_bytes = |current, total| told.lock().unwrap().push((current, total));
    let fetched = client().fetch(&request(&server.url("/dir/a")), &mut target, &on_bytes).await.unwrap();
    let validators = Validators { etag: Some("\"1\"".to_owned()), last_modified: Some(TIME.to_owned()) };
    let digest = Digest::sha256(&content());
    assert_eq!(fetched, Fetched::File { digest, size: 3_000_000, validators });
    assert_eq!(told.lock().unwrap().last(), Some(&(3_000_000, Some(3_000_000))));
    assert_eq!(methods(&server), ["GET"]);
}

#[tokio::test]
async fn a_known_tag_is_compared_by_head() {
    let server = ScriptedRegistry::start();
    // Some servers send tags and give the whole file to whoever names one.
    for ignores_conditions in [false, true] {
        server.put_file("/a", WebFile { ignores_conditions, ..file(Some("W/\"1\""), None) });
        let known = Validators { etag: Some("W/\"1\"".to_owned()), last_modified: None };
        let (fetched, bytes) = fetch(&FetchRequest { known, ..request(&server.url("/a")) }).await;
        assert_eq!((fetched.unwrap(), bytes.len()), (Fetched::Unchanged, 0));
    }
    assert_eq!(methods(&server), ["HEAD", "HEAD"]);
    let known = Validators { etag: Some("\"0\"".to_owned()), last_modified: None };
    let (fetched, bytes) = fetch(&FetchRequest { known, ..request(&server.url("/a")) }).await;
    assert!(matches!(fetched, Ok(Fetched::File { .. })) && bytes == content());
}

#[tokio::test]
async fn servers_without_head_and_tags_are_asked_by_get() {
    let server = ScriptedRegistry::start();
    server.put_file("/a", file(Some("\"1\""), None));
    server.fault("HEAD", "/a", 1, FaultKind::Status(405, None));
    let known = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
    let (fetched, _) = fetch(&FetchRequest { known, ..request(&server.url("/a")) }).await;
    assert_eq!(fetched.unwrap(), Fetched::Unchanged);
    assert_eq!(methods(&server), ["HEAD", "GET"]);
    server.put_file("/b", file(None, Some(TIME)));
    let known = Validators { etag: None, last_modified: Some(TIME.to_owned()) };
    let (fetched, _) = fetch(&FetchRequest { known, ..request(&server.url("/b")) }).await;
    assert_eq!(fetched.unwrap(), Fetched::Unchanged);
    assert_eq!(server.count("HEAD", "/b"), 0);
}

#[tokio::test]
async fn passing_failures_are_repeated() {
    let server = ScriptedRegistry::start();
    let faults = [
        FaultKind::Status(503, None),
        FaultKind::Status(429, Some("0".to_owned())),
        FaultKind::Status(408, None),
        FaultKind::Reset { after_bytes: 0 },
        FaultKind::Reset { after_bytes: 1000 },
        FaultKind::Stall { after_bytes: 1000 },
    ];
    for (etag, fault) in
        [Some("\"1\""), None].into_iter().flat_map(|etag| faults.iter().map(move |f| (etag, f)))
    {
        server.put_file("/a", file(etag, None));
        server.fault("GET", "/a", 2, fault.clone());
        let (fetched, bytes) = fetch(&request(&server.url("/a"))).await;
        assert!(fetched.is_ok() && bytes == content(), "{etag:?} {fault:?} {fetched:?}");
    }
    server.fault("GET", "/a", 3, FaultKind::Status(500, None));
    let error = fetch(&request(&server.url("/a"))).await.0.unwrap_err().to_string();
    let expected =
        format!("cannot fetch `{}`: invalid response status 500: SCRIPTED: scripted", server.url("/a"));
    assert_eq!(error, expected);
    assert_eq!(server.count("GET", "/gone"), 0);
    let error = fetch(&request(&server.url("/gone"))).await.0.unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 404, .. }), "{error}");
    assert_eq!(server.count("GET", "/gone"), 1);
}

#[tokio::test]
async fn a_broken_body_is_continued_unless_the_file_has_changed() {
    let server = ScriptedRegistry::start();
    server.put_file("/a", file(Some("\"1\""), None));
    // More often than a request is repeated: each time something came.
    server.fault("GET", "/a", 2, FaultKind::Reset { after_bytes: 1_500_000 });
    let (fetched, bytes) = fetch(&request(&server.url("/a"))).await;
    assert!(fetched.is_ok() && bytes == content());
    let ranges: Vec<_> = server.requests().into_iter().filter_map(|request| request.range).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| range.ends_with('-')), "{ranges:?}");
    // A body without a tag begins anew.
    server.put_file("/b", file(None, None));
    server.fault("GET", "/b", 1, FaultKind::Reset { after_bytes: 1_500_000 });
    let (fetched, bytes) = fetch(&request(&server.url("/b"))).await;
    assert!(fetched.is_ok() && bytes == content());
    let of_b = server.requests().into_iter().filter(|request| request.path == "/b");
    assert!(of_b.into_iter().all(|request| request.range.is_none()));
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_for_others() {
    let (server, other) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    other.put_file("/there", file(None, None));
    server.put_file("/here", file(None, None));
    server.fault("GET", "/elsewhere", 1, FaultKind::Redirect(other.url("/there")));
    server.fault("GET", "/moved", 1, FaultKind::Redirect("/here".to_owned()));
    let with = |path: &str| FetchRequest {
        authorization: Some("Bearer x".to_owned()),
        ..request(&server.url(path))
    };
    assert!(fetch(&with("/elsewhere")).await.0.is_ok());
    assert!(fetch(&with("/moved")).await.0.is_ok());
    let sent = |server: &ScriptedRegistry| -> Vec<_> {
        server.requests().into_iter().map(|request| request.authorization).collect()
    };
    assert_eq!(sent(&other), [None]);
    assert!(sent(&server).iter().all(|sent| sent.as_deref() == Some("Bearer x")));
    server.fault("GET", "/round", 99, FaultKind::Redirect("/round".to_owned()));
    let error = fetch(&request(&server.url("/round"))).await.0.unwrap_err().to_string();
    assert!(error.ends_with("cannot be used: it redirects again and again"), "{error}");
    server.fault("GET", "/file", 1, FaultKind::Redirect("file:///etc/passwd".to_owned()));
    let error = fetch(&request(&server.url("/file"))).await.0.unwrap_err().to_string();
    assert!(error.ends_with("cannot be used: a redirect without an address"), "{error}");
}

#[tokio::test]
async fn a_file_may_not_be_larger_than_allowed() {
    let server = ScriptedRegistry::start();
    server.put_file("/a", file(None, None));
    let small = FetchRequest { limit_bytes: 2_999_999, ..request(&server.url("/a")) };
    let error = fetch(&small).await.0.unwrap_err().to_string();
    assert_eq!(error, format!("`{}` is larger than 2999999 bytes", server.url("/a")));
    assert!(fetch(&FetchRequest { limit_bytes: 3_000_000, ..small }).await.0.is_ok());
}

#[tokio::test]
async fn nobody_listens() {
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://u:secret@{}/a", listener.local_addr().unwrap())
    };
    let error = fetch(&request(&url)).await.0.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot fetch `{}`", url.replace("secret", "xxxxx")));
}
