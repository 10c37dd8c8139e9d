//! What changes a key, what does not, and what keys are.

use super::*;
use crate::op::{CacheSharing, ContextOp, ExtraHost, Identity, ImageLocation, ImageOp, ImageSource, Ulimit};
use oci::{ChainId, Digest, Platform};

fn text(text: &str) -> String {
    text.to_owned()
}

fn copy() -> CopyOp {
    CopyOp {
        sources: vec![
            CopySource::Path { input: 1, path: text("src") },
            CopySource::Inline { name: text("EOF"), content: b"body".to_vec() },
        ],
        destination: text("/app/"),
        chown: Some(text("app")),
        chmod: Some(Chmod::Octal(0o755)),
        unpack: Unpack::Never,
        parents: false,
        exclude: vec![text("*.o")],
    }
}

fn run() -> RunOp {
    RunOp {
        args: vec![text("/bin/sh"), text("-c"), text("make")],
        env: vec![text("PATH=/bin"), text("A=b")],
        proxy_env: vec![text("http_proxy=http://proxy")],
        cwd: text("/app"),
        user: text("app"),
        hostname: Some(text("host")),
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        mounts: vec![RunMount {
            target: text("/dev/pipes/EOF"),
            kind: RunMountKind::Inline { content: b"#!/bin/sh".to_vec(), mode: 0o755 },
        }],
        secret_env: Vec::new(),
        devices: Vec::new(),
        extra_hosts: vec![ExtraHost { name: text("db"), address: text("10.0.0.1") }],
        ulimits: vec![Ulimit { name: text("nofile"), soft: 1, hard: 2 }],
        shm_size_bytes: Some(64),
        cgroup_parent: Some(text("/builds")),
        platform: Platform {
            os: text("linux"),
            architecture: text("arm"),
            variant: Some(text("v7")),
            os_version: Some(text("1")),
            os_features: vec![text("x")],
        },
    }
}

fn mount(kind: RunMountKind) -> RunMount {
    RunMount { target: text("/m"), kind }
}

fn cache() -> RunCache {
    RunCache {
        id: text("/go"),
        sharing: CacheSharing::Shared,
        input: Some(2),
        read_only: false,
        mode: Some(0o700),
        uid: Some(1),
        gid: Some(2),
    }
}

fn secret() -> RunSecret {
    RunSecret { id: text("token"), required: true, mode: 0o400, uid: 1, gid: 2 }
}

fn agent() -> RunAgent {
    RunAgent { id: text("default"), required: true, mode: 0o600, uid: 1, gid: 2 }
}

/// A RUN with a mount of each kind.
fn mounting() -> RunOp {
    let mut mounts = vec![
        mount(RunMountKind::Bind { input: 1, read_only: true }),
        mount(RunMountKind::Tmpfs { size_bytes: Some(64), read_only: false }),
        mount(RunMountKind::Cache(cache())),
        mount(RunMountKind::Secret(secret())),
        mount(RunMountKind::Ssh(agent())),
    ];
    mounts.extend(run().mounts);
    let variable = SecretVariable { name: text("TOKEN"), id: text("token"), required: true };
    RunOp { mounts, secret_env: vec![variable], ..run() }
}

fn image() -> ImageOp {
    ImageOp {
        chain_id: ChainId(Digest::sha256(b"chain")),
        source: ImageSource {
            name: text("busybox"),
            manifest: Digest::sha256(b"manifest"),
            location: ImageLocation::OciLayout { path: "layout".into(), tag_or_digest: text("latest") },
            platform: Platform::new("linux", "amd64", None),
        },
    }
}

fn http() -> HttpOp {
    HttpOp {
        url: text("https://host/dir/file"),
        name: text("file"),
        checksum: Some(Digest::sha256(b"content")),
    }
}

fn git() -> GitOp {
    GitOp {
        url: text("https://host/a.git"),
        reference: Some(text("main")),
        checksum: Some(text("abcd")),
        repository: GitRepository::Removed,
        submodules: true,
        commit_times: false,
    }
}

