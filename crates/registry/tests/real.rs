//! The client against `docker-registry`.

#![allow(clippy::unwrap_used, reason = "all of it is test code, the functions between the tests too")]

use std::path::PathBuf;

use bytes::Bytes;
use oci::{Descriptor, Digest, ImageReference, Manifest};
use registry::{BlobSource, Client, ClientOptions, PushBlob, Pushed, Watcher};
use testkit::RealRegistry;

fn bases() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bases/oci")
}

fn reference(registry: &RealRegistry, rest: &str) -> ImageReference {
    format!("{}/{rest}", registry.address()).parse().unwrap()
}

/// Registry, client, and the image `base/busybox:latest` with its manifest.
async fn loaded() -> (RealRegistry, Client, ImageReference, Manifest) {
    let registry = RealRegistry::start();
    registry.load_oci_layout(bases(), "base");
    let client = Client::new(ClientOptions::default());
    let image = reference(&registry, "base/busybox:latest");
    let resolved = client.resolve(&image).await.unwrap();
    let manifest = serde_json::from_slice(&resolved.bytes).unwrap();
    (registry, client, image, manifest)
}

#[tokio::test]
async fn an_image_is_pulled() {
    let (registry, client, image, manifest) = loaded().await;
    assert_eq!(client.head(&image).await.unwrap(), client.resolve(&image).await.unwrap().descriptor);
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        let bytes = client.fetch_blob_bytes(&image, blob).await.unwrap();
        assert_eq!(Digest::sha256(&bytes), blob.digest);
    }
    assert_eq!(registry.blob_requests(), 1 + manifest.layers.len());
    let error = client.resolve(&reference(&registry, "base/gone:latest")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn an_image_is_pushed_to_another_repository() {
    let (registry, client, image, manifest) = loaded().await;
    let target = reference(&registry, "copies/busybox:v1");
    let layer = manifest.layers[0].clone();
    let push = PushBlob {
        target: target.clone(),
        descriptor: layer.clone(),
        mount_from: vec!["nothing/here".to_owned(), "base/busybox".to_owned()],
        source: BlobSource::File("/nonexistent".into()),
        watcher: Watcher::default(),
    };
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Mounted);
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Existed);

    let config = client.fetch_blob_bytes(&image, &manifest.config).await.unwrap();
    let mut upload = client.start_upload(&target).await.unwrap();
    upload.send(&BlobSource::Bytes(config), manifest.config.size).await.unwrap();
    upload.finish(&manifest.config.digest).await.unwrap();
    assert!(client.blob_exists(&target, &manifest.config.digest).await.unwrap());

    let resolved = client.resolve(&image).await.unwrap();
    let digest =
        client.push_manifest(&target, &resolved.descriptor.media_type, resolved.bytes.clone()).await.unwrap();
    assert_eq!(digest, resolved.descriptor.digest);
    assert_eq!(client.resolve(&target).await.unwrap(), resolved);
}

#[tokio::test]
async fn large_blobs_are_pushed_in_both_ways() {
    let registry = RealRegistry::start();
    let client = Client::new(ClientOptions::default());
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 253) as u8).collect();
    let descriptor = Descriptor::of("application/octet-stream", &bytes);
    let target = reference(&registry, "a");
    let mut upload = client.start_upload(&target).await.unwrap();
    let source = BlobSource::Bytes(Bytes::copy_from_slice(&bytes));
    for end in (upload.least_bytes()..descriptor.size).step_by(9_000_000).chain([descriptor.size]) {
        upload.send(&source, end).await.unwrap();
    }
    upload.finish(&descriptor.digest).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blob");
    std::fs::write(&path, &bytes).unwrap();
    let push = PushBlob {
        target: reference(&registry, "b"),
        descriptor: descriptor.clone(),
        mount_from: Vec::new(),
        source: BlobSource::File(path),
        watcher: Watcher::default(),
    };
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Uploaded);
    for name in ["a", "b"] {
        let mut stream = client.fetch_blob(&reference(&registry, name), &descriptor).await.unwrap();
        while stream.chunk().await.unwrap().is_some() {}
        assert_eq!(stream.received(), descriptor.size);
    }
}

/// An address before `registry` that breaks the first connection after so many bytes to the registry.
fn cutting(registry: &RealRegistry, after_bytes: usize) -> String {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let to = registry.address().to_owned();
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(after_bytes));
    // The thread ends with the process.
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(&to) else { return };
            let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let (left, mut near, mut far) = (std::sync::Arc::clone(&left), near, far);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = near.read(&mut buffer) {
                    let ordering = std::sync::atomic::Ordering::Relaxed;
                    let before =
                        left.fetch_update(ordering, ordering, |left| Some(left.saturating_sub(count)));
                    let is_last = before.is_ok_and(|before| before > 0 && before <= count);
                    if far.write_all(&buffer[..count]).is_err() || is_last {
                        break;
                    }
                }
                let _ = far.shutdown(Shutdown::Both);
                let _ = near.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_brought_to_its_end() {
    let registry = RealRegistry::start();
    let retry = registry::RetryPolicy {
        first_delay: std::time::Duration::from_millis(1),
        ..registry::RetryPolicy::default()
    };
    let client = Client::new(ClientOptions { retry, ..ClientOptions::default() });
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 253) as u8).collect();
    let push = PushBlob {
        target: format!("{}/a:v1", cutting(&registry, 10_000_000)).parse().unwrap(),
        descriptor: Descriptor::of("application/octet-stream", &bytes),
        mount_from: Vec::new(),
        source: BlobSource::Bytes(bytes.into()),
        watcher: Watcher::default(),
    };
    assert_eq!(client.push_blob(&push).await.unwrap(), Pushed::Uploaded);
    assert!(client.blob_exists(&reference(&registry, "a"), &push.descriptor.digest).await.unwrap());
    // This registry keeps nothing of an upload that broke off: it says so, and gets all of it again.
    assert_eq!(registry.requests(|request| request.starts_with("GET /v2/a/blobs/uploads/")), 1);
    assert_eq!(registry.requests(|request| request.starts_with("POST /v2/a/blobs/uploads/")), 2);
}
