//! README.md and the pages of docs/ from their first line to their last: files that they show are written, commands that
//! they show are run, and what they say is shown is compared.
//!
//! How a page marks its blocks:
//! - `sh`: commands, all of which have to succeed.
//! - `console`: commands after `$ `, each with what it shows; `…` is any text, or any lines where it stands alone. With
//!   `exit=CODE` they end with that code.
//! - `title=PATH`, beside any language: a file, which is written where the commands before it have gone to.
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
const MOST_UNRUN: usize = 8;

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
    cache_page: "docs/cache.md",
    debugging: "docs/debugging.md",
    outputs: "docs/outputs.md",
    registries: "docs/registries.md",
    configuration: "docs/configuration.md",
    rootless: "docs/rootless.md",
    ci: "docs/ci.md",
    moving: "docs/moving.md",
}

#[test]
fn each_page_has_a_test() {
    let there = std::fs::read_dir(root().join("docs")).expect("there are docs");
    let names =
        there.map(|entry| entry.expect("docs can be read").file_name().to_string_lossy().into_owned());
    let pages: BTreeSet<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
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
            let file = target.split('#').next().unwrap_or_default();
            let directory = path.parent().expect("a page is in a directory");
            if !file.is_empty() && !directory.join(file).exists() {
                wrong.push(format!("{page}:{line}: {target}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
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

/// Runs a page in namespaces of its own, in which registries have the addresses that the page calls them by.
fn run_page(test: &str, page: &'static str) {
    if std::env::var_os(INSIDE).is_some() {
        return run_blocks(page);
    }
    let this: PathBuf = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = testkit::run_with_timeout(command, LIMIT);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
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
