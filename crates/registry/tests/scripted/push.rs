//! Blobs and manifests that are pushed.

use std::io::Write as _;

use std::fmt::Write as _;

use crate::*;

fn push(registry: &ScriptedRegistry, bytes: &'static [u8], mount_from: &[&str]) -> PushBlob {
    PushBlob {
        target: reference(registry, "b:v1"),
        descriptor: Descriptor::of(OCTETS, bytes),
        mount_from: mount_from.iter().map(|name| (*name).to_owned()).collect(),
        source: BlobSource::Bytes(Bytes::from_static(bytes)),
        watcher: Watcher::default(),
    }
}

#[tokio::test]
async fn blobs_are_pushed_once() {
    let registry = ScriptedRegistry::start();
    let push = push(&registry, b"content", &[]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("b", &push.descriptor.digest).unwrap(), "content");
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Existed);
    assert_eq!(registry.count("PUT", "/blobs/"), 1);
}

#[tokio::test]
async fn every_step_of_a_push_is_repeated() {
    for (method, part) in [("HEAD", "/blobs/sha256"), ("POST", "/uploads/"), ("PUT", "/uploads/")] {
        for fault in [FaultKind::Status(503, None), FaultKind::Reset { after_bytes: 0 }] {
            let registry = ScriptedRegistry::start();
            registry.fault(method, part, 2, fault.clone());
            let push = push(&registry, b"content", &[]);
            let pushed = client().push_blob(&push).await;
            let pushed = pushed.unwrap_or_else(|error| panic!("{method} {fault:?}: {error}"));
            assert_eq!(pushed, Pushed::Uploaded);
            assert_eq!(registry.blob("b", &push.descriptor.digest).unwrap(), "content");
        }
    }
}

#[tokio::test]
async fn files_and_readers_are_pushed() {
    let registry = ScriptedRegistry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let bytes = vec![7; 1_000_000];
    std::fs::write(&path, &bytes).unwrap();
    registry.fault("PUT", "/uploads/", 1, FaultKind::Status(500, None));
    let descriptor = Descriptor::of(OCTETS, &bytes);
    let mut push = push(&registry, b"", &[]);
    push.descriptor = descriptor.clone();
    push.source = BlobSource::File(path.clone());
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let watching = std::sync::Arc::clone(&seen);
    push.watcher = Watcher::new(move |current| watching.lock().unwrap().push(current));
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    // Of the second attempt; how far the first one got is not known.
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[seen.len() - 4..], [262_144, 524_288, 786_432, 1_000_000]);
    assert_eq!(registry.blob("b", &descriptor.digest).unwrap(), bytes);

    push.target = reference(&registry, "c:v1");
    push.source = BlobSource::File(directory.path().join("gone"));
    let error = client().push_blob(&push).await.unwrap_err();
    let expected = format!("cannot read `{}` for the push to `HOST/c:v1`", descriptor.digest);
    assert_eq!(normalised(&error, &registry), expected);
}

#[tokio::test]
async fn blobs_are_mounted_where_the_registry_mounts() {
    let registry = ScriptedRegistry::start();
    registry.put_blob("other", OCTETS, "content");
    let push = push(&registry, b"content", &["empty", "other"]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Mounted);
    assert_eq!(registry.count("PUT", "/blobs/"), 0);
    assert!(client().mount_blob(&reference(&registry, "c"), &push.descriptor, "other").await.unwrap());
    assert!(!client().mount_blob(&reference(&registry, "d"), &push.descriptor, "empty").await.unwrap());
}

#[tokio::test]
async fn a_mount_that_becomes_an_upload_is_used() {
    let registry = ScriptedRegistry::start();
    registry.set_mount(MountPolicy::Upload);
    registry.put_blob("other", OCTETS, "content");
    let push = push(&registry, b"content", &["other"]);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("POST", "/uploads/"), 1);
    assert!(!client().mount_blob(&reference(&registry, "c"), &push.descriptor, "other").await.unwrap());
    assert_eq!(registry.count("DELETE", "/uploads/"), 1);
}

