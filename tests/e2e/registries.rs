//! Pulling from and pushing to a real registry.

use serde_json::Value;

use crate::lab::{Lab, Ran, TIMEOUT, bases, json, run};

fn registry_with_bases() -> testkit::RealRegistry {
    let registry = testkit::RealRegistry::start();
    registry.load_oci_layout(bases(), "library");
    registry
}

fn inspect(reference: &str) -> Value {
    json("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{reference}")])
}

#[test]
fn an_image_is_built_on_a_pulled_base_and_pushed() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let address = registry.address();
    let dockerfile = format!("FROM {address}/library/busybox\nRUN echo new > /new\nLABEL made=here\n");
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let name = format!("{address}/made/app:v1");
    let built = lab.build(&context, &["--push", "-t", &name]).succeeded();
    let image = inspect(&name);
    assert_eq!(image["Labels"]["made"], "here");
    assert_eq!(image["Digest"], built.stdout.trim());
    assert_eq!(image["Layers"].as_array().map(Vec::len), Some(2));
    let again = lab.build(&context, &["--push", "-t", &name]).succeeded();
    assert_eq!(again.stdout, built.stdout);
}

#[test]
fn a_mirror_serves_for_the_hub() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    lab.configure(&format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.address()));
    let context = lab.context("ctx", &[("Dockerfile", "FROM rich-base\nRUN echo $BASE_ENV > /value\n")]);
    assert_eq!(lab.build_tree(&context, &[]).text("value"), "base\n");
}

#[test]
fn base_layers_that_were_never_pulled_are_pushed_and_saved() {
    let registry = registry_with_bases();
    let other = testkit::RealRegistry::start();
    let lab = Lab::new();
    let dockerfile = format!("FROM {}/library/busybox\nLABEL only=config\n", registry.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let here = format!("{}/other/place:v1", registry.address());
    lab.build(&context, &["--push", "-t", &here]).succeeded();
    assert_eq!(inspect(&here)["Labels"]["only"], "config");
    let there = format!("{}/app:v1", other.address());
    lab.build(&context, &["--push", "-t", &there]).succeeded();
    assert_eq!(inspect(&there)["Layers"], inspect(&here)["Layers"]);
    let archive = lab.path("image.tar");
    lab.build(&context, &[&format!("--output=type=oci,dest={}", archive.display())]).succeeded();
    let image = json("skopeo", &["inspect", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(image["Layers"], inspect(&here)["Layers"]);
}

#[test]
fn a_second_build_pulls_nothing() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let dockerfile = format!("FROM {}/library/busybox\nRUN echo x > /x\n", registry.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    lab.build(&context, &["-t", "x"]).succeeded();
    let before = registry.blob_requests();
    lab.build(&context, &["-t", "x"]).succeeded();
    assert_eq!(registry.blob_requests(), before, "blobs were asked for again");
}

#[test]
fn a_kept_image_is_pushed_later() {
    let registry = testkit::RealRegistry::start();
    let lab = Lab::new();
    let context = lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let name = format!("{}/later:v1", registry.address());
    let built = lab.build(&context, &["-t", &name]).succeeded();
    lab.rbuild(&["push", &name]).succeeded();
    assert_eq!(inspect(&name)["Digest"], built.stdout.trim());
    lab.rbuild(&["push", "never/built:x"]).failed(1, &["never/built:x"]);
}

#[test]
fn references_by_digest_are_pulled() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let name = format!("{}/library/busybox", registry.address());
    let digest = inspect(&name)["Digest"].as_str().expect("an image has a digest").to_owned();
    let context = lab.context("ctx", &[("Dockerfile", &format!("FROM {name}:latest@{digest}\nRUN true\n"))]);
    lab.build(&context, &["-t", "x"]).succeeded();
}

/// The binary resolves names without the host's C library: it runs in an empty root with a resolv.conf alone.
#[test]
fn names_are_resolved_in_an_empty_root() {
    let registry = registry_with_bases();
    let lab = Lab::new();
    let root = lab.path("empty");
    std::fs::create_dir_all(root.join("etc")).expect("a directory can be made");
    std::fs::create_dir_all(root.join("ctx")).expect("a directory can be made");
    std::fs::create_dir_all(root.join("dev")).expect("a directory can be made");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), root.join("rbuild")).expect("the binary can be copied");
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 registry.test\n").expect("a file can be written");
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("a file can be written");
    let (_, port) = registry.address().rsplit_once(':').expect("an address has a port");
    let name = format!("registry.test:{port}");
    std::fs::write(root.join("config.toml"), format!("[registry.\"{name}\"]\nhttp = true\n"))
        .expect("a file can be written");
    let dockerfile = format!("FROM {name}/library/busybox\nLABEL a=b\n");
    std::fs::write(root.join("ctx/Dockerfile"), dockerfile).expect("a file can be written");
    run(
        "env",
        &[
            "RBUILD_CONFIG=/config.toml",
            "chroot",
            &root.to_string_lossy(),
            "/rbuild",
            "build",
            "--root=/store",
            "--output=type=oci,dest=/image.tar",
            "/ctx",
        ],
    );
    assert!(root.join("image.tar").exists());
}

