//! What both parsers can tell of an instruction, in one form.

use std::fmt;
use std::ops::Range;

/// Why a parser refuses a file.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// Its line, or 0 if it is not on one.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) message: String,
}

/// An instruction as a parser sees it.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The keyword in capitals.
    pub(crate) keyword: String,
    /// Its first line, counted from 1.
    pub(crate) line: usize,
    /// The last line of its arguments and of the words that end its here-documents.
    pub(crate) last_line: usize,
    /// Everything else.
    pub(crate) facts: Vec<Fact>,
}

/// One thing that is told of an instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// What it is: `source`, `flag`.
    what: &'static str,
    text: String,
    /// Its bytes in the file, if both parsers tell them.
    place: Option<Range<usize>>,
}

impl Seen {
    /// An instruction of which nothing is told yet.
    pub(crate) fn new(keyword: &str, line: usize) -> Self {
        Self { keyword: keyword.to_ascii_uppercase(), line, last_line: line, facts: Vec::new() }
    }

    /// Adds what has no place, or a place that only one parser tells.
    pub(crate) fn add(&mut self, what: &'static str, text: impl Into<String>) {
        self.facts.push(Fact { what, text: text.into(), place: None });
    }

    /// Adds what stands somewhere.
    pub(crate) fn add_at(
        &mut self,
        what: &'static str,
        text: impl Into<String>,
        place: Option<Range<usize>>,
    ) {
        self.facts.push(Fact { what, text: text.into(), place });
    }

    /// Adds a flag, as far as our tree keeps it: of durations it has the nanoseconds, and of most flags no place. One
    /// parser leaves quotes and escapes in: they do not count.
    pub(crate) fn add_flag(&mut self, name: &str, value: &str, place: Option<Range<usize>>) {
        let value = value.replace(['"', '\'', '\\'], "");
        let is_bool = matches!(name, "link" | "parents" | "unpack" | "keep-git-dir");
        let value = if is_bool { value.to_lowercase() } else { value };
        match (name, value.as_str()) {
            // As good as not there.
            (_, "")
            | ("network", "default")
            | ("security", "sandbox")
            | ("link" | "parents", "false")
            | ("interval" | "timeout" | "start-period" | "start-interval" | "retries", "0" | "0s") => {}
            ("interval" | "timeout" | "start-period" | "start-interval", _) => self.add("flag", name),
            ("network" | "security" | "retries", _) => self.add("flag", format!("{name}={value}")),
            _ if is_bool => self.add("flag", format!("{name}={value}")),
            _ => self.add_at("flag", format!("{name}={value}"), place),
        }
    }

    /// Adds the shell form: the command on one line.
    pub(crate) fn add_shell(&mut self, line: &str, place: Option<Range<usize>>) {
        self.add_at("shell form", line, place);
    }

    /// Adds the exec form. The place of a word is that of the string in JSON, quotes included.
    pub(crate) fn add_exec<'a>(&mut self, words: impl Iterator<Item = (&'a str, Option<Range<usize>>)>) {
        self.add("exec form", "");
        for (word, place) in words {
            self.add_at("word", word, place);
        }
    }

    /// Adds a here-document.
    pub(crate) fn add_heredoc(&mut self, body: &str, expands: bool) {
        self.add(if expands { "heredoc" } else { "quoted heredoc" }, body);
    }

    /// Adds names and values as they are written, and the place of them all. One parser does not split them: blanks do
    /// not count.
    pub(crate) fn add_pairs(&mut self, pairs: &str, place: Range<usize>) {
        self.add_at("pairs", pairs.split_whitespace().collect::<String>(), Some(place));
    }

    /// Adds the instruction that an ONBUILD holds.
    pub(crate) fn add_trigger(&mut self, trigger: Self) {
        self.add("trigger", &*trigger.keyword);
        self.add_without_places(trigger);
    }

    /// Adds what is told of something that has no place in our tree.
    pub(crate) fn add_without_places(&mut self, part: Self) {
        self.facts.extend(part.facts.into_iter().map(|fact| Fact { place: None, ..fact }));
    }

    /// Brings the flags in an order: one parser does not keep theirs.
    pub(crate) fn sorted(mut self) -> Self {
        self.facts.sort_by_key(|fact| (fact.what == "flag").then(|| fact.text.clone()));
        self
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.what, self.text)?;
        match &self.place {
            Some(place) => write!(f, " at {place:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on line {}", self.keyword, self.line)
    }
}

/// What the two see differently, one text each.
pub(crate) fn differences(
    ours: &Result<Vec<Seen>, Mistake>,
    theirs: &Result<Vec<Seen>, Mistake>,
) -> Vec<String> {
    match (ours, theirs) {
        (Err(our), Err(their)) if our.line == their.line || their.line == 0 => Vec::new(),
        (Err(our), Err(their)) => vec![format!(
            "ours fails on line {} ({}), theirs on line {} ({})",
            our.line, our.message, their.line, their.message
        )],
        (Ok(_), Err(their)) => vec![format!("theirs alone fails: {}", their.message)],
        (Err(our), Ok(_)) => vec![format!("ours alone fails: {}", our.message)],
        (Ok(ours), Ok(theirs)) => {
            let length = ours.len().max(theirs.len());
            let misplaced = (0..length).find_map(|at| misplaced(ours.get(at), theirs.get(at)));
            // Behind an instruction that only one sees, all others would differ.
            match misplaced {
                Some(difference) => vec![difference],
                None => ours.iter().zip(theirs).filter_map(|(our, their)| difference(our, their)).collect(),
            }
        }
    }
}

fn misplaced(ours: Option<&Seen>, theirs: Option<&Seen>) -> Option<String> {
    let head = |seen: &Seen| (seen.keyword.clone(), seen.line);
    (ours.map(head) != theirs.map(head)).then(|| format!("ours {}, theirs {}", shown(ours), shown(theirs)))
}

/// The first difference of two instructions with the same keyword on the same line.
fn difference(ours: &Seen, theirs: &Seen) -> Option<String> {
    if ours.last_line != theirs.last_line {
        return Some(format!("{ours}: ours ends on line {}, theirs on {}", ours.last_line, theirs.last_line));
    }
    (0..ours.facts.len().max(theirs.facts.len())).find_map(|at| {
        let (our, their) = (ours.facts.get(at), theirs.facts.get(at));
        (our != their).then(|| format!("{ours}: ours {}, theirs {}", shown(our), shown(their)))
    })
}

fn shown(thing: Option<&impl fmt::Display>) -> String {
    thing.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}
