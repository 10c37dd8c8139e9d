//! Other platforms than the machine's, emulated, and several in one build.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Lab, Ran, Tree, bases, json, run};
use crate::rootless::User;

const QEMU: &str = "/usr/bin/qemu-aarch64-static";

/// Programs, children of programs, a script, and another user.
const EMULATED: &str = "FROM platforms
RUN uname -m > /o && sh -c 'busybox uname -m; /bin/sh -c \"uname -m\"' >> /o
RUN <<X
#!/bin/ash
echo script $(uname -m) $0 >> /o
X
";

const EVERYWHERE: &str = "aarch64\naarch64\naarch64\nscript aarch64 /dev/pipes/X\n";

fn platforms(layout: &Path) -> String {
    assert!(Path::new(QEMU).exists(), "install qemu-user-static");
    format!("--build-context=platforms=oci-layout://{}:busybox-platforms", layout.display())
}

fn tar_output(lab: &Lab) -> String {
    format!("--output=type=tar,dest={}", lab.path("tree.tar").display())
}

/// Runs a build as root of namespaces of its own, after a script.
fn build_within(lab: &Lab, script: &str, context: &Path, arguments: &[&str]) -> Ran {
    let build = lab.build_command(context, arguments);
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(build.get_program()).args(build.get_args());
    command.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(lab.directory.path()).stdin(Stdio::null());
    Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(120)))
}

/// Whatever handlers the machine has, these namespaces have none.
const NO_HANDLERS: &str = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc";

/// And this is one that all can use.
const HANDLER: &str = r"mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf '%s' ':q:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:FP' > /proc/sys/fs/binfmt_misc/register";

#[test]
fn root_runs_programs_of_another_platform() {
    let lab = Lab::new();
    let dockerfile =
        format!("{EMULATED}USER app\nRUN uname -m > /tmp/app; whoami >> /tmp/app; echo $HOME >> /tmp/app");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let tree = lab.build_tree(&context, &["--platform=linux/arm64", &platforms(&bases())]);
    assert_eq!(tree.text("o"), EVERYWHERE);
    assert_eq!(tree.text("tmp/app"), "aarch64\napp\n/home/app\n");
    let dev: Vec<&str> = tree.names().into_iter().filter(|name| name.starts_with("dev/")).collect();
    assert_eq!(dev, Vec::<&str>::new(), "the emulator leaves no trace");
    // Nothing was registered for anybody else.
    let handlers = std::fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, Iterator::count);
    if handlers <= 2 {
        // By another process, for the same reason as the binary of the users' labs.
        let (archive, directory) = (lab.path("tree.tar"), lab.path("home"));
        run("tar", &["-xf", &archive.to_string_lossy(), "-C", &directory.to_string_lossy(), "bin/busybox"]);
        let program = directory.join("bin/busybox");
        let error = Command::new(&program).spawn().expect_err("the machine has no handler");
        assert_eq!(error.raw_os_error(), Some(8), "ENOEXEC");
    }
}

#[test]
fn users_run_programs_of_another_platform() {
    for (name, id, first) in [("rbuild-arm", 23421, Some(2_001_300_000)), ("rbuild-arm1", 23422, None)] {
        let user = User::new(name, id, first);
        let (lab, context) = user.lab(&[("Dockerfile", EMULATED)]);
        let arguments = [&tar_output(&lab), "--platform=linux/arm64", &platforms(&lab.path("bases"))];
        user.build(&lab, &context, &arguments).succeeded();
        assert_eq!(Tree::read(&lab.path("tree.tar")).text("o"), EVERYWHERE, "{name}");
    }
}

#[test]
fn a_handler_of_the_machine_is_enough() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", EMULATED)]);
    let arguments = [&tar_output(&lab), "--platform=linux/arm64", &platforms(&bases())];
    build_within(&lab, &format!("{HANDLER}\nexport RBUILD_EMULATORS="), &context, &arguments).succeeded();
    assert_eq!(Tree::read(&lab.path("tree.tar")).text("o"), EVERYWHERE);
}

