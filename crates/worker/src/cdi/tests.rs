//! Specifications, and what they give to a process.

use sandbox::RootFs;

use super::*;

/// Directories with specifications: a directory, a name and a text each.
fn load(files: &[(&str, &str, &str)]) -> (tempfile::TempDir, DeviceRegistry) {
    let directory = tempfile::tempdir().unwrap();
    for (parent, name, text) in files {
        fs::create_dir_all(directory.path().join(parent)).unwrap();
        fs::write(directory.path().join(parent).join(name), text).unwrap();
    }
    let directories = ["low", "high", "missing"].map(|name| directory.path().join(name));
    let registry = DeviceRegistry::load(&directories);
    (directory, registry)
}

fn device(name: &str, edits: &str) -> String {
    format!(
        "cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n- name: \"{name}\"\n  containerEdits: {edits}\ncontainerEdits:\n  env: [ALL=1]\n"
    )
}

fn process() -> ProcessSpec {
    let mut spec = ProcessSpec::new(RootFs::Directory("/".into()), vec![b"x".to_vec()]);
    (spec.uid, spec.gid, spec.groups) = (7, 8, vec![8]);
    spec
}

fn give(registry: &DeviceRegistry, names: &[&str]) -> Result<ProcessSpec, String> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut spec = process();
    registry.give(&names, &mut spec).map_err(|error| error.to_string())?;
    Ok(spec)
}

#[test]
fn the_later_directory_counts_and_conflicts_are_nobodys() {
    let json = r#"{"cdiVersion": "1.0.0", "kind": "j.com/d", "annotations": {"a": "file", "b": "file"},
        "devices": [{"name": "x:1", "annotations": {"b": "device"}}]}"#;
    let (_directory, registry) = load(&[
        ("low", "a.yaml", &device("one", "{env: [FROM=low]}")),
        ("low", "b.yml", &device("two", "{env: [FROM=low]}")),
        ("low", "c.json", json),
        ("low", "ignored.txt", "?"),
        ("high", "a.yaml", &device("one", "{env: [FROM=high]}")),
        ("high", "b.yaml", &device("three", "{}")),
        ("high", "c.yaml", &device("three", "{}")),
    ]);
    let names: Vec<_> = registry.devices().map(|(name, _)| name).collect();
    assert_eq!(names, ["j.com/d=x:1", "v.com/c=one", "v.com/c=two"]);
    let (_, annotations) = registry.devices().next().unwrap();
    assert_eq!(annotations, BTreeMap::from([("a", "file"), ("b", "device")]));
    let [problem] = registry.problems() else { panic!("{:?}", registry.problems()) };
    assert!(problem.ends_with("another file describes the device `v.com/c=three`, too"), "{problem}");
    let spec = give(&registry, &["v.com/c=one", "v.com/c=two"]).unwrap();
    let env: Vec<_> = spec.env.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
    assert_eq!(env, ["ALL=1", "FROM=high", "ALL=1", "FROM=low"]);
    assert_eq!(give(&registry, &["v.com/c=three"]).unwrap_err(), "device `v.com/c=three` is not registered");
}