fn mkdir() -> MkdirOp {
    MkdirOp { path: text("/app"), owner: Some(text("app")), mtime: None }
}

fn key_of(op: &Op, inputs: &[InputPart], salt: &[u8]) -> CacheKey {
    cache_key(Keyed { op, remote: None }, inputs, salt)
}

fn found_key(op: &Op, found: &str) -> CacheKey {
    cache_key(Keyed { op, remote: Some(&RemoteIdentity(text(found))) }, &[], b"root")
}

/// The key and the identity of an op without inputs.
fn hashes(op: &Op) -> (CacheKey, VertexDigest) {
    (key_of(op, &[], b"root"), vertex_digest(op, &[], &[]))
}

fn assert_all_differ(ops: &[(&str, Op)]) {
    for (index, (name, op)) in ops.iter().enumerate() {
        for (other_name, other) in &ops[..index] {
            let (ours, theirs) = (hashes(op), hashes(other));
            assert_ne!(ours.0, theirs.0, "keys of `{name}` and `{other_name}`");
            assert_ne!(ours.1, theirs.1, "identities of `{name}` and `{other_name}`");
        }
    }
}

macro_rules! changed {
    ($base:expr, $wrap:path, $($name:literal => |$op:ident| $change:expr),+ $(,)?) => {
        std::iter::once(("as it is", $wrap($base)))
            $(.chain(std::iter::once_with(|| ($name, { let mut $op = $base; $change; $wrap($op) }))))+
            .collect::<Vec<_>>()
    };
}

#[test]
fn every_field_of_a_run_changes_its_key() {
    assert_all_differ(&changed!(run(), Op::Run,
        "args" => |op| op.args[2] = text("make all"),
        "an arg in two" => |op| op.args = vec![text("/bin/sh"), text("-c"), text("ma"), text("ke")],
        "env" => |op| op.env[1] = text("A=c"),
        "order of env" => |op| op.env.reverse(),
        "no env" => |op| op.env.clear(),
        "an arg that is in env" => |op| { let moved = op.env.remove(0); op.args.push(moved) },
        "cwd" => |op| op.cwd = text("/"),
        "user" => |op| op.user = text(""),
        "hostname" => |op| op.hostname = Some(text("other")),
        "no hostname" => |op| op.hostname = None,
        "empty hostname" => |op| op.hostname = Some(text("")),
        "network" => |op| op.network = NetworkMode::None,
        "host network" => |op| op.network = NetworkMode::Host,
        "security" => |op| op.security = SecurityMode::Insecure,
        "no mounts" => |op| op.mounts.clear(),
        "mount target" => |op| op.mounts[0].target = text("/x"),
        "mount content" => |op| op.mounts[0].kind =
            RunMountKind::Inline { content: b"#!/bin/ash".to_vec(), mode: 0o755 },
        "mount mode" => |op| op.mounts[0].kind =
            RunMountKind::Inline { content: b"#!/bin/sh".to_vec(), mode: 0o700 },
        "host name" => |op| op.extra_hosts[0].name = text("cache"),
        "ulimit name" => |op| op.ulimits[0].name = text("nproc"),
        "soft limit" => |op| op.ulimits[0].soft = -1,
        "hard limit" => |op| op.ulimits[0].hard = 3,
        "shm" => |op| op.shm_size_bytes = Some(65),
        "no shm" => |op| op.shm_size_bytes = None,
        "device" => |op| op.devices.push(text("vendor.com/gpu=0")),
        "other device" => |op| op.devices.push(text("vendor.com/gpu=1")),
        "cgroup" => |op| op.cgroup_parent = None,
        "os" => |op| op.platform.os = text("windows"),
        "architecture" => |op| op.platform.architecture = text("amd64"),
        "variant" => |op| op.platform.variant = None,
        "os version" => |op| op.platform.os_version = None,
        "os features" => |op| op.platform.os_features.clear(),
    ));
}

