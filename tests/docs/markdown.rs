//! The fenced blocks and the links of a page.

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) page: &'static str,
    /// The line of the opening fence.
    pub(crate) line: usize,
    pub(crate) language: String,
    /// The file that it is.
    pub(crate) title: Option<String>,
    /// The file, from the directory of the page, whose text it is.
    pub(crate) shows: Option<String>,
    /// How its commands end.
    pub(crate) exit: i32,
    /// Why it is not run.
    pub(crate) unrun: Option<String>,
    pub(crate) lines: Vec<String>,
}

impl Block {
    fn new(page: &'static str, line: usize, info: &str) -> Self {
        let mut words = info.split_whitespace();
        let language = words.next().unwrap_or_default().to_owned();
        let mut block =
            Self { page, line, language, title: None, shows: None, exit: 0, unrun: None, lines: Vec::new() };
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some(("title", path)) => block.title = Some(path.to_owned()),
                Some(("shows", path)) => block.shows = Some(path.to_owned()),
                Some(("exit", code)) => {
                    block.exit = code.parse().unwrap_or_else(|_| panic!("{page}:{line}: {info}"));
                }
                None if word == "norun" => block.unrun = Some(words.by_ref().collect::<Vec<_>>().join(" ")),
                _ => panic!("{page}:{line}: `{word}` means nothing"),
            }
        }
        block
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }

    /// `page:line` of a line of the block, counted from one.
    pub(crate) fn place(&self, line: usize) -> String {
        format!("{}:{}", self.page, self.line + line)
    }
}

/// All blocks of a page.
pub(crate) fn blocks(page: &'static str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => open = Some(Block::new(page, number, info)),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: the last block has no end");
    blocks
}

/// The flags that a line says are rbuild's: those in the last column of a table, and those in a code that begins with the
/// name of the program or with a flag.
pub(crate) fn flags_of_rbuild(line: &str) -> impl Iterator<Item = &str> {
    let last = match line.strip_prefix('|') {
        Some(row) => row.trim_end().trim_end_matches('|').rsplit(" | ").next().unwrap_or_default(),
        None => line,
    };
    let codes = last.split('`').skip(1).step_by(2);
    let of_rbuild = |code: &&str| code.starts_with("rbuild ") || code.starts_with('-');
    codes.filter(of_rbuild).flat_map(crate::flags)
}

/// The anchors of the headings of a page.
pub(crate) fn anchors(text: &str) -> Vec<String> {
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings
        .map(|heading| {
            heading.to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// The lines and targets of links into the repository.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            if !target.contains("://") {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}
