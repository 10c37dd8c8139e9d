//! README.md and the pages of docs/ from their first line to their last: files that they show are written, commands that
//! they show are run, and what they say is shown is compared.
//!
//! How a page marks its blocks:
//! - `sh`: commands, all of which have to succeed.
//! - `console`: commands after `$ `, each with what it shows; `…` is any text, or any lines where it stands alone. With
//!   `exit=CODE` they end with that code.
//! - `title=PATH`, beside any language: a file, which is written where the commands before it have gone to.
//! - `shows=PATH`: has the text of a file, given from the directory of the page.
//! - `norun`, and the reason in words: commands that cannot run here. There are few.
//! - `yaml`: is parsed, and the commands in it that build are run. `toml` and `json` are parsed. `text` is no more than that.

mod markdown;
mod pattern;
mod place;
mod recipe;
mod shell;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use markdown::Block;
use place::Place;
use shell::Shell;

/// How long a page may take, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(240);

/// Tells that this process is the one with namespaces of its own.
const INSIDE: &str = "RBUILD_DOCS_INSIDE";

/// Blocks that do not run, in all pages.
const MOST_UNRUN: usize = 6;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A test for each page.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        const PAGES: &[&str] = &[$($path),*];
        $(#[test]
        fn $name() {
            run_page(stringify!($name), $path);
        })*
    };
}

pages! {
    readme: "README.md",
    index: "docs/README.md",
    tour: "docs/tour.md",
    inputs: "docs/inputs.md",
    dockerfiles: "docs/dockerfiles.md",
    steps: "docs/steps.md",
    cache_page: "docs/cache.md",
    debugging: "docs/debugging.md",
    outputs: "docs/outputs.md",
    watching: "docs/watching.md",
    images: "docs/images.md",
    registries: "docs/registries.md",
    configuration: "docs/configuration.md",
    rootless: "docs/rootless.md",
    ci: "docs/ci.md",
    moving: "docs/moving.md",
}