#[test]
fn every_field_of_a_mount_changes_its_key() {
    let bind = |input, read_only| mount(RunMountKind::Bind { input, read_only });
    let tmpfs = |size_bytes, read_only| mount(RunMountKind::Tmpfs { size_bytes, read_only });
    let cached = |change: fn(&mut RunCache)| {
        let mut cache = cache();
        change(&mut cache);
        mount(RunMountKind::Cache(cache))
    };
    let hidden = |change: fn(&mut RunSecret)| {
        let mut secret = secret();
        change(&mut secret);
        mount(RunMountKind::Secret(secret))
    };
    let forwarded = |change: fn(&mut RunAgent)| {
        let mut agent = agent();
        change(&mut agent);
        mount(RunMountKind::Ssh(agent))
    };
    assert_all_differ(&changed!(mounting(), Op::Run,
        "order" => |op| op.mounts.reverse(),
        "one less" => |op| { op.mounts.pop(); },
        "one twice" => |op| op.mounts.push(op.mounts[0].clone()),
        "target of a bind" => |op| op.mounts[0].target = text("/n"),
        "input of a bind" => |op| op.mounts[0] = bind(2, true),
        "a bind that can be written to" => |op| op.mounts[0] = bind(1, false),
        "target of a tmpfs" => |op| op.mounts[1].target = text("/n"),
        "size of a tmpfs" => |op| op.mounts[1] = tmpfs(Some(65), false),
        "a tmpfs of any size" => |op| op.mounts[1] = tmpfs(None, false),
        "a tmpfs that cannot be written to" => |op| op.mounts[1] = tmpfs(Some(64), true),
        "target of a cache" => |op| op.mounts[2].target = text("/n"),
        "a cache that begins with another input" => |op| op.mounts[2] = cached(|cache| cache.input = Some(1)),
        "a cache that begins empty" => |op| op.mounts[2] = cached(|cache| cache.input = None),
        "a cache that cannot be written to" => |op| op.mounts[2] = cached(|cache| cache.read_only = true),
        "mode of a cache" => |op| op.mounts[2] = cached(|cache| cache.mode = Some(0o755)),
        "no mode of a cache" => |op| op.mounts[2] = cached(|cache| cache.mode = None),
        "owner of a cache" => |op| op.mounts[2] = cached(|cache| cache.uid = Some(2)),
        "no owner of a cache" => |op| op.mounts[2] = cached(|cache| cache.uid = None),
        "group of a cache" => |op| op.mounts[2] = cached(|cache| cache.gid = Some(1)),
        "target of a secret" => |op| op.mounts[3].target = text("/n"),
        "which secret" => |op| op.mounts[3] = hidden(|secret| secret.id = text("x")),
        "a secret that may be missing" => |op| op.mounts[3] = hidden(|secret| secret.required = false),
        "mode of a secret" => |op| op.mounts[3] = hidden(|secret| secret.mode = 0o440),
        "owner of a secret" => |op| op.mounts[3] = hidden(|secret| secret.uid = 2),
        "group of a secret" => |op| op.mounts[3] = hidden(|secret| secret.gid = 1),
        "target of an agent" => |op| op.mounts[4].target = text("/n"),
        "which agent" => |op| op.mounts[4] = forwarded(|agent| agent.id = text("x")),
        "an agent that may be missing" => |op| op.mounts[4] = forwarded(|agent| agent.required = false),
        "mode of an agent" => |op| op.mounts[4] = forwarded(|agent| agent.mode = 0o666),
        "owner of an agent" => |op| op.mounts[4] = forwarded(|agent| agent.uid = 2),
        "group of an agent" => |op| op.mounts[4] = forwarded(|agent| agent.gid = 1),
        "name of a variable" => |op| op.secret_env[0].name = text("X"),
        "secret of a variable" => |op| op.secret_env[0].id = text("x"),
        "a variable that may be missing" => |op| op.secret_env[0].required = false,
        "no variable" => |op| op.secret_env.clear(),
        "no group of a cache" => |op| op.mounts[2] = cached(|cache| cache.gid = None),
    ));
}

