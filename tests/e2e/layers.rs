//! How layers are compressed: what others read of them, and that they are pushed while that is done.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Lab, json, run};

/// Reads a gzip layer as a whole, and its parts by the table of contents if it is eStargz; prints the digest of what it
/// unpacks to and the digests of its files.
const READER: &str = r"
import gzip, hashlib, io, json, sys, tarfile, zlib
blob = open(sys.argv[1], 'rb').read()
plain = gzip.decompress(blob)
sha = lambda data: 'sha256:' + hashlib.sha256(data).hexdigest()
files = {}
if blob[-51:][16:38].endswith(b'STARGZ'):
    member = lambda at: zlib.decompressobj(31).decompress(blob[at:])
    table = tarfile.open(fileobj=io.BytesIO(member(int(blob[-51:][16:32], 16))))
    text = table.extractfile('stargz.index.json').read()
    parts = {}
    for entry in json.loads(text)['entries']:
        if entry['type'] == 'reg': size = entry.get('size', 0)
        if entry['type'] not in ('reg', 'chunk') or size == 0: continue
        at = entry.get('chunkOffset', 0)
        part = member(entry['offset'])[:entry.get('chunkSize') or size - at]
        assert sha(part) == entry['chunkDigest'], entry
        parts.setdefault(entry['name'], b'')
        parts[entry['name']] += part
    files = {name: sha(data) for name, data in parts.items()}
    table = sha(text)
else:
    archive = tarfile.open(fileobj=io.BytesIO(plain))
    files = {m.name: sha(archive.extractfile(m).read()) for m in archive if m.isfile() and m.size}
    table = None
print(json.dumps({'diffID': sha(plain), 'size': str(len(plain)), 'files': files, 'table': table}))
";

/// A context with a file of several pieces and a few small ones.
fn context(lab: &Lab) -> PathBuf {
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY tree /tree\n"), ("tree/a", "a")]);
    let mut text = String::new();
    for line in 0..700_000_u32 {
        let _ = writeln!(text, "{} {line}", line.wrapping_mul(2_654_435_761));
    }
    for (name, content) in [("large", text.as_str()), ("none", ""), ("small", &text[..50_000])] {
        std::fs::write(context.join("tree").join(name), content).expect("the context can be written");
    }
    context
}

/// The layout of the image, its only layer's descriptor and diff ID.
fn layout(lab: &Lab, context: &Path, compression: &str) -> (PathBuf, Value, String) {
    let path = lab.path(compression);
    let output =
        format!("--output=type=oci,tar=false,name=app:v1,dest={},compression={compression}", path.display());
    lab.build(context, &[&output]).succeeded();
    let document = |digest: &Value| {
        let digest = digest.as_str().expect("a digest is a text").replace(':', "/");
        json("cat", &[&path.join("blobs").join(digest).to_string_lossy()])
    };
    let index = json("cat", &[&path.join("index.json").to_string_lossy()]);
    let manifest = document(&index["manifests"][0]["digest"]);
    let config = document(&manifest["config"]["digest"]);
    let diff_id = config["rootfs"]["diff_ids"][0].as_str().expect("a diff ID is a text").to_owned();
    (path, manifest["layers"][0].clone(), diff_id)
}

fn blob(layout: &Path, layer: &Value) -> String {
    let digest = layer["digest"].as_str().expect("a digest is a text").replace(':', "/");
    layout.join("blobs").join(digest).to_string_lossy().into_owned()
}

#[test]
fn layers_of_every_compression_are_read_by_others() {
    let lab = Lab::new();
    let context = context(&lab);
    let mut found = Vec::new();
    for compression in ["gzip", "estargz"] {
        let (path, layer, diff_id) = layout(&lab, &context, compression);
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let blob = blob(&path, &layer);
        run("sh", &["-c", &format!("gzip -t < {blob}")]);
        let read = json("python3", &["-c", READER, &blob]);
        assert_eq!(read["diffID"], diff_id, "{compression}");
        assert_eq!(read["files"].as_object().map(serde_json::Map::len), Some(3), "{compression}");
        let annotation = |key: &str| layer["annotations"][key].clone();
        if compression == "estargz" {
            assert_eq!(annotation("containerd.io/snapshot/stargz/toc.digest"), read["table"]);
            assert_eq!(annotation("io.containers.estargz.uncompressed-size"), read["size"]);
        }
        found.push(read["files"].clone());
        let bundle = lab.path(&format!("bundle-{compression}"));
        let image = format!("{}:v1", path.display());
        run("umoci", &["unpack", "--image", &image, &bundle.to_string_lossy()]);
        let tree = context.join("tree");
        let copy = bundle.join("rootfs/tree");
        run("diff", &["-r", &tree.to_string_lossy(), &copy.to_string_lossy()]);
        let names: Vec<_> = std::fs::read_dir(bundle.join("rootfs"))
            .expect("it was unpacked")
            .map(|entry| entry.expect("a directory can be read").file_name())
            .collect();
        assert_eq!(names, ["tree"], "nothing comes with {compression}");
    }
    assert_eq!(found[0], found[1]);

    let (path, layer, diff_id) = layout(&lab, &context, "zstd");
    assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    let sum = run("sh", &["-c", &format!("zstd -dc --no-check < {} | sha256sum", blob(&path, &layer))]);
    assert_eq!(sum.split_whitespace().next(), diff_id.strip_prefix("sha256:"));
    let directory = format!("dir:{}", lab.path("copied").display());
    run("skopeo", &["copy", "--quiet", &format!("oci:{}:v1", path.display()), &directory]);
}

#[test]
fn layers_are_pushed_while_they_are_compressed() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f* /\n"), ("f", "f")]);
    // Bytes that do not compress, more than a stream begins with.
    run("sh", &["-c", &format!("head -c 12000000 /dev/urandom > {}", context.join("fresh").display())]);
    for compression in ["estargz", "zstd"] {
        let name = format!("{}/{compression}:v1", registry.address());
        let archive = lab.path(&format!("{compression}.tar"));
        // The archive comes first; the push gets what was compressed for it.
        let outputs = [
            format!("--output=type=oci,dest={},compression={compression}", archive.display()),
            format!("--output=type=registry,name={name},compression={compression}"),
        ];
        let built = lab.build(&context, &[&outputs[0], &outputs[1]]).succeeded();
        let pushed = json("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]);
        assert_eq!(pushed["Digest"], built.stdout.trim());
        let again = lab.build(&context, &[&outputs[1]]).succeeded();
        assert_eq!(again.stdout, built.stdout);

        // What was pushed is what another store pulls.
        let other = Lab::new();
        let dockerfile = format!("FROM {name}\n");
        let context_of = other.context("ctx", &[("Dockerfile", &dockerfile)]);
        let target = other.path("files");
        other.build(&context_of, &["-o", &target.to_string_lossy()]).succeeded();
        run("cmp", &[&context.join("fresh").to_string_lossy(), &target.join("fresh").to_string_lossy()]);
        assert_eq!(std::fs::read_dir(&target).expect("it was written").count(), 2, "{compression}");
    }
}