#[tokio::test]
async fn what_grows_is_sent_while_it_does() {
    let registry = ScriptedRegistry::start();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    let mut file = std::fs::OpenOptions::new().read(true).append(true).create_new(true).open(&path).unwrap();
    let source = BlobSource::Open(std::sync::Arc::new(file.try_clone().unwrap()));
    registry.fault("PATCH", "/uploads/", 1, FaultKind::Status(502, None));
    let mut upload = client().start_upload(&reference(&registry, "b")).await.unwrap();
    for part in bytes.chunks(9_000_000) {
        file.write_all(part).unwrap();
        upload.send(&source, upload.sent() + part.len() as u64).await.unwrap();
    }
    let digest = Digest::sha256(&bytes);
    assert_eq!((upload.sent(), upload.least_bytes()), (20_000_000, 8 << 20));
    upload.finish(&digest).await.unwrap();
    assert_eq!(registry.blob("b", &digest).unwrap(), bytes);
    assert_eq!(registry.count("PATCH", "/uploads/"), 4);

    let one = BlobSource::Bytes(Bytes::from_static(b"x"));
    let mut upload = client().start_upload(&reference(&registry, "b")).await.unwrap();
    upload.send(&one, 1).await.unwrap();
    let error = upload.finish(&Digest::sha256(b"y")).await.unwrap_err();
    assert_eq!(
        normalised(&error, &registry),
        "`HOST` answered 400 to PUT blob of `HOST/b`: DIGEST_INVALID: wrong digest"
    );
    let mut upload = client().start_upload(&reference(&registry, "b")).await.unwrap();
    let error = upload.send(&source, 20_000_001).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "cannot read a layer for the push to `HOST/b`");
    upload.cancel().await;
    assert_eq!(registry.count("DELETE", "/uploads/"), 1);
}

#[tokio::test]
async fn manifests_are_pushed() {
    let registry = ScriptedRegistry::start();
    let bytes = manifest_bytes("y");
    let digest = Digest::sha256(&bytes);
    let target = reference(&registry, "b:v1");
    registry.fault("PUT", "/manifests/", 1, FaultKind::Status(500, None));
    let pushed = client().push_manifest(&target, MediaType::OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert_eq!(pushed, digest);
    assert_eq!(registry.manifest("b", "v1").unwrap(), (MediaType::OCI_MANIFEST.to_owned(), bytes));
}

/// A blob of 3 MB that is pushed to `b`, from each kind of source.
fn large(registry: &ScriptedRegistry, directory: &tempfile::TempDir) -> Vec<PushBlob> {
    let bytes: Bytes = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = directory.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    let opened = bytes.clone();
    let open = move || -> registry::OpenFuture {
        let reader: Box<dyn tokio::io::AsyncRead + Send + Unpin> =
            Box::new(std::io::Cursor::new(opened.clone()));
        Box::pin(std::future::ready(Ok(reader)))
    };
    let sources = [
        BlobSource::File(path),
        BlobSource::Bytes(bytes.clone()),
        BlobSource::Reader(std::sync::Arc::new(open)),
    ];
    let push = |source| PushBlob {
        target: reference(registry, "b:v1"),
        descriptor: Descriptor::of(OCTETS, &bytes),
        mount_from: Vec::new(),
        source,
        watcher: Watcher::default(),
    };
    sources.into_iter().map(push).collect()
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    for at in 0..3 {
        let registry = ScriptedRegistry::start();
        let push = large(&registry, &directory).remove(at);
        registry.fault("PUT", "/uploads/", 1, FaultKind::Cut { after_bytes: 1_000_000 });
        // More often than anything is tried: each time something came.
        registry.fault("PATCH", "/uploads/", 4, FaultKind::Cut { after_bytes: 100_000 });
        assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
        assert!(registry.blob("b", &push.descriptor.digest).is_some());
        let cut = ["PATCH upload 100000", "GET upload 0"];
        let start = ["HEAD blob 0", "POST upload 0", "PUT upload 1000000", "GET upload 0"];
        let all = [&start[..], &cut, &cut, &cut, &cut, &["PATCH upload 1600000", "PUT upload 0"]].concat();
        assert_eq!(sequence(&registry), all, "{:?}", push.source);
    }
}

#[tokio::test]
async fn an_upload_that_the_registry_forgot_begins_again() {
    let (registry, directory) = (ScriptedRegistry::start(), tempfile::tempdir().unwrap());
    registry.forget_uploads();
    let push = large(&registry, &directory).remove(0);
    registry.fault("PUT", "/uploads/", 1, FaultKind::Cut { after_bytes: 1_000_000 });
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    let first = ["HEAD blob 0", "POST upload 0", "PUT upload 1000000", "GET upload 0"];
    let second = ["HEAD blob 0", "POST upload 0", "PUT upload 3000000"];
    assert_eq!(sequence(&registry), [&first[..], &second].concat());
}

#[tokio::test]
async fn a_blob_whose_upload_always_breaks_off_is_told() {
    let (registry, directory) = (ScriptedRegistry::start(), tempfile::tempdir().unwrap());
    registry.forget_uploads();
    let push = large(&registry, &directory).remove(0);
    registry.fault("PUT", "/uploads/", 9, FaultKind::Cut { after_bytes: 1_000_000 });
    let error = client().push_blob(&push).await.unwrap_err();
    // Which of the two it is depends on how far the kernel was.
    assert_eq!(
        told(&error, &registry).replace("broken pipe", "connection reset by peer"),
        "the connection to `HOST` broke at PUT blob of `HOST/b:v1`: connection reset by peer\n\
         hint: try again, or look for what ends connections to `HOST` (a proxy, a time limit)"
    );
    assert_eq!(registry.count("POST", "/uploads/"), 3);
}

#[tokio::test]
async fn a_lost_answer_to_an_upload_costs_a_look_up() {
    let (registry, directory) = (ScriptedRegistry::start(), tempfile::tempdir().unwrap());
    let push = large(&registry, &directory).remove(0);
    registry.fault("PUT", "/uploads/", 1, FaultKind::LostAnswer);
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    let expected = ["HEAD blob 0", "POST upload 0", "PUT upload 3000000", "GET upload 0", "HEAD blob 0"];
    assert_eq!(sequence(&registry), expected);
}

#[tokio::test]
async fn parts_that_do_not_make_the_blob_are_sent_again_as_a_whole() {
    let (registry, directory) = (ScriptedRegistry::start(), tempfile::tempdir().unwrap());
    let push = large(&registry, &directory).remove(0);
    registry.fault("PUT", "/uploads/", 1, FaultKind::Cut { after_bytes: 1_000_000 });
    registry.fault("PUT", "/uploads/", 1, FaultKind::Status(400, None));
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    let end = ["PATCH upload 2000000", "PUT upload 0", "POST upload 0", "PUT upload 3000000"];
    assert_eq!(sequence(&registry)[4..], end);
}

#[tokio::test]
async fn a_token_that_ends_during_a_push_is_renewed_and_nothing_is_sent_twice() {
    let (registry, directory) = (ScriptedRegistry::start(), tempfile::tempdir().unwrap());
    registry.set_auth(crate::auth::token_policy(false));
    let password = Credential::Password { username: "me".to_owned(), password: "secret".to_owned() };
    let credentials = CredentialStore::anonymous().fixed(registry.address(), password);
    let client = Client::new(ClientOptions { credentials, ..options() });
    let push = large(&registry, &directory).remove(0);
    registry.fault("PUT", "/uploads/", 1, FaultKind::Cut { after_bytes: 1_000_000 });
    registry.fault("GET", "/uploads/", 1, FaultKind::TokensEnd);
    registry.fault("PUT", "/uploads/", 1, FaultKind::TokensEnd);
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Uploaded);
    let token = "GET token 0";
    let start = ["HEAD blob 0", token, "HEAD blob 0", "POST upload 0", "PUT upload 1000000"];
    let middle = ["GET upload 0", token, "GET upload 0", "PATCH upload 2000000"];
    let end = ["PUT upload 0", token, "PUT upload 0"];
    assert_eq!(sequence(&registry), [&start[..], &middle, &end].concat());
}

