//! Images made of real snapshots, and what is written of them.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use cache::layer::FileTimes;
use cache::{IdMode, LinkPolicy, Snapshot, SnapshotterKind, Store, StoreOptions};
use exporter::{
    ArchiveKind, Assembled, Attestation, AttestationForm, AttestationManifestForm, CacheBuild,
    CacheBuildLayer, Compression, CompressionKind, Destination, ExportError, FilesForm, ImageBuild,
    ImageForm, ImageSet, IndexBuild, LayerFetcher, LayerForm, LayerOrigin, MediaTypes, OtherFiles,
    PlatformFiles, PlatformSplit, Reach, RootForm, assemble, assemble_cache, copy_files, fetch_layers,
    write_archive, write_files, write_layout,
};
use oci::{
    CacheConfig, CacheHash, CacheRecord, Descriptor, DiffId, Digest, History, ImageConfig, ImageReference,
    MediaType,
};

fn store(root: &Path, snapshotter: SnapshotterKind) -> Store {
    Store::open(&StoreOptions {
        root: root.join("store"),
        snapshotter: Some(snapshotter),
        ids: IdMode::Root,
        boot_id: Some("test".to_owned()),
        links: LinkPolicy::Allowed,
    })
    .expect("the tests run as root on a file system that takes overlay")
}

fn snapshot(store: &Store, parent: Option<&Snapshot>, name: &str, content: &[u8]) -> Snapshot {
    let active = store.prepare(parent).unwrap();
    fs::write(active.upper().join(name), content).unwrap();
    active.commit().unwrap()
}

fn build(layers: &[LayerOrigin]) -> ImageBuild {
    let history = layers.iter().map(|_| History::default()).collect();
    let config =
        ImageConfig { architecture: "amd64".into(), os: "linux".into(), history, ..ImageConfig::default() };
    ImageBuild { config, layers: layers.to_vec(), base_layers: 0, epoch: None, cache: None }
}

fn form(split: PlatformSplit) -> FilesForm {
    FilesForm { split, times: FileTimes::Own, others: OtherFiles::Kept }
}

fn snapshots(list: &[Snapshot]) -> Vec<LayerOrigin> {
    list.iter().copied().map(LayerOrigin::Snapshot).collect()
}

fn assembled(store: &Store, layers: &[LayerOrigin], compression: Compression) -> Assembled {
    assemble(store, build(layers), &ImageForm::compressed(compression), None).unwrap()
}

/// The files of a compressed layer with their contents; directories end with a slash.
fn files_of(store: &Store, layer: &Descriptor) -> BTreeMap<String, Vec<u8>> {
    let blob = store.blobs().read(&layer.digest).unwrap();
    assert_eq!(blob.len() as u64, layer.size);
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(blob.as_slice()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
    }
    files
}

fn cache_of(layers: Vec<(Option<usize>, LayerOrigin)>, records: &[(u8, usize)]) -> CacheBuild {
    let record = |(key, layer): &(u8, usize)| CacheRecord {
        key: CacheHash([*key; 32]),
        layer: Some(*layer),
        parts: Vec::new(),
        digests: BTreeMap::new(),
    };
    CacheBuild {
        layers: layers.into_iter().map(|(parent, origin)| CacheBuildLayer { parent, origin }).collect(),
        records: records.iter().map(record).collect(),
        mounts: Vec::new(),
        epoch: Some(0),
    }
}

