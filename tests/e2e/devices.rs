//! Devices of the machine in RUN, by specifications that the tests write.

use std::path::PathBuf;

use crate::lab::Lab;
use crate::rootless::User;

const SPECIFICATION: &str = "cdiVersion: 0.6.0
kind: v.com/c
containerEdits:
  env: [KIND=c]
devices:
- name: zero
  annotations: {org.mobyproject.buildkit.device.class: all}
  containerEdits:
    env: [ZERO=injected]
    deviceNodes: [{path: /dev/box/zero, hostPath: /dev/zero}]
    mounts: [{hostPath: /etc/passwd, containerPath: /host/passwd, options: [ro, nosuid, bind]}]
- name: hooked
  containerEdits:
    hooks: [{hookName: createContainer, path: /usr/bin/hook}]
- name: free
  annotations: {org.mobyproject.buildkit.device.autoallow: \"true\"}
  containerEdits: {env: [FREE=yes]}
";

const DOCKERFILE: &str = "FROM busybox
RUN --device=v.com/c=all,required echo $KIND $ZERO > /said && head -c 3 /dev/box/zero | wc -c >> /said \\
    && grep -c ^root: /host/passwd >> /said && (echo x >> /host/passwd) 2>/dev/null || echo ro >> /said
RUN test ! -e /dev/box && test ! -e /host && test -z \"$ZERO\"
";

/// Writes the specification, and gives the text of a configuration that names it.
fn specify(lab: &Lab) -> String {
    let directory = lab.path("cdi");
    std::fs::create_dir(&directory).expect("a directory can be made");
    std::fs::write(directory.join("v.yaml"), SPECIFICATION).expect("a file can be written");
    format!("[cdi]\nspecDirs = [{:?}]\n", directory.display().to_string())
}

#[test]
fn a_step_gets_the_devices_that_it_asks_for() {
    let lab = Lab::new();
    lab.configure(&specify(&lab));
    let context = lab.context("ctx", &[("Dockerfile", DOCKERFILE)]);
    lab.build(&context, &[]).failed(
        1,
        &["device v.com/c=zero is requested by the build but not allowed", "--allow device=v.com/c=zero"],
    );
    assert_eq!(lab.build_tree(&context, &["--allow=device"]).text("said"), "c injected\n3\n1\nro\n");
    let again = lab.build(&context, &["--allow=device=v.com/c=zero"]).succeeded();
    assert_eq!(again.executed(), Vec::<String>::new(), "{}", again.stderr);
}

#[test]
fn devices_that_cannot_be_had_are_told() {
    let lab = Lab::new();
    lab.configure(&specify(&lab));
    let with = |device: &str| {
        lab.context(
            "ctx",
            &[("Dockerfile", &format!("FROM busybox\nRUN --device={device} test $FREE = yes\n"))],
        )
    };
    lab.build(&with("v.com/c=free"), &[]).succeeded();
    let hooked =
        ["device `v.com/c=hooked` wants a hook (`/usr/bin/hook` at `createContainer`)", "Dockerfile:2"];
    lab.build(&with("v.com/c=hooked"), &["--allow=device"]).failed(1, &hooked);
    let missing = ["required device \"v.com/c=none\" is not registered", "registered are `v.com/c=free`"];
    lab.build(&with("v.com/c=none,required"), &["--allow=device"]).failed(1, &missing);
    let context =
        lab.context("optional", &[("Dockerfile", "FROM busybox\nRUN --device=v.com/c=none true\n")]);
    let built = lab.build(&context, &[]).succeeded();
    assert!(built.stderr.contains("Optional device \"v.com/c=none\" is not registered"), "{}", built.stderr);
    lab.configure("[cdi]\ndisabled = true\n");
    lab.build(&with("v.com/c=free,required"), &[]).failed(1, &["hint: devices are switched off"]);
    lab.build(&context, &["--allow=devices"]).failed(2, &["unknown entitlement devices"]);
}

#[test]
fn an_ordinary_user_gets_the_machines_own_node() {
    let user = User::new("rbuild-device", 23482, Some(2_000_900_000));
    let (lab, context) = user.lab(&[("Dockerfile", DOCKERFILE)]);
    let configuration: PathBuf = lab.path("home/.config/rbuild/config.toml");
    std::fs::create_dir_all(configuration.parent().expect("it has a parent"))
        .expect("a directory can be made");
    std::fs::write(&configuration, specify(&lab)).expect("a file can be written");
    user.build(&lab, &context, &["--allow=device"]).succeeded();
}