#[test]
fn every_field_of_a_copy_changes_its_key() {
    let path = |input, path: &str| CopySource::Path { input, path: text(path) };
    let inline =
        |name: &str, content: &[u8]| CopySource::Inline { name: text(name), content: content.to_vec() };
    assert_all_differ(&changed!(copy(), Op::Copy,
        "path" => |op| op.sources[0] = path(1, "lib"),
        "input" => |op| op.sources[0] = path(2, "src"),
        "order" => |op| op.sources.reverse(),
        "inline name" => |op| op.sources[1] = inline("END", b"body"),
        "inline content" => |op| op.sources[1] = inline("EOF", b"other"),
        "destination" => |op| op.destination = text("/app"),
        "chown" => |op| op.chown = Some(text("root")),
        "no chown" => |op| op.chown = None,
        "chmod" => |op| op.chmod = Some(Chmod::Octal(0o700)),
        "symbolic chmod" => |op| op.chmod = Some(Chmod::Symbolic(text("755"))),
        "no chmod" => |op| op.chmod = None,
        "remote path" => |op| op.sources[0] = CopySource::Remote { input: 1, path: text("src") },
        "remote input" => |op| op.sources[0] = CopySource::Remote { input: 2, path: text("src") },
        "other remote path" => |op| op.sources[0] = CopySource::Remote { input: 1, path: text("lib") },
        "unpack" => |op| op.unpack = Unpack::Archives,
        "unpack everything" => |op| op.unpack = Unpack::Everything,
        "parents" => |op| op.parents = true,
        "exclude" => |op| op.exclude = vec![text("*"), text(".o")],
        "no exclude" => |op| op.exclude.clear(),
    ));
}

#[test]
fn the_other_operations_differ_by_their_fields() {
    let mut ops = changed!(mkdir(), Op::Mkdir,
        "path" => |op| op.path = text("/app2"),
        "owner" => |op| op.owner = None,
        "time" => |op| op.mtime = Some(0),
    );
    ops.extend(changed!(image(), Op::Image,
        "chain ID" => |op| op.chain_id = ChainId(Digest::sha256(b"other")),
    ));
    ops.extend(changed!(http(), Op::Http,
        "URL" => |op| op.url = text("https://host/other/file"),
        "name" => |op| op.name = text("other"),
        "checksum" => |op| op.checksum = Some(Digest::sha256(b"other")),
        "no checksum" => |op| op.checksum = None,
    ));
    ops.extend(changed!(git(), Op::Git,
        "repository" => |op| op.url = text("https://host/b.git"),
        "reference" => |op| op.reference = Some(text("next")),
        "no reference" => |op| op.reference = None,
        "commit" => |op| op.checksum = Some(text("abc")),
        "no commit" => |op| op.checksum = None,
        "kept" => |op| op.repository = GitRepository::Kept,
        "submodules" => |op| op.submodules = false,
    ));
    ops.push(("scratch", Op::Scratch));
    ops.push(("merge", Op::Merge));
    ops.push(("context", Op::Context(ContextOp { name: text("context") })));
    ops.push(("other context", Op::Context(ContextOp { name: text("other") })));
    assert_all_differ(&ops);
}

#[test]
fn what_does_not_change_a_result_is_in_no_hash() {
    let same = changed!(run(), Op::Run,
        "proxies" => |op| op.proxy_env.clear(),
        "addresses" => |op| op.extra_hosts[0].address = text("10.0.0.2"),
    );
    for (name, op) in &same {
        assert_eq!(hashes(op), hashes(&Op::Run(run())), "{name}");
    }
    let same = changed!(mounting(), Op::Run,
        "which cache" => |op| op.mounts[2] = mount(RunMountKind::Cache(RunCache { id: text("x"), ..cache() })),
        "who shares it" => |op| op.mounts[2] =
            mount(RunMountKind::Cache(RunCache { sharing: CacheSharing::Locked, ..cache() })),
    );
    for (name, op) in &same {
        assert_eq!(hashes(op), hashes(&Op::Run(mounting())), "{name}");
    }
    let mut elsewhere = image();
    elsewhere.source.name = text("mirror/busybox");
    elsewhere.source.manifest = Digest::sha256(b"other");
    elsewhere.source.platform = Platform::new("linux", "arm64", None);
    elsewhere.source.location = ImageLocation::OciLayout { path: "b".into(), tag_or_digest: text("1") };
    assert_eq!(hashes(&Op::Image(elsewhere)), hashes(&Op::Image(image())));
}