/// From the last line with an error on.
fn end_of(ran: &Ran) -> String {
    let at = ran.stderr.rfind("\nERROR: ").map_or(0, |at| at + 1);
    ran.stderr[at..].to_owned()
}

/// The end of a build whose base could not be had of the registry `address`.
fn of_image(address: &str, message: &str) -> String {
    format!(
        "ERROR: failed to build: failed to solve: failed to resolve source metadata for \
         {address}/library/busybox:latest: cannot get the image `{address}/library/busybox`: {message}"
    )
}

/// docker's config.json with the user `me` for `registry`, in a directory of its own.
fn docker_login(lab: &Lab, registry: &str) -> std::path::PathBuf {
    // "bWU6c2VjcmV0" is `me:secret`.
    let text = format!(r#"{{"auths":{{"{registry}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    lab.context("docker", &[("config.json", &text)])
}

fn uploads(registry: &testkit::RealRegistry) -> usize {
    registry.requests(|request| {
        let is_upload = ["POST ", "PATCH ", "PUT "].iter().any(|method| request.starts_with(method));
        is_upload && request.contains("/blobs/uploads/")
    })
}

#[test]
fn an_image_goes_to_several_registries_and_is_sent_once() {
    let authority = testkit::Authority::new();
    let certificate = authority.certificate("server", "IP:127.0.0.1", 2);
    let base = testkit::RealRegistry::start_with(&testkit::RealSettings {
        certificate: Some(&certificate),
        access: testkit::RealAccess::Password,
        ..testkit::RealSettings::default()
    });
    base.load_oci_layout(bases(), "library");
    let (open, closed) = (
        testkit::RealRegistry::start(),
        testkit::RealRegistry::start_with(&testkit::RealSettings {
            access: testkit::RealAccess::Password,
            ..testkit::RealSettings::default()
        }),
    );
    let lab = Lab::new();
    lab.configure(&format!(
        "[registry.\"{0}\"]\nhttp = false\ninsecure = false\nca = [\"{1}\"]\n[transfers]\nmaxUploads = 2\n",
        base.address(),
        authority.root().certificate.display()
    ));
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}},"https://{}/v1/":{{"auth":"bWU6c2VjcmV0"}}}}}}"#,
        base.address(),
        closed.address()
    );
    let docker = lab.context("docker", &[("config.json", &text)]);
    let dockerfile = format!("FROM {}/library/busybox\nRUN echo new > /new\n", base.address());
    let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
    let names = [
        format!("{}/app:v1", open.address()),
        format!("{}/app:v2", open.address()),
        format!("{}/other/app:v1", open.address()),
        format!("{}/team/app:v1", closed.address()),
    ];
    let push = || {
        let mut command = lab.build_command(&context, &["--push"]);
        command.args(names.iter().flat_map(|name| ["-t", name])).env("DOCKER_CONFIG", &docker);
        Ran::from(testkit::run_with_timeout(command, TIMEOUT)).succeeded()
    };
    let built = push();
    for name in &names[..3] {
        assert_eq!(inspect(name)["Digest"], built.stdout.trim(), "{name}");
    }
    let arguments = ["inspect", "--tls-verify=false", "--creds=me:secret"];
    let closed_image = json("skopeo", &[&arguments[..], &[&format!("docker://{}", names[3])]].concat());
    assert_eq!(closed_image["Digest"], built.stdout.trim());
    // Config and layers come once, with two requests each; the second repository mounts them with one.
    let layers = closed_image["Layers"].as_array().map_or(0, Vec::len);
    assert_eq!((uploads(&open), layers), (2 * (1 + layers) + layers + 2, 2));
    let before = (uploads(&open), uploads(&closed));
    push();
    assert_eq!((uploads(&open), uploads(&closed)), before, "a second push sends no blob");
}

