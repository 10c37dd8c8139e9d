//! What a Dockerfile may not get by any way of asking, and what a step does to others by what they share. (The escapes
//! that a single process would try are with the sandbox.)

use std::path::Path;

use crate::lab::{Lab, run};

/// BuildKit ran containers without asking for the entitlement, when they were asked for in another way than by a RUN.
#[test]
fn cve_2024_23653_entitlements_are_needed_however_they_are_asked_for() {
    let lab = Lab::new();
    let onbuild = |flag: &str| format!("FROM busybox\nONBUILD RUN {flag} true\n");
    for (name, flag) in [("security.insecure", "--security=insecure"), ("network.host", "--network=host")] {
        // An image whose trigger asks for it.
        let layout = lab.path(&format!("layout-{name}"));
        let context = lab.context("base", &[("Dockerfile", &onbuild(flag))]);
        let archive = lab.path("base.tar");
        lab.build(&context, &["-t=base:latest", &format!("--output=type=oci,dest={}", archive.display())])
            .succeeded();
        std::fs::create_dir(&layout).expect("a directory can be made");
        run("tar", &["-xf", &archive.to_string_lossy(), "-C", &layout.to_string_lossy()]);
        let base = format!("--build-context=base=oci-layout://{}:latest", layout.display());

        let plain = format!("RUN {flag} true\n");
        let dockerfiles = [
            format!("FROM busybox\n{plain}"),
            format!("FROM busybox AS one\nONBUILD {plain}FROM one\n"),
            format!(
                "FROM busybox AS one\nONBUILD {plain}FROM one AS two\nFROM two AS three\nFROM scratch\nCOPY --from=three / /\n"
            ),
            "FROM base\n".to_owned(),
            format!("FROM busybox AS one\n{plain}FROM busybox\nCOPY --from=one /etc /x\n"),
            format!("FROM busybox AS one\n{plain}FROM busybox\nRUN --mount=from=one,target=/m true\n"),
            format!("FROM busybox\nRUN --mount=from=base,target=/m true\n{plain}"),
            format!("FROM busybox\nRUN {flag} <<EOF\ntrue\nEOF\n"),
            format!("FROM busybox\nRUN {flag} [\"true\"]\n"),
        ];
        let other = if name == "network.host" { "security.insecure" } else { "network.host" };
        for dockerfile in &dockerfiles {
            let context = lab.context("ctx", &[("Dockerfile", dockerfile)]);
            for allow in ["--no-cache", &format!("--allow={other}")] {
                let ran = lab.build(&context, &[&base, allow]);
                let refused = format!("entitlement {name} is not allowed");
                let ran = ran.failed(1, &[&refused]);
                assert_eq!(ran.executed(), Vec::<String>::new(), "{dockerfile}");
            }
            // What is refused is nothing else.
            lab.build(&context, &[&base, &format!("--allow={name}")]).succeeded();
        }
        // A variable does not stand for the mode.
        let value = flag.split_once('=').expect("a flag has a value");
        let dockerfile = format!("FROM busybox\nARG MODE={}\nRUN {}=$MODE true\n", value.1, value.0);
        let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let ran = lab.build(&context, &[]);
        assert_eq!((ran.code, ran.executed().len()), (Some(1), 0), "{}", ran.stderr);
    }
}

/// A step puts links into a cache; those that come after mount below them and begin caches from them.
#[test]
fn cve_2024_23651_links_in_caches_and_stages_lead_nowhere() {
    let lab = Lab::new();
    let outside = lab.path("outside");
    std::fs::create_dir_all(outside.join("sub")).expect("a directory can be made");
    std::fs::write(outside.join("file"), "outside").expect("a file can be written");
    let up = format!("../../../../../../../../../../../..{}", outside.display());
    for target in [outside.to_str().expect("the path is text"), &up, "/proc/self/root"] {
        let links = format!(
            "FROM busybox AS links\nRUN --mount=type=cache,id=c,target=/c rm -rf /c/link; ln -s {target} /c/link; \
             ln -s {target} /link\n"
        );
        let uses = [
            // A mount point below the link: within the root file system of the step.
            "RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/link/sub true || true",
            "RUN --mount=type=cache,id=c,target=/c cat /c/link/file",
            "RUN --mount=from=links,source=/link/file,target=/m cat /m",
            "RUN --mount=type=cache,id=d,from=links,source=/link,target=/d cat /d/file",
            "COPY --from=links /link/file /copied",
        ];
        for line in uses {
            let dockerfile = format!("{links}FROM links\n{line}\n");
            let context = lab.context("ctx", &[("Dockerfile", &dockerfile)]);
            let ran = lab.build(&context, &[]);
            assert!(!ran.stderr.contains("outside\n"), "{dockerfile}{}", ran.stderr);
            assert_eq!(names(&outside), ["file", "sub"], "{dockerfile}");
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory can be read");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("a directory can be read").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