#[test]
fn without_handler_and_emulator_the_error_tells_what_is_missing() {
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM platforms\nRUN echo x\n")]);
    let arguments = ["--platform=linux/arm64", &platforms(&bases())];
    let none = format!("{NO_HANDLERS}\nexport RBUILD_EMULATORS=");
    build_within(&lab, &none, &context, &arguments).failed(
        3,
        &[
            "exec /bin/sh: exec format error",
            "Dockerfile:2",
            "this machine does not run programs of linux/arm64",
            "hint: install emulators (package `qemu-user-static`)",
        ],
    );
    // Programs of this machine need nothing, whatever the stage is called.
    let dockerfile = "FROM busybox\nRUN echo native > /o\n";
    let context = lab.context("native", &[("Dockerfile", dockerfile)]);
    build_within(&lab, &none, &context, &[&tar_output(&lab), "--platform=linux/arm64"]).succeeded();
    assert_eq!(Tree::read(&lab.path("tree.tar")).text("o"), "native\n");
}

#[test]
fn without_a_namespace_for_handlers_the_program_alone_is_emulated() {
    let lab = Lab::new();
    let context = lab.context(
        "ctx",
        &[("Dockerfile", "FROM platforms\nRUN echo $0 > /o; read x < /proc/self/comm; echo $x >> /o\n")],
    );
    let arguments = [&tar_output(&lab), "--platform=linux/arm64", &platforms(&bases())];
    let script = format!("{NO_HANDLERS}\necho 0 > /proc/sys/user/max_user_namespaces");
    build_within(&lab, &script, &context, &arguments).succeeded();
    let shown = Tree::read(&lab.path("tree.tar")).text("o");
    assert!(shown.starts_with("/bin/sh\n"), "{shown}");
    let context = lab
        .context("child", &[("Dockerfile", "FROM platforms\nRUN [\"/bin/busybox\", \"uname\", \"-m\"]\n")]);
    let ran = build_within(&lab, &script, &context, &arguments).succeeded();
    assert!(ran.stderr.contains(" aarch64\n"), "{}", ran.stderr);
    let context =
        lab.context("children", &[("Dockerfile", "FROM platforms\nRUN /bin/busybox uname -m; /bin/true\n")]);
    build_within(&lab, &script, &context, &arguments).failed(
        1,
        &[
            "did not complete successfully: exit code: 126",
            "hint: the emulator ran this program, but not what it started",
            "a handler in binfmt_misc",
        ],
    );
}

const SEVERAL: &str = "FROM --platform=$BUILDPLATFORM busybox AS tool
RUN echo once > /once
FROM platforms
ARG TARGETPLATFORM
COPY --from=tool /once /once
RUN echo $TARGETPLATFORM $(uname -m) > /o
LABEL platform=$TARGETPLATFORM
";

/// What skopeo sees of an image for an architecture.
fn inspect(reference: &str, architecture: &str) -> Value {
    let architecture = format!("--override-arch={architecture}");
    json("skopeo", &[&architecture, "inspect", "--tls-verify=false", &format!("docker://{reference}")])
}

#[test]
fn several_platforms_are_pushed_as_an_index() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", SEVERAL)]);
    let name = format!("{}/made/app:v1", registry.address());
    let (metadata, iid) = (lab.path("metadata.json"), lab.path("iid"));
    let built = lab
        .build(
            &context,
            &[
                "--platform=linux/arm64,linux/amd64,linux/aarch64",
                "--push",
                "-t",
                &name,
                &platforms(&bases()),
                &format!("--metadata-file={}", metadata.display()),
                &format!("--iidfile={}", iid.display()),
            ],
        )
        .succeeded();
    assert_eq!(built.executed().iter().filter(|step| step.starts_with("RUN echo once")).count(), 1);
    for step in
        ["[linux/arm64 stage-1 3/3] RUN", "[linux/amd64 stage-1 3/3] RUN", "[linux/amd64 tool 2/2] RUN"]
    {
        assert!(built.stderr.contains(step), "{step}:\n{}", built.stderr);
    }
    let digest = built.stdout.trim();
    let index = json("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let found: Vec<&Value> = index["manifests"]
        .as_array()
        .expect("an index")
        .iter()
        .map(|entry| &entry["platform"]["architecture"])
        .collect();
    assert_eq!(found, ["arm64", "amd64"], "in the order of the command line");
    for architecture in ["arm64", "amd64"] {
        let image = inspect(&name, architecture);
        assert_eq!(image["Architecture"], architecture);
        assert_eq!(image["Labels"]["platform"], format!("linux/{architecture}"));
    }
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("metadata is JSON");
    assert_eq!(metadata["containerimage.digest"], digest);
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], index["mediaType"]);
    assert_eq!(metadata.get("containerimage.config.digest"), None, "an index has no config");
    assert_eq!(std::fs::read_to_string(iid).expect("an ID"), digest);

    // It is in the store, from where it can be pushed again, and a base like any other.
    let listed = lab.rbuild(&["images", "--format=json"]).succeeded();
    assert!(listed.stdout.contains(digest), "{}", listed.stdout);
    let other = testkit::RealRegistry::start();
    let base = format!("FROM {name}\nRUN cat /o\n");
    let context = lab.context("next", &[("Dockerfile", &base)]);
    let next = lab.build(&context, &["--platform=linux/arm64"]).succeeded();
    assert!(next.stderr.contains("linux/arm64 aarch64"), "{}", next.stderr);
    lab.build(&context, &["--platform=linux/s390x"])
        .failed(1, &["has no image for linux/s390x; it has `linux/arm64`, `linux/amd64`"]);
    let renamed = format!("{}/copy:v1", other.address());
    let context = lab.context("again", &[("Dockerfile", SEVERAL)]);
    let again = lab
        .build(&context, &["--platform=linux/arm64,linux/amd64", "-t", &renamed, &platforms(&bases())])
        .succeeded();
    assert_eq!(again.stdout, built.stdout, "all of it was known");
    assert_eq!(lab.rbuild(&["push", &renamed]).succeeded().stdout, built.stdout);
    assert_eq!(inspect(&renamed, "arm64")["Digest"], inspect(&name, "arm64")["Digest"]);
}

