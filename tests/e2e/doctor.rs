//! `rbuild doctor`.

use serde_json::Value;

use crate::lab::{Lab, Ran};

/// The findings of `doctor --format json`.
fn findings(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// The finding of this name.
#[track_caller]
fn finding<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("{check}: {findings:?}"))
}

#[test]
fn root_learns_what_works_and_no_store_is_made() {
    let lab = Lab::new();
    let ran = lab.rbuild(&["doctor", "--format=json"]).succeeded();
    let all = findings(&ran);
    for check in ["kernel", "ids", "sandbox", "store", "snapshots"] {
        let found = finding(&all, check);
        assert_eq!((&found["status"], &found["fatal"]), (&"ok".into(), &false.into()), "{found}");
    }
    for check in ["proc", "space", "container", "cgroups", "network", "platforms", "git", "ssh agent"] {
        assert!(!finding(&all, check)["detail"].as_str().expect("a text").is_empty());
    }
    assert!(
        finding(&all, "store")["detail"].as_str().expect("a text").contains("is made by the first build")
    );
    assert!(!lab.root().exists());
    let table = lab.rbuild(&["doctor"]).succeeded();
    assert!(table.stdout.starts_with("ok        kernel         Linux "), "{}", table.stdout);
    assert!(table.stdout.lines().last().expect("a line").starts_with("Builds work here"), "{}", table.stdout);
    let context = lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    lab.build(&context, &[]).succeeded();
    let all = findings(&lab.rbuild(&["doctor", "--format=json"]).succeeded());
    assert!(finding(&all, "store")["detail"].as_str().expect("a text").contains("is there"));
}

#[test]
fn programs_that_are_not_there_are_told() {
    let lab = Lab::new();
    let config = r#"{"credHelpers": {"r.example": "never"}, "credsStore": "none"}"#;
    std::fs::create_dir(lab.path("home/.docker")).expect("a directory can be made");
    std::fs::write(lab.path("home/.docker/config.json"), config).expect("a file can be written");
    let mut command = lab.command();
    command.args(["doctor", "--format=json"]).env("PATH", lab.path("home")).env("SSH_AUTH_SOCK", "/none");
    let ran = Ran::from(testkit::run_with_timeout(command, std::time::Duration::from_secs(60))).succeeded();
    let all = findings(&ran);
    for (check, status, detail, remedy) in [
        ("git", "missing", "not installed", "`git`"),
        ("network", "limited", "`pasta` is not installed", "`passt`"),
        ("ssh agent", "missing", "`/none` of SSH_AUTH_SOCK: No such file", "ssh-agent"),
        ("credentials", "missing", "docker-credential-never, docker-credential-none", "credsStore"),
    ] {
        let found = finding(&all, check);
        assert_eq!(found["status"], status, "{found}");
        assert!(found["detail"].as_str().expect("a text").contains(detail), "{found}");
        assert!(found["remedy"].as_str().expect("a text").contains(remedy), "{found}");
    }
}

#[test]
fn what_keeps_builds_from_working_makes_it_fail() {
    let lab = Lab::new();
    std::fs::write(lab.root(), "a file").expect("a file can be written");
    let ran = lab.rbuild(&["doctor"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stdout);
    assert!(ran.stdout.contains("missing   store"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("\nBuilds do not work here.\n"), "{}", ran.stdout);
    let lab = Lab::new();
    lab.configure("[registry.\"a\"]\nmirors = []\n");
    let all = lab.rbuild(&["doctor", "--format=json"]).failed(3, &[]);
    assert_eq!(finding(&findings(&all), "configuration")["fatal"], true);
}