#[test]
fn the_key_of_a_remote_source_is_what_was_found_and_not_where() {
    let here = Op::Http(http());
    let mut keys = vec![found_key(&here, "sha256:a"), found_key(&here, "sha256:b")];
    keys.push(found_key(&Op::Http(HttpOp { name: text("other"), ..http() }), "sha256:a"));
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    let elsewhere = Op::Http(HttpOp { url: text("http://mirror/x"), checksum: None, ..http() });
    assert_eq!(found_key(&elsewhere, "sha256:a"), keys[0]);
}

#[test]
fn the_key_of_a_commit_is_the_commit_unless_the_repository_is_kept() {
    let key = |op: GitOp| found_key(&Op::Git(op), "commit");
    let same = [
        GitOp { url: text("git://mirror/a"), ..git() },
        GitOp { reference: None, ..git() },
        GitOp { checksum: None, ..git() },
    ];
    assert!(same.into_iter().all(|op| key(op) == key(git())));
    let kept = || GitOp { repository: GitRepository::Kept, ..git() };
    let mut keys = vec![key(git()), found_key(&Op::Git(git()), "other")];
    keys.push(key(GitOp { submodules: false, ..git() }));
    keys.push(key(GitOp { commit_times: true, ..git() }));
    keys.push(key(kept()));
    keys.push(key(GitOp { url: text("git://mirror/a"), ..kept() }));
    keys.push(key(GitOp { reference: None, ..kept() }));
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

#[test]
fn a_whole_hash_is_the_identity_of_a_commit() {
    let identity = |reference: &str| Op::Git(GitOp { reference: Some(text(reference)), ..git() }).identity();
    for hash in ["a1".repeat(20), "0f".repeat(32)] {
        assert_eq!(identity(&hash), Identity::Pinned(RemoteIdentity(hash.clone())));
    }
    for other in ["main", &"a1".repeat(19), &"A1".repeat(20), &"g1".repeat(20)] {
        assert_eq!(identity(other), Identity::Asked, "{other}");
    }
}

#[test]
fn a_checksum_is_the_identity_of_a_file() {
    let digest = Digest::sha256(b"content").to_string();
    assert_eq!(Op::Http(http()).identity(), Identity::Pinned(RemoteIdentity(digest)));
    assert_eq!(Op::Http(HttpOp { checksum: None, ..http() }).identity(), Identity::Asked);
    assert_eq!(Op::Scratch.identity(), Identity::Written);
}

#[test]
fn inputs_and_salt_change_a_key() {
    let chain = |byte| InputPart::Chain(CacheKey([byte; 32]));
    let content = |byte| InputPart::Content(ContentDigest([byte; 32]));
    let variants = [
        vec![],
        vec![chain(1)],
        vec![chain(2)],
        vec![content(1)],
        vec![chain(1), chain(2)],
        vec![chain(2), chain(1)],
        vec![chain(1), content(2)],
        vec![content(2), chain(1)],
    ];
    let mut keys: Vec<_> = variants.iter().map(|parts| key_of(&Op::Merge, parts, b"root")).collect();
    keys.push(key_of(&Op::Merge, &[], b"single"));
    keys.push(key_of(&Op::Merge, &[], b""));
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

fn selector() -> Selector {
    Selector { paths: vec![text("a"), text("b")], wildcards: true, exclude: vec![text("c")], parents: false }
}

#[test]
fn inputs_their_kind_and_their_selector_change_an_identity() {
    let selectors = [
        selector(),
        Selector { paths: vec![text("ab")], ..selector() },
        Selector { paths: vec![text("b"), text("a")], ..selector() },
        Selector { paths: vec![text("a"), text("b"), text("c")], exclude: vec![], ..selector() },
        Selector { wildcards: false, ..selector() },
        Selector { exclude: vec![text("d")], ..selector() },
        Selector { parents: true, ..selector() },
    ];
    let mut keys = vec![InputKey::Chain];
    keys.extend(selectors.map(InputKey::Content));
    let mut digests = Vec::new();
    for key in keys {
        for byte in [1, 2] {
            let input = Input { vertex: crate::VertexId(0), key: key.clone() };
            digests.push(vertex_digest(&Op::Merge, &[input], &[VertexDigest([byte; 32])]));
        }
    }
    let distinct: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
}

#[test]
fn the_parts_of_a_key_name_what_it_is_made_of() {
    let inputs = [InputPart::Chain(CacheKey([1; 32])), InputPart::Content(ContentDigest([2; 32]))];
    let shown = |op: &Op| {
        let found = RemoteIdentity(text("sha256:…"));
        let remote = (op.identity() == Identity::Asked).then_some(&found);
        let parts = key_parts(Keyed { op, remote }, &inputs, b"root").0;
        parts.iter().map(|part| format!("{} = {}", part.name, part.value)).collect::<Vec<_>>().join("\n")
    };
    expect_test::expect_file!["expected/run-parts.txt"].assert_eq(&(shown(&Op::Run(run())) + "\n"));
    expect_test::expect_file!["expected/mounting-parts.txt"].assert_eq(&(shown(&Op::Run(mounting())) + "\n"));
    let http = Op::Http(HttpOp { checksum: None, ..http() });
    expect_test::expect_file!["expected/http-parts.txt"].assert_eq(&(shown(&http) + "\n"));
    let git = Op::Git(GitOp { repository: GitRepository::Kept, ..git() });
    expect_test::expect_file!["expected/git-parts.txt"].assert_eq(&(shown(&git) + "\n"));
    expect_test::expect_file!["expected/copy-parts.txt"].assert_eq(&(shown(&Op::Copy(copy())) + "\n"));
}

/// Keys are stored: whoever changes one of these makes all records of earlier builds unfindable, and has to raise the
/// number in the format.
#[test]
fn known_answers() {
    let inputs = [InputPart::Chain(CacheKey([1; 32])), InputPart::Content(ContentDigest([2; 32]))];
    let ops = [
        ("scratch", Op::Scratch),
        ("image", Op::Image(image())),
        ("copy", Op::Copy(copy())),
        ("mkdir", Op::Mkdir(mkdir())),
        ("run", Op::Run(run())),
        ("mounting", Op::Run(mounting())),
        ("merge", Op::Merge),
    ];
    let mut shown = Vec::new();
    for (name, op) in &ops {
        shown.push(format!("{name} key {}", key_of(op, &inputs, b"root")));
        shown.push(format!("{name} vertex {}", vertex_digest(op, &[], &[])));
    }
    shown.push(format!("http key {}", found_key(&Op::Http(http()), "sha256:a")));
    shown.push(format!("http vertex {}", vertex_digest(&Op::Http(http()), &[], &[])));
    shown.push(format!("git key {}", found_key(&Op::Git(git()), "commit")));
    let kept = Op::Git(GitOp { repository: GitRepository::Kept, ..git() });
    shown.push(format!("kept git key {}", found_key(&kept, "commit")));
    shown.push(format!("git vertex {}", vertex_digest(&Op::Git(git()), &[], &[])));
    shown.push(format!("selector {}", hex::encode(selector().digest())));
    expect_test::expect_file!["expected/known-answers.txt"].assert_eq(&(shown.join("\n") + "\n"));
}

#[test]
fn the_format_is_what_the_documentation_says() {
    let mut expected = Vec::new();
    for text in ["format", "rbuild.key.1", "salt", "root", "op", "merge"] {
        expected.extend((text.len() as u64).to_le_bytes());
        expected.extend(text.as_bytes());
    }
    assert_eq!(key_of(&Op::Merge, &[], b"root").0, *blake3::hash(&expected).as_bytes());
}
