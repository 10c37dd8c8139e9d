//! Every Dockerfile of the repository is formatted, as it is and after random changes: the result says the same, builds
//! the same, and is not changed when it is formatted again.

mod stub;

use std::fs;
use std::path::{Path, PathBuf};

use frontend::{Diagnostic, Dockerfile, Instruction, LowerOptions, SourceFile, format, parse};
use oci::ImageConfig;
use solver::{Input, Op};
use stub::{build, options};

/// All steps with what they take, the target, the config and the contexts.
type Built = (Vec<(Op, Vec<Input>)>, usize, ImageConfig, Vec<String>);

/// What is built; where nothing is, all mistakes, each with its code and its message.
fn built(text: &str, options: &LowerOptions) -> Result<Built, Vec<(&'static str, String)>> {
    let mistakes = match build(text, options) {
        Ok(lowered) => {
            let steps = lowered.graph.vertices().iter();
            let steps = steps.map(|vertex| (vertex.op.clone(), vertex.inputs.clone())).collect();
            let contexts = lowered.contexts.into_iter().collect();
            return Ok((steps, lowered.target.index(), lowered.config, contexts));
        }
        Err(mistakes) => mistakes,
    };
    // Some warnings are about the layout itself.
    let mistakes = mistakes.into_iter().filter(Diagnostic::is_error);
    Err(mistakes.map(|mistake| (mistake.code, mistake.message)).collect())
}

/// What the tree says, one instruction a line, without the places. Stages that no target needs are in here too, and
/// what cannot be lowered yet.
fn describe(file: &Dockerfile) -> Vec<String> {
    let describe = |instruction: &Instruction| {
        let keyword = instruction.keyword.text.to_ascii_uppercase();
        format!("{keyword} {}", without_places(&format!("{:?}", instruction.kind)))
    };
    let mut lines: Vec<String> = file.global_arguments.iter().map(describe).collect();
    for stage in &file.stages {
        let head = format!("{:?} {:?} {:?}", stage.platform, stage.base, stage.name);
        lines.push(format!("FROM {}", without_places(&head)));
        lines.extend(stage.instructions.iter().map(describe));
    }
    lines.push(format!("{:?}", file.directives));
    lines
}

/// The debugging text of a tree without that of its spans.
fn without_places(text: &str) -> String {
    let mut parts = text.split("Span {");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once('}').map_or("", |(_, behind)| behind))
}

fn source(text: &str) -> SourceFile {
    SourceFile { name: "Dockerfile".to_owned(), text: text.to_owned() }
}

/// Formats `text`, if that is possible, and compares what it says before and after.
#[track_caller]
fn check(text: &str) -> Option<String> {
    let before = parse(&source(text));
    let has_errors = before.diagnostics.iter().any(Diagnostic::is_error);
    let formatted = format(&source(text)).ok();
    assert_eq!(formatted.is_none(), has_errors, "what parses is formatted: {text:?}");
    let formatted = formatted?;
    let after = parse(&source(&formatted));
    assert_eq!(describe(&before), describe(&after), "the same is said: {text:?} became {formatted:?}");
    let again = format(&source(&formatted));
    assert_eq!(again.as_ref(), Ok(&formatted), "the second time changes nothing: {text:?}");
    let names =
        before.stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| Some(name.text.clone()));
    for target in names.chain([None]) {
        let options = LowerOptions { target, ..options() };
        let (before, after) = (built(text, &options), built(&formatted, &options));
        assert!(before == after, "the same is built: {text:?} made {before:?}, {formatted:?} made {after:?}");
    }
    Some(formatted)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Dockerfiles of the repository: those of the recorded cases, base images, examples, and seeds.