#[test]
fn everything_that_a_device_brings() {
    let edits = "
    additionalGids: [50, 8, 0]
    deviceNodes:
    - path: /dev/z
      hostPath: /dev/zero
      fileMode: 0640
      gid: 3
    - {path: /dev/b, type: b, major: 9, minor: 1, permissions: rwm}
    - path: /dev/null
    mounts:
    - {hostPath: /usr/lib/x, containerPath: /z/lib, options: [ro, nosuid, nodev, rbind, rprivate]}
    - {hostPath: /etc/x, containerPath: /a}";
    let (_directory, registry) = load(&[("low", "a.yaml", &device("d", edits))]);
    assert_eq!(registry.problems(), [""; 0]);
    let spec = give(&registry, &["v.com/c=d"]).unwrap();
    assert_eq!(spec.groups, [8, 50]);
    let node = |path: &str, source: &str, kind, (major, minor), mode, gid| DeviceNode {
        path: path.into(),
        source: source.into(),
        kind,
        major,
        minor,
        mode,
        uid: 7,
        gid,
    };
    let expected = [
        node("/dev/z", "/dev/zero", DeviceKind::Character, (1, 5), 0o640, 3),
        node("/dev/b", "/dev/b", DeviceKind::Block, (9, 1), 0o666, 8),
        node("/dev/null", "/dev/null", DeviceKind::Character, (1, 3), 0o666, 8),
    ];
    assert_eq!(spec.devices, expected);
    let bind = |target: &str, source: &str, is_restricted| MountSpec {
        target: target.into(),
        kind: MountKind::HostBind {
            source: source.into(),
            read_only: is_restricted,
            no_suid: is_restricted,
            no_exec: false,
        },
    };
    assert_eq!(spec.mounts, [bind("/a", "/etc/x", false), bind("/z/lib", "/usr/lib/x", true)]);
}

#[test]
fn what_is_not_supported_is_told() {
    let rows = [
        (
            "{hooks: [{hookName: createContainer, path: /usr/bin/hook, args: [a]}]}",
            "a hook (`/usr/bin/hook` at `createContainer`)",
        ),
        ("{netDevices: [{hostInterfaceName: eth1, name: eth1}]}", "a network device"),
        ("{intelRdt: {closID: x}}", "Intel RDT"),
        ("{deviceNodes: [{path: /dev/null, permissions: r}]}", "`/dev/null` with the permissions `r`"),
        ("{deviceNodes: [{path: /etc}]}", "`/etc`, which is no device"),
        ("{deviceNodes: [{path: /x, type: p, major: 0}]}", "a node of the type `p`"),
        ("{mounts: [{hostPath: /x, containerPath: /x, type: tmpfs}]}", "a mount of the type `tmpfs`"),
        ("{mounts: [{hostPath: /x, containerPath: /x, options: [rshared]}]}", "the mount option `rshared`"),
    ];
    for (edits, what) in rows {
        let (_directory, registry) = load(&[("low", "a.yaml", &device("d", edits))]);
        let expected = format!("device `v.com/c=d` wants {what}, which is not supported");
        assert_eq!(give(&registry, &["v.com/c=d"]).unwrap_err(), expected);
    }
    let (_directory, registry) =
        load(&[("low", "a.yaml", &device("d", "{deviceNodes: [{path: /dev/no-such}]}"))]);
    assert_eq!(
        give(&registry, &["v.com/c=d"]).unwrap_err(),
        "device `v.com/c=d`: cannot look at `/dev/no-such`"
    );
}

#[test]
fn files_that_are_wrong_are_told_and_passed_over() {
    let files = [
        ("a.yaml", "cdiVersion: 0.6.0\nkind: v.com/c\nunknown: 1\n".to_owned(), "unknown field `unknown`"),
        ("b.yaml", "cdiVersion: 2.0.0\nkind: v.com/c\n".to_owned(), "the version `2.0.0` is not known"),
        ("c.yaml", "cdiVersion: 0.6.0\nkind: vc\n".to_owned(), "the kind `vc` is not of the form"),
        ("d.json", "{".to_owned(), "EOF while parsing"),
        ("e.yaml", device("a b", "{}"), "`a b` is no name of a device"),
        ("f.yaml", device("x", "{env: [A]}"), "the variable `A` is not of the form"),
        ("g.yaml", " ".repeat(2 << 20), "it is too long"),
        ("h.yaml", "a: [".to_owned(), ""),
    ];
    let texts: Vec<_> = files.iter().map(|(name, text, _)| ("low", *name, text.as_str())).collect();
    let (_directory, registry) = load(&texts);
    assert_eq!((registry.devices().count(), registry.problems().len()), (0, files.len()));
    for ((name, _, reason), problem) in files.iter().zip(registry.problems()) {
        assert!(problem.contains(name) && problem.contains(reason), "{problem}");
    }
}