#[test]
fn a_cache_is_the_same_in_whatever_order_its_results_come() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let old = std::time::UNIX_EPOCH;
    let old_snapshot = |parent: Option<&Snapshot>, name: &str| {
        let active = store.prepare(parent).unwrap();
        let file = fs::File::create(active.upper().join(name)).unwrap();
        file.set_modified(old).unwrap();
        active.commit().unwrap()
    };
    let base = old_snapshot(None, "base");
    let (left, right) = (old_snapshot(Some(&base), "left"), old_snapshot(Some(&base), "right"));
    let twin = old_snapshot(Some(&base), "left");
    let of = |snapshot: &Snapshot| LayerOrigin::Snapshot(*snapshot);
    let form = LayerForm::default();
    let one =
        cache_of(vec![(None, of(&base)), (Some(0), of(&left)), (Some(0), of(&right))], &[(1, 1), (2, 2)]);
    // The other way round, and with a result that is like another one.
    let layers = vec![(None, of(&base)), (Some(0), of(&right)), (Some(0), of(&twin)), (Some(0), of(&left))];
    let other = cache_of(layers, &[(2, 1), (1, 2)]);
    let one = assemble_cache(&store, one, form).unwrap();
    let other = assemble_cache(&store, other, form).unwrap();
    assert_eq!(String::from_utf8_lossy(&one.config), String::from_utf8_lossy(&other.config));
    assert_eq!(one.descriptor, other.descriptor);
    let config: CacheConfig = serde_json::from_slice(&one.config).unwrap();
    let parents: Vec<_> = config.layers.iter().map(|layer| layer.parent).collect();
    assert_eq!(parents, [None, Some(0), Some(0)]);
    assert!(config.layers.iter().all(|layer| layer.created.as_deref() == Some("1970-01-01T00:00:00Z")));
    let layer_of =
        |key: u8| config.records.iter().find(|record| record.key == CacheHash([key; 32])).unwrap().layer;
    assert_ne!(layer_of(1), layer_of(2));
    assert_eq!(one.layers.len(), 3);
}

#[test]
fn layers_of_other_caches_are_compressed_anew_only_by_force() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let made = snapshot(&store, None, "a", b"one");
    let image = assembled(&store, &snapshots(&[made]), Compression::default());
    let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
    let (diff_id, descriptor) = (config.rootfs.diff_ids[0].clone(), image.layers[0].clone());
    let carried = |force, diff_id: &DiffId| {
        let origin = LayerOrigin::Image { diff_id: diff_id.clone(), descriptor: descriptor.clone() };
        let compression = Compression::new(CompressionKind::Zstd, None).unwrap();
        let form = LayerForm { compression, force, ..LayerForm::default() };
        assemble_cache(&store, cache_of(vec![(None, origin)], &[(1, 0)]), form)
    };
    assert_eq!(carried(false, &diff_id).unwrap().layers[0].digest, descriptor.digest);
    let forced = carried(true, &diff_id).unwrap().layers[0].clone();
    assert_eq!(forced.media_type, MediaType::OCI_LAYER_ZSTD);
    let plain = zstd::decode_all(store.blobs().read(&forced.digest).unwrap().as_slice()).unwrap();
    assert_eq!(DiffId(Digest::sha256(&plain)), diff_id);
    let wrong = DiffId(Digest::sha256(b"something else"));
    assert!(matches!(carried(true, &wrong), Err(ExportError::WrongLayer { .. })));
}

#[test]
fn a_layer_is_what_differs_from_the_parent_and_is_made_once() {
    for snapshotter in [SnapshotterKind::Overlay, SnapshotterKind::Copy] {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path(), snapshotter);
        let first = snapshot(&store, None, "a", b"one");
        let second = snapshot(&store, Some(&first), "b", b"two");
        let layers = snapshots(&[first, second]);
        let image = assembled(&store, &layers, Compression::default());
        let expected = BTreeMap::from([("b".to_owned(), b"two".to_vec())]);
        assert_eq!(files_of(&store, &image.layers[1]), expected, "{snapshotter:?}");
        assert_eq!(image.layers[1].media_type, MediaType::OCI_LAYER_GZIP);

        // Nothing is written again: the trees may even be gone.
        fs::remove_file(store.own_dir(&second.id).join("b")).unwrap();
        let again = assembled(&store, &layers, Compression::default());
        assert_eq!(again.descriptor, image.descriptor, "{snapshotter:?}");
    }
}

