//! What a RUN costs beyond its command, beside what others take for the same.
//!
//! Everything is measured as the difference of many steps and of one, divided by the steps between, so that the start of
//! the program, the base and the end of the build do not count.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::TestUser;

use crate::lab::{Lab, shell};
use crate::median;

/// By what it is chosen.
pub(crate) const NAME: &str = "overhead of a RUN";

/// The steps of the long build, beyond the one of the short.
const STEPS: u32 = 40;
/// The same for programs that take longer.
const FEW_STEPS: u32 = 8;

/// In milliseconds: for root, and for an ordinary user.
const LIMITS_MS: [f64; 2] = [8.0, 12.0];

/// Crun and buildah take cgroups only in the form of their second version: in a mount namespace of their own they get
/// it, and they are told to make none, as moving a process into one costs milliseconds that rbuild does not spend.
const WITH_CGROUPS: &str = "[ -e /sys/fs/cgroup/cgroup.controllers ] ||
    { umount -l -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; }";

/// Who builds.
enum Builder {
    Root,
    User(TestUser),
}

impl Builder {
    fn command(&self, lab: &Place) -> Command {
        match self {
            Self::Root => Command::new(&lab.binary),
            Self::User(user) => user.command(&lab.binary),
        }
    }
}

/// Where one of them builds: a store that has the base, and contexts.
struct Place {
    binary: PathBuf,
    store: PathBuf,
    context: PathBuf,
    builds: u32,
}

impl Place {
    fn new(lab: &Lab, builder: &Builder) -> Result<Self, String> {
        let directory = lab.new_directory("overhead")?;
        // The directory that cargo builds in need not be open to others.
        let binary = directory.join("rbuild");
        std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &binary).map_err(|error| error.to_string())?;
        let (store, context) = (directory.join("store"), directory.join("context"));
        for made in [&store, &context] {
            std::fs::create_dir(made).map_err(|error| error.to_string())?;
        }
        if let Builder::User(user) = builder {
            user.give(&directory);
        }
        Ok(Self { binary, store, context, builds: 0 })
    }

    /// Builds a chain of RUNs that no cache knows.
    fn build(&mut self, lab: &Lab, builder: &Builder, network: &str, steps: u32) -> Result<Duration, String> {
        self.builds += 1;
        let steps = "RUN [\"true\"]\n".repeat(steps as usize);
        let dockerfile = format!("FROM busybox\nENV BUILD={}\n{steps}", self.builds);
        std::fs::write(self.context.join("Dockerfile"), dockerfile).map_err(|error| error.to_string())?;
        lab.sync();
        let mut command = builder.command(self);
        command.env("HOME", &self.store);
        command.args(["--output=type=cacheonly", &format!("--network={network}")]);
        lab.timed_build(&mut command, &self.store, &self.context)
    }
}

/// What a table of others' steps is made of: a script that runs `$1` of them.
struct Other {
    name: &'static str,
    steps: u32,
    script: String,
}

/// Prints a line for each.
pub(crate) fn report(lab: &Lab, runs: usize) -> Result<(), String> {
    let command = command_alone(lab, runs)?;
    println!("\n{NAME} beyond its command, which takes {:.2} ms", milliseconds(command));
    println!("{:64} {:>9} {:>9}  limit ms", "", "median ms", "least ms");
    let user = TestUser::new("rbuild-bench", 23450, Some(2_500_000_000));
    for (builder, name, limit) in
        [(Builder::Root, "root", LIMITS_MS[0]), (Builder::User(user), "an ordinary user", LIMITS_MS[1])]
    {
        let mut place = Place::new(lab, &builder)?;
        place.build(lab, &builder, "host", 1)?;
        for (network, shown) in [("none", "its own network namespace"), ("host", "the host's network")] {
            let mut flushes = Vec::new();
            let mut times = per_step(runs, STEPS, |steps| {
                let before = lab.flushes()?;
                let time = place.build(lab, &builder, network, steps)?;
                flushes.push((steps, lab.flushes()? - before));
                Ok(time)
            })?;
            print_line(&format!("rbuild as {name}, {shown}"), &mut times, command, &format!("{limit:.0}"));
            println!("    flushes of the device: {}", describe(&flushes));
        }
    }
    for other in others(lab)? {
        let mut times = per_step(runs, other.steps, |steps| {
            let directory = lab.new_directory("others")?;
            lab.sync();
            let script =
                format!("{WITH_CGROUPS}\ncd {}\nset -- {steps}\n{}", directory.display(), other.script);
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation=private", "bash", "-euc", &script]);
            crate::lab::timed(&mut command)
        })?;
        print_line(other.name, &mut times, command, "-");
    }
    Ok(())
}

