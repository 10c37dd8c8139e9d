//! Several processes on one store.

use std::collections::BTreeSet;

use crate::lab::{Lab, Ran, Tree};

fn build_at_once(lab: &Lab, contexts: &[std::path::PathBuf]) -> Vec<Tree> {
    std::thread::scope(|scope| {
        let builds: Vec<_> = contexts
            .iter()
            .enumerate()
            .map(|(number, context)| {
                scope.spawn(move || {
                    let path = lab.path(&format!("tree-{number}.tar"));
                    let output = format!("--output=type=tar,dest={}", path.display());
                    Ran::from(testkit::run_with_timeout(
                        lab.build_command(context, &[&output]),
                        std::time::Duration::from_secs(120),
                    ))
                    .succeeded();
                    Tree::read(&path)
                })
            })
            .collect();
        builds.into_iter().map(|build| build.join().expect("a build succeeds")).collect()
    })
}

const RANDOM: &str = "FROM busybox AS a
RUN cat /proc/sys/kernel/random/uuid > /a
FROM busybox AS b
RUN sleep 1; cat /proc/sys/kernel/random/uuid > /b
FROM busybox
COPY --from=a /a /
COPY --from=b /b /
RUN cat /proc/sys/kernel/random/uuid > /c
";

#[test]
fn eight_builds_of_one_dockerfile_execute_each_step_once() {
    for snapshotter in ["overlay", "copy"] {
        let lab = Lab::with_snapshotter(snapshotter);
        let context = lab.context("ctx", &[("Dockerfile", RANDOM)]);
        let trees = build_at_once(&lab, &vec![context; 8]);
        for name in ["a", "b", "c"] {
            let results: BTreeSet<String> = trees.iter().map(|tree| tree.text(name)).collect();
            assert_eq!(results.len(), 1, "/{name} was made more than once: {results:?}");
        }
    }
}

#[test]
fn builds_of_different_dockerfiles_do_not_mix() {
    let lab = Lab::new();
    let contexts: Vec<_> = (0..4)
        .map(|number| {
            let dockerfile = format!(
                "FROM busybox\nRUN echo shared > /shared\nCOPY own /own\nRUN echo step {number} > /step && cat /own >> /step\n"
            );
            let own = format!("file {number}\n");
            lab.context(&format!("ctx-{number}"), &[("Dockerfile", &dockerfile), ("own", &own)])
        })
        .collect();
    for (number, tree) in build_at_once(&lab, &contexts).iter().enumerate() {
        assert_eq!(tree.text("step"), format!("step {number}\nfile {number}\n"));
        assert_eq!(tree.text("shared"), "shared\n");
    }
}