#[test]
fn many_layers_keep_their_order() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let mut chain: Vec<Snapshot> = Vec::new();
    for number in 0..40 {
        let next = snapshot(&store, chain.last(), &format!("f{number:02}"), b"x");
        chain.push(next);
    }
    let image = assembled(&store, &snapshots(&chain), Compression::default());
    for (number, layer) in image.layers.iter().enumerate() {
        let names: Vec<String> = files_of(&store, layer).into_keys().collect();
        assert_eq!(names, [format!("f{number:02}")]);
    }
    let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(config.rootfs.diff_ids.len(), 40);
    assert_eq!(config.created, config.history[39].created);
    assert!(config.created.is_some());
}

#[test]
fn an_estargz_layer_has_a_diff_id_and_annotations_of_its_own() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let layers = snapshots(&[snapshot(&store, None, "a", b"one")]);
    let diff_id = |image: &Assembled| {
        serde_json::from_slice::<ImageConfig>(&image.config).unwrap().rootfs.diff_ids[0].clone()
    };
    let gzip = assembled(&store, &layers, Compression::default());
    let compression = Compression::new(CompressionKind::Estargz, Some(9)).unwrap();
    let image = assembled(&store, &layers, compression);
    let layer = &image.layers[0];
    assert_eq!(layer.media_type, MediaType::OCI_LAYER_GZIP);
    let keys: Vec<_> = layer.annotations.keys().map(String::as_str).collect();
    assert_eq!(keys, ["containerd.io/snapshot/stargz/toc.digest", "io.containers.estargz.uncompressed-size"]);
    let mut plain = Vec::new();
    let blob = store.blobs().read(&layer.digest).unwrap();
    flate2::read::MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut plain).unwrap();
    assert_eq!(diff_id(&image).0, Digest::sha256(&plain));
    assert_eq!(layer.annotations["io.containers.estargz.uncompressed-size"], plain.len().to_string());
    assert_eq!(files_of(&store, layer), BTreeMap::from([("a".to_owned(), b"one".to_vec())]));
    // Found again, and made anew of the gzip layer by force: the same in both cases.
    assert_eq!(assembled(&store, &layers, compression).descriptor, image.descriptor);
    let origin =
        LayerOrigin::Image { diff_id: diff_id(&gzip), descriptor: Descriptor::clone(&gzip.layers[0]) };
    let mut form = ImageForm::compressed(compression);
    form.layers.force = true;
    let forced = assemble(&store, build(&[origin]), &form, None).unwrap();
    assert_eq!((&forced.layers, diff_id(&forced)), (&image.layers, diff_id(&image)));
    // It is a gzip layer, and no other one is made of it where that is asked for.
    let origin = LayerOrigin::Image { diff_id: diff_id(&image), descriptor: Descriptor::clone(layer) };
    let mut form = ImageForm::compressed(Compression::default());
    form.layers.force = true;
    assert_eq!(assemble(&store, build(&[origin]), &form, None).unwrap().layers, image.layers);
}

#[test]
fn forms_differ_in_types_and_share_diff_ids() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let layers = snapshots(&[snapshot(&store, None, "a", b"one")]);
    let gzip = assembled(&store, &layers, Compression::default());
    let zstd = assembled(&store, &layers, Compression::new(CompressionKind::Zstd, None).unwrap());
    assert_eq!(gzip.config, zstd.config);
    assert_eq!(zstd.layers[0].media_type, MediaType::OCI_LAYER_ZSTD);
    let docker = assemble(&store, build(&layers), &ImageForm::of_types(MediaTypes::Docker), None).unwrap();
    assert_eq!(docker.descriptor.media_type, MediaType::DOCKER_MANIFEST);
    assert_eq!(docker.layers[0].media_type, MediaType::DOCKER_LAYER_GZIP);
    assert_eq!(docker.layers[0].digest, gzip.layers[0].digest);
}