fn dockerfiles() -> Vec<String> {
    let mut paths = Vec::new();
    let mut open: Vec<PathBuf> =
        ["testdata/conformance", "testdata/bases", "testdata/fuzz/dockerfile", "examples"]
            .map(|directory| repository().join(directory))
            .into();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("the directory is in the repository") {
            let path = entry.expect("the directory can be read").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // A link may lead nowhere, which is what some of the cases are about.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                open.push(path);
            } else if metadata.is_file()
                && (name.contains("ockerfile") || directory.ends_with("fuzz/dockerfile"))
            {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let data = fs::read(path).expect("a Dockerfile can be read");
        let text = String::from_utf8_lossy(&data).into_owned();
        // The stub has an image for each of the base images, save that it is called otherwise.
        ["nonroot-base", "links-base", "rich-base"]
            .iter()
            .fold(text.replace("onbuild-base", "onbuild"), |text, base| text.replace(base, "rich"))
    };
    paths.iter().map(read).collect()
}

#[test]
fn all_dockerfiles_say_and_build_the_same() {
    let count = dockerfiles().iter().filter_map(|text| check(text)).count();
    assert!(count >= 650, "only {count} Dockerfiles can be formatted");
}

/// The same numbers in each run (`SplitMix64`).
struct Random(u64);

impl Random {
    /// A number below `limit`, which is not zero.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit).expect("a length has 64 bits");
        usize::try_from((mixed ^ (mixed >> 31)) % limit).expect("it is below a length")
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// What blanks may become.
const GAPS: [&str; 9] =
    ["   ", "\t", " \u{b} ", "\u{c}", "\r ", "\u{a0} ", " \\\n\t", "\\ \n # remark\n\n  ", " `\r\n \\\n"];
/// What may get in anywhere.
const PIECES: [&str; 26] = [
    " ",
    "\u{a0}",
    "\r",
    "\n\n\n",
    "\\\n",
    "`\n",
    "\\ ",
    "\\\u{b}",
    "\\\\",
    "`",
    "\"",
    "'",
    "$",
    "${",
    "#",
    "=",
    ",",
    "[",
    "]",
    " -- ",
    "--",
    "<<E",
    "<<\"E  F\"",
    "<<' '",
    "[\"a\" ,\t\"b\"]",
    "\\\n# remark\n\n",
];
/// What a file may begin with.
const BEGINNINGS: [&str; 6] =
    ["\u{feff}", "\n\n", "# escape=`\n", "# check=skip=all\n \n# escape=`\n", "\\\n", "ARG  X\n\n\n\n"];

/// Changes a text in a few places. About half of what comes out still parses.
fn changed(text: &str, random: &mut Random) -> String {
    let mut text = text.to_owned();
    if random.below(8) == 0 {
        text.insert_str(0, random.one_of(&BEGINNINGS));
    }
    for _ in 0..=random.below(6) {
        let what = random.below(8);
        let places: Vec<(usize, char)> = match what {
            0..=3 => text.char_indices().filter(|(_, c)| matches!(c, ' ' | '\t')).collect(),
            4 => text.char_indices().filter(|(_, c)| *c == '\n').collect(),
            5 => text.char_indices().filter(|(_, c)| c.is_ascii_alphabetic()).collect(),
            _ => text.char_indices().collect(),
        };
        if places.is_empty() {
            continue;
        }
        let (at, c) = places[random.below(places.len())];
        let length = c.len_utf8();
        let (taken, put) = match what {
            0..=3 => (length, random.one_of(&GAPS).to_owned()),
            4 => (length, random.one_of(&["\r\n", " \n", "\n\n\n", "\n \n\t\n", "\n# remark\n"]).to_owned()),
            5 if c.is_ascii_lowercase() => (length, c.to_ascii_uppercase().to_string()),
            5 => (length, c.to_ascii_lowercase().to_string()),
            6 => (0, random.one_of(&PIECES).to_owned()),
            _ => (length, String::new()),
        };
        text.replace_range(at..at + taken, &put);
    }
    text
}

#[test]
fn changed_dockerfiles_say_and_build_the_same() {
    let mut random = Random(0);
    let mut count = 0;
    let files = dockerfiles();
    for text in files.iter().cycle().take(3 * files.len()) {
        count += usize::from(check(&changed(text, &mut random)).is_some());
    }
    assert!(count >= files.len(), "only {count} changed Dockerfiles can be formatted");
}