#[test]
fn each_page_has_a_test() {
    let there = std::fs::read_dir(root().join("docs")).expect("there are docs");
    let there = there.map(|entry| entry.expect("docs can be read").path());
    let pages: BTreeSet<String> = there
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            path.strip_prefix(root()).expect("it is in the repository").to_string_lossy().into_owned()
        })
        .collect();
    let tested: BTreeSet<String> =
        PAGES.iter().copied().filter(|page| *page != "README.md").map(str::to_owned).collect();
    assert_eq!(tested, pages);
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in PAGES {
        let path = root().join(page);
        for (line, target) in markdown::links(&read(page)) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let directory = path.parent().expect("a page is in a directory");
            let file = if file.is_empty() { path.clone() } else { directory.join(file) };
            let text = std::fs::read_to_string(&file);
            let is_there =
                |text: &String| anchor.is_empty() || markdown::anchors(text).iter().any(|a| a == anchor);
            if !text.as_ref().is_ok_and(is_there) {
                wrong.push(format!("{page}:{line}: {target}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What `docker buildx build` takes.
const DOCKERS_FLAGS: &str = "--add-host --allow --annotation --attest --build-arg --build-context --builder --cache-from \
    --cache-to --call --check --cgroup-parent --compress --cpu-period --cpu-quota --cpu-shares --cpuset-cpus \
    --cpuset-mems --debug --disable-content-trust --file --force-rm --iidfile --isolation --label --load --memory \
    --memory-swap --metadata-file --network --no-cache --no-cache-filter --output --platform --policy --print \
    --progress --provenance --pull --push --quiet --resource --rm --sbom --secret --security-opt --shm-size --squash \
    --ssh --tag --target --ulimit";

#[test]
fn the_page_for_moving_has_all_flags() {
    let page = read("docs/moving.md");
    let there: BTreeSet<&str> = flags(&page).collect();
    let foreign = read("src/arguments/foreign.rs");
    let foreign = foreign.split("];\n").next().expect("it begins with a table");
    // Those of buildctl have no page.
    let buildctl: BTreeSet<&str> = flags(
        "--local --frontend --opt --oci-layout --ref-file --import-cache --export-cache --proxy-network \
         --registry-auth-tlscontext --trace --invoke --on --detach --addr --driver --stream --snapshotMode --tarPath \
         --customPlatform --on-failure --break",
    )
    .collect();
    let missing: Vec<&str> = flags(DOCKERS_FLAGS)
        .chain(flags(foreign))
        .filter(|flag| !there.contains(flag) && !buildctl.contains(flag))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}

/// Flags that stand in Dockerfiles.
const OF_INSTRUCTIONS: &str =
    "--chown --chmod --checksum --device --exclude --from --link --mount --parents --security";

#[test]
fn flags_of_rbuild_are_rbuilds() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rbuild")).args(arguments).output();
        let output = output.expect("rbuild can be started");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let shown = run(&["completion", "bash"]);
    let mut known: BTreeSet<&str> = flags(&shown).chain(flags(OF_INSTRUCTIONS)).collect();
    known.extend(
        flags(DOCKERS_FLAGS).filter(|flag| !run(&["build", flag, "--help"]).contains("unexpected argument")),
    );
    let mut wrong = Vec::new();
    for page in PAGES {
        for (number, line) in (1..).zip(read(page).lines()) {
            for flag in markdown::flags_of_rbuild(line).filter(|flag| !known.contains(flag)) {
                wrong.push(format!("{page}:{number}: {flag}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The long flags in a text.
fn flags(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(move |c| !is_part(c)).filter(|word| word.starts_with("--") && word.len() > 3)
}

#[test]
fn blocks_show_the_files_that_they_say() {
    for block in PAGES.iter().flat_map(|page| blocks_of(page)) {
        let Some(file) = &block.shows else { continue };
        let path = root().join(block.page).with_file_name(file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let lines =
            |text: &str| text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&block.text()), lines(&text), "{}", block.place(0));
    }
}

/// The examples that `--help` has are run, too.
#[test]
fn examples_of_the_help() {
    inside("examples_of_the_help", || {
        let place = Place::new();
        let mut shell = Shell::start(&place);
        let dockerfile = "FROM busybox AS test\nRUN true\nFROM test\n";
        std::fs::write(place.path("page/Dockerfile"), dockerfile).expect("a file can be written");
        let help = Command::new(env!("CARGO_BIN_EXE_rbuild")).arg("--help").output();
        let help = String::from_utf8_lossy(&help.expect("rbuild can be started").stdout).into_owned();
        let examples = help.lines().filter_map(|line| line.strip_prefix("  rbuild "));
        let examples: Vec<&str> = examples.filter_map(|line| line.split("  ").next()).collect();
        assert!(examples.len() > 4, "{help}");
        for example in examples {
            shell.succeed(&format!("rbuild {example}"));
        }
    });
}

#[test]
fn few_blocks_are_not_run() {
    let blocks = PAGES.iter().flat_map(|page| blocks_of(page));
    let unrun: Vec<Block> = blocks.filter(|block| block.unrun.is_some()).collect();
    assert!(unrun.len() <= MOST_UNRUN, "{unrun:#?}");
    for Block { page, line, unrun, .. } in unrun {
        let words = unrun.unwrap_or_default().split_whitespace().count();
        assert!(words > 1, "{page}:{line}: say why it does not run");
    }
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn blocks_of(page: &'static str) -> Vec<Block> {
    markdown::blocks(page, &read(page))
}

/// Runs a page where registries have the addresses that the page calls them by.
fn run_page(test: &str, page: &'static str) {
    inside(test, || run_blocks(page));
}

/// Does something in a process that has namespaces of its own, which runs the test of this name once more.
fn inside(test: &str, work: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let this: PathBuf = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = testkit::run_with_timeout(command, LIMIT);
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{stderr}{stdout}");
    assert!(stdout.contains("1 passed"), "the test is called `{test}`: {stdout}");
}

fn run_blocks(page: &'static str) {
    let place = Place::new();
    match page {
        "README.md" => place.add_repository(),
        "docs/ci.md" => place.add_commit(),
        _ => {}
    }
    let mut shell = Shell::start(&place);
    for block in blocks_of(page) {
        shell.enter(&block);
    }
}