#[test]
fn a_saved_image_is_loaded_as_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let image = assembled(&store, &snapshots(&[snapshot(&store, None, "a", b"one")]), Compression::default());
    let set = ImageSet::from(image.clone());
    set.save(&store).unwrap();
    let loaded = ImageSet::load(&store, set.descriptor()).unwrap().single().unwrap().clone();
    assert_eq!((loaded.manifest, loaded.config), (image.manifest, image.config));
    assert_eq!((loaded.layers, loaded.platform), (image.layers, image.platform));
}

#[test]
fn what_is_said_of_an_image_stands_beside_it_in_an_index() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let image = assembled(&store, &snapshots(&[snapshot(&store, None, "a", b"one")]), Compression::default());
    let set = |manifest, inline, said: Attestation| {
        let attestations = AttestationForm { manifest: Some(manifest), inline };
        let form = ImageForm { attestations, ..ImageForm::default() };
        let names = ["localhost:5000/app:v1".parse().unwrap()];
        let (attestations, root) = ([vec![said]], RootForm::Manifest);
        let build = IndexBuild { attestations: &attestations, names: &names, root };
        ImageSet::new(vec![image.clone()], &form, &build).unwrap()
    };
    // What is for images alone makes no index where that is not wanted.
    let plain = set(AttestationManifestForm::Artifact, false, attestation(Reach::Images));
    assert_eq!(plain.descriptor().digest, image.descriptor.digest);

    for form in [AttestationManifestForm::Artifact, AttestationManifestForm::Image] {
        let set = set(form, true, attestation(Reach::Images));
        set.save(&store).unwrap();
        let read = |digest: &Digest| -> serde_json::Value {
            serde_json::from_slice(&store.blobs().read(digest).unwrap()).unwrap()
        };
        let index = read(&set.descriptor().digest);
        assert_eq!(index["manifests"][0]["digest"], image.descriptor.digest.as_str());
        let entry = &index["manifests"][1];
        assert_eq!(
            (&entry["platform"], &entry["annotations"]),
            (
                &serde_json::json!({"architecture": "unknown", "os": "unknown"}),
                &serde_json::json!({
                    "vnd.docker.reference.digest": image.descriptor.digest,
                    "vnd.docker.reference.type": "attestation-manifest",
                })
            )
        );
        let manifest = read(&entry["digest"].as_str().unwrap().parse().unwrap());
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], "https://slsa.dev/provenance/v1");
        let statement = read(&layer["digest"].as_str().unwrap().parse().unwrap());
        let name = "pkg:docker/localhost%3A5000/app@v1?platform=linux%2Famd64";
        let digest = serde_json::json!({"sha256": image.descriptor.digest.hex()});
        assert_eq!(statement["subject"], serde_json::json!([{"name": name, "digest": digest}]));
        let config = read(&manifest["config"]["digest"].as_str().unwrap().parse().unwrap());
        if form == AttestationManifestForm::Artifact {
            assert_eq!(manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
            assert_eq!(manifest["subject"]["digest"], image.descriptor.digest.as_str());
            assert_eq!(
                (&manifest["config"]["mediaType"], config),
                (&"application/vnd.oci.empty.v1+json".into(), serde_json::json!({}))
            );
        } else {
            assert_eq!(
                (&manifest["artifactType"], &manifest["subject"]),
                (&serde_json::Value::Null, &serde_json::Value::Null)
            );
            assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([layer["digest"]]));
        }
        // What was stored is what is loaded, and written.
        let loaded = ImageSet::load(&store, set.descriptor()).unwrap();
        assert_eq!(loaded.images().len(), 1);
        let layout = scratch.path().join(format!("{form:?}"));
        exporter::write_layout(&store, &loaded, &[], &layout).unwrap();
        assert!(
            layout
                .join("blobs/sha256")
                .join(layer["digest"].as_str().unwrap().trim_start_matches("sha256:"))
                .exists()
        );
    }
}