#[test]
fn files_of_several_platforms_are_apart() {
    let lab = Lab::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETPLATFORM\nRUN echo $TARGETPLATFORM > /o\n\
                      FROM scratch\nCOPY --from=b /o /o\n";
    let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
    let several = "--platform=linux/arm64,linux/arm/v7";
    let out = lab.path("out");
    lab.build(&context, &[several, &format!("--output={}", out.display())]).succeeded();
    let read = |path: &str| std::fs::read_to_string(out.join(path)).expect("the file is there");
    assert_eq!(
        (read("linux_arm64/o"), read("linux_arm_v7/o")),
        ("linux/arm64\n".into(), "linux/arm/v7\n".into())
    );
    lab.build(&context, &[several, &tar_output(&lab)]).succeeded();
    let tree = Tree::read(&lab.path("tree.tar"));
    assert_eq!(tree.text("linux_arm_v7/o"), "linux/arm/v7\n");
    let together = format!("--output=type=local,dest={},platform-split=false", lab.path("x").display());
    lab.build(&context, &[several, &together])
        .failed(1, &["cannot overwrite /o from linux/arm64 with linux/arm/v7 when split option is disabled"]);
    let split = format!("--output=type=local,dest={},platform-split=true", lab.path("one").display());
    lab.build(&context, &["--platform=linux/arm64", &split]).succeeded();
    assert!(lab.path("one/linux_arm64/o").exists());
    let docker = format!("--output=type=docker,dest={}", lab.path("docker.tar").display());
    lab.build(&context, &[several, &docker])
        .failed(2, &["docker exporter does not currently support exporting manifest lists"]);
    // An index of one, if that is asked for.
    let archive = lab.path("one.tar");
    let oci = format!("--output=type=oci,dest={}", archive.display());
    lab.build(&context, &["--platform=linux/arm64", "--build-arg=BUILDKIT_MULTI_PLATFORM=1", &oci])
        .succeeded();
    let index = json("skopeo", &["inspect", "--raw", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
}

#[test]
fn several_platforms_have_one_cache() {
    let dockerfile = "FROM platforms\nRUN cat /proc/sys/kernel/random/uuid > /a\nRUN uname -m > /b\n";
    for mode in ["min", "max"] {
        let first = Lab::new();
        let context = first.context("ctx", &[("Dockerfile", dockerfile)]);
        let base = platforms(&bases());
        let flags = ["--platform=linux/amd64,linux/arm64", &base, "-t", "x"];
        let directory = first.path("cache").display().to_string();
        let to = format!("--cache-to=type=local,dest={directory},mode={mode}");
        let made = first.build(&context, &[&flags[..], &[&to]].concat()).succeeded();
        assert_eq!(made.executed().len(), 4, "{}", made.stderr);
        let from = format!("--cache-from=type=local,src={directory}");
        let again = Lab::new().build(&context, &[&flags[..], &[&from]].concat()).succeeded();
        assert_eq!((again.executed(), again.stdout), (Vec::new(), made.stdout), "{mode}: {}", again.stderr);
    }
}