#[test]
fn credentials_come_from_a_helper_a_file_or_a_flag() {
    let registry = testkit::RealRegistry::start_with(&testkit::RealSettings {
        access: testkit::RealAccess::Password,
        ..testkit::RealSettings::default()
    });
    registry.load_oci_layout(bases(), "library");
    let (lab, address) = (Lab::new(), registry.address());
    let context =
        lab.context("ctx", &[("Dockerfile", &format!("FROM {address}/library/busybox\nLABEL a=b\n"))]);
    let script = format!(
        "#!/bin/sh\nread server\n[ \"$server\" = {address} ] || exit 1\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"secret\"}}'\n"
    );
    let programs = lab.context("programs", &[("source", &script)]);
    run(
        "install",
        &[
            "-m",
            "755",
            &programs.join("source").to_string_lossy(),
            &programs.join("docker-credential-vault").to_string_lossy(),
        ],
    );
    let helped = lab.context("helped", &[("config.json", r#"{"credsStore":"vault"}"#)]);
    let containers = lab.context("run", &[]).join("containers");
    std::fs::create_dir_all(&containers).expect("a directory can be made");
    let in_team = format!(r#"{{"auths":{{"{address}/library":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    std::fs::write(containers.join("auth.json"), in_team).expect("a file can be written");
    let login = docker_login(&lab, address);

    let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("there is a PATH"));
    let build = |arguments: &[&str], variables: &[(&str, &std::ffi::OsStr)]| {
        let mut command = lab.build_command(&context, &[arguments, &["--no-cache"]].concat());
        command.envs(variables.iter().copied());
        Ran::from(testkit::run_with_timeout(command, TIMEOUT))
    };
    build(&[], &[("DOCKER_CONFIG", helped.as_os_str()), ("PATH", path.as_ref())]).succeeded();
    build(&[], &[("XDG_RUNTIME_DIR", lab.path("run").as_os_str())]).succeeded();
    build(&[], &[("REGISTRY_AUTH_FILE", login.join("config.json").as_os_str())]).succeeded();
    build(&[&format!("--authfile={}", login.join("config.json").display())], &[]).succeeded();
    build(&["--creds=me:secret"], &[]).succeeded();

    let denied =
        format!("401 unauthorized: `{address}` wants credentials for `{address}/library/busybox:latest`");
    let failed = |ran: Ran, message: &str| assert_eq!(end_of(&ran), of_image(address, message));
    failed(
        build(&[], &[]),
        &format!("{denied}\nhint: log in with `docker login {address}`; rbuild reads docker's config.json\n"),
    );
    failed(
        build(&["--creds=me:wrong"], &[]),
        &format!(
            "{denied} and refuses those it got\nhint: the credentials in docker's config.json may be out of date: \
             `docker login {address}`\n"
        ),
    );
    let file = helped.join("config.json");
    failed(
        build(&[], &[("DOCKER_CONFIG", helped.as_os_str())]),
        &format!(
            "the credentials for `{address}` cannot be read: there is no credential helper \
             `docker-credential-vault` in PATH, and `{0}` names it\n\
             hint: install `docker-credential-vault`, or take `vault` out of `{0}`\n",
            file.display()
        ),
    );
    build(&["--authfile=gone"], &[]).failed(2, &["ERROR: there is no file `gone` for `--authfile`\n"]);
    build(&["--creds=me"], &[]).failed(2, &["it should be `USER:PASSWORD`"]);
}

#[test]
fn certificates_come_from_a_directory_or_do_not_count() {
    let authority = testkit::Authority::new();
    let certificate = authority.certificate("server", "IP:127.0.0.1", 2);
    let registry = testkit::RealRegistry::start_with(&testkit::RealSettings {
        certificate: Some(&certificate),
        clients: Some(&authority),
        ..testkit::RealSettings::default()
    });
    registry.load_oci_layout(bases(), "library");
    let (lab, address) = (Lab::new(), registry.address());
    lab.configure(&format!("[registry.\"{address}\"]\nhttp = false\ninsecure = false\n"));
    let context =
        lab.context("ctx", &[("Dockerfile", &format!("FROM {address}/library/busybox\nLABEL a=b\n"))]);
    let testkit::Certificate { certificate, key } = authority.certificate("client", "DNS:me", 2);
    let own = lab.path("home/.config/docker/certs.d").join(address);
    let flat = lab.path("certs");
    for directory in [&own, &flat] {
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let files = [
            (authority.root().certificate, "ca.crt"),
            (certificate.clone(), "client.cert"),
            (key.clone(), "client.key"),
        ];
        for (from, to) in files {
            std::fs::copy(from, directory.join(to)).expect("a file can be copied");
        }
    }
    lab.build(&context, &["--no-cache"]).succeeded();
    std::fs::remove_dir_all(&own).expect("a directory can be removed");
    let message = format!(
        "the certificate of `{address}` is not trusted, for `{address}/library/busybox:latest`: its authority is not \
         known\nhint: put its authority into /etc/docker/certs.d/{address}/ca.crt, or name it with `ca` in \
         `[registry.\"{address}\"]` of config.toml; `insecure = true` there accepts any certificate\n"
    );
    assert_eq!(end_of(&lab.build(&context, &["--no-cache"])), of_image(address, &message));
    lab.build(&context, &["--no-cache", "--cert-dir=certs"]).succeeded();
    lab.build(&context, &["--cert-dir=gone"])
        .failed(2, &["ERROR: there is no directory `gone` for `--cert-dir`\n"]);
}

#[test]
fn how_often_a_request_is_repeated_can_be_said() {
    let registry = testkit::ScriptedRegistry::start();
    registry.load_oci_layout(bases(), "library");
    let (lab, address) = (Lab::new(), registry.address());
    let context =
        lab.context("ctx", &[("Dockerfile", &format!("FROM {address}/library/busybox\nLABEL a=b\n"))]);
    let message = |request: &str| {
        format!(
            "`{address}` answered 500 to {request}: SCRIPTED: scripted\n\
             hint: the registry, or a proxy before it, has trouble of its own: try again later\n"
        )
    };
    let of_base = message(&format!("GET manifest of `{address}/library/busybox:latest`"));
    lab.configure("[transfers]\nretries = 1\nretryDelay = 0\n");
    for (arguments, faults, fails) in
        [(&[][..], 1, false), (&[], 2, true), (&["--retry=2"], 2, false), (&["--retry=0"], 1, true)]
    {
        let before = registry.count("GET", "/manifests/latest");
        registry.fault("GET", "/manifests/latest", faults, testkit::FaultKind::Status(500, None));
        let ran = lab.build(&context, &[arguments, &["--no-cache"]].concat());
        if fails {
            assert_eq!(end_of(&ran), of_image(address, &of_base));
        } else {
            ran.succeeded();
        }
        assert_eq!(registry.count("GET", "/manifests/latest") - before, faults + usize::from(!fails));
    }
    let name = format!("{address}/app:v1");
    registry.fault("PUT", "/manifests/v1", 2, testkit::FaultKind::Status(500, None));
    let ran = lab.build(&context, &["--push", "-t", &name]);
    let of_push = message(&format!("PUT manifest of `{name}`"));
    assert_eq!(end_of(&ran), format!("ERROR: failed to push `{name}`: {of_push}"));
    // What fails with one registry keeps no other from the image, and each failure is told.
    let others = [testkit::ScriptedRegistry::start(), testkit::ScriptedRegistry::start()];
    others[0].fault("PUT", "/manifests/v1", 1, testkit::FaultKind::Status(403, None));
    registry.fault("PUT", "/manifests/v1", 1, testkit::FaultKind::Status(403, None));
    let names = [address, others[0].address(), others[1].address()].map(|host| format!("{host}/app:v1"));
    let tags = names.iter().flat_map(|name| ["-t", name]);
    let ran = lab.build(&context, &["--push"].into_iter().chain(tags).collect::<Vec<_>>());
    let hosts = std::collections::BTreeSet::from([address, others[0].address()]);
    let messages = hosts.iter().map(|host| {
        format!(
            "failed to push `{host}/app:v1`: `{host}` denies access to `{host}/app:v1`: SCRIPTED: scripted"
        )
    });
    let hint = "the repository may not exist, or this account may not do that";
    assert_eq!(end_of(&ran), format!("ERROR: {}\nhint: {hint}\n", messages.collect::<Vec<_>>().join("; ")));
    assert!(others[1].manifest("app", "v1").is_some());
    lab.configure("[transfers]\nretrys = 1\n");
    lab.build(&context, &[]).failed(2, &["unknown field `retrys`"]);
}