/// An index of two images that share their first layer.
fn two_platforms(store: &Store, media_types: MediaTypes) -> ImageSet {
    let form = ImageForm::of_types(media_types);
    let shared = snapshot(store, None, "a", b"one");
    let own = snapshot(store, Some(&shared), "b", b"two");
    let mut arm = build(&snapshots(&[shared, own]));
    (arm.config.architecture, arm.config.variant) = ("arm".into(), Some("v7".into()));
    let images =
        [build(&snapshots(&[shared])), arm].map(|build| assemble(store, build, &form, None).unwrap());
    let build = IndexBuild { attestations: &[], names: &[], root: RootForm::Index };
    ImageSet::new(images.to_vec(), &form, &build).unwrap()
}

#[test]
fn an_index_names_its_images_in_their_order() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    for (media_types, index_type, manifest_type) in [
        (MediaTypes::Oci, MediaType::OCI_INDEX, MediaType::OCI_MANIFEST),
        (MediaTypes::Docker, MediaType::DOCKER_INDEX, MediaType::DOCKER_MANIFEST),
    ] {
        let set = two_platforms(&store, media_types);
        assert!(set.single().is_none());
        assert_eq!(set.layers().len(), 2, "the shared layer counts once");
        set.save(&store).unwrap();
        let index: oci::Index =
            serde_json::from_slice(&store.blobs().read(&set.descriptor().digest).unwrap()).unwrap();
        assert_eq!(index.media_type.as_deref(), Some(index_type));
        let entries: Vec<_> =
            index.manifests.iter().map(|entry| (&entry.digest, &entry.media_type)).collect();
        let wanted: Vec<_> = set.images().iter().map(|image| &image.descriptor.digest).collect();
        let manifest_type = manifest_type.to_owned();
        assert_eq!(entries, [(wanted[0], &manifest_type), (wanted[1], &manifest_type)]);
        let platforms: Vec<String> =
            index.manifests.iter().map(|entry| entry.platform.as_ref().unwrap().to_string()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm/v7"]);
        let loaded = ImageSet::load(&store, set.descriptor()).unwrap();
        assert_eq!(loaded.descriptor(), set.descriptor());
        assert_eq!(loaded.images()[1].manifest, set.images()[1].manifest);
    }
}

#[test]
fn an_index_is_written_with_its_images() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let set = two_platforms(&store, MediaTypes::Oci);
    let path = scratch.path().join("image.tar");
    let destination = Destination::Path(path.clone());
    let refused = write_archive(&store, &set, &[], ArchiveKind::Docker, &destination).unwrap_err();
    assert_eq!(refused.to_string(), "docker exporter does not currently support exporting manifest lists");
    assert!(!path.exists());
    write_archive(&store, &set, &names(&["app:v1"]), ArchiveKind::Oci, &destination).unwrap();
    let layout = scratch.path().join("layout");
    write_layout(&store, &set, &names(&["app:v1"]), &layout).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(fs::read(&path).unwrap().as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
    }
    files.retain(|name, _| !name.ends_with('/'));
    // The layout's index, the index, two manifests, two configs, two layers.
    assert_eq!(files.keys().filter(|name| name.starts_with("blobs/")).count(), 7);
    for (name, content) in &files {
        assert_eq!(&fs::read(layout.join(name)).unwrap(), content, "{name}");
    }
    let index: oci::Index = serde_json::from_slice(&files["index.json"]).unwrap();
    let entry = &index.manifests[0];
    assert_eq!((&entry.digest, index.manifests.len()), (&set.descriptor().digest, 1));
    assert_eq!((entry.media_type.as_str(), &entry.platform), (MediaType::OCI_INDEX, &None));
    assert_eq!(entry.annotations["io.containerd.image.name"], "docker.io/library/app:v1");
}

