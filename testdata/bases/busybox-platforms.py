#!/usr/bin/env python3
"""Adds the image `busybox-platforms` to the OCI layout beside this: an index of `busybox` (amd64) and of the same with
the program of another Debian package for arm64. Run it with the file /bin/busybox of `busybox-static:arm64`:

    apt-get download busybox-static:arm64 && dpkg -x busybox-static_*_arm64.deb arm64
    testdata/bases/busybox-platforms.py arm64/bin/busybox
"""

import gzip, hashlib, io, json, pathlib, sys, tarfile

layout = pathlib.Path(__file__).parent / "oci"
NAME = "org.opencontainers.image.ref.name"


def blob(digest):
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


def add(content, media_type, **more):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    blob(digest).write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


def with_program(layer, program):
    """The same archive with another /bin/busybox, every other byte as it was."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        member = archive.getmember("bin/busybox")
    header = bytearray(layer[member.offset : member.offset_data])
    header[124:136] = b"%011o\0" % len(program)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    rounded = lambda size: (size + 511) // 512 * 512
    padding = bytes(rounded(len(program)) - len(program))
    return layer[: member.offset] + header + program + padding + layer[member.offset_data + rounded(member.size) :]


index = json.loads((layout / "index.json").read_text())
index["manifests"] = [entry for entry in index["manifests"] if "platforms" not in entry["annotations"][NAME]]
amd64 = next(entry for entry in index["manifests"] if entry["annotations"][NAME] == "busybox:latest")
manifest = json.loads(blob(amd64["digest"]).read_text())
config = json.loads(blob(manifest["config"]["digest"]).read_text())
layer = gzip.decompress(blob(manifest["layers"][0]["digest"]).read_bytes())
layer = with_program(layer, pathlib.Path(sys.argv[1]).read_bytes())
config["architecture"] = "arm64"
config["rootfs"]["diff_ids"] = ["sha256:" + hashlib.sha256(layer).hexdigest()]
manifest["config"] = add(json.dumps(config).encode(), manifest["config"]["mediaType"])
manifest["layers"] = [add(gzip.compress(layer, 9, mtime=0), manifest["layers"][0]["mediaType"])]
arm64 = add(json.dumps(manifest).encode(), manifest["mediaType"])
images = [
    {key: value for key, value in entry.items() if key != "annotations"}
    | {"platform": {"architecture": architecture, "os": "linux"}}
    for entry, architecture in [(amd64, "amd64"), (arm64, "arm64")]
]
INDEX = "application/vnd.oci.image.index.v1+json"
images = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": images}).encode()
index["manifests"].append(add(images, INDEX, annotations={NAME: "busybox-platforms:latest"}))
(layout / "index.json").write_text(json.dumps(index, separators=(",", ":")))