/// The median count of the long and of the short builds.
fn describe(flushes: &[(u32, u64)]) -> String {
    let of = |wanted: u32| {
        let mut counts: Vec<u64> =
            flushes.iter().filter(|(steps, _)| *steps == wanted).map(|(_, count)| *count).collect();
        counts.sort_unstable();
        format!("{} in builds of {wanted}", counts[counts.len() / 2])
    };
    format!("{}, {}", of(1), of(1 + STEPS))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn print_line(name: &str, times: &mut [Duration], command: Duration, limit: &str) {
    let median = median(times).saturating_sub(command);
    let least = times[0].saturating_sub(command);
    println!("{name:64} {:9.2} {:9.2}  {limit}", milliseconds(median), milliseconds(least));
}

/// The time of one step: that of `1 + steps` without that of one, divided by `steps`.
fn per_step(
    runs: usize,
    steps: u32,
    mut time: impl FnMut(u32) -> Result<Duration, String>,
) -> Result<Vec<Duration>, String> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let one = time(1)?;
        times.push(time(1 + steps)?.saturating_sub(one) / steps);
    }
    Ok(times)
}

/// The program that the steps run, by itself.
fn command_alone(lab: &Lab, runs: usize) -> Result<Duration, String> {
    let directory = lab.new_directory("command")?;
    let mut times = per_step(runs, STEPS, |steps| {
        shell(&format!("for i in $(seq {steps}); do /bin/busybox true; done"), &directory)
    })?;
    Ok(median(&mut times))
}

/// The same program in the same root file system by others, as root, each step in its own network namespace.
fn others(lab: &Lab) -> Result<Vec<Other>, String> {
    let bundle = lab.new_directory("bundle")?;
    make_root(&bundle.join("rootfs")).map_err(|error| error.to_string())?;
    shell("crun spec", &bundle)?;
    set_program(&bundle.join("config.json")).map_err(|error| error.to_string())?;
    let root = bundle.join("rootfs").display().to_string();
    let buildah = "buildah --root $PWD/root --runroot $PWD/run --storage-driver overlay";
    let flags = "--network none --runtime crun --runtime-flag cgroup-manager=disabled";
    Ok(vec![
        Other {
            name: "crun run",
            steps: STEPS,
            script: format!(
                "for i in $(seq $1); do
                   crun --root $PWD --cgroup-manager=disabled run -b {} bench-$i; done",
                bundle.display()
            ),
        },
        Other {
            name: "buildah run",
            steps: FEW_STEPS,
            script: format!(
                "{buildah} from --name one scratch; {buildah} add one {root} /
                 for i in $(seq $1); do {buildah} run {flags} one /bin/true; done"
            ),
        },
        Other {
            name: "buildah build --layers, a RUN",
            steps: FEW_STEPS,
            script: format!(
                "{{ echo FROM scratch; echo COPY rootfs /
                   for i in $(seq $1); do echo 'RUN [\"/bin/true\"]'; done; }} > Dockerfile
                 {buildah} build --layers {flags} -f Dockerfile {}",
                bundle.display()
            ),
        },
    ])
}

/// Makes the program of a bundle the one that the steps run.
fn set_program(config: &Path) -> std::io::Result<()> {
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(config)?)?;
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["process"]["terminal"] = false.into();
    std::fs::write(config, spec.to_string())
}

fn make_root(root: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/true"))
}