#[test]
fn files_of_platforms_are_apart_or_must_not_meet() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let files = |platform: &str, name: &str| PlatformFiles {
        platform: platform.parse().unwrap(),
        snapshot: Some(snapshot(&store, None, name, platform.as_bytes())),
        attestations: Vec::new(),
    };
    let same = [files("linux/amd64", "a"), files("linux/arm/v7", "a")];
    let split = scratch.path().join("split");
    copy_files(&store, &same, form(PlatformSplit::Split), &split).unwrap();
    assert_eq!(fs::read(split.join("linux_amd64/a")).unwrap(), b"linux/amd64");
    assert_eq!(fs::read(split.join("linux_arm_v7/a")).unwrap(), b"linux/arm/v7");
    let together = scratch.path().join("together");
    let refused = copy_files(&store, &same, form(PlatformSplit::Together), &together).unwrap_err();
    let wanted = "cannot overwrite /a from linux/amd64 with linux/arm/v7 when split option is disabled";
    assert_eq!(refused.to_string(), wanted);
    assert!(!together.exists());
    let other = [files("linux/amd64", "a"), files("linux/arm64", "b")];
    copy_files(&store, &other, form(PlatformSplit::Together), &together).unwrap();
    assert_eq!(fs::read(together.join("b")).unwrap(), b"linux/arm64");

    let entries = |files: &[PlatformFiles], split| {
        let path = scratch.path().join("files.tar");
        write_files(&store, files, form(split), &Destination::Path(path.clone())).unwrap();
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        names.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        entries(&same, PlatformSplit::Split),
        ["linux_amd64/", "linux_amd64/a", "linux_arm_v7/", "linux_arm_v7/a"]
    );
    assert_eq!(entries(&other, PlatformSplit::Together), ["a", "b"]);

    // What is said of files stands beside them, and of those of one platform without its name.
    let said = |files: &[PlatformFiles]| -> Vec<PlatformFiles> {
        let attestations = vec![attestation(Reach::Everywhere), attestation(Reach::Images)];
        files
            .iter()
            .map(|files| PlatformFiles { attestations: attestations.clone(), ..files.clone() })
            .collect()
    };
    assert_eq!(
        entries(&said(&other), PlatformSplit::Together),
        ["a", "provenance.linux_amd64.json", "b", "provenance.linux_arm64.json"]
    );
    assert_eq!(entries(&said(&other[..1]), PlatformSplit::Together), ["a", "provenance.json"]);
    copy_files(&store, &said(&same), form(PlatformSplit::Split), &split).unwrap();
    let text = fs::read(split.join("linux_amd64/provenance.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let digest = serde_json::json!({"sha256": Digest::sha256(b"linux/amd64").hex()});
    assert_eq!(statement["subject"], serde_json::json!([{"name": "a", "digest": digest}]));
}

fn attestation(reach: Reach) -> Attestation {
    Attestation {
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        predicate: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap(),
        file_name: "provenance.json".into(),
        reach,
    }
}

fn names(list: &[&str]) -> Vec<ImageReference> {
    list.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn an_archive_holds_the_image_and_its_names() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let image = assembled(&store, &snapshots(&[snapshot(&store, None, "a", b"one")]), Compression::default());
    let path = scratch.path().join("image.tar");
    let destination = Destination::Path(path.clone());
    let set = ImageSet::from(image.clone());
    write_archive(&store, &set, &names(&["app:v1"]), ArchiveKind::Docker, &destination).unwrap();
    let first = fs::read(&path).unwrap();
    write_archive(&store, &set, &names(&["app:v1"]), ArchiveKind::Docker, &destination).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first, "the same image gives the same bytes");

    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(first.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
    }
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    assert_eq!(files[&blob(&image.descriptor.digest)], image.manifest);
    assert_eq!(files[&blob(&image.config_descriptor.digest)], image.config);
    assert_eq!(Digest::sha256(&files[&blob(&image.layers[0].digest)]), image.layers[0].digest);
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(
        manifest,
        serde_json::json!([{
            "Config": blob(&image.config_descriptor.digest),
            "RepoTags": ["app:v1"],
            "Layers": [blob(&image.layers[0].digest)],
        }])
    );
    let index: oci::Index = serde_json::from_slice(&files["index.json"]).unwrap();
    let annotation = |name: &str| index.manifests[0].annotations.get(name).map(String::as_str);
    assert_eq!(annotation("io.containerd.image.name"), Some("docker.io/library/app:v1"));
    assert_eq!(annotation("org.opencontainers.image.ref.name"), Some("v1"));
    assert_eq!(annotation("org.opencontainers.image.created"), image.created.as_deref());
}

