//! Which devices a RUN gets, and what it may not have.

mod stub;

use frontend::{DeviceOptions, LowerOptions, RegisteredDevice, SourceFile, check, parse};
use solver::Op;
use stub::{Stub, build, options};

/// What is registered: two GPUs of one model, of which the second is for everybody, and something else.
fn registered() -> Vec<RegisteredDevice> {
    let device = |name: &str, class: Option<&str>, auto_allow| RegisteredDevice {
        name: name.to_owned(),
        class: class.map(str::to_owned),
        auto_allow,
    };
    vec![
        device("a.com/gpu=0", Some("big"), false),
        device("a.com/gpu=1", Some("big"), true),
        device("b.com/disk=x", None, false),
    ]
}

/// The devices of the RUN with these flags and the texts of warnings, or the text of what is wrong.
fn devices(flags: &str, devices: DeviceOptions) -> Result<(Vec<String>, Vec<String>), String> {
    let options =
        LowerOptions { devices: DeviceOptions { registered: registered(), ..devices }, ..options() };
    let built = build(&format!("FROM busybox\nRUN {flags} x"), &options);
    let lowered = built.map_err(|found| found.last().expect("something is wrong").message.clone())?;
    let Op::Run(run) = &lowered.graph.vertex(lowered.target).op else { panic!("the target is a RUN") };
    let warnings = lowered.warnings.into_iter().map(|warning| warning.message).collect();
    Ok((run.devices.clone(), warnings))
}

fn allowing(names: &[&str], aliases: &[(&str, &str)]) -> DeviceOptions {
    DeviceOptions {
        allowed: names.iter().map(|&name| name.to_owned()).collect(),
        aliases: aliases.iter().map(|&(alias, name)| (alias.to_owned(), name.to_owned())).collect(),
        ..DeviceOptions::default()
    }
}

fn all() -> DeviceOptions {
    DeviceOptions { all_allowed: true, ..DeviceOptions::default() }
}

#[test]
fn names_stand_for_devices() {
    let rows: [(&str, &[&str]); 7] = [
        ("", &[]),
        ("--device=a.com/gpu=1", &["a.com/gpu=1"]),
        ("--device=a.com/gpu", &["a.com/gpu=0"]),
        ("--device=a.com/gpu=*,required", &["a.com/gpu=0", "a.com/gpu=1"]),
        ("--device=a.com/gpu=big", &["a.com/gpu=0", "a.com/gpu=1"]),
        ("--device=b.com/disk=x --device=a.com/gpu=0", &["b.com/disk=x", "a.com/gpu=0"]),
        ("--device=a.com/gpu=1 --device=a.com/gpu=*", &["a.com/gpu=1", "a.com/gpu=0"]),
    ];
    for (flags, names) in rows {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(devices(flags, all()), Ok((names, Vec::new())), "{flags}");
    }
}

#[test]
fn what_is_missing_is_told() {
    let missing = "required device \"a.com/gpu=2\" is not registered".to_owned();
    assert_eq!(devices("--device=a.com/gpu=2,required", all()), Err(missing));
    let warning = "Optional device \"a.com/gpu=2\" is not registered".to_owned();
    assert_eq!(devices("--device=a.com/gpu=2", all()), Ok((Vec::new(), vec![warning])));
    for name in ["gpu", "a.com/", "-/gpu=0", "a.com/g.pu=0", "1/gpu=0"] {
        let expected = format!("invalid device \"{name}\"");
        assert_eq!(devices(&format!("--device={name}"), all()), Err(expected));
    }
}

#[test]
fn devices_have_to_be_allowed() {
    let both = "--device=b.com/disk=x --device=a.com/gpu=*";
    let error = |flags, allowed| devices(flags, allowed).unwrap_err();
    assert_eq!(
        error(both, allowing(&[], &[])),
        "devices b.com/disk=x, a.com/gpu=0 are requested by the build but not allowed"
    );
    assert_eq!(
        error(both, allowing(&["b.com/disk"], &[])),
        "device a.com/gpu=0 is requested by the build but not allowed"
    );
    assert_eq!(devices(both, allowing(&["b.com/disk", "a.com/gpu=big"], &[])).unwrap().0.len(), 3);
    let unknown = error(both, allowing(&["c.com/x=y"], &[]));
    assert_eq!(unknown, "required device \"c.com/x=y\" is not registered");
    // This one is for everybody.
    assert_eq!(devices("--device=a.com/gpu=1", allowing(&[], &[])).unwrap().0, ["a.com/gpu=1"]);
}

#[test]
fn an_alias_allows_what_it_stands_for() {
    let allowed = allowing(&[], &[("v.com/any=it", "a.com/gpu=0")]);
    let flags = "--device=a.com/gpu=1 --device=v.com/any=it,required";
    assert_eq!(devices(flags, allowed.clone()).unwrap().0, ["a.com/gpu=0", "a.com/gpu=1"]);
    let direct = devices("--device=a.com/gpu=0", allowed).unwrap_err();
    assert_eq!(direct, "device a.com/gpu=0 is requested by the build but not allowed");
}

#[test]
fn only_a_build_asks_for_devices() {
    let text = "FROM busybox\nRUN --device=a.com/gpu=0,required x\n".to_owned();
    let dockerfile = parse(&SourceFile { name: "Dockerfile".to_owned(), text });
    assert_eq!(check(&dockerfile, &options(), &mut Stub::default()), []);
}