#[tokio::test]
async fn a_registry_that_refuses_large_requests_gets_chunks() {
    let registry = ScriptedRegistry::start();
    registry.limit_bodies(16 << 20);
    let bytes = Bytes::from(vec![7; (16 << 20) + 1]);
    let mut push = push(&registry, b"", &[]);
    (push.descriptor, push.source) = (Descriptor::of(OCTETS, &bytes), BlobSource::Bytes(bytes));
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    let start = ["HEAD blob 0", "POST upload 0", "PUT upload 16777217", "POST upload 0"];
    let end = ["PATCH upload 16777216", "PATCH upload 1", "PUT upload 0"];
    assert_eq!(sequence(&registry), [&start[..], &end].concat());
    registry.limit_bodies(1000);
    push.target = reference(&registry, "c:v1");
    let error = client().push_blob(&push).await.unwrap_err();
    assert_eq!(
        told(&error, &registry),
        "`HOST` answered 413 to PATCH upload of `HOST/c:v1`: too much\nhint: the registry, or a proxy before it, has a limit for the size of requests"
    );
}

/// A reader that gives `pieces` bytes, each after `pause`.
struct Slow {
    pieces: usize,
    pause: Duration,
    sleep: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl tokio::io::AsyncRead for Slow {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let pause = self.pause;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        std::task::ready!(std::future::Future::poll(sleep.as_mut(), context));
        self.sleep = None;
        if self.pieces > 0 {
            self.pieces -= 1;
            buffer.put_slice(b"x");
        }
        std::task::Poll::Ready(Ok(()))
    }
}