#[test]
fn a_layout_keeps_its_other_images() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let first = snapshot(&store, None, "a", b"one");
    let second = snapshot(&store, Some(&first), "b", b"two");
    let old = assembled(&store, &snapshots(&[first]), Compression::default());
    let new = assembled(&store, &snapshots(&[first, second]), Compression::default());
    let layout = scratch.path().join("layout");
    let set = |image: &Assembled| ImageSet::from(image.clone());
    write_layout(&store, &set(&old), &names(&["app:v1"]), &layout).unwrap();
    write_layout(&store, &set(&old), &names(&["app:v2"]), &layout).unwrap();
    write_layout(&store, &set(&new), &names(&["app:v2"]), &layout).unwrap();
    let index: oci::Index = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digests: Vec<&Digest> = index.manifests.iter().map(|entry| &entry.digest).collect();
    assert_eq!(digests, [&old.descriptor.digest, &new.descriptor.digest]);
    for layer in &new.layers {
        let blob = fs::read(layout.join("blobs/sha256").join(layer.digest.hex())).unwrap();
        assert_eq!(Digest::sha256(&blob), layer.digest);
    }
    assert_eq!(fs::read(layout.join("oci-layout")).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
}

/// Has one blob, and counts who asks.
struct OneBlob {
    store: Store,
    bytes: Vec<u8>,
    asked: Mutex<Vec<Digest>>,
}

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl LayerFetcher for OneBlob {
    fn fetch<'a>(&'a self, layer: &'a Descriptor) -> Pending<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(layer.digest.clone());
            if layer.digest != Digest::sha256(&self.bytes) {
                return Err("there is no such layer".into());
            }
            self.store.blobs().write_bytes(&self.bytes)?;
            Ok(())
        })
    }

    fn repositories<'a>(&'a self, _blob: &'a Digest) -> Pending<'a, Vec<ImageReference>> {
        Box::pin(async { Vec::new() })
    }
}

#[tokio::test]
async fn layers_of_the_base_are_fetched_when_they_are_needed_and_once() {
    let scratch = tempfile::tempdir().unwrap();
    let store = store(scratch.path(), SnapshotterKind::Overlay);
    let bytes = b"a layer".to_vec();
    let base = LayerOrigin::Image {
        diff_id: DiffId(Digest::sha256(b"plain")),
        descriptor: Descriptor::of(MediaType::DOCKER_LAYER_GZIP, &bytes),
    };
    let own = LayerOrigin::Snapshot(snapshot(&store, None, "a", b"one"));
    let image = assembled(&store, &[base.clone(), own], Compression::default());
    let set = ImageSet::from(image.clone());
    assert_eq!(image.layers[0].media_type, MediaType::OCI_LAYER_GZIP, "Docker's word becomes OCI's");
    let blobs = Arc::new(OneBlob { store: store.clone(), bytes, asked: Mutex::default() });
    let fetcher: Arc<dyn LayerFetcher> = Arc::clone(&blobs) as _;
    fetch_layers(&store, &set, &fetcher).await.unwrap();
    fetch_layers(&store, &set, &fetcher).await.unwrap();
    assert_eq!(*blobs.asked.lock().unwrap(), [image.layers[0].digest.clone()]);

    let gone = LayerOrigin::Image {
        diff_id: DiffId(Digest::sha256(b"plain")),
        descriptor: Descriptor::of(MediaType::OCI_LAYER_GZIP, b"gone"),
    };
    let set = ImageSet::from(assembled(&store, &[gone], Compression::default()));
    let error = fetch_layers(&store, &set, &fetcher).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot fetch layer `{}`", Digest::sha256(b"gone")));
}
