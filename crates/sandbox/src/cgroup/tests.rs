//! On directories that look like cgroups: what version 2 gets to see can be told anywhere.

use super::*;
use crate::{RootFs, SwapLimit};

/// A tree in which each directory is to have these files.
struct Tree {
    directory: tempfile::TempDir,
    version: Version,
}

impl Tree {
    fn new(version: Version, directories: &[(&str, &[(&str, &str)])]) -> Self {
        let tree = Self { directory: tempfile::tempdir().unwrap(), version };
        for (name, files) in directories {
            fs::create_dir_all(tree.path(name)).unwrap();
            for (file, content) in *files {
                fs::write(tree.path(name).join(file), content).unwrap();
            }
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn hierarchy(&self, own: Option<&str>) -> Hierarchy {
        Hierarchy {
            root: self.path(""),
            version: self.version,
            controllers: ["memory", "cpu"].map(str::to_owned).to_vec(),
            own: own.map(|own| self.path(own)),
        }
    }
}

fn spec(limits: CgroupLimits) -> ProcessSpec {
    let mut spec = ProcessSpec::new(RootFs::Directory("/".into()), vec![b"x".to_vec()]);
    spec.cgroup_limits = limits;
    spec
}

fn memory() -> CgroupLimits {
    CgroupLimits { memory_bytes: Some(1 << 20), ..CgroupLimits::default() }
}

#[test]
fn each_level_of_version_two_passes_controllers_on() {
    let files: &[(&str, &str)] = &[("cgroup.subtree_control", "")];
    let tree = Tree::new(
        Version::Two,
        &[("", &[("cgroup.subtree_control", "memory pids\n")]), ("a", files), ("a/b", files)],
    );
    let hierarchy = tree.hierarchy(None);
    let mut cgroup = Cgroup::default();
    let both = [Controller::Memory, Controller::Cpu];
    let path = cgroup.make(&hierarchy, &tree.path("a/b"), &both).unwrap();
    assert!(path.starts_with(tree.path("a/b")) && path.is_dir());
    // A file keeps what was written last, where the kernel would add up.
    assert_eq!(tree.read("cgroup.subtree_control"), "+cpu");
    assert_eq!(tree.read("a/cgroup.subtree_control"), "+cpu");
    assert_eq!(tree.read("a/b/cgroup.subtree_control"), "+cpu");
    drop(cgroup);
    assert!(!path.exists());
}

#[test]
fn a_level_that_passes_nothing_on_is_told() {
    let tree = Tree::new(Version::Two, &[("a", &[])]);
    fs::create_dir(tree.path("cgroup.subtree_control")).unwrap();
    let error =
        Cgroup::default().make(&tree.hierarchy(None), &tree.path("a"), &[Controller::Cpu]).unwrap_err();
    let expected = format!("cannot make a cgroup at `{}`", tree.path("cgroup.subtree_control").display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn values_are_written() {
    let files: &[(&str, &str)] = &[("memory.max", "max"), ("memory.swap.max", "max"), ("cpu.weight", "100")];
    let tree = Tree::new(Version::Two, &[("a", files)]);
    let limits = CgroupLimits {
        memory_swap: Some(SwapLimit::TotalBytes(1 << 20)),
        cpu_shares: Some(2),
        cpu_quota_us: Some(1000),
        ..memory()
    };
    set(&tree.path("a"), &limits, Controller::Memory, Version::Two).unwrap();
    assert_eq!((tree.read("a/memory.max"), tree.read("a/memory.swap.max")), ("1048576".into(), "0".into()));
    // A file that the kernel does not have is not made.
    let error = set(&tree.path("a"), &limits, Controller::Cpu, Version::Two).unwrap_err();
    let file = tree.path("a/cpu.max");
    let expected = format!(
        "cannot limit `cpu-quota`: the controller `cpu` does not take `1000 100000` in `{}`",
        file.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(!file.exists() && tree.read("a/cpu.weight").starts_with('1'));
}

#[test]
fn a_controller_that_is_nowhere_is_told() {
    let tree = Tree::new(Version::Two, &[]);
    let limits = CgroupLimits { cpuset_cpus: Some("0".to_owned()), ..CgroupLimits::default() };
    let error = Cgroup::within(&[tree.hierarchy(None)], &spec(limits)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot limit what a step uses: the kernel offers no cgroup controller `cpuset`"
    );
    assert!(Cgroup::within(&[], &spec(CgroupLimits::default())).unwrap().is_none());
}

#[test]
fn a_parent_counts_wherever_it_is() {
    let memory_tree = Tree::new(Version::One, &[]);
    let cpu_tree = Tree::new(Version::One, &[("team/a", &[])]);
    let named_tree = Tree::new(Version::One, &[("team/a", &[])]);
    let of = |tree: &Tree, controller: &str| Hierarchy {
        controllers: vec!["rw".to_owned(), controller.to_owned()],
        ..tree.hierarchy(None)
    };
    let all = [of(&memory_tree, "memory"), of(&cpu_tree, "cpu"), of(&named_tree, "name=systemd")];
    let names = |limits: CgroupLimits, parent: &str| {
        let spec = ProcessSpec { cgroup_parent: Some(parent.to_owned()), ..spec(limits) };
        let wanted = wanted(&all, &spec).unwrap();
        wanted.iter().map(|(hierarchy, _)| hierarchy.controllers[1].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(memory(), "/team/a"), ["memory", "cpu"]);
    assert_eq!(names(CgroupLimits::default(), "team/a/"), ["cpu"]);
    // Where there is none yet, memory is counted.
    assert_eq!(names(CgroupLimits::default(), "/team/b"), ["memory"]);
}

#[test]
fn an_ordinary_user_gets_what_was_delegated() {
    // Even root cannot write in these two.
    let hierarchy = |own: &str| Hierarchy {
        root: "/proc/self".into(),
        version: Version::Two,
        controllers: vec!["memory".to_owned()],
        own: Some(own.into()),
    };
    let error = parent(&hierarchy("/proc/self/task"), &[Controller::Memory], None).unwrap_err();
    assert!(matches!(error, SandboxError::NotDelegated { version: 2, .. }), "{error}");
    assert!(error.hint().unwrap().contains("systemd-run --user --scope"));
    let asked_for = parent(&hierarchy("/proc/self/task"), &[Controller::Memory], Some("/a/b/")).unwrap();
    assert_eq!(asked_for, Path::new("/proc/self/a/b"));
}

#[test]
fn the_nearest_cgroup_that_passes_controllers_on_is_taken() {
    let passing: &[(&str, &str)] = &[("cgroup.subtree_control", "cpu memory\n"), ("cgroup.procs", "")];
    let idle: &[(&str, &str)] = &[("cgroup.subtree_control", "\n"), ("cgroup.procs", "")];
    let tree = Tree::new(Version::Two, &[("u", passing), ("u/s", passing), ("u/s/own", idle)]);
    let found = tree.hierarchy(Some("u/s/own"));
    // The directory of the tests can be written, the root of a real hierarchy only by root.
    let nearest = found.own_and_above().find(|directory| passes_on(directory, &[Controller::Memory]));
    assert_eq!(nearest, Some(tree.path("u/s").as_path()));
}