fn slow(registry: &ScriptedRegistry, pieces: usize, pause: Duration) -> PushBlob {
    let open = move || -> registry::OpenFuture {
        let reader: Box<dyn tokio::io::AsyncRead + Send + Unpin> =
            Box::new(Slow { pieces, pause, sleep: None });
        Box::pin(std::future::ready(Ok(reader)))
    };
    let mut push = push(registry, b"", &[]);
    push.descriptor = Descriptor::of(OCTETS, &vec![b'x'; pieces]);
    push.source = BlobSource::Reader(std::sync::Arc::new(open));
    push
}

#[tokio::test]
async fn an_upload_may_take_long_as_long_as_it_moves() {
    let registry = ScriptedRegistry::start();
    // Twice as long as the idle time, in pieces.
    let push = slow(&registry, 10, Duration::from_millis(60));
    assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert_eq!(sequence(&registry), ["HEAD blob 0", "POST upload 0", "PUT upload 10"]);
    let stuck = slow(&registry, 11, Duration::from_secs(3600));
    let error = client().push_blob(&stuck).await.unwrap_err();
    assert_eq!(
        told(&error, &registry),
        "the connection to `HOST` broke at PUT blob of `HOST/b:v1`: nothing moved for 300ms\n\
         hint: try again, or look for what ends connections to `HOST` (a proxy, a time limit)"
    );
}

#[tokio::test]
async fn mounts_that_are_denied_become_uploads() {
    for status in [401, 403, 404, 405] {
        let registry = ScriptedRegistry::start();
        registry.fault("POST", "mount=", 2, FaultKind::Status(status, None));
        let push = push(&registry, b"content", &["private", "gone"]);
        assert_eq!(client().push_blob(&push).await.unwrap(), Pushed::Uploaded, "{status}");
        assert_eq!(registry.count("POST", "/uploads/"), 3);
    }
}

/// What a person is told of each fault of a push, and what was sent.
#[tokio::test]
async fn faults_are_told_in_plain_words() {
    let error =
        |code: &str, message: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    let denied = error("DENIED", "requested access to the resource is denied");
    let faults = [
        ("HEAD", "/blobs/", FaultKind::Status(500, None)),
        ("POST", "/uploads/", FaultKind::Text(403, denied)),
        (
            "POST",
            "/uploads/",
            FaultKind::Text(404, error("NAME_UNKNOWN", "repository name not known to registry")),
        ),
        ("POST", "/uploads/", FaultKind::Status(429, Some("3600".to_owned()))),
        ("POST", "/uploads/", FaultKind::Reset { after_bytes: 0 }),
        ("PUT", "/uploads/", FaultKind::Text(400, error("DIGEST_INVALID", "provided digest did not match"))),
        ("PUT", "/uploads/", FaultKind::Text(413, "too large".to_owned())),
        ("PUT", "/uploads/", FaultKind::Text(507, error("QUOTA", "the project is full"))),
        ("PUT", "/uploads/", FaultKind::Status(503, None)),
        (
            "PUT",
            "/manifests/",
            FaultKind::Text(400, error("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")),
        ),
        ("PUT", "/manifests/", FaultKind::Text(409, error("TAG_IMMUTABLE", "the tag cannot be overwritten"))),
        ("PUT", "/manifests/", FaultKind::Status(502, None)),
    ];
    let mut text = String::new();
    for (method, path, fault) in faults {
        let registry = ScriptedRegistry::start();
        registry.fault(method, path, 99, fault.clone());
        let push = push(&registry, b"content", &[]);
        let pushed = match client().push_blob(&push).await {
            Ok(_) => client()
                .push_manifest(&push.target, MediaType::OCI_MANIFEST, manifest_bytes("y"))
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        let told = told(&pushed.unwrap_err(), &registry).replace('\n', "\n  ");
        let _ = writeln!(text, "{method} {path} {fault:?}\n  {}\n  {told}", sequence(&registry).join(", "));
    }
    assert!(text == include_str!("push_faults.txt"), "\n{text}");
}

#[tokio::test]
async fn why_a_push_is_denied_is_asked_of_the_upload() {
    let registry = ScriptedRegistry::start();
    registry.fault("HEAD", "/blobs/", 9, FaultKind::Status(403, None));
    registry.fault("POST", "/uploads/", 1, FaultKind::Status(403, None));
    let error = client().push_blob(&push(&registry, b"content", &[])).await.unwrap_err();
    assert_eq!(normalised(&error, &registry), "`HOST` denies access to `HOST/b:v1`: SCRIPTED: scripted");
}
